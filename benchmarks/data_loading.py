"""Training windows a second: reading windows against reading whole stems, over loader processes.

    python -m benchmarks.data_loading

writes tracks of noise at 22 050 Hz (four stems, 16 bit) into a temporary folder, loads shuffled windows of 10.24 s at
16 kHz both ways in turns (A B A B ...), and deletes the folder. It also prints where the time of a window goes, and
what another resampler (soxr) would take: the published numbers come from torchaudio's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch.utils.data import Dataset

from benchmarks.published import WholeFileDataset
from latent_diffusion.resampling import resample
from latent_diffusion.settings import ModelSettings
from utilities.data.datamodule import train_loader
from utilities.data.stems import StemDataset

RATE = 22_050  # hz, of the files


def write_tracks(folder: Path, stems: tuple[str, ...], tracks: int, seconds: float, kind: str) -> Path:
    """Tracks of noise."""
    rng = np.random.default_rng(0)
    for number in range(tracks):
        track = folder / f"Track{number:05d}"
        track.mkdir(parents=True)
        for stem in stems:
            soundfile.write(track / f"{stem}.{kind}", 0.1 * rng.standard_normal(int(seconds * RATE)), RATE)
    return folder


def endless(dataset: Dataset, workers: int) -> Iterator[dict[str, Any]]:
    """Windows one at a time, epoch after epoch."""
    loader = train_loader(dataset, 1, workers)
    for epoch in count():
        loader.sampler.set_epoch(epoch)
        yield from loader


def rates(datasets: dict[str, StemDataset], workers: int, windows: int, rounds: int) -> dict[str, list[float]]:
    """Windows a second of each way in each round."""
    found: dict[str, list[float]] = {name: [] for name in datasets}
    for _ in range(rounds):
        for name, dataset in datasets.items():
            stream = endless(dataset, workers)  # a new one: what waits must not load while the other is timed
            next(stream)  # starts the processes
            start = time.perf_counter()
            for _ in islice(stream, windows):
                pass
            found[name].append(windows / (time.perf_counter() - start))
            stream.close()
    return found


def milliseconds(function: Callable[[], Any], repeats: int = 10) -> float:
    """Processor time of a call."""
    function()
    start = time.process_time()
    for _ in range(repeats):
        function()
    return 1000 * (time.process_time() - start) / repeats


def parts(dataset: StemDataset) -> None:
    """Where a window's time goes."""
    torch.set_num_threads(1)
    samples = round(dataset.mel.window_seconds * RATE)
    waveforms = torch.randn(len(dataset.stems), samples) * 0.1
    whole = milliseconds(lambda: dataset[1, 0])
    rate = dataset.mel.sample_rate
    torchaudio_ms = sum(milliseconds(lambda w=w: resample(w, RATE, rate)) for w in waveforms)
    soxr_ms = sum(milliseconds(lambda w=w: soxr.resample(w.numpy(), RATE, rate)) for w in waveforms)
    print(f"\na window: {whole:.1f} ms of one processor, of which resampling {torchaudio_ms:.1f} (soxr: {soxr_ms:.1f})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="loader processes (default: 0 1 2)")
    parser.add_argument("--tracks", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=240.0, help="of a track (default: %(default)s)")
    parser.add_argument("--windows", type=int, default=24, help="of a turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: %(default)s)")
    parser.add_argument("--format", choices=("wav", "flac"), default="wav")
    options = parser.parse_args()
    settings = ModelSettings()
    with tempfile.TemporaryDirectory() as folder:
        music = write_tracks(Path(folder), settings.stems, options.tracks, options.seconds, options.format)
        ways = {"whole stems": WholeFileDataset, "windows": StemDataset}
        datasets = {name: kind(music, settings.stems, settings.mel, shift=True) for name, kind in ways.items()}
        print("| loader processes | whole stems, windows/s | windows, windows/s | times as many |\n|---|---|---|---|")
        for workers in options.workers:
            plain, ours = rates(datasets, workers, options.windows, options.rounds).values()
            ratio = statistics.median(b / a for a, b in zip(plain, ours, strict=True))
            print(
                f"| {workers} | {statistics.median(plain):.1f} | {statistics.median(ours):.1f} | {ratio:.1f} |",
                flush=True,
            )
        parts(datasets["windows"])


if __name__ == "__main__":
    main()
