"""Training throughput, side by side in one run: the published way, encoding at every step, latents from the cache.

    python -m benchmarks.training            quickstart size: whole steps, loader included, A B C D A B C D ...
    python -m benchmarks.training --full     published full size, by its parts: encoding, and the rest of a step

The published way (`benchmarks.published`) reads whole files, holds the whole softmax of attention and recomputes it for
the gradient. Weights are random and the music is noise: what is measured does not depend on them, but on the length of
the tracks where whole files are read (`--seconds`).
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from benchmarks.data_loading import write_tracks
from benchmarks.published import WholeFileDataset, as_published
from latent_diffusion.musicldm import MusicLDM
from latent_diffusion.settings import ModelSettings
from utilities.building import build_model
from utilities.config import load_config
from utilities.data.datamodule import train_loader
from utilities.data.latents import TrackEncoder, build, latent_dataset, latent_store
from utilities.data.stems import StemDataset

CONFIG = Path(__file__).parents[1] / "config" / "quickstart" / "train.yaml"
TRACKS = 3
SLAKH_SECONDS = 249.0  # mean length of Slakh2100's tracks: 145 hours in 2100


class Training:
    """Steps of a training, as Lightning takes them, over the windows of a dataset; `half`: with bfloat16."""

    def __init__(
        self, model: MusicLDM, dataset: Dataset, batch_size: int, workers: int, device: str, half: bool = False
    ) -> None:
        self.half = half
        self.model = model.to(device).train()
        self.optimiser = model.configure_optimizers()["optimizer"]
        self.device = device
        self.batches = self._batches(train_loader(dataset, batch_size, workers))
        self.done = 0

    @staticmethod
    def _batches(loader: Any) -> Iterator[dict[str, Any]]:
        for epoch in count():
            loader.sampler.set_epoch(epoch)
            yield from loader

    def steps(self, number: int) -> float:
        """Take some steps; returns seconds."""
        started = time.perf_counter()
        for _ in range(number):
            batch = next(self.batches)
            batch = {k: v.to(self.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            self.done += 1
            with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
                loss = self.model.losses(batch, self.model.step_generator(1, 0, self.done), 0.1)["loss"]
            self.optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            if self.model.model_ema is not None:
                self.model.model_ema.update(self.model.model)
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def quickstart(rounds: int, steps: int, seconds: float, device: str) -> None:
    """All ways of training at the quickstart's size, in turns."""
    config = load_config(CONFIG)
    p = config.data.params
    published, plain, fast, half = (build_model(config) for _ in range(4))
    settings: ModelSettings = plain.settings
    with tempfile.TemporaryDirectory() as folder:
        music = write_tracks(Path(folder) / "music", settings.stems, TRACKS, seconds, "wav")
        whole, dataset = (kind(music, settings.stems, settings.mel, True) for kind in (WholeFileDataset, StemDataset))
        encoder = TrackEncoder(plain.first_stage_model, device)
        store = latent_store(encoder, settings.stems, Path(folder) / "cache")
        started = time.perf_counter()
        build(store, encoder, dataset.tracks)
        encoding = time.perf_counter() - started
        cached = latent_dataset(dataset, plain.first_stage_model, Path(folder) / "cache", device)
        common = p.batch_size, p.num_workers, device
        ways = {
            "published": Training(as_published(published), whole, *common),
            "encode at every step": Training(plain, dataset, *common),
            "latents from the cache": Training(fast, cached, *common),
            "the same in bfloat16": Training(half, cached, *common, half=True),
        }
        for way in ways.values():
            way.steps(2)  # to warm up
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name, way in ways.items():
                rates[name].append(steps / way.steps(steps))
                print(f"round {number + 1}  {name:<24} {rates[name][-1]:6.2f} steps/s", flush=True)
    print(f"\n{device}, {torch.get_num_threads()} threads, batch {p.batch_size}, tracks of {seconds:g} s")
    print("| training | steps/s | against published | against encoding |\n|---|---|---|---|")
    for name, found in rates.items():
        cells = [name, f"{statistics.median(found):.2f}"]
        for other in ("published", "encode at every step"):
            ratios = [b / a for a, b in zip(rates[other], found, strict=True)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        print("| " + " | ".join(cells) + " |")
    print(f"encoding once: {encoding / (TRACKS * seconds / 60):.1f} s a minute of music")


def full(device: str) -> None:
    """One window at the published size: encoding and the rest of a step, our way and the published one."""
    settings = ModelSettings()
    model = MusicLDM(settings).to(device).train()
    optimiser = model.configure_optimizers()["optimizer"]
    z = torch.randn(1, len(settings.stems), *settings.latent_shape, device=device)
    moments = torch.stack([z, torch.full_like(z, -8.0)], dim=2)
    stems = 0.1 * torch.randn(1, len(settings.stems), settings.mel.window_samples, device=device)

    def part_times(name: str, half: bool = False) -> tuple[float, float]:
        seconds: dict[str, list[float]] = {"encoding": [], "the rest": []}
        for turn in range(1 if device == "cpu" else 6):
            started = _now(device)
            model.pipeline.encode(stems)
            model.pipeline.encode(stems.sum(1).clamp(-1, 1))
            encoded = _now(device)
            batch = {"latents": moments, "mixture_latent": moments[:, 0], "name": ["noise"]}
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = model.losses(batch, model.step_generator(turn), 0.1)["loss"]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            model.model_ema.update(model.model)
            seconds["encoding"].append(encoded - started)
            seconds["the rest"].append(_now(device) - encoded)
        encoding, rest = (statistics.median(values) for values in seconds.values())
        print(f"{name:<18} encoding {encoding:.2f} s, the rest of a step {rest:.2f} s", flush=True)
        return encoding, rest

    print(f"{device}, {torch.get_num_threads()} threads, full size, batch 1")
    encoding, rest = part_times("ours")
    _, half = part_times("ours, bfloat16", half=True)
    as_published(model)
    published = sum(part_times("published"))
    for name, seconds in {"": rest, " in bfloat16": half}.items():
        ratios = (
            f"{published / seconds:.2f} times the published throughput, {(encoding + rest) / seconds:.2f} ours without"
        )
        print(f"with the cache{name}: {ratios}")


def _now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="full size, by its parts")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SLAKH_SECONDS, help="length of a track (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    logging.getLogger("utilities").setLevel(logging.WARNING)
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    full(options.device) if options.full else quickstart(options.rounds, options.steps, options.seconds, options.device)


if __name__ == "__main__":
    main()
