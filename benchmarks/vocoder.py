"""Copy synthesis: real log-mel in, waveform out, held against the recording. Griffin-Lim and any number of vocoders.

`python -m benchmarks.vocoder --data DIR --model FILE` reads <folder>/<track>/<stem>.flac or
.wav, takes windows of 10.24 s in which the stem sounds, and prints for librosa's Griffin-Lim, this project's and the
vocoder of each file, by class and over all windows:

- MR-STFT: spectral convergence, the Frobenius norm of the difference of magnitudes over that of the recording's, plus
  the mean absolute difference of log-magnitudes; both averaged over FFTs of 512, 1024 and 2048 samples with Hann
  windows and hops of a quarter, magnitudes clamped at 10^-3.5 (Yamamoto, Song and Kim 2020, arXiv 1910.11480);
- log-mel L1 in nepers, by the model's own front end;
- seconds for four windows, one after the other.

Behind "all" stands half the 95 % confidence interval over tracks (bootstrap), then the difference from the first row
with its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.separation import read_track
from latent_diffusion.checkpoints import load_vocoder
from latent_diffusion.errors import MSGLDError
from latent_diffusion.first_stage import GriffinLim, HiFiGAN, LogMel, build_vocoder
from latent_diffusion.inspection import summarise
from latent_diffusion.resampling import resample
from latent_diffusion.settings import MelSettings, ModelSettings

FFTS = (512, 1024, 2048)
QUIETEST = 10**-3.5  # magnitude
SOUNDING_DB = -60.0  # mean level of a window, dB of full scale

Vocoder = Callable[[Tensor], Tensor]  # log-mel (T, M) -> waveform (n,)


@dataclass
class Scores:
    """What a vocoder reached: (track, class, MR-STFT, log-mel L1) of every window, and the seconds that it took."""

    rows: list[tuple[str, str, float, float]] = field(default_factory=list)
    seconds: float = 0.0

    def mean(self, column: int, stem: str | None = None) -> float:
        """Mean over all windows, or over those of a class; column 2 is MR-STFT, 3 log-mel L1."""
        return float(np.mean([row[column] for row in self.rows if stem in (None, row[1])]))

    def by_track(self, column: int) -> np.ndarray:
        """Mean of each track."""
        tracks = sorted({row[0] for row in self.rows})
        return np.array([np.mean([row[column] for row in self.rows if row[0] == track]) for track in tracks])


def stft_distance(estimate: Tensor, target: Tensor) -> float:
    """The MR-STFT distance above of waveforms (N,)."""
    total = 0.0
    for n_fft in FFTS:
        window = torch.hann_window(n_fft)
        found, wanted = (
            torch.stft(x, n_fft, n_fft // 4, window=window, return_complex=True).abs().clamp(min=QUIETEST)
            for x in (estimate, target)
        )
        total += float((found - wanted).norm() / wanted.norm() + F.l1_loss(found.log(), wanted.log()))
    return total / len(FFTS)


def librosa_griffin_lim(mel: MelSettings, iterations: int = 32) -> Vocoder:
    """librosa's inversion of the mel basis (non-negative least squares) and its Griffin-Lim."""

    def run(log_mel: Tensor) -> Tensor:
        magnitude = np.exp(np.pad(log_mel.numpy().T, ((0, 0), (0, 1)), mode="edge"))
        waveform = librosa.feature.inverse.mel_to_audio(
            magnitude,
            sr=mel.sample_rate,
            n_fft=mel.n_fft,
            hop_length=mel.hop_length,
            win_length=mel.win_length,
            power=1.0,
            n_iter=iterations,
            fmin=mel.f_min,
            fmax=mel.f_max,
            length=len(log_mel) * mel.hop_length,
        )
        return torch.from_numpy(waveform)

    return run


def of_module(module: torch.nn.Module) -> Vocoder:
    """One of this project's vocoders."""
    return lambda log_mel: module(log_mel.T[None])[0, 0]


def read_vocoder(path: str) -> torch.nn.Module:
    """The vocoder of a vocoder's or an MSG-LD file."""
    summary = summarise(path)
    settings = summary.settings.vocoder if isinstance(summary.settings, ModelSettings) else summary.settings
    vocoder = build_vocoder(settings, summary.mel).eval()
    if isinstance(vocoder, HiFiGAN):
        vocoder.remove_weight_norm()
    if settings.kind != "griffin_lim":
        load_vocoder(vocoder, path)
    return vocoder


def windows(folder: Path, mel: MelSettings, most: int) -> list[tuple[str, str, Tensor]]:
    """Sounding windows (N,) of all tracks with their track and class; at most so many a stem, from its start."""
    found = []
    for track in sorted(f for f in folder.iterdir() if f.is_dir()):
        stems, rate = read_track(track)
        for name, waveform in stems.items():
            whole = resample(waveform.mean(0), rate, mel.sample_rate)
            pieces = whole.split(mel.window_samples)[:most]
            level = 10 ** (SOUNDING_DB / 10)
            found += [
                (track.name, name, x) for x in pieces if len(x) == mel.window_samples and x.square().mean() > level
            ]
    return found


def score(vocoder: Vocoder, pieces: list[tuple[str, str, Tensor]], log_mel: LogMel) -> Scores:
    """Run a vocoder on the log-mels of all windows."""
    scores = Scores()
    for track, stem, target in pieces:
        wanted = log_mel(target)[: log_mel.settings.frames]
        start = time.perf_counter()
        estimate = vocoder(wanted)[: len(target)]
        scores.seconds += time.perf_counter() - start
        distance = F.l1_loss(log_mel(estimate)[: len(wanted)], wanted)
        scores.rows.append((track, stem, stft_distance(estimate, target), float(distance)))
    return scores


def half_interval(values: np.ndarray) -> float:
    """Half the 95 % confidence interval of the mean, by bootstrap."""
    draws = np.random.default_rng(0).choice(values, (10_000, len(values))).mean(1)
    return float(np.diff(np.quantile(draws, (0.025, 0.975)))[0] / 2)


def table(scores: dict[str, Scores], title: str, column: int) -> str:
    """One metric of all vocoders, a class and over all."""
    first = next(iter(scores.values()))
    stems = sorted({row[1] for row in first.rows})
    lines = [f"{title:<28}" + "".join(f"{stem:>9}" for stem in stems) + "      all            against the first"]
    for name, s in scores.items():
        line = f"{name:<28}" + "".join(f"{s.mean(column, stem):9.3f}" for stem in stems)
        difference = s.by_track(column) - first.by_track(column)
        line += f"{s.mean(column):9.3f} +-{half_interval(s.by_track(column)):6.3f}"
        lines.append(line + f"{difference.mean():11.3f} +-{half_interval(difference):6.3f}")
    return "\n".join(lines)


def main() -> int:
    """Print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder a track")
    parser.add_argument("--model", nargs="*", default=[], metavar="FILE", help="vocoder or MSG-LD weights")
    parser.add_argument("--windows", type=int, default=2, help="at most so many windows a stem")
    options = parser.parse_args()
    mel = MelSettings()
    log_mel = LogMel(mel)
    try:
        vocoders = {"librosa Griffin-Lim, 32": librosa_griffin_lim(mel), "Griffin-Lim, 32": of_module(GriffinLim(mel))}
        vocoders |= {path[-28:]: of_module(read_vocoder(path)) for path in options.model}
        pieces = windows(options.data, mel, options.windows)
        with torch.inference_mode():
            scores = {name: score(vocoder, pieces, log_mel) for name, vocoder in vocoders.items()}
    except (MSGLDError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(pieces)} windows of {len({piece[0] for piece in pieces})} tracks, {torch.get_num_threads()} threads")
    print(table(scores, "MR-STFT", 2), table(scores, "log-mel L1, nepers", 3), sep="\n")
    for name, s in scores.items():
        print(f"{name:<28} {4 * s.seconds / len(pieces):6.2f} s for four windows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
