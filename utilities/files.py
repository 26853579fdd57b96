"""Files that appear whole or not at all, and names that are safe to write."""

from __future__ import annotations

import zlib

from latent_diffusion.files import whole_file, whole_folder

__all__ = ["safe_name", "whole_file", "whole_folder"]

_SAFE_PUNCTUATION = frozenset(" ._-+()")
_LONGEST_NAME = 180  # bytes; file systems allow 255, and suffixes are added


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
