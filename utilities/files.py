"""Files that appear whole or not at all, and names that are safe to write."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SAFE_PUNCTUATION = frozenset(" ._-+()")
_LONGEST_NAME = 180  # bytes; file systems allow 255, and suffixes are added


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
    # the process id keeps two ranks that write the same (padded) item apart
    temporary = path.with_name(
        f".{os.getpid()}.{zlib.crc32(path.name.encode('utf-8', 'surrogatepass')):08x}.tmp{path.suffix}"
    )
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def safe_name(name: str) -> str:
    """A file name, without suffix, for any text: no folders, no control characters, not hidden, not too long.

    Letters and digits of any language, space and `._-+()` stay, the rest becomes `_`. A name that had to be changed
    gets a checksum of the original at its end, so that two different names never become one file.

    Args:
        name: any text, for example the name of a track.

    Returns:
        `name` itself where it is safe, else its cleaned form.
    """
    clean = "".join(c if c.isalnum() or c in _SAFE_PUNCTUATION else "_" for c in name)
    if clean[:1] in {".", " "}:
        clean = "_" + clean[1:]
    if clean[-1:] in {".", " "}:
        clean = clean[:-1] + "_"
    short = clean.encode()[:_LONGEST_NAME].decode(errors="ignore")
    if short == name and short:
        return short
    return f"{short.rstrip(' .') or 'item'}-{zlib.crc32(name.encode('utf-8', 'surrogatepass')):08x}"
