"""Takes the songs of Freedoom out of its WAD files: python -m data.freedoom --out MIDI_DIR."""

from __future__ import annotations

import argparse
import hashlib
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.building import run_command, write_file
from latent_diffusion.errors import DataError

DEFAULT_WADS = Path("/usr/share/games/doom")
INSTALL = "apt-get install --no-install-recommends freedoom"

_HEADER, _ENTRY = struct.Struct("<4sii"), struct.Struct("<ii8s")
_MIDI, _MUS = b"MThd", b"MUS\x1a"
# Far above any WAD that exists (Freedoom: 28 MB, 3,000 lumps): a damaged header must not make us allocate its numbers.
_LARGEST_FILE, _MOST_LUMPS, _LARGEST_SONG = 1 << 30, 1 << 17, 16 << 20
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")


@dataclass(frozen=True)
class Lump:
    """A named piece of a WAD file."""

    name: str
    data: bytes


@dataclass
class Found:
    """What `extract` wrote: the files, and how many lumps were duplicates or in Doom's own MUS format."""

    files: list[Path] = field(default_factory=list)
    duplicates: int = 0
    mus: int = 0


def read_songs(file: Path) -> Iterator[Lump]:
    """The lumps of a WAD file that begin like a MIDI or MUS file, in the order of the directory.

    The format: the header is b"IWAD" or b"PWAD", the number of lumps and the offset of the directory; an entry of the
    directory is offset, size and name (8 bytes, padded with zeros), all little-endian.

    Args:
        file: the WAD file.

    Yields:
        Lumps, at most 16 MiB each.

    Raises:
        DataError: not a WAD file, or damaged.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(_HEADER.size)
            if len(head) < _HEADER.size or head[:4] not in (b"IWAD", b"PWAD"):
                raise DataError(f"{file}: begins with {head[:4]!r}; expected a WAD file (IWAD or PWAD); check --wad")
            _, count, directory = _HEADER.unpack(head)
            if size > _LARGEST_FILE or not 0 <= count <= _MOST_LUMPS:
                raise DataError(
                    f"{file}: {count} lumps in {size} bytes; expected at most {_MOST_LUMPS} in {_LARGEST_FILE}"
                )
            if not _HEADER.size <= directory <= size - count * _ENTRY.size:
                raise DataError(
                    f"{file}: damaged: {count} lumps listed at {directory} do not fit its {size} bytes; fetch it again"
                )
            stream.seek(directory)
            for offset, length, raw in _ENTRY.iter_unpack(stream.read(count * _ENTRY.size)):
                name = raw.split(b"\0")[0].decode("ascii", "replace")
                if length < 4:
                    continue
                if offset < 0 or offset + length > size:
                    raise DataError(f"{file}: damaged: lump {name!r} ends beyond the file; fetch it again")
                stream.seek(offset)
                if stream.read(4) in (_MIDI, _MUS) and length <= _LARGEST_SONG:
                    stream.seek(offset)
                    yield Lump(name, stream.read(length))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check --wad") from error


def find_wads(paths: Sequence[Path]) -> list[Path]:
    """WAD files among files and folders.

    Raises:
        DataError: there are none.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(f for f in path.iterdir() if f.suffix.lower() == ".wad" and f.is_file())
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path}: no such file or folder; expected WAD files; install them with: {INSTALL}")
    if not files:
        raise DataError(f"{', '.join(map(str, paths))}: found no .wad file; install Freedoom's with: {INSTALL}")
    return files


def extract(wads: Sequence[Path], out: Path) -> Found:
    """Writes every distinct MIDI lump to <out>/<wad>_<lump>.mid. Songs of the same bytes are written once.

    Args:
        wads: WAD files.
        out: folder, made if missing.

    Returns:
        What was written.

    Raises:
        DataError: a WAD file is damaged, the folder cannot be written, or there is no song at all.
    """
    found = Found()
    seen: set[str] = set()
    for wad in wads:
        for lump in read_songs(wad):
            digest = hashlib.sha256(lump.data).hexdigest()
            if digest in seen:
                found.duplicates += 1
                continue
            seen.add(digest)
            if lump.data[:4] == _MUS:
                found.mus += 1
                continue
            name = "".join(c if c in _PLAIN else "-" for c in f"{wad.stem}_{lump.name.removeprefix('D_')}".lower())
            file = out / f"{name}.mid"
            if file in found.files:  # a later lump of the same name with other bytes
                file = out / f"{name}-{digest[:8]}.mid"
            write_file(file, lump.data)
            found.files.append(file)
    if not found.files:
        mus = f" ({found.mus} in Doom's MUS format, which is not read; convert them with another tool)"
        raise DataError(f"{', '.join(map(str, wads))}: found no MIDI song{mus if found.mus else ''}")
    return found


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.freedoom",
        description="Takes the distinct MIDI songs out of WAD files. Made for those of Debian's freedoom package, 66"
        f" songs under a BSD licence: {INSTALL}. data.render_midi then renders them.",
        epilog="Example: python -m data.freedoom --out midi/freedoom",
    )
    parser.add_argument(
        "--wad",
        type=Path,
        nargs="+",
        default=[DEFAULT_WADS],
        metavar="PATH",
        help=f"WAD files, or folders of them (default {DEFAULT_WADS})",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="MIDI_DIR", help="folder for the MIDI files")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    found = extract(find_wads(arguments.wad), arguments.out)
    skipped = f", {found.mus} in MUS format left out" if found.mus else ""
    print(f"{arguments.out}: {len(found.files)} songs, {found.duplicates} duplicates{skipped}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(_command, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
