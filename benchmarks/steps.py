"""How few steps are enough: the error of separation over samplers and steps, paired against DDIM's 200 at eta 1.

    python -m benchmarks.steps --model quickstart --stems DIR --seconds 10.24 --out steps.csv

reads <folder>/<track>/<stem>.flac or .wav, sums a track's stems to its mixture, separates that with every sampler and
number of steps, and compares the log-mels of the stems that sound with the true ones. Every result is appended to the
CSV file as soon as it is there: a run that is stopped goes on where it was, and one with more samplers, steps, tracks
or `--variant`s adds to it. The table is of all that the file holds for this model and length. Intervals are of 95 %,
from resampling tracks; differences are of the same tracks: below 0 a sampler is better than the reference.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.separation import Track, Variant, parse_variant, read_tracks, separate
from latent_diffusion.errors import MSGLDError
from latent_diffusion.inference import MultiTrackPipeline
from latent_diffusion.models import find_checkpoint
from utilities.evaluation.metrics import bootstrap_interval, is_silent, log_mel_mse
from utilities.songs import load_model

REFERENCE = "sampler=ddim,steps=200,eta=1"
SAMPLERS = ("ddim,eta=1", "ddim,eta=0", "plms", "dpm++", "dpm++sde", "unipc")
STEPS = (5, 8, 10, 15, 20, 50)
FIELDS = ("model", "variant", "seconds_of_music", "track", "stem", "error", "calls", "seconds")


@dataclass
class Results:
    """The CSV file: one row a stem of a track."""

    path: Path

    def rows(self) -> list[dict[str, str]]:
        """All rows, without a last one that was cut off."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in csv.DictReader(file) if None not in row.values()]

    def add(self, rows: Iterable[dict[str, object]]) -> None:
        """Append, all at once."""
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            if new:
                writer.writeheader()
            writer.writerows(rows)


def measure(pipeline: MultiTrackPipeline, track: Track, variant: Variant) -> list[dict[str, object]]:
    """Errors of one separation (nats^2), by stem that sounds."""
    low = track.low.to(pipeline.device)
    truth = pipeline.first_stage.waveform_to_log_mel(low).cpu()
    start = time.perf_counter()
    log_mels = separate(pipeline, track, variant)
    took = time.perf_counter() - start
    frames = log_mels.shape[1]
    return [
        {
            "variant": variant.name,
            "track": track.name,
            "stem": stem,
            "error": log_mel_mse(log_mels[i], truth[i, :frames]),
            "calls": variant.sampling.calls_in_all,
            "seconds": took,
        }
        for i, stem in enumerate(pipeline.stems)
        if not is_silent(track.low[i])
    ]


def table(rows: list[dict[str, str]], reference: str) -> list[str]:
    """Lines of a Markdown table, the best first."""
    by_variant: dict[str, dict[tuple[str, str], float]] = {}
    calls, seconds = {}, {}
    for row in rows:
        by_variant.setdefault(row["variant"], {})[row["track"], row["stem"]] = float(row["error"])
        calls[row["variant"]] = int(row["calls"])
        seconds.setdefault(row["variant"], {})[row["track"]] = float(row["seconds"])
    base = by_variant.get(reference, {})
    lines = [
        f"| sampler | calls | error, nats^2 | 95 % | less {reference} | 95 % | seconds a track | tracks |",
        "|---" * 8 + "|",
    ]
    for name, found in sorted(by_variant.items(), key=lambda item: _mean(item[1].values())):
        differences = {key: value - base[key] for key, value in found.items() if key in base}
        took = _mean(seconds[name].values())
        cells = [name, str(calls[name]), f"{_mean(found.values()):.3f}", _interval(found)]
        cells += [f"{_mean(differences.values()):+.3f}", _interval(differences)] if differences else ["-", "-"]
        lines.append("| " + " | ".join([*cells, f"{took:.1f}", str(len({track for track, _ in found}))]) + " |")
    return lines


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _interval(values: dict[tuple[str, str], float]) -> str:
    by_track: dict[str, list[float]] = {}
    for (track, _), value in values.items():
        by_track.setdefault(track, []).append(value)
    found = bootstrap_interval(list(by_track.values()))
    return f"{found[0]:.3f} to {found[1]:.3f}" if found else "-"


def main(arguments: list[str] | None = None) -> int:
    """Measure what the file lacks, print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="quickstart", metavar="NAME_OR_PATH", help="default: %(default)s")
    parser.add_argument("--stems", type=Path, required=True, help="folder with one folder a track")
    parser.add_argument("--out", type=Path, default=Path("steps.csv"), help="default: %(default)s")
    parser.add_argument("--tracks", nargs="+", default=[], metavar="NAME", help="only these tracks")
    parser.add_argument("--seconds", type=float, default=10.24, help="of each track (default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, metavar="N", help="default: 5 8 10 15 20 50")
    parser.add_argument(
        "--samplers", nargs="*", default=SAMPLERS, metavar="NAME[,KEY=VALUE...]", help="for each of them"
    )
    parser.add_argument("--variant", action="append", default=[], metavar="KEY=VALUE,...", help="more: sampler=mean")
    parser.add_argument("--reference", default=REFERENCE, metavar="KEY=VALUE,...", help="default: %(default)s")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    results = Results(options.out)
    try:
        texts = [options.reference, *options.variant]
        texts += [
            f"sampler={s.split(',')[0]},steps={n}{s[len(s.split(',')[0]) :]}"
            for n in options.steps
            for s in options.samplers
        ]
        variants = [parse_variant(text) for text in dict.fromkeys(texts)]
        digest = hashlib.sha256(find_checkpoint(options.model, "--model").read_bytes()).hexdigest()[:12]
        pipeline = load_model(options.model, options.device)
        kind = {"model": digest, "seconds_of_music": f"{options.seconds:g}"}
        tracks = list(read_tracks(options.stems, pipeline, options.tracks, options.seconds))
        mine = [row for row in results.rows() if kind.items() <= row.items()]
        done = {(row["variant"], row["track"]) for row in mine}
        missing = [(v, t) for v in variants for t in tracks if (v.name, t.name) not in done]
        for variant, track in tqdm(missing, unit="separation", disable=None):
            results.add(kind | row for row in measure(pipeline, track, variant))
    except (MSGLDError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(table([row for row in results.rows() if kind.items() <= row.items()], options.reference)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
