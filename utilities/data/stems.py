"""Windows of aligned stems, read from `<folder>/<track>/<stem>.wav`, `.flac` or another lossless format.

The windows of a track lie one after the other, every `mel.window_samples` samples at the model's rate. In training a
window's start is then moved by up to half a window either way, and kept inside the track; a rest longer than half a
window gets a window of its own, a shorter one is reached by moving the last. In evaluation nothing moves and the rest
is the last window, filled with zeros behind its `valid_samples` (a rest shorter than one mel frame is dropped).
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from latent_diffusion.errors import DataError
from latent_diffusion.inference import mix
from latent_diffusion.settings import MelSettings

from ..audio import (
    AudioInfo,
    inspect_for_windows,
    is_silent,
    read_window,
    resampled_length,
    stem_files,
    stem_named,
    why_unreadable,
)
from .augmentation import Augmentation

log = logging.getLogger(__name__)

UNEVEN = 0.1  # seconds that the stems of a track may differ in length: the track is as long as its shortest
_REASONS_SHOWN = 10
_SCAN_THREADS = 8
_REMIX_TRIES = 4  # places that are tried for one that sounds


@dataclass(frozen=True)
class Track:
    """One usable track; `files` and `infos` are in the order of the stems."""

    name: str  # unique in the dataset
    files: tuple[Path, ...]
    infos: tuple[AudioInfo, ...]
    samples: int  # length at the model's rate


class StemDataset(Dataset):
    """Windows of all usable tracks of one or several folders.

    An item is {"stems": (S, N) float32 in [-1, 1], "mixture": (N,) = clip(sum of stems, -1, 1),
    "name": "<track>_from_<second>", "valid_samples": samples that lie within the track}, and where items are remixed
    "coherent": whether its stems belong together.

    `dataset[index]` is free of randomness; `dataset[index, seed]` draws shift, masking and augmentation from the seed
    alone.
    A file that cannot be read (any more) does not end the run: its item is replaced by a window of the next readable
    track, which is logged once per track and counted in `unreadable`.

    Args:
        folders: one folder or several; their sub-folders are tracks.
        stems: names of the stems, in the model's order.
        mel: gives the sample rate and the length of a window.
        shift: training: windows are moved at random; evaluation (False): every window, the rest included.
        masking: silence 0 to S-1 random stems of each item (only where a seed is given).
        augmentation: other changes to the stems (only where a seed is given).

    Attributes:
        tracks: the usable tracks.
        left_out: name of each track that is left out -> the reason.
        windows: (track index, start in samples) of each item.

    Raises:
        DataError: a folder is missing or holds no tracks, or no track can be used.
    """

    def __init__(
        self,
        folders: str | Path | Sequence[str | Path],
        stems: Sequence[str],
        mel: MelSettings,
        shift: bool,
        masking: bool = False,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.folders = [Path(folders)] if isinstance(folders, (str, os.PathLike)) else [Path(f) for f in folders]
        self.stems = tuple(stems)
        self.mel = mel
        self.shift = shift
        self.masking = masking
        self.augmentation = augmentation or Augmentation()
        if not self.stems:
            raise DataError("stems: found none, expected at least one stem name")
        self.tracks, self.left_out = self._scan()
        self.windows = self._cut()
        # shared, so that what one loader process finds broken is not reported again by the others
        self._unreadable = torch.zeros(len(self.tracks), dtype=torch.int32).share_memory_()

    # ---- finding the tracks

    def _scan(self) -> tuple[list[Track], dict[str, str]]:
        found = [(number, track) for number, folder in enumerate(self.folders, 1) for track in _track_folders(folder)]
        found = _once(found)
        names = _unique_names(found)
        with ThreadPoolExecutor(_SCAN_THREADS) as pool:
            results = list(pool.map(self._inspect, names, [track for _, track in found]))
        tracks = [result for result in results if isinstance(result, Track)]
        left_out = {name: reason for name, reason in zip(names, results, strict=True) if isinstance(reason, str)}
        where = ", ".join(str(folder) for folder in self.folders)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:_REASONS_SHOWN])
        if len(left_out) > _REASONS_SHOWN:
            reasons += f"; and {len(left_out) - _REASONS_SHOWN} more"
        if not tracks:
            raise DataError(
                f"{where}: none of {len(found)} tracks can be used ({reasons}); expected "
                f"<track>/{{{','.join(self.stems)}}}.wav or .flac, at least {self.mel.window_seconds:.2f} s each"
            )
        if left_out:
            log.warning("%s: %d of %d tracks left out (%s)", where, len(left_out), len(found), reasons)
        return tracks, left_out

    def _inspect(self, name: str, folder: Path) -> Track | str:
        """The track in a folder, or the reason why it cannot be used."""
        try:
            present = [folder / name for name in sorted(os.listdir(folder))]
        except OSError as error:
            return f"folder cannot be read ({error.strerror})"
        files, infos, faults, of_stems = [], [], [], stem_files(present, self.stems)
        for stem in self.stems:
            if stem not in of_stems:
                return f"lacks {stem}.wav (or .flac)" + _unreadable_instead(present, stem)
            files.append(of_stems[stem][0])
            try:
                info, fault = inspect_for_windows(files[-1])
            except DataError as error:
                return _without_folder(error, folder)
            infos.append(info)
            faults += [_without_folder(fault, folder)] if fault else []
        lengths = [resampled_length(info.samples, info.sample_rate, self.mel.sample_rate) for info in infos]
        samples = min(lengths)
        if max(lengths) - samples > UNEVEN * self.mel.sample_rate:
            ends = (lengths.index(length) for length in (max(lengths), samples))
            found = " but ".join(_describe(files[i], infos[i]) for i in ends)
            return "; ".join([f"unequal lengths, {found}", *faults])
        if faults:
            return faults[0]
        if samples < self.mel.window_samples:
            seconds = samples / self.mel.sample_rate
            return f"lasts {seconds:.2f} s, shorter than one window of {self.mel.window_seconds:.2f} s"
        return Track(name, tuple(files), tuple(infos), samples)

    def _cut(self) -> list[tuple[int, int]]:
        """(track index, start in samples) of every window."""
        window = self.mel.window_samples
        smallest_rest = window // 2 if self.shift else self.mel.hop_length
        windows = []
        for index, track in enumerate(self.tracks):
            count, rest = divmod(track.samples, window)
            count += rest >= smallest_rest and rest > 0
            windows += [(index, number * window) for number in range(count)]
        return windows

    # ---- reading

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def unreadable(self) -> dict[str, int]:
        """Names of tracks that failed while being read -> how many items that concerned."""
        return {t.name: int(n) for t, n in zip(self.tracks, self._unreadable, strict=True) if n}

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        index, seed = item if isinstance(item, tuple) else (item, None)
        number, start = self.windows[index]
        # The replacement depends on the item alone, never on what was read before: a resumed run sees the same.
        for attempt in range(len(self.tracks)):
            track_index = (number + attempt) % len(self.tracks)
            try:
                return self._item(self.tracks[track_index], start, seed)
            except DataError as error:
                self._report(track_index, error)
                reason = error
        raise DataError(f"no track can be read any more, last: {reason}")

    def _report(self, track_index: int, error: DataError) -> None:
        self._unreadable[track_index] += 1
        if self._unreadable[track_index] == 1:
            log.warning("%s: left out from now on: %s", self.tracks[track_index].name, error)

    def _start(self, track: Track, start: int, rng: np.random.Generator | None) -> int:
        """Where in the track a window begins, in samples, shifted where there is a source of randomness."""
        window = self.mel.window_samples
        if start >= track.samples:  # only where this track replaces a longer one
            start %= track.samples // window * window
        if self.shift:
            moved = start + (0 if rng is None else int(rng.integers(-(window // 2), window // 2, endpoint=True)))
            start = min(max(moved, 0), track.samples - window)
        return start

    def _item(self, track: Track, start: int, seed: int | None) -> dict[str, Any]:
        window = self.mel.window_samples
        rng = None if seed is None else np.random.default_rng(seed)
        start = self._start(track, start, rng)
        # a stream of its own: the windows and the masking are the same with augmentation and without
        changes = None if seed is None or not self.augmentation else np.random.default_rng([seed, 1])
        remixed = changes is not None and changes.random() < self.augmentation.remix
        if remixed:
            stems = self._remix(track, start, changes)
        else:
            stems = read_stems(track, start, window, self.mel.sample_rate)
        if self.masking and rng is not None:
            stems[rng.permutation(len(self.stems))[: rng.integers(0, len(self.stems))]] = 0.0
        if changes is not None:
            stems = self.augmentation(stems, self.mel.sample_rate, changes)
        item = {
            "stems": stems,
            "mixture": mix(stems),
            "name": f"{track.name}_from_{self._second(start)}",
            "valid_samples": min(window, track.samples - start),
        }
        return item | ({"coherent": not remixed} if self.augmentation.remix else {})

    def _remix(self, track: Track, start: int, rng: np.random.Generator) -> Tensor:
        """Stems (S, N), each of a random window in which it sounds; that of the track itself where none is found."""
        stems = []
        for position in range(len(self.stems)):
            for number, begin in (self.windows[rng.integers(len(self.windows))] for _ in range(_REMIX_TRIES)):
                other = self.tracks[number]
                try:
                    stem = read_stem(
                        other, position, self._start(other, begin, rng), self.mel.window_samples, self.mel.sample_rate
                    )
                except DataError as error:
                    self._report(number, error)
                    continue
                if not is_silent(stem):
                    break
            else:
                stem = read_stem(track, position, start, self.mel.window_samples, self.mel.sample_rate)
            stems.append(stem)
        muted = rng.random(len(stems)) < self.augmentation.mute
        muted[rng.integers(len(stems))] = False
        return torch.where(torch.from_numpy(muted)[:, None], torch.zeros(()), torch.cat(stems))

    def _second(self, start: int) -> str:
        """Start of a window as it stands in the item's name; windows under a second need milliseconds to differ."""
        if self.mel.window_seconds >= 1:
            return str(start // self.mel.sample_rate)
        milliseconds = start * 1000 // self.mel.sample_rate
        return f"{milliseconds // 1000}_{milliseconds % 1000:03d}"


def read_stems(track: Track, start: int, samples: int, sample_rate: int) -> Tensor:
    """A stretch of a track's stems.

    Args:
        track: the track.
        start: its first sample, at `sample_rate`.
        samples: its length; what lies beyond the track's end is zero.
        sample_rate: the model's, in hz.

    Returns:
        (S, samples) in [-1, 1].

    Raises:
        DataError: a file cannot be read, or is no longer as long as it was.
    """
    return torch.cat([read_stem(track, stem, start, samples, sample_rate) for stem in range(len(track.files))])


def read_stem(track: Track, stem: int, start: int, samples: int, sample_rate: int) -> Tensor:
    """As `read_stems`, of one stem by its number: (1, samples)."""
    file, expected = track.files[stem], track.infos[stem].samples
    waveform = read_window(file, start, samples, sample_rate, mono=True, expected_samples=expected)
    return waveform.clamp_(-1.0, 1.0)


def _track_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a folder of tracks, each a folder with one file a stem")
    tracks = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not tracks:
        raise DataError(f"{folder}: holds no tracks; expected sub-folders, each with one audio file a stem")
    return tracks


def _once(found: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """The tracks of each folder once, whatever the folder is called: it may be named twice, or by a link."""
    tracks: dict[Path, tuple[int, Path]] = {}
    for number, track in found:
        tracks.setdefault(track.parent.resolve() / track.name, (number, track))
    if len(tracks) < len(found):
        folders = ", ".join(sorted({str(track.parent) for _, track in found}))
        log.warning(
            "%s: %d of %d tracks are named twice; each counts once", folders, len(found) - len(tracks), len(found)
        )
    return list(tracks.values())


def printable(name: str) -> str:
    """A name that any file can hold: what is not UTF-8 in it as `\\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unique_names(found: list[tuple[int, Path]]) -> list[str]:
    """Track names; those that several folders have get the number of their folder behind them."""
    plain = [printable(track.name) for _, track in found]
    counts = Counter(plain)
    taken = {name for name, count in counts.items() if count == 1}
    names = []
    for (number, _), own in zip(found, plain, strict=True):
        name = own
        while counts[own] > 1 and (name == own or name in taken):
            name = f"{name}-{number}"
        taken.add(name)
        names.append(name)
    return names


def _unreadable_instead(files: Sequence[Path], stem: str) -> str:
    """Words about a file of the stem that is there but cannot be read."""
    found = [file for file in files if stem_named(file.stem, [stem]) and why_unreadable(file)]
    return f"; {found[0].name} is there, but {why_unreadable(found[0])}" if found else ""


def _without_folder(text: object, folder: Path) -> str:
    return str(text).replace(f"{folder}{os.sep}", "")


def _describe(file: Path, info: AudioInfo) -> str:
    return f"{file.name} {info.samples} samples at {info.sample_rate} hz ({info.seconds:.3f} s)"
