"""How much audio the header of a file promises, and whether it is there.

libsndfile reads what is there of a file that is cut off, without a word, and reads nothing of one whose recorder was
switched off before it wrote the length. Both are seen here by the bytes themselves, for every container that libsndfile
reads and that says how long it is. FLAC and MP3 promise a number of samples instead: whoever decodes them counts.
"""

from __future__ import annotations

import io
import logging
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from latent_diffusion.errors import DataError

if TYPE_CHECKING:
    from soundfile import SoundFile

log = logging.getLogger(__name__)

_UNKNOWN = {"I": 0x7FFFFFFF, "Q": 2**62, "q": 2**62}  # bytes, or more: the length was not known in advance
_OGG_PAGE = 65_307  # bytes of the largest
_CHECKED = ("FLAC", "MP3", "OGG", "SDS")  # libsndfile fails on the rest of these, or the decoder counts
_NOTED = ("VOC", "MAT4", "WVE", "HTK")  # known by other signs
_LONGEST_HEADER = 1024  # bytes of those that are no chunks


@dataclass(frozen=True)
class _Chunks:
    """A family of containers that are made of named chunks: a name and a length, then so many bytes.

    Args:
        first: where the first chunk begins.
        name: bytes of a name.
        length: `struct` code of a length, with its byte order.
        align: chunks begin at multiples of so many bytes.
        counted: bytes of its own header that a length counts.
    """

    first: int
    name: int
    length: str
    align: int = 1
    counted: int = 0


_FAMILIES = {
    b"RIFF": _Chunks(12, 4, "<I", 2),
    b"RIFX": _Chunks(12, 4, ">I", 2),
    b"RF64": _Chunks(12, 4, "<I", 2),
    b"BW64": _Chunks(12, 4, "<I", 2),
    b"FORM": _Chunks(12, 4, ">I", 2),
    b"riff": _Chunks(40, 16, "<Q", 8, counted=24),
    b"caff": _Chunks(8, 4, ">q"),
}
_AUDIO = (b"data", b"SSND", b"BODY")  # names of the chunk with the audio


@dataclass(frozen=True)
class Promise:
    """Where a header says how much audio follows.

    Args:
        place: of the length in the file.
        code: of the length, for `struct`.
        begin: the audio's first byte.
        length: of the audio in bytes; None where the header says that it does not know.
        closed: False where the length was never written: it is 0, but audio follows.
        added: what the length counts beside the audio.
    """

    place: int
    code: str
    begin: int
    length: int | None
    closed: bool = True
    added: int = 0


def promise_of(path: str | Path) -> Promise | None:
    """What the header of a file promises; None for a container that says nothing in bytes.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size, start = os.fstat(file.fileno()).st_size, file.read(12)
        if family := _FAMILIES.get(start[:4]):
            return _promise_of_chunks(file, family, size)
        if start[:4] in (b".snd", b"dns.") and len(start) == 12:
            order = ">" if start[:4] == b".snd" else "<"
            begin, length = struct.unpack(f"{order}II", start[4:])
            return Promise(8, f"{order}I", begin, _known(length, "I"), length > 0 or begin >= size)
    return None


def _known(length: int, code: str) -> int | None:
    """A length, or None where it stands for an unknown one."""
    return length if 0 <= length < _UNKNOWN[code[-1]] else None


def _promise_of_chunks(file: BinaryIO, family: _Chunks, size: int) -> Promise | None:
    long_at = long_length = None
    for name, place, begin, length in _chunks(file, family, family.first, size):
        if name == b"ds64" and begin + 16 <= size:  # RF64: the length of the audio, 8 bytes, behind that of the file
            long_at, long_length = begin + 8, struct.unpack("<Q", file.read(16)[8:])[0]
        if name in _AUDIO:
            closed = length != 0 or begin >= size or _are_chunks(file, family, begin, size)
            if long_length is not None and _known(length, family.length) is None:
                return Promise(long_at, "<Q", begin, _known(long_length, "Q"), long_length > 0 or begin >= size)
            known = _known(length, family.length)
            return Promise(place + family.name, family.length, begin, known, closed, family.counted)
    return None


def _chunks(file: BinaryIO, family: _Chunks, place: int, size: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Of each chunk, up to what is none: first four bytes of its name, place, first byte behind its header, length."""
    header = family.name + struct.calcsize(family.length)
    while place + header <= size:
        file.seek(place)
        head = file.read(header)
        name, length = head[:4], struct.unpack(family.length, head[family.name :])[0] - family.counted
        if not (name.isascii() and name.decode().isprintable()):
            return
        yield name, place, place + header, length
        if length < 0:
            return
        place += header + length + -length % family.align


def _are_chunks(file: BinaryIO, family: _Chunks, place: int, size: int) -> bool:
    """Whether a file goes on with chunks that end where it ends."""
    end = place
    for _, _, begin, length in _chunks(file, family, place, size):
        end = begin + length
    return abs(end - size) <= family.align


class MendedFile(io.FileIO):
    """A file whose recorder did not write how long it is, as if it had.

    Args:
        path: the file.
        promise: where its header should say so.
    """

    def __init__(self, path: str | Path, promise: Promise):
        super().__init__(path)
        length = os.fstat(self.fileno()).st_size - promise.begin + promise.added
        longest = 2 ** (8 * struct.calcsize(promise.code)) - 1
        self._place, self._length = promise.place, struct.pack(promise.code, min(length, longest))

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """As `io.FileIO.readinto`, with the length put in."""
        start = self.tell()
        count = super().readinto(buffer)
        for i, byte in enumerate(self._length, self._place - start):
            if 0 <= i < count:
                buffer[i : i + 1] = bytes([byte])
        return count


def check_not_cut_off(path: str | Path, opened: SoundFile | None = None) -> None:
    """Compare what the header of a file promises with what is there.

    An ogg that ends between two of its pages is not refused, for that is how a recorded stream ends, but a warning is
    logged. So it is for containers that do not say how long they are (PAF, PVF, IRCAM, MAT5, XI).

    Args:
        path: the file.
        opened: the same, where libsndfile could open it.

    Raises:
        DataError: there should be more of it.
        OSError: it cannot be read.
    """
    size, promise = os.stat(path).st_size, promise_of(path)
    if promise is not None:
        if promise.length is not None and promise.begin + promise.length > size:
            found = max(0, size - promise.begin)
            _refuse(path, f"its header promises {promise.length} bytes of audio, {found} are there")
        if not promise.closed:
            log.warning("%s: its recorder did not write how long it is: all that follows is taken for audio", path)
        return
    with open(path, "rb") as file:
        start = file.read(_LONGEST_HEADER)
        if start[:4] == b"OggS":
            file.seek(max(0, size - _OGG_PAGE))
            _check_last_page(path, file.read())
    if opened is None or opened.format in _CHECKED:
        return
    promised = _promised_samples(opened.format, start)
    if promised is not None and promised > opened.frames:
        _refuse(path, f"its header promises {promised} samples, {opened.frames} are there")
    if opened.format == "VOC" and 30 + int.from_bytes(start[27:30], "little") > size:  # the first block with audio
        _refuse(path, "its audio is not whole")
    if "truncated" in opened.extra_info or "should be" in opened.extra_info:  # what libsndfile noted
        _refuse(path, "it is shorter than its header says")
    if promised is None and opened.format not in _NOTED:
        log.warning("%s: %s files do not say how long they are: whether it is cut off is unknown", path, opened.format)


def _promised_samples(kind: str, start: bytes) -> int | None:
    """Samples of one channel that the headers of some old containers promise."""
    if kind == "NIST":
        found = re.search(rb"sample_count -i (\d+)", start)
        return int(found[1]) if found else None
    if kind == "AVR":
        return int.from_bytes(start[26:30], "big")
    return int.from_bytes(start[30:34], "little") if kind == "MPC2K" else None


def _check_last_page(path: str | Path, end: bytes) -> None:
    """Raises DataError where the last page of an ogg is not whole."""
    _, mark, page = end.rpartition(b"OggS")
    # after the mark: 22 bytes (a flag for the last page in the second), the number of parts, their sizes, the parts
    if mark and (len(page) < 23 or len(page) < 23 + page[22] + sum(page[23 : 23 + page[22]])):
        _refuse(path, "its last page is not whole")
    if mark and not page[1] & 4:
        log.warning("%s: its last page is not marked as the last: it is a recorded stream, or cut off", path)


def _refuse(path: str | Path, what: str) -> None:
    raise DataError(f"{path}: is cut off, {what}; replace the file")
