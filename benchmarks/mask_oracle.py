"""What mixture-consistent masks can reach: SI-SDR improvement with masks made from the true stems' log-mels.

`python -m benchmarks.mask_oracle --stems ../shared/real_stems/test` reads <folder>/<track>/<stem>.flac or .wav, sums
a track's stems to its mixture, makes masks from the true log-mels and applies them to the mixture at the files' own
rate. Nothing is trained. With `--noise`, the true log-mels carry Gaussian errors of that size, which shows how
much a model may be wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import torch

from latent_diffusion.errors import DataError, MSGLDError
from latent_diffusion.first_stage import LogMel
from latent_diffusion.pipeline.masking import mask_mixture
from latent_diffusion.resampling import resample
from latent_diffusion.settings import MelSettings
from latent_diffusion.tasks import MASK_ROUNDS
from utilities.audio import read_audio
from utilities.evaluation.metrics import si_sdr_improvement


def read_track(folder: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The stems (1, samples) of one track, by name, and their rate."""
    files = sorted(f for f in folder.iterdir() if f.suffix in (".flac", ".wav"))
    read = {file.stem: read_audio(file) for file in files}
    rates = {rate for _, rate in read.values()}
    if len(rates) != 1:
        raise DataError(f"{folder}: expected stems of one sample rate, found {sorted(rates)}")
    return {name: waveform for name, (waveform, _) in read.items()}, rates.pop()


def main() -> int:
    """Print a table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stems", type=Path, required=True, help="folder with one folder a track")
    parser.add_argument("--exponents", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--rounds", type=int, default=MASK_ROUNDS, help="of the masks (default: %(default)s)")
    parser.add_argument("--noise", type=float, nargs="*", default=[1.0], help="errors of the log-mels, in nepers")
    options = parser.parse_args()
    mel = MelSettings()
    log_mel = LogMel(mel)
    scores: dict[tuple[float, float], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    largest = 0.0
    try:
        for folder in sorted(f for f in options.stems.iterdir() if f.is_dir()):
            stems, rate = read_track(folder)
            mixture = sum(stems.values())
            truth = log_mel(
                torch.cat([resample(x.mean(0, keepdim=True), rate, mel.sample_rate) for x in stems.values()])
            )
            for error in (0.0, *options.noise):
                noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
                for exponent in options.exponents:
                    made = mask_mixture(mixture, rate, truth + error * noise, mel, exponent, options.rounds)
                    largest = max(largest, float((made.sum(0) - mixture).abs().max()))
                    for (name, target), estimate in zip(stems.items(), made, strict=True):
                        value = si_sdr_improvement(estimate, target, mixture)
                        if value is not None:
                            scores[error, exponent][name].append(value)
    except (MSGLDError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("SI-SDR improvement in dB, mean over stems that sound; masks from the true stems' log-mels")
    for (error, exponent), by_stem in scores.items():
        values = [value for stem in by_stem.values() for value in stem]
        each = "  ".join(f"{name} {sum(v) / len(v):6.2f} ({len(v)})" for name, v in by_stem.items())
        print(f"error {error:g} np  exponent {exponent:g}  all {sum(values) / len(values):6.2f}  {each}")
    print(f"largest difference of the stems' sum from the mixture: {largest:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
