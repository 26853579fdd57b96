"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".*.tmp*"  # what the temporary names match, all of them hidden


def _beside(path: Path, suffix: str) -> Path:
    """A temporary path beside another: short, however long that name is, and no other process's on any machine."""
    checksum = zlib.crc32(os.fsencode(path.name))
    return path.with_name(f".{checksum:08x}.{uuid.uuid4().hex[:12]}.tmp{suffix}")


@contextmanager
def named_in_utf8(path: Path) -> Iterator[Path]:
    """A name of a file for libraries that take none but UTF-8: its own where it is UTF-8, else one of the open file."""
    try:
        str(path).encode()
        descriptor = None
    except UnicodeEncodeError:
        descriptor = os.open(path, os.O_RDONLY)
    try:
        yield path if descriptor is None else Path(f"/dev/fd/{descriptor}")
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends without an error, it takes the place of `path`.

    Args:
        path: the file to write; its folder is made if need be.

    Yields:
        A path in the same folder with the same suffix, to write to.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, path.suffix)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """As `whole_file`, for a folder of files: give a new folder to write them to.

    Where `path` exists when the block ends, its other files stay and those of one name are replaced.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(path)
    temporary = _beside(path, "")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            for file in temporary.iterdir():
                os.replace(file, path / file.name)
        else:
            os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
