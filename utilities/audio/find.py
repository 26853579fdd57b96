"""Which files are sound, where they lie, and which of them is which stem."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

READABLE = frozenset(
    f".{name}"
    for name in (
        *("wav", "wave", "bwf", "rf64", "bw64", "w64", "flac", "aif", "aiff", "aifc", "caf", "au", "snd"),
        *("mp3", "mp2", "mp1", "mpga", "ogg", "oga", "opus"),
        *("sph", "nist", "voc", "8svx", "16sv", "svx", "avr", "ircam", "paf", "pvf"),
    )
)
UNREADABLE = frozenset(  # sound, or films with sound, that libsndfile does not read
    f".{name}"
    for name in (
        *("m4a", "m4b", "m4p", "m4r", "mp4", "m4v", "mov", "3gp", "3g2", "aac", "adts", "alac", "wma", "asf", "wmv"),
        *("webm", "weba", "mka", "mkv", "avi", "flv", "ac3", "eac3", "ec3", "dts", "thd", "ape", "wv", "tta", "tak"),
        *("mpc", "mp+", "ofr", "shn", "dsf", "dff", "spx", "amr", "awb", "ra", "rm", "ogv", "mpg", "mpeg"),
    )
)
_PREFERRED = (".wav", ".flac")  # of several files of one stem


def is_readable(file: str | Path) -> bool:
    """Whether a file's name ends like that of a sound file that can be read; hidden files do not count."""
    return _ending(file) in READABLE


def why_unreadable(file: str | Path) -> str | None:
    """The reason why a sound file cannot be read, by its name; None for readable ones and for other files."""
    ending = _ending(file)
    return f"{ending[1:]} files cannot be read; convert it to wav or flac" if ending in UNREADABLE else None


def _ending(file: str | Path) -> str:
    name = os.path.basename(file)
    return "" if name.startswith(".") else os.path.splitext(name)[1].lower()


def walk(
    folder: str | Path, on_error: Callable[[OSError], None] | None = None, but: Path | None = None
) -> Iterator[tuple[Path, list[Path]]]:
    """All folders below one, each with its files; links are followed, and no folder is given twice.

    Real folders come before those that links lead to, so that a folder goes by its own name where it has one here.

    Args:
        folder: where to begin.
        on_error: called where a folder cannot be read.
        but: a folder to leave out, with all in it.

    Yields:
        A folder and its files, sorted; hidden ones are left out.
    """
    seen, links = {but and but.resolve()}, [Path(folder)]
    while links:
        for root, folders, files in os.walk(links.pop(0), onerror=on_error):
            here = Path(root)
            if here.resolve() in seen:
                folders.clear()
                continue
            seen.add(here.resolve())
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            links += [here / name for name in folders if (here / name).is_symlink()]
            yield here, [here / name for name in sorted(files) if not name.startswith(".")]


def stem_named(name: str, stems: Iterable[str]) -> str | None:
    """The stem of a name, whatever the case of its letters; None where there is none, or more than one."""
    stems = tuple(stems)
    if name in stems:
        return name
    alike = [stem for stem in stems if stem.casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def stem_files(files: Iterable[Path], stems: Iterable[str]) -> dict[str, list[Path]]:
    """The sound files of each stem, the ones to prefer first: of the stem's very name, wav, flac, then the others."""
    found: dict[str, list[Path]] = {}
    for file in files:
        if is_readable(file) and (stem := stem_named(file.stem, stems)) is not None:
            found.setdefault(stem, []).append(file)

    def order(stem: str, file: Path) -> tuple[bool, int, str]:
        ending = file.suffix.lower()
        return file.stem != stem, _PREFERRED.index(ending) if ending in _PREFERRED else len(_PREFERRED), file.name

    return {stem: sorted(files, key=lambda file, stem=stem: order(stem, file)) for stem, files in found.items()}
