"""Does what `--continue` makes go on from the recording? Its spectrum after the join against that before it.

`python -m benchmarks.continuation --model quickstart --stems DIR` cuts each track of
<folder>/<track>/<stem>.flac or .wav after `--seconds`, goes on for two seconds, and compares the mean log-mel of the
half second before the cut with that of the half second after it: the mean of absolute differences over bands, in
nepers, and over stems that sound before the cut. Beside it stand the recording's own next half second, and one made
from nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.separation import read_tracks
from latent_diffusion.errors import MSGLDError
from latent_diffusion.inference import SamplingSettings
from utilities.evaluation.metrics import MetricTable, is_silent
from utilities.songs import load_model

MADE_SECONDS, COMPARED_SECONDS = 2.0, 0.5


def main() -> int:
    """Print a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="quickstart", metavar="NAME_OR_PATH", help="default: %(default)s")
    parser.add_argument("--stems", type=Path, required=True, help="folder with one folder a track")
    parser.add_argument("--seconds", type=float, default=6.0, help="kept of each track (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tracks", nargs="+", default=[], metavar="NAME", help="only these tracks")
    options = parser.parse_args()
    table = MetricTable()
    try:
        pipeline = load_model(options.model, "auto")
        rate = pipeline.settings.mel.sample_rate
        cut, half = round(options.seconds * rate), round(COMPARED_SECONDS * rate)
        sampling = SamplingSettings("dpm++", options.steps)

        def spectrum(stems: Tensor) -> Tensor:
            """Mean log-mels (S, M) of stems (S, n)."""
            return pipeline.first_stage.waveform_to_log_mel(stems.to(pipeline.device)).mean(1)

        for track in read_tracks(options.stems, pipeline, options.tracks, options.seconds + 1.0):
            given = dict(zip(pipeline.stems, track.low[:, :cut], strict=True))
            made = pipeline.generate(MADE_SECONDS, 0, sampling, continue_from=given, sample_rate=rate)
            nothing = pipeline.generate(MADE_SECONDS, 0, sampling)
            after = {
                "the recording": track.low[:, cut:],
                "gone on from it": torch.cat(list(made.values()))[:, cut:],
                "made from nothing": torch.cat(list(nothing.values())),
            }
            before = track.low[:, cut - half : cut]
            for name, stems in after.items():
                distance = (spectrum(stems[:, :half]) - spectrum(before)).abs().mean(1)
                for i, stem in enumerate(pipeline.stems):
                    if not is_silent(before[i]):
                        table.add(track.name, stem, name, float(distance[i]))
    except (MSGLDError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("| after the cut | nepers | 95 % |\n|---|---|---|")
    for name, found in table.summary()["all"].items():
        ci = found["ci95"]
        print(f"| {name} | {found['mean']:.2f} | {f'{ci[0]:.2f} to {ci[1]:.2f}' if ci else '-'} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
