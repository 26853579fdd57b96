"""How well a model separates, for a list of option sets: choose defaults with it.

    python -m benchmarks.separation --model quickstart --stems ../shared/real_stems/test \\
        --variant sampler=ddim,steps=20,eta=0 --variant sampler=mean --variant sampler=mean,average=4,passes=2

reads <folder>/<track>/<stem>.flac or .wav, sums a track's stems to its mixture and separates it once a variant. A
variant names fields of `SamplingSettings` (pairs as low:high), and `guidance` and `seed`. Over the stems that sound,
per stem and in all, with 95 % intervals from resampling tracks, it prints

- the squared error of the log-mels (nats^2), beside that of the bare mixture taken as every stem and that of the true
  stems sent through the VAE, below which no sample can be expected to come;
- SI-SDR improvement (dB) of stems cut out by masks, at the files' own rate, for every `--exponents` and
  `--rounds`, beside that of masks from the true stems' log-mels (oracle), which bounds it, and from what the VAE makes
  of those;
- SI-SDR improvement of what the vocoder makes of the log-mels, at the model's rate, and how loud that is (root mean
  square, dB above the true stem);
- seconds of computing for 10.24 s of music.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.mask_oracle import read_track
from latent_diffusion.errors import ConfigError, DataError, MSGLDError
from latent_diffusion.pipeline import MultiTrackPipeline, SamplingSettings, mask_mixture
from latent_diffusion.pipeline.sections import Job, run_sections
from latent_diffusion.resampling import resample
from latent_diffusion.tasks import MASK_ROUNDS, Separation
from utilities.evaluation.metrics import MetricTable, is_silent, log_mel_mse, si_sdr_improvement, write_metrics
from utilities.songs import load_model

WINDOW = 10.24  # seconds that times are told for


@dataclass(frozen=True)
class Variant:
    """One set of options.

    Args:
        name: as typed.
        sampling: how to sample.
        guidance: how closely the mixture is followed.
        seed: of all random numbers.
    """

    name: str
    sampling: SamplingSettings
    guidance: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Track:
    """One piece of music.

    Args:
        name: its folder's.
        stems: (S, n) at the files' rate, mono.
        rate: hz.
        low: (S, N) at the model's rate, filled up to whole latent frames.
        samples: those of `low` that are music.
    """

    name: str
    stems: Tensor
    rate: int
    low: Tensor
    samples: int


def parse_variant(text: str) -> Variant:
    """A variant as typed: `sampler=ddim,steps=20,guidance=1.5`.

    Raises:
        ConfigError: an unknown key, or a value that is no number.
    """
    kinds = {field.name: type(field.default) for field in (*fields(SamplingSettings), *fields(Variant)[2:])}
    kinds["guidance_interval"] = lambda value: tuple(float(end) for end in value.split(":"))
    values = {}
    for part in text.split(","):
        key, _, value = (side.strip() for side in part.partition("="))
        if key not in kinds:
            raise ConfigError(f"--variant {text}: {key!r} is none of {', '.join(kinds)}")
        try:
            if kinds[key] is tuple:
                values[key] = tuple(float(number) for number in value.split(":"))
            else:
                values[key] = value if kinds[key] in (str, type(None)) else kinds[key](value)
        except ValueError:
            raise ConfigError(f"--variant {text}: {key}: found {value!r}, expected a number") from None
    own = {key: values.pop(key) for key in ("guidance", "seed") if key in values}
    return Variant(text, SamplingSettings(**values), **own)


def read_tracks(folder: Path, pipeline: MultiTrackPipeline, names: list[str], seconds: float) -> Iterator[Track]:
    """The tracks, each at most `seconds` long; a stem that has no file is silent.

    Raises:
        DataError: no tracks, or one whose stems are unlike each other.
    """
    found = sorted(f for f in folder.iterdir() if f.is_dir() and (not names or f.name in names))
    if not found:
        raise DataError(f"--stems: {folder}: expected folders of stems{' named ' if names else ''}{', '.join(names)}")
    for track in found:
        stems, rate = read_track(track)
        count = min(round(seconds * rate), max((x.shape[-1] for x in stems.values()), default=0))
        if not set(stems) & set(pipeline.stems):
            raise DataError(f"{track}: expected files named after stems: {', '.join(pipeline.stems)}")
        silence = torch.zeros(1, count)
        full = torch.cat([stems.get(name, silence)[:, :count].mean(0, keepdim=True) for name in pipeline.stems])
        low = resample(full, rate, pipeline.settings.mel.sample_rate)
        yield Track(track.name, full, rate, F.pad(low, (0, -low.shape[-1] % pipeline.latent_hop)), low.shape[-1])


def separate(pipeline: MultiTrackPipeline, track: Track, variant: Variant) -> Tensor:
    """The stems' log-mels (S, T, M) as the model hears the mixture."""
    s, mixture = variant.sampling, track.low.sum(0).clamp(-1, 1)

    def read(start: int, count: int) -> Tensor:
        part = mixture[start : start + count]
        return F.pad(part, (0, count - len(part)))

    job = Job(Separation(variant.guidance), len(mixture), read, None, variant.seed)
    pieces = run_sections(pipeline, job, s, waveforms=False)
    return torch.cat(list(pieces), dim=1)[:, : len(mixture) // pipeline.settings.mel.hop_length]


class Scores:
    """Scores of log-mels, by the name of what made them."""

    def __init__(self, pipeline: MultiTrackPipeline, exponents: list[float], rounds: list[int], vocoder: bool):
        self.pipeline, self.masks, self.vocoder = pipeline, list(product(exponents, rounds)), vocoder
        self.error, self.masked, self.vocoded, self.level = MetricTable(), MetricTable(), MetricTable(), MetricTable()

    def add(self, track: Track, name: str, log_mels: Tensor, truth: Tensor, waveforms: bool = True) -> None:
        """Score log-mels (S, T, M) against the true ones; `waveforms`: what they make of the mixture, too."""
        mel, mixture = self.pipeline.settings.mel, track.stems.sum(0)
        low = track.low[:, : track.samples]
        sounding = [i for i, stem in enumerate(low) if not is_silent(stem)]
        for i in sounding:
            self.error.add(track.name, self.pipeline.stems[i], name, log_mel_mse(log_mels[i], truth[i]))
        for exponent, rounds in self.masks if waveforms else ():
            made = mask_mixture(mixture[None], track.rate, log_mels, mel, exponent, rounds)[:, 0]
            for i in sounding:
                value = si_sdr_improvement(made[i], track.stems[i], mixture)
                self.masked.add(track.name, self.pipeline.stems[i], f"{name}  p={exponent:g}, {rounds} rounds", value)
        if waveforms and self.vocoder:
            made = self.pipeline.vocode(log_mels.to(self.pipeline.device)).cpu()[:, : track.samples]
            for i in sounding:
                value = si_sdr_improvement(made[i], low[i], low.sum(0))
                self.vocoded.add(track.name, self.pipeline.stems[i], name, value)
                level = 20 * torch.log10(made[i].norm() / low[i].norm()).clamp(min=-120)
                self.level.add(track.name, self.pipeline.stems[i], name, float(level))


def measure(
    pipeline: MultiTrackPipeline, tracks: list[Track], variants: list[Variant], scores: Scores
) -> dict[str, float]:
    """Score everything; returns seconds of computing for 10.24 s of music, by variant."""
    took = dict.fromkeys((variant.name for variant in variants), 0.0)
    for track in tqdm(tracks, unit="track"):
        z, truth = pipeline.encode(track.low.to(pipeline.device), torch.Generator().manual_seed(0))
        truth = truth.cpu()
        mixture = pipeline.first_stage.waveform_to_log_mel(track.low.sum(0).clamp(-1, 1).to(pipeline.device)).cpu()
        scores.add(track, "mixture as every stem", mixture.expand_as(truth), truth, waveforms=False)
        scores.add(track, "true stems (oracle)", truth, truth)
        scores.add(track, "true stems through the VAE", pipeline.decode_log_mels(z).cpu(), truth)
        for variant in variants:
            start = time.perf_counter()
            log_mels = separate(pipeline, track, variant)
            took[variant.name] += time.perf_counter() - start
            scores.add(track, variant.name, log_mels, truth)
    music = sum(track.samples for track in tracks) / pipeline.settings.mel.sample_rate
    return {name: seconds / music * WINDOW for name, seconds in took.items()}


def table(title: str, scores: MetricTable, stems: tuple[str, ...]) -> list[str]:
    """Lines of a Markdown table: one row a metric, one column a stem."""
    summary = scores.summary(stems)
    heads = [title, "all", "95 %", *(f"{stem} ({_most(summary[stem])})" for stem in stems)]
    lines = ["", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for metric in scores.metrics:
        whole = summary["all"][metric]
        ci = whole["ci95"]
        cells = [_number(whole["mean"]), f"{ci[0]:.2f} to {ci[1]:.2f}" if ci else "-"]
        cells += [_number(summary[stem].get(metric, {}).get("mean")) for stem in stems]
        lines.append("| " + " | ".join([metric, *cells]) + " |")
    return lines


def _most(of_stem: dict[str, dict]) -> int:
    return max((values["count"] for values in of_stem.values()), default=0)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="quickstart", metavar="NAME_OR_PATH", help="default: %(default)s")
    parser.add_argument("--stems", type=Path, required=True, help="folder with one folder a track")
    parser.add_argument("--variant", action="append", metavar="KEY=VALUE,...", help="repeat for more")
    parser.add_argument(
        "--exponents", type=float, nargs="+", metavar="P", help="of the masks (default: those that suit the samplers)"
    )
    parser.add_argument("--rounds", type=int, nargs="+", default=[MASK_ROUNDS], metavar="N", help="of the masks")
    parser.add_argument("--tracks", nargs="+", default=[], metavar="NAME", help="only these tracks")
    parser.add_argument("--seconds", type=float, default=1e6, help="only the beginning of each track")
    parser.add_argument("--no-vocoder", action="store_true", help="leave out what the vocoder makes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number, too")
    options = parser.parse_args(arguments)
    try:
        variants = [parse_variant(text) for text in options.variant or ["sampler=ddim,steps=20,eta=0", "sampler=mean"]]
        pipeline = load_model(options.model, options.device)
        tracks = list(read_tracks(options.stems, pipeline, options.tracks, options.seconds))
        exponents = options.exponents or sorted({variant.sampling.mask_exponent for variant in variants})
        scores = Scores(pipeline, exponents, options.rounds, not options.no_vocoder)
        took = measure(pipeline, tracks, variants, scores)
    except (MSGLDError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    titles = {"log-mel error, nats^2": scores.error, "SI-SDRi, masks, dB": scores.masked}
    if scores.vocoder:
        titles |= {"SI-SDRi, vocoder, dB": scores.vocoded, "level, vocoder, dB": scores.level}
    for title, found in titles.items():
        print("\n".join(table(title, found, pipeline.stems)))
    print(f"\n| seconds for {WINDOW} s of music | |\n|---|---|")
    print("\n".join(f"| {name} | {seconds:.2f} |" for name, seconds in took.items()))
    if options.json:
        write_metrics(options.json, {title: found.rows() for title, found in titles.items()} | {"seconds": took})
    return 0


if __name__ == "__main__":
    sys.exit(main())
