"""Is what a model makes music? Generated songs, and drums and bass made for given stems, beside real music.

    python -m benchmarks.music --model quickstart --data DIR [--items 24] [--json FILE]
    python -m benchmarks.music --made FOLDER --data DIR

The second judges songs that lie in FOLDER as <track>/<stem>.wav or .flac, whatever generated them, by their measures
and Frechet distances. Intervals are of 95 %, from resampling songs.

measures: of windows of 10.24 s, from waveforms alone; windows in which what is measured is silent do not count.
  pulse     How regularly the drums' onsets come: the largest peak between 0.2 and 2 s of the autocorrelation of their
            onset strength (10 ms frames). 1 is a metronome, noise has 0.1; most drummers have 0.6 to 0.95.
  contrast  How far the drums' hits stand out, in dB: the 95th percentile of their onset strength over its median.
            Steady noise has 2 dB, drums 20 to 45.
  tonal     How much of a stem's energy is in held tones, the rest being hits, by harmonic-percussive separation. 1 is a
            sine, 0 are clicks; white noise, which is neither, has 0.5.
  key       How clearly all stems but the drums are in one key: correlation of their mean chroma with the best of the
            24 Krumhansl profiles. A scale has 0.9; noise has 0.4 to 0.7, so small differences matter.
  together  Whether the drums play with the others: correlation of their onset strengths, at the best lag within 50 ms.
            1 is the same rhythm, 0 is none in common.
  The columns: "real" songs of --data; "through" are the same after VAE and vocoder, which is the best that a model
  with these could do; "generated" from nothing by the model; "noise" are random latents, decoded and vocoded: a
  model that is no better has learned nothing; "made" are the songs of --made.
generation: Frechet distance of log-mel statistics to real stems (0 is equal; it is not FAD, which needs another
  network), of the frames of each stem, and ("together") of the agreement of every pair of stems' onsets. The real
  songs are split in halves at random, ten times: "real" is the distance of the halves, "shuffled" that of one half to
  stems of different songs of the other, "noise" that of random latents through the decoder.
rhythm, harmony: do drums made for the other stems agree with their onsets and beats, does bass made for the others
  agree with the chroma of guitar and piano, better than another song's? "win" is the share of other songs' that are
  beaten; 0.5 is chance. "win true", of the real stem, is the ceiling. Chroma is taken of waveforms, after the vocoder,
  and "true, vocoded" says what that leaves of the true bass's; all else is taken of log-mels, before it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.measures import (
    UNPITCHED,
    beats,
    chroma,
    chroma_agreement,
    f_measure,
    measured,
    musicality,
    onset_agreement,
    onset_envelope,
    onsets,
    pairwise_onsets,
)
from latent_diffusion.errors import ConfigError, DataError, MSGLDError
from latent_diffusion.first_stage import LogMel
from latent_diffusion.inference import MultiTrackPipeline, SamplingSettings, mix
from latent_diffusion.inference.denoise import Batch, Denoising
from latent_diffusion.models import DEFAULT_MODEL, find_checkpoint
from latent_diffusion.plan import Plan
from latent_diffusion.settings import MelSettings, ModelSettings
from latent_diffusion.tasks import Arrangement, Generation, Task
from utilities.data.stems import StemDataset
from utilities.evaluation.frechet import FrameStatistics
from utilities.evaluation.metrics import MetricTable, bootstrap_interval, is_silent, write_metrics

PARTS = ("measures", "generation", "rhythm", "harmony")
WITHOUT_MODEL = PARTS[:2]  # what can be said of songs of which nothing else is known
OF_MODEL = ("model", "free", "sampler", "steps", "eta", "guidance", "batch_size", "device")  # options
SECONDS = dict.fromkeys(PARTS, 5.12) | {"measures": 10.24}  # of a window
SPLITS = 10
JOINT = "together"  # the row of all stems at once


@dataclass(frozen=True)
class Item:
    """A window of a real song."""

    track: str
    waveforms: Tensor  # (S, N)
    log_mels: Tensor  # (S, T, M)


# ---- music, real and made


def window(settings: ModelSettings, seconds: float) -> MelSettings:
    """The mel settings of windows of about `seconds` that the network takes."""
    halvings = len(getattr(settings.unet, "channel_mult", (1,))) - 1  # of a network that is a U-Net
    return whole_frames(settings.mel, seconds, settings.autoencoder.reduction * 2**halvings)


def whole_frames(mel: MelSettings, seconds: float, unit: int = 1) -> MelSettings:
    """The mel settings of windows of about `seconds` that are a multiple of `unit` frames."""
    frames = round(seconds * mel.sample_rate / mel.hop_length / unit) * unit
    if frames < 1:
        raise ConfigError(f"--seconds: found {seconds:g}, expected more")
    return replace(mel, frames=frames)


def read_items(folder: Path, stems: Sequence[str], mel: MelSettings, count: int, seed: int) -> list[Item]:
    """`count` whole windows (or all, where there are fewer), one of each song, then another of each, and so on."""
    dataset, log_mel = StemDataset(folder, stems, mel, shift=False), LogMel(mel)
    by_track: dict[str, list[int]] = {}
    for index in np.random.default_rng(seed).permutation(len(dataset)).tolist():
        number, start = dataset.windows[index]
        if start + mel.window_samples <= dataset.tracks[number].samples:
            by_track.setdefault(dataset.tracks[number].name, []).append(index)
    turns = [(turn, track, index) for track, rows in by_track.items() for turn, index in enumerate(rows)]
    chosen = sorted(turns, key=lambda row: row[0])[:count]
    items = [(track, dataset[index]["stems"]) for _, track, index in chosen]
    if len({track for track, _ in items}) < 4:
        raise DataError(f"{folder}: found {len(by_track)} songs with whole windows, expected 4 or more to compare with")
    return [Item(track, waveforms, log_mel(waveforms)[:, : mel.frames]) for track, waveforms in items]


def sample(
    pipeline: MultiTrackPipeline, task: Task, stems: Tensor, sampling: SamplingSettings, seed: int, name: str
) -> Tensor:
    """Latents (B, S, C, T/r, F) for given stems (B, S, N), which are silent where the task gives none."""
    parts = []
    for start in tqdm(range(0, len(stems), sampling.batch_size), desc=name, unit="batch", dynamic_ncols=True):
        given = stems[start : start + sampling.batch_size]
        seeds = [seed * 100_000 + start + i for i in range(len(given))]
        plans = tuple(pipeline.plan_for(task.plan, one) for one in seeds) if isinstance(task, Generation) else None
        followed = replace(task, plan=plans) if plans and plans[0] else replace(task, plan=None)
        parts.append(Denoising(pipeline, Batch(followed, seeds, mix(given), given), sampling).run())
    return torch.cat(parts)


def generated_latents(
    pipeline: MultiTrackPipeline, count: int, sampling: SamplingSettings, seed: int, free: bool = False
) -> Tensor:
    """Latents (B, S, C, T/r, F) of `count` windows made from nothing; `free`: that follow no plan."""
    silence = torch.zeros(count, len(pipeline.stems), pipeline.settings.mel.window_samples)
    return sample(pipeline, Generation(plan=Plan() if free else None), silence, sampling, seed, "generating")


def random_latents(pipeline: MultiTrackPipeline, count: int, seed: int) -> Tensor:
    """N(0, 1) in the place of latents (B, S, C, T/r, F)."""
    shape = (count, len(pipeline.stems), *pipeline.latent_shape(pipeline.settings.mel.window_samples))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(pipeline.device)


def decode(pipeline: MultiTrackPipeline, z: Tensor) -> Tensor:
    """Log-mels (B, ..., T, M) of latents (B, ..., C, T/r, F), an item at a time."""
    return torch.cat([pipeline.decode_log_mels(item[None]).cpu() for item in z])


# ---- measures


def measures(sets: dict[str, Iterable[tuple[str, Tensor]]], stems: Sequence[str], rate: int) -> dict[str, Any]:
    """`musicality` of sets of windows: {measure: {set: {"mean", "ci95", "count", ...}}}.

    Args:
        sets: (name of the song, waveforms (S, N)) of every window, by the set's name.
        stems: names of the stems.
        rate: hz.
    """
    found = MetricTable()
    for name, windows in sets.items():
        for number, (song, waveforms) in enumerate(tqdm(windows, desc=f"measuring {name}", unit="window")):
            of_window = musicality(dict(zip(stems, waveforms, strict=True)), rate)
            for measure, value in of_window.items():
                found.add(f"{song}_from_{number}", name, measure, value)
    summary = found.summary(list(sets))
    return {measure: {name: summary[name][measure] for name in sets} for measure in measured(stems)}


def measured_sets(
    pipeline: MultiTrackPipeline, items: list[Item], count: int, sampling: SamplingSettings, seed: int, free: bool
) -> dict[str, Iterable[tuple[str, Tensor]]]:
    """Real, coded, generated and random windows, as `measures` takes them; made as they are asked for."""
    z = generated_latents(pipeline, count, sampling, seed, free)
    noise = random_latents(pipeline, count, seed)
    drawn = torch.Generator().manual_seed(seed)
    coded = ((i.track, pipeline.encode(i.waveforms.to(pipeline.device), drawn)[0]) for i in items)
    latents = {"through": coded, "generated": enumerate(z), "noise": enumerate(noise)}
    heard = {
        name: ((str(song), pipeline.decode(one)[1].cpu()) for song, one in windows) for name, windows in latents.items()
    }
    return {"real": [(item.track, item.waveforms) for item in items], **heard}


# ---- generation


def together(envelopes: Sequence[np.ndarray], mel: MelSettings) -> FrameStatistics:
    """One item's agreement of every pair of stems, as one frame."""
    statistics = FrameStatistics()
    statistics.add(pairwise_onsets(envelopes, mel)[None])
    return statistics


@dataclass(frozen=True)
class Summary:
    """What of an item goes into the distances."""

    statistics: list[FrameStatistics]  # of each stem's frames, and last of the stems' agreement
    envelopes: list[np.ndarray]  # onset envelope (T,) of each stem

    @classmethod
    def of(cls, log_mels: Tensor, mel: MelSettings) -> Summary:
        """Of the log-mels (S, T, M) of an item."""
        envelopes = [onset_envelope(log_mel, mel) for log_mel in log_mels]
        statistics = [FrameStatistics() for _ in log_mels]
        for one, log_mel in zip(statistics, log_mels, strict=True):
            one.add(log_mel)
        return cls([*statistics, together(envelopes, mel)], envelopes)


def generation(
    pipeline: MultiTrackPipeline, items: list[Item], count: int, sampling: SamplingSettings, seed: int, free: bool
) -> dict[str, Any]:
    """Frechet distances of generated music and its baselines to real music: {row: {set: distance}}."""
    mel = pipeline.settings.mel
    made = {
        "generated": decode(pipeline, generated_latents(pipeline, count, sampling, seed, free)),
        "noise": decode(pipeline, random_latents(pipeline, count, seed)),
    }
    return distances(made, items, pipeline.stems, mel, seed)


def distances(
    made: dict[str, Iterable[Tensor]], items: list[Item], stems: Sequence[str], mel: MelSettings, seed: int
) -> dict[str, Any]:
    """Frechet distances of sets of log-mels (S, T, M), an item each, to real music: {row: {set: distance}}."""
    ours = {name: [Summary.of(item, mel) for item in log_mels] for name, log_mels in made.items()}
    real = [Summary.of(item.log_mels, mel) for item in items]
    rows = [*stems, JOINT]
    found: dict[str, dict[str, list[float]]] = {row: {} for row in rows}
    rng = np.random.default_rng(seed)
    for _ in range(SPLITS):
        halves = _halves([item.track for item in items], rng)
        for one, other in (halves, halves[::-1]):
            theirs = [real[i] for i in other]
            sets = {**ours, "shuffled": _shuffled(theirs, mel, rng), "real": theirs}
            for column, row in enumerate(rows):
                reference = _merged([real[i].statistics[column] for i in one])
                for name, members in sets.items():
                    distance = reference.frechet_distance(_merged([m.statistics[column] for m in members]))
                    if distance is not None:
                        found[row].setdefault(name, []).append(distance)
    return {row: {name: float(np.mean(v)) for name, v in values.items()} for row, values in found.items()}


def _merged(statistics: list[FrameStatistics]) -> FrameStatistics:
    merged = FrameStatistics()
    for one in statistics:
        merged.merge(one)
    return merged


def _halves(tracks: list[str], rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Numbers of the items of half of the songs, drawn at random, and of the others."""
    names = sorted(set(tracks))
    first = set(rng.permutation(names)[: len(names) // 2].tolist())
    return [i for i, t in enumerate(tracks) if t in first], [i for i, t in enumerate(tracks) if t not in first]


def _shuffled(items: list[Summary], mel: MelSettings, rng: np.random.Generator) -> list[Summary]:
    """Items whose stems come from different items, every stem used once."""
    orders = [rng.permutation(len(items)) for _ in items[0].envelopes]
    shuffled = []
    for i in range(len(items)):
        sources = [(stem, items[order[i]]) for stem, order in enumerate(orders)]
        envelopes = [source.envelopes[stem] for stem, source in sources]
        shuffled.append(Summary([*(s.statistics[stem] for stem, s in sources), together(envelopes, mel)], envelopes))
    return shuffled


# ---- arrangement


def arrange(
    pipeline: MultiTrackPipeline, items: list[Item], stem: str, guidance: float, sampling: SamplingSettings, seed: int
) -> Tensor:
    """Log-mels (B, T, M) of one stem made for the others."""
    position = pipeline.stems.index(stem)
    given = torch.stack([item.waveforms for item in items])
    given[:, position] = 0.0
    task = Arrangement(guidance, generate=(stem,))
    z = sample(pipeline, task, given, sampling, seed, f"making {stem}")
    return decode(pipeline, z[:, position])


def rhythm(pipeline: MultiTrackPipeline, items: list[Item], made: Tensor, mel: MelSettings) -> dict[str, Any]:
    """Onset agreement and drum onsets on the beats of the given stems."""
    log_mel, position = LogMel(mel), pipeline.stems.index("drums")
    rest = [log_mel(mix(_without(item.waveforms, position)))[: mel.frames] for item in items]
    true, given = ([onset_envelope(x, mel) for x in xs] for xs in ([i.log_mels[position] for i in items], rest))
    made_envelopes = [onset_envelope(x, mel) for x in made]
    tracks = [item.track for item in items]
    peaks = [[onsets(e, mel) for e in envelopes] for envelopes in (made_envelopes, true)]
    return {
        "onset agreement": compare(
            lambda one, other: onset_agreement(one, other, mel), made_envelopes, true, given, tracks
        ),
        "onsets on beats (F)": compare(f_measure, *peaks, [beats(e, mel) for e in given], tracks),
    }


def harmony(pipeline: MultiTrackPipeline, items: list[Item], made: Tensor, mel: MelSettings) -> dict[str, Any]:
    """Chroma agreement of bass with the given stems; of the true bass, too, once through the vocoder."""
    position, rate = pipeline.stems.index("bass"), mel.sample_rate
    drop = [i for i, stem in enumerate(pipeline.stems) if i == position or stem in UNPITCHED]
    given = [chroma(mix(_without(item.waveforms, *drop)), rate) for item in items]
    true = [chroma(item.waveforms[position], rate) for item in items]
    log_mels = (made, torch.stack([item.log_mels[position] for item in items]))
    heard, copies = ([chroma(pipeline.vocode(x[None])[0], rate) for x in xs] for xs in log_mels)
    tracks = [item.track for item in items]
    result = compare(chroma_agreement, heard, true, given, tracks)
    copied = compare(chroma_agreement, copies, true, given, tracks)
    result |= {"true, vocoded": copied["made"], "win true, vocoded": copied["win made"]}
    return {"chroma agreement": result}


def compare(
    score: Callable[[Any, Any], float], made: list, true: list, given: list, tracks: Sequence[str]
) -> dict[str, Any]:
    """How well a made stem goes with the given ones, beside the true one, and beside those of other songs.

    Args:
        score: of a stem's feature and a feature of the given stems; larger is better.
        made, true, given: a feature for each item.
        tracks: the song of each item.

    Returns:
        Means "made", "true", "another song's", "made for another"; and for three of them {"mean", "ci95"} of the share
        of other songs' that they beat: "win made" and "win true" against true stems of other songs, "win own" of the
        made stem against those made for other songs.
    """
    numbers = range(len(tracks))
    others = [[k for k in numbers if tracks[k] != tracks[g]] for g in numbers]
    real = [[score(true[k], given[g]) for k in others[g]] for g in numbers]
    foreign = [[score(made[k], given[g]) for k in others[g]] for g in numbers]
    ours, ceiling = ([score(x[g], given[g]) for g in numbers] for x in (made, true))
    return {
        "made": float(np.mean(ours)),
        "true": float(np.mean(ceiling)),
        "another song's": float(np.mean([np.mean(row) for row in real])),
        "made for another": float(np.mean([np.mean(row) for row in foreign])),
        "win made": _win_rate(ours, real, tracks),
        "win true": _win_rate(ceiling, real, tracks),
        "win own": _win_rate(ours, foreign, tracks),
    }


def _win_rate(ours: list[float], theirs: list[list[float]], tracks: Sequence[str]) -> dict[str, Any]:
    """Mean over items of the share of others that are beaten, a tie counting half."""
    by_track: dict[str, list[float]] = {}
    for track, value, others in zip(tracks, ours, theirs, strict=True):
        wins = [1.0 if value > other else 0.5 if value == other else 0.0 for other in others]
        by_track.setdefault(track, []).append(float(np.mean(wins)))
    return {
        "mean": float(np.mean([value for values in by_track.values() for value in values])),
        "ci95": bootstrap_interval(list(by_track.values())),
    }


def _without(waveforms: Tensor, *positions: int) -> Tensor:
    """Stems (S, N) with some of them silent."""
    kept = waveforms.clone()
    kept[list(positions)] = 0.0
    return kept


def playing(items: list[Item], stems: Sequence[str], made: str, without: Sequence[str], count: int) -> list[Item]:
    """The first `count` items in which a stem sounds, and something else that is not in `without`."""
    position = stems.index(made)
    drop = [i for i, stem in enumerate(stems) if i == position or stem in without]
    found = [
        item
        for item in items
        if not is_silent(item.waveforms[position]) and not is_silent(_without(item.waveforms, *drop))
    ][:count]
    if len({item.track for item in found}) < 2:
        raise DataError(f"{made}: found fewer than two songs in which it plays along with others; give more data")
    return found


# ---- the command


def table(results: dict[str, Any]) -> str:
    """The results as text."""
    lines = []
    if "measures" in results:
        rows = results["measures"]
        columns = list(next(iter(rows.values())))
        lines += ["Mean, 95 % interval, windows", f"{'':<20}" + "".join(f"{c:<28}" for c in columns)]
        lines += [f"{row:<20}" + "".join(f"{_cell(values[c]):<28}" for c in columns) for row, values in rows.items()]
        lines.append("")
    if "generation" in results:
        rows = results["generation"]
        columns = list(next(iter(rows.values())))
        lines += ["Frechet distance to real music", f"{'':<22}" + "".join(f"{c:>12}" for c in columns)]
        for row, values in rows.items():
            lines.append(f"{row:<22}" + "".join(f"{values[c]:>12.3g}" for c in columns))
        lines.append(f"stems: of log-mel frames; {JOINT}: of the agreement of pairs of stems' onsets")
    for part, what in (("rhythm", "drums"), ("harmony", "bass")):
        for name, values in results.get(part, {}).items():
            lines += ["", f"{what} made for the other stems: {name}"]
            lines += [f"  {key:<20}{value:>8.3f}" for key, value in values.items() if isinstance(value, float)]
            for key, win in values.items():
                if isinstance(win, dict):
                    low, high = win["ci95"] or (float("nan"), float("nan"))
                    lines.append(f"  {key:<20}{win['mean']:>8.3f}  ({low:.3f} to {high:.3f})")
    seconds = ", ".join(f"{part} {s:.0f} s" for part, s in results["seconds"].items())
    lengths = ", ".join(f"{length:g}" for length in sorted(set(results["window_seconds"].values())))
    lines += ["", f"{results['items']} windows of {lengths} s, seed {results['seed']}; {seconds}"]
    return "\n".join(lines)


def _cell(summary: dict[str, Any]) -> str:
    if summary["mean"] is None:
        return "-"
    low, high = summary["ci95"] or (float("nan"), float("nan"))
    return f"{summary['mean']:.2f} ({low:.2f} to {high:.2f}) {summary['count']}"


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    judge = Folder(options) if options.made else Model(options)
    results: dict[str, Any] = {
        **judge.described,
        "data": str(options.data),
        "items": options.items,
        "window_seconds": {},
        "seed": options.seed,
        "seconds": {},
    }
    for part in options.parts:
        start = time.monotonic()
        mel = judge.window(options.seconds or SECONDS[part])
        items = read_items(options.data, judge.stems, mel, 2 * options.items, options.seed)
        results[part] = getattr(judge, part)(items, mel)
        results["window_seconds"][part] = mel.window_seconds
        results["seconds"][part] = time.monotonic() - start
    return results


class Model:
    """What a model makes; each part takes windows of real songs and their mel settings."""

    def __init__(self, options: argparse.Namespace) -> None:
        path = find_checkpoint(options.model or DEFAULT_MODEL, "--model")
        self.pipeline = MultiTrackPipeline.from_checkpoint(path, options.device)
        asked = {name: getattr(options, name) for name in ("sampler", "steps", "eta", "batch_size")}
        self.sampling = self.pipeline.suited_sampling(**asked)
        self.stems, self.options = self.pipeline.stems, options
        self.described = {"model": str(path), "guidance": options.guidance, "sampling": asdict(self.sampling)}
        for part, stem in (("rhythm", "drums"), ("harmony", "bass")):
            if part in options.parts and stem not in self.stems:
                raise ConfigError(f"--parts {part}: the model has no {stem}; its stems are {', '.join(self.stems)}")

    def window(self, seconds: float) -> MelSettings:
        """Makes the model's window as long as an item, so that nothing is blended."""
        mel = window(self.pipeline.settings, seconds)
        self.pipeline.settings = replace(self.pipeline.settings, mel=mel)
        return mel

    def measures(self, items: list[Item], mel: MelSettings) -> dict[str, Any]:
        """See `measures`."""
        o = self.options
        sets = measured_sets(self.pipeline, items[: o.items], o.items, self.sampling, o.seed, o.free)
        return measures(sets, self.stems, mel.sample_rate)

    def generation(self, items: list[Item], mel: MelSettings) -> dict[str, Any]:
        """See `generation`."""
        o = self.options
        return generation(self.pipeline, items, o.items, self.sampling, o.seed, o.free)

    def rhythm(self, items: list[Item], mel: MelSettings) -> dict[str, Any]:
        """See `rhythm`."""
        return rhythm(self.pipeline, *self._arranged(items, "drums", ()), mel)

    def harmony(self, items: list[Item], mel: MelSettings) -> dict[str, Any]:
        """See `harmony`."""
        return harmony(self.pipeline, *self._arranged(items, "bass", UNPITCHED), mel)

    def _arranged(self, items: list[Item], stem: str, without: Sequence[str]) -> tuple[list[Item], Tensor]:
        o = self.options
        chosen = playing(items, self.stems, stem, without, o.items)
        return chosen, arrange(self.pipeline, chosen, stem, o.guidance, self.sampling, o.seed)


class Folder:
    """Songs that something made, whatever it was; parts as in `Model`."""

    def __init__(self, options: argparse.Namespace) -> None:
        unknown = [part for part in options.parts if part not in WITHOUT_MODEL]
        if unknown:
            raise ConfigError(
                f"--parts {unknown[0]}: needs a model, as it makes stems for given ones; leave --made out"
            )
        self.options, self.stems = options, tuple(options.stems or ModelSettings().stems)
        self.described = {"made": str(options.made), "stems": list(self.stems)}

    def window(self, seconds: float) -> MelSettings:
        """Of the published log-mels."""
        return whole_frames(MelSettings(), seconds)

    def measures(self, items: list[Item], mel: MelSettings) -> dict[str, Any]:
        """See `measures`."""
        sets = {"real": items[: self.options.items], "made": self._made(mel)}
        heard = {name: [(item.track, item.waveforms) for item in windows] for name, windows in sets.items()}
        return measures(heard, self.stems, mel.sample_rate)

    def generation(self, items: list[Item], mel: MelSettings) -> dict[str, Any]:
        """See `distances`."""
        made = {"made": [item.log_mels for item in self._made(mel)]}
        return distances(made, items, self.stems, mel, self.options.seed)

    def _made(self, mel: MelSettings) -> list[Item]:
        return read_items(self.options.made, self.stems, mel, self.options.items, self.options.seed)


def main(arguments: list[str] | None = None) -> int:
    """Print a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="weights: a name, a run folder or a file (default: quickstart)")
    parser.add_argument("--made", type=Path, help="judge the songs in this folder instead of what a model makes")
    parser.add_argument("--stems", nargs="+", metavar="NAME", help="of --made (default: bass drums guitar piano)")
    parser.add_argument("--data", type=Path, required=True, help="folder of real songs, <track>/<stem>.wav or .flac")
    parser.add_argument(
        "--items",
        type=int,
        default=24,
        help="windows generated, and arranged; measuring one takes some 7 s on one core (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, help="length of a window (default: 10.24 for measures, 5.12 for others)"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all that can be said")
    parser.add_argument("--free", action="store_true", help="generate without a plan of tempo and chords, as published")
    parser.add_argument("--sampler", default="ddim", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps (default: %(default)s)")
    parser.add_argument("--eta", type=float, default=0.0, help="of DDIM: 0 deterministic (the default) to 1")
    parser.add_argument("--guidance", type=float, default=0.0, help="of arrangement, by the mix of the given stems")
    parser.add_argument("--batch-size", type=int, default=4, help="windows at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same figures")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        if options.items < 2:
            raise ConfigError(f"--items: found {options.items}, expected 2 or more")
        idle = OF_MODEL if options.made else ("stems",)
        for name in idle:
            if getattr(options, name) != parser.get_default(name):
                raise ConfigError(
                    f"--{name.replace('_', '-')}: has no effect with{'' if options.made else 'out'} --made"
                )
        options.parts = options.parts or list(WITHOUT_MODEL if options.made else PARTS)
        results = run(options)
        if options.json:
            write_metrics(options.json, results)
    except (MSGLDError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
