"""Renders tracker modules of Debian's games to a dataset: python -m data.modules --out DIR."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from data.building import Job, add_build_options, build_split, print_summary, run_command, track_name
from data.datafile import MAGIC, read_objects
from data.instrument_names import stem_of_name
from data.openmpt import Module, library
from data.rendering import MIXTURE_PEAK, SAMPLE_RATE, STEMS, limit_peak, to_pcm, write_track
from data.report import describe_stems
from latent_diffusion.errors import DataError

_SUFFIXES = (".mod", ".xm", ".s3m", ".it", ".stm")
_DATAFILE = ".dat"
_RENDERED_RATE = 44100  # libopenmpt does not filter what lies above half the rate; the resampler does
_SHORTEST_SECONDS, _LONGEST_SECONDS = 10.0, 900.0
# Some modules play otherwise when instruments are muted: a stem then has what the song has not.
_WORST_ERROR_DB = -40.0


@dataclass(frozen=True)
class Source:
    """A Debian package with modules.

    Attributes:
        package: its name.
        place: the folder or file where its modules lie, below the root.
        licence: what its copyright file states for them (Debian 12).
        share_alike: whether that licence asks for the same one on what is made from it.
    """

    package: str
    place: str
    licence: str
    share_alike: bool = True


SOURCES = (
    Source("biniax2-data", "usr/share/games/biniax2/music", "Zlib", share_alike=False),
    Source("kball-data", "usr/share/games/kball/music_l.dat", "MIT", share_alike=False),
    Source("kraptor-data", "usr/share/games/kraptor", "MIT", share_alike=False),
    Source("bb", "usr/share/bb", "GPL-2+"),
    Source("criticalmass-data", "usr/share/games/criticalmass", "GPL-2+"),
    Source("freedroid-data", "usr/share/games/freedroid/sound", "GPL-2+"),
    Source("gweled", "usr/share/sounds/gweled", "GPL-2+"),
    Source("heroes-sound-tracks", "usr/share/games/heroes/mod", "GPL-2+"),
    Source("ironseed-data", "usr/share/games/ironseed/sound", "GPL-3+"),
    Source("njam-data", "usr/share/games/njam/data", "GPL-2+"),
    Source("pachi-data", "usr/share/pachi/music", "GPL-2+"),
    Source("pathogen", "usr/share/pathogen", "GPL-2+"),
    Source("penguin-command", "usr/share/games/penguin-command/sound", "GPL-2+"),
    Source("pingus-data", "usr/share/games/pingus/data/music", "GPL-2+"),
    Source("rockdodger", "usr/share/rockdodger", "GPL-2+"),
)


def find_modules(path: Path) -> Iterator[tuple[Path, int | None, bytes]]:
    """A module, or those in a folder, at any depth; also within Allegro's datafiles; sorted.

    Yields:
        The file, in a datafile the number of the object, from 0, and the module's bytes.

    Raises:
        DataError: a file cannot be read, or a datafile is damaged.
    """
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        suffix = file.suffix.lower()
        if suffix not in (*_SUFFIXES, _DATAFILE) or not file.is_file():
            continue
        data = _read(file)
        if suffix in _SUFFIXES:
            yield file, None, data
        elif data.startswith(MAGIC):
            for number, (kind, content) in enumerate(_objects(file, data)):
                if f".{kind.lower()}" in _SUFFIXES:
                    yield file, number, content


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check --modules") from error


def _objects(file: Path, data: bytes) -> list[tuple[str, bytes]]:
    try:
        return list(read_objects(data))
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def read_module(file: Path, number: int | None) -> Module:
    """A module.

    Args:
        file: of a module, or a datafile.
        number: of the object in the datafile; None: the file is the module.

    Raises:
        DataError: it cannot be read, or is no module.
    """
    data = _read(file)
    if number is not None:
        data = _objects(file, data)[number][1]
    try:
        return Module(data)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def sort_instruments(module: Module) -> dict[str, list[int]]:
    """The instruments that play, by stem; those of no stem, or whose name does not tell, are left out."""
    stems: dict[str, list[int]] = {stem: [] for stem in STEMS}
    for index, name in enumerate(module.names):
        stem = stem_of_name(name)
        if stem is not None and module.notes([index]):
            stems[stem].append(index)
    return stems


def render_stems(module: Module, stems: dict[str, list[int]]) -> tuple[dict[str, np.ndarray], float]:
    """Plays every stem alone, and all of them together to see that they add up to it.

    Returns:
        Mono float32 (N,) at SAMPLE_RATE by stem; and how far their sum is from the stems played together, in dB.
    """
    rendered = {
        stem: module.render(instruments, _RENDERED_RATE, _LONGEST_SECONDS) for stem, instruments in stems.items()
    }
    together = module.render([i for found in stems.values() for i in found], _RENDERED_RATE, _LONGEST_SECONDS)
    length = min(len(together), *(len(sound) for sound in rendered.values()))
    difference = sum(sound[:length].astype(np.float64) for sound in rendered.values()) - together[:length]
    power = float((together[:length].astype(np.float64) ** 2).mean()) if length else 0.0
    error_db = 10.0 * float(np.log10((float((difference**2).mean()) + 1e-20) / power)) if power else 0.0
    resampled = {
        stem: soxr.resample(sound[:length], _RENDERED_RATE, SAMPLE_RATE, quality="HQ")
        for stem, sound in rendered.items()
    }
    return resampled, error_db


def make_track(job: Job) -> dict:
    """Renders one module and writes its track.

    Args:
        job: recipe with `module` (path), `object` (in a datafile), `package`, `licence`, `share_alike`, `min_stems`.

    Returns:
        The track's metadata and statistics.

    Raises:
        DataError: the module is of no use.
    """
    file = Path(job.recipe["module"])
    module = read_module(file, job.recipe["object"])
    instruments = sort_instruments(module)
    present = [stem for stem in STEMS if instruments[stem]]
    if len(present) < job.recipe["min_stems"]:
        known = ", ".join(present) or "nothing"
        raise DataError(
            f"{file}: the names of its instruments tell only {known}; expected {job.recipe['min_stems']} classes"
            " (--min-stems)"
        )
    sounds, error_db = render_stems(module, instruments)
    seconds = len(sounds[present[0]]) / SAMPLE_RATE
    if error_db > _WORST_ERROR_DB:
        raise DataError(f"{file}: plays otherwise when instruments are muted: its stems sum to {error_db:.0f} dB")
    if seconds < _SHORTEST_SECONDS:
        raise DataError(f"{file}: lasts {seconds:.0f} s; expected at least {_SHORTEST_SECONDS:.0f} s")
    stems = {stem: to_pcm(sound) for stem, sound in limit_peak(sounds, MIXTURE_PEAK).items()}
    metadata = {
        "recipe": job.recipe,
        "programs": {},
        "instruments": {stem: [module.names[i].strip() for i in instruments[stem]] for stem in STEMS},
        "instruments_dropped": sum(module.notes([i]) > 0 for i in range(len(module.names)))
        - sum(map(len, instruments.values())),
        "sum_error_db": round(error_db, 1),
        **describe_stems(stems, {stem: module.notes(instruments[stem]) for stem in STEMS}),
    }
    write_track(job.folder, stems, metadata, None)
    return metadata


def plan_jobs(arguments: argparse.Namespace) -> list[Job]:
    """The jobs: every distinct module of the wanted sources.

    Raises:
        DataError: there is none.
    """
    if arguments.modules:
        sources = [
            (path, Source("", str(path), arguments.licence, arguments.share_alike)) for path in arguments.modules
        ]
    else:
        wanted = [source for source in SOURCES if arguments.share_alike or not source.share_alike]
        sources = [(arguments.root / source.place, source) for source in wanted]
    jobs, seen = [], set[str]()
    for path, source in sources:
        for file, number, data in find_modules(path):
            digest = hashlib.sha256(data).hexdigest()
            if digest in seen:
                continue
            seen.add(digest)
            recipe = {
                "module": str(file),
                "object": number,
                "package": source.package,
                "licence": source.licence,
                "share_alike": source.share_alike,
                "min_stems": arguments.min_stems,
            }
            jobs.append(Job(arguments.out / arguments.split / track_name(len(jobs) + 1), recipe))
    if not jobs:
        packages = " ".join(source.package for _, source in sources if source.package)
        install = f"; install some of: apt-get install --no-install-recommends {packages}" if packages else ""
        raise DataError(f"{', '.join(str(path) for path, _ in sources)}: found no module{install}")
    return jobs


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.modules",
        description="Renders tracker modules to DIR/SPLIT/TrackNNNNN/{bass,drums,guitar,piano}.wav (22 050 Hz, mono, 16"
        " bit, stems equally long) with libopenmpt. The names of a module's instruments tell their class; everything"
        " else is dropped. Takes the modules of the Debian packages listed in data/README.md that are installed."
        " Calling again goes on where an interrupted run stopped.",
        epilog="Example: python -m data.modules --out modules",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="root of the dataset")
    parser.add_argument(
        "--share-alike",
        action="store_true",
        help="also take packages under the GPL; with --modules: say that the files have such a licence",
    )
    parser.add_argument(
        "--modules",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="your own modules, or folders of them, instead",
    )
    parser.add_argument("--licence", default="", metavar="TEXT", help="licence of --modules, noted in song.json")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="folder that the packages were unpacked to with dpkg -x (default: where they are installed)",
    )
    parser.add_argument(
        "--min-stems", type=int, choices=(1, 2, 3, 4), default=2, help="leave out songs with fewer classes (default 2)"
    )
    add_build_options(parser, "module")
    return parser


def _command(arguments: argparse.Namespace) -> int:
    jobs = plan_jobs(arguments)
    library()
    folder = arguments.out / arguments.split
    songs, failures = build_split(folder, jobs, make_track, arguments.workers, arguments.quiet)
    if not songs:
        raise DataError(f"{folder}: none of {len(jobs)} modules can be used; the first reason: {failures[0].reason}")
    print_summary(folder, songs, failures)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(_command, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
