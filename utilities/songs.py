"""What the `msgld` command does with files: find them, run the pipeline on each, write stems, keep count."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from latent_diffusion.errors import ConfigError, DataError
from latent_diffusion.inference import MultiTrackPipeline, SamplingSettings
from latent_diffusion.inference.hearing import MonoSource
from latent_diffusion.models import find_checkpoint
from latent_diffusion.plan import Plan
from latent_diffusion.tasks import MaskSettings

from .audio import (
    AudioInfo,
    FileSource,
    are_there,
    is_readable,
    stem_files,
    stem_named,
    walk,
    why_unreadable,
    write_stems,
)
from .bar import Bar

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Song:
    """A file to take apart, and the folder under the output folder that its stems go to."""

    path: Path
    folder: Path


@dataclass
class Tally:
    """What became of each file."""

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)

    def summary(self) -> str:
        """Lines for the end of a run: counts, and each failure with its reason."""
        counts = f"{len(self.written)} written, {len(self.skipped)} skipped, {len(self.failed)} failed"
        reasons = [reason if str(path) in reason else f"{path}: {reason}" for path, reason in self.failed]
        return "\n".join([counts, *(f"  failed  {reason}" for reason in reasons)])


def load_model(given: str, device: str) -> MultiTrackPipeline:
    """The pipeline that `--model` and `--device` mean; device "auto" takes a GPU where there is one.

    Raises:
        CheckpointError: there are none, or they cannot be used.
        ConfigError: there is no such device.
    """
    path = find_checkpoint(given, "--model")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device).item()  # of "meta" there is none
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ConfigError(f"--device: found {device!r}, expected one that this machine has ({reason})") from error
    return MultiTrackPipeline.from_checkpoint(path, device)


def find_songs(inputs: Iterable[str], out: Path, tally: Tally) -> list[Song]:
    """Sound files, from folders recursively, links too; a file that is named outright is taken whatever its ending.

    Args:
        inputs: files and folders.
        out: the output folder; what lies in it is not taken.
        tally: gets what cannot be read.

    Raises:
        ConfigError: a folder is searched that the results go to: the next run would take them for songs.

    Returns:
        The files, each with a folder of its own: its name without ending, under the sub-folder it was found in. Where
        two would share one, the later gets its ending, too, then a number.
    """
    found: dict[Path, Path] = {}
    for given in map(Path, inputs):
        try:
            mode = given.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            tally.failed.append((given, "no such file or folder"))
        except OSError as error:
            tally.failed.append((given, f"cannot be read ({error.strerror})"))
        else:
            if given.resolve() == out.resolve():
                raise ConfigError(f"--out: {out}: is the folder that is searched; choose another, or one in it")
            for file in sorted(_songs_in(given, out, tally)) if stat.S_ISDIR(mode) else [given]:
                found.setdefault(file, file.relative_to(given).parent if file != given else Path())
    songs, taken = [], set()
    for path, parent in found.items():
        stem = path.stem if not path.stem.startswith(".") else f"_{path.stem[1:]}"
        names = (name for name in _names(stem, path.suffix))
        folder = next(parent / name for name in names if parent / name not in taken)
        taken.add(folder)
        songs.append(Song(path, folder))
    return songs


def _names(stem: str, suffix: str) -> Iterator[str]:
    """Names to try for a file's folder."""
    yield stem
    yield stem + suffix
    number = 2
    while True:
        yield f"{stem}{suffix}-{number}"
        number += 1


def _songs_in(folder: Path, out: Path, tally: Tally) -> Iterator[Path]:
    """Sound files below a folder; those that cannot be read are counted as failed."""

    def unreadable(error: OSError) -> None:
        tally.failed.append((Path(error.filename or folder), f"cannot be read ({error.strerror})"))

    for _, files in walk(folder, unreadable, but=out):
        tally.failed += [(file, reason) for file in files if (reason := why_unreadable(file))]
        yield from filter(is_readable, files)


def separate_songs(
    pipeline: MultiTrackPipeline,
    songs: list[Song],
    out: Path,
    sampling: SamplingSettings,
    tally: Tally,
    guidance: float | Mapping[str, float] = 1.0,
    seed: int = 0,
    masks: MaskSettings = MaskSettings(),
    kind: str = "wav",
    skip_existing: bool = False,
    quiet: bool = False,
) -> None:
    """Take each song apart; one that fails is counted with its reason, and the others go on.

    Args:
        pipeline: the model.
        songs: what to take apart.
        out: each song's stems go to `out / song.folder / <stem>.<kind>`.
        sampling, guidance, seed, masks: as `MultiTrackPipeline.separate` has them.
        tally: gets what became of each.
        kind: wav or flac.
        skip_existing: leave out songs whose stems are all there, and as long as they should be.
        quiet: no progress bars.
    """
    inputs = {song.path.resolve() for song in songs}
    for number, song in enumerate(songs, 1):
        folder = out / song.folder
        try:
            for target in (folder / f"{stem}.{kind}" for stem in pipeline.stems):
                if target.resolve() in inputs:
                    raise DataError(f"{song.path}: its stems would be written over {target}; choose another --out")
            source = FileSource(song.path)
            shape = source.info if masks.refine == "mask" else _heard(pipeline, source)
            if skip_existing and are_there(folder, pipeline.stems, shape, kind):
                tally.skipped.append(song.path)
                continue
            source.check()
            with Bar(f"{number}/{len(songs)} {song.path.name}", quiet) as progress:
                pieces = pipeline.stream_separate(
                    source, guidance=guidance, masks=masks, sampling=sampling, seed=seed, progress=progress
                )
                write_stems(folder, pipeline.stems, pieces, shape, kind)
        except ConfigError:
            raise  # not this song's fault: the next ones would fail alike
        except Exception as error:  # whatever is wrong with one song, the others go on; --debug shows where
            log.debug("%s", song.path, exc_info=True)
            tally.failed.append((song.path, " ".join(str(error).split()) or type(error).__name__))
        else:
            tally.written.append(song.path)


def _heard(pipeline: MultiTrackPipeline, source: FileSource) -> AudioInfo:
    """What of a file the model hears."""
    rate = pipeline.settings.mel.sample_rate
    return AudioInfo(rate, MonoSource(source, rate).samples, 1)


def generate_song(
    pipeline: MultiTrackPipeline,
    out: Path,
    sampling: SamplingSettings,
    seconds: float | None = None,
    seed: int = 0,
    kind: str = "wav",
    skip_existing: bool = False,
    quiet: bool = False,
    continued: Path | None = None,
    plan: Plan | None = None,
) -> list[Path]:
    """Make a piece: `out/generated_<seed>/<stem>.<kind>` and `mix.<kind>`. Returns the files; none where skipped.

    It follows `plan`, or one drawn from the seed (see `MultiTrackPipeline.generate`). With `continued`, a file, which
    is separated first, or a folder with a file for each stem, the piece begins with that and lies in
    `out/<its name>_continued_<seed>`.
    """
    name = "generated" if continued is None else f"{_plain_name(continued)}_continued"
    folder, mel = out / f"{name}_{seed}", pipeline.settings.mel
    samples = pipeline.samples_of(seconds)
    given, sources = None, []
    if continued is not None:
        given = find_given([str(continued)], pipeline.stems) if continued.is_dir() else FileSource(continued)
        sources = list(given.values()) if isinstance(given, dict) else [given]
        samples += max(_heard(pipeline, source).samples for source in sources)
    shape = AudioInfo(mel.sample_rate, samples, 1)
    if skip_existing and are_there(folder, ["mix"], shape, kind):
        return []
    for source in sources:
        source.check()
    with Bar(folder.name, quiet) as progress:
        pieces = pipeline.stream_generate(seconds, seed, sampling, progress, given, plan)
        return write_stems(folder, pipeline.stems, pieces, shape, kind, mix=True)


def _plain_name(path: Path) -> str:
    """A folder's name, or a file's without its ending."""
    return path.resolve().name if path.is_dir() else path.stem


def find_given(inputs: Sequence[str], stems: tuple[str, ...]) -> dict[str, FileSource]:
    """The given stems of an arrangement, by the files' names.

    Args:
        inputs: files named after a stem, or folders with such files; other files in a folder are left alone.
        stems: the model's.

    Raises:
        DataError: a file that is not named after a stem, two for one stem, or none at all.
    """
    given: dict[str, FileSource] = {}
    for path in map(Path, inputs):
        for file in _stem_files_in(path, stems) if path.is_dir() else [path]:
            if not os.path.lexists(file):
                raise DataError(f"{file}: no such file or folder")
            stem = stem_named(file.stem, stems)
            if stem is None:
                raise DataError(f"{file}: expected a file named after a stem: {', '.join(stems)}")
            if reason := why_unreadable(file):
                raise DataError(f"{file}: {reason}")
            if stem in given:
                raise DataError(f"{file}: {given[stem].path} is {stem}, too; give one of them")
            given[stem] = FileSource(file)
    if not given:
        where = ", ".join(str(path) for path in inputs)
        raise DataError(f"{where}: expected files named after stems ({', '.join(stems)}), found none")
    return given


def _stem_files_in(folder: Path, stems: tuple[str, ...]) -> list[Path]:
    """Sound files of a folder that are named after stems, those too that cannot be read."""
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check who may read it") from error
    found = [file for of_stem in stem_files(files, stems).values() for file in of_stem]
    return found + [file for file in files if why_unreadable(file) and stem_named(file.stem, stems)]


def arrange_song(
    pipeline: MultiTrackPipeline,
    inputs: list[str],
    out: Path,
    sampling: SamplingSettings,
    make: list[str] | None = None,
    guidance: float | Mapping[str, float] = 0.0,
    seed: int = 0,
    kind: str = "wav",
    skip_existing: bool = False,
    quiet: bool = False,
    plan: Plan | None = None,
) -> list[Path]:
    """Make stems for given ones: `out/<name>/<stem>.<kind>` for all stems, and `mix.<kind>`.

    The name is the given folder's, or that of the folder the given files lie in.

    Returns:
        The files; none where skipped.
    """
    first = Path(inputs[0]).resolve()
    folder = out / ((first if first.is_dir() else first.parent).name or "arranged")
    given = find_given(inputs, pipeline.stems)
    for source in given.values():
        if source.path.parent.resolve() == folder.resolve():
            raise ConfigError(f"--out: {out}: {source.path} lies where the result goes; choose another folder")
    kept = [source for name, source in given.items() if name not in (make or ())]
    samples = max((_heard(pipeline, source).samples for source in kept), default=0)  # none is refused later
    shape = AudioInfo(pipeline.settings.mel.sample_rate, samples, 1)
    if skip_existing and are_there(folder, ["mix"], shape, kind):
        return []
    for source in given.values():
        source.check()
    with Bar(folder.name, quiet) as progress:
        pieces: Iterable[Tensor] = pipeline.stream_arrange(given, make, guidance, seed, sampling, progress, plan)
        return write_stems(folder, pipeline.stems, pieces, shape, kind, mix=True)


def describe(files: list[Path]) -> str:
    """A line that says what was written."""
    return f"{len(files)} files in {files[0].parent}" if files else "nothing to do: the results exist"
