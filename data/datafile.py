"""Reads the datafiles of old Allegro games, in which Kraptor and KBall keep their music."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from latent_diffusion.errors import DataError

MAGIC = b"slh.ALL."  # of a datafile whose objects are compressed one by one
_WINDOW, _START = 4096, 4096 - 18
_LARGEST = 64 << 20


def _unpack(data: bytes, size: int) -> bytes:
    """Undoes Allegro's LZSS.

    A byte holds 8 flags, the lowest first. A set flag stands for a byte as it is; an unset one for two bytes: 12 bits
    of place in a ring of 4096 bytes (the low 8, then the high 4) and 4 bits of length less 3.
    """
    ring, place, out, source = bytearray(_WINDOW), _START, bytearray(), iter(data)
    while len(out) < size:
        flags = next(source)
        for bit in range(8):
            if len(out) >= size:
                break
            first = next(source)
            if flags >> bit & 1:
                copied = [first]
            else:
                second = next(source)
                start, count = first | (second & 0xF0) << 4, (second & 0x0F) + 3
                copied = ((ring[(start + k) % _WINDOW]) for k in range(count))  # lazily: it may copy its own start
            for byte in copied:
                out.append(byte)
                ring[place] = byte
                place = (place + 1) % _WINDOW
    return bytes(out[:size])


def read_objects(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The objects of a datafile, unpacked.

    The format, all numbers 4 bytes, the highest first: MAGIC, the number of objects; an object is any number of
    properties (b"prop", name of 4 bytes, size, text), its type of 4 bytes, its size in the file, its size once
    unpacked (negative: it is packed), its bytes.

    Args:
        data: the file's bytes.

    Yields:
        Type and bytes of every object.

    Raises:
        DataError: no datafile of this kind, or damaged.
    """
    if not data.startswith(MAGIC):
        raise DataError(f"begins with {data[:8]!r}; expected an Allegro datafile ({MAGIC!r})")
    try:
        (count,), at = struct.unpack_from(">i", data, len(MAGIC)), len(MAGIC) + 4
        for _ in range(count):
            while data[at : at + 4] == b"prop":
                at += 12 + struct.unpack_from(">I", data, at + 8)[0]
            kind, packed, size = struct.unpack_from(">4sIi", data, at)
            at += 12
            content = data[at : at + packed]
            if len(content) < packed or abs(size) > _LARGEST:
                raise DataError(f"damaged: an object of {packed} bytes, {abs(size)} unpacked, in {len(data)} bytes")
            yield kind.decode("latin-1").strip(), _unpack(content, -size) if size < 0 else content
            at += packed
    except (struct.error, StopIteration, RuntimeError) as error:
        raise DataError("damaged: ends within an object; fetch it again") from error
