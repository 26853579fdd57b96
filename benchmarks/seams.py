"""Do neighbouring windows of a long piece agree? Three ways to make one, with the same model, steps and seed.

`python -m benchmarks.seams --model MODEL --stems DIR` separates the mixtures of
<folder>/<track>/<stem>.flac or .wav by windows cut side by side, by overlapping windows that are made on their own and
cross-faded, and by windows blended at every denoising step. It prints, in log-mels of what was made, how far neighbours
are apart where they overlap (RMS, nepers), the step at the seams beside the steps elsewhere (mean of absolute frame
differences, nepers), and the SI-SDR improvement of stems cut out of the mixture by masks (dB, stems that sound), and by
how much blending is better there (paired; the interval is from resampling tracks).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.separation import read_track
from latent_diffusion.inference import MultiTrackPipeline, SamplingSettings, mask_mixture
from latent_diffusion.inference.windows import Windows
from latent_diffusion.resampling import resample
from latent_diffusion.tasks import MaskSettings, Separation
from utilities.evaluation.metrics import bootstrap_interval, si_sdr_improvement

Made = tuple[Tensor, list[int], float | None]  # log-mels (S, T, M), frames of the seams, RMS between neighbours


def between(windows: Windows, log_mels: Tensor) -> float:
    """RMS difference of neighbouring windows (W, S, T, M) where they overlap."""
    squares = [
        (log_mels[i][:, b - a :] - log_mels[i + 1][:, : windows.window - (b - a)]).square().mean()
        for i, (a, b) in enumerate(zip(windows.starts, windows.starts[1:], strict=False))
    ]
    return float(torch.stack(squares).mean().sqrt())


def run(pipeline: MultiTrackPipeline, mixture: Tensor, sampling: SamplingSettings) -> dict[str, Made]:
    """The three ways on a mixture (N,) at the model's rate, a multiple of its window."""
    frames, r = pipeline.settings.mel.frames, pipeline.settings.autoencoder.reduction
    coarse = pipeline.windows(len(mixture) // pipeline.latent_hop, sampling.overlap)
    fine = coarse.scaled(r)
    pieces = mixture.reshape(-1, pipeline.settings.mel.window_samples)
    overlapping = fine.scaled(pipeline.settings.mel.hop_length).cut(mixture[None], axis=-1)[0]
    cut, alone, together = (
        pipeline.run(Separation(masks=MaskSettings()), batch, seeds=range(len(batch)), sampling=sampling)
        for batch in (pieces, overlapping, mixture[None])
    )
    cut, faded, blended = cut.log_mels, alone.log_mels, pipeline.decode_log_mels(coarse.cut(together.latents)[0])
    shared = [seam for start in fine.starts[1:] for seam in (start, start + fine.overlap)]
    return {
        "cut": (torch.cat(list(cut), dim=1), list(range(frames, len(cut) * frames, frames)), None),
        "cross-faded": (fine.blend(faded[None])[0], shared, between(fine, faded)),
        "blended": (fine.blend(blended[None])[0], shared, between(fine, blended)),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--stems", type=Path, required=True, help="folder with one folder a track")
    parser.add_argument("--tracks", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=20.48)
    parser.add_argument("--sampler", help="default: what msgld separate takes")
    parser.add_argument("--steps", type=int, default=20, help="with --sampler (default: %(default)s)")
    options = parser.parse_args()
    pipeline = MultiTrackPipeline.from_checkpoint(options.model)
    mel = pipeline.settings.mel
    sampling = pipeline.suited_sampling("mask")
    if options.sampler:
        sampling = SamplingSettings(options.sampler, options.steps)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    improvements: dict[str, list[list[float]]] = defaultdict(list)  # dB, by track and stem
    for folder in sorted(f for f in options.stems.iterdir() if f.is_dir())[: options.tracks]:
        stems, rate = read_track(folder)
        stems = {name: resample(x.mean(0), rate, mel.sample_rate) for name, x in stems.items()}
        samples = min(len(next(iter(stems.values()))), round(options.seconds * mel.sample_rate))
        samples -= samples % mel.window_samples
        if samples <= mel.window_samples:
            print(f"{folder.name}: left out, shorter than two windows")
            continue
        mixture = sum(stems.values())[:samples]
        for way, (log_mels, seams, apart) in run(pipeline, mixture, sampling).items():
            steps = log_mels.diff(dim=1).abs().mean((0, 2))
            at_seams = torch.zeros(len(steps), dtype=torch.bool)
            at_seams[torch.tensor(seams) - 1] = True
            found[way]["between neighbours"] += [] if apart is None else [apart]
            found[way]["step at seams"].append(float(steps[at_seams].mean()))
            found[way]["step elsewhere"].append(float(steps[~at_seams].mean()))
            made = mask_mixture(mixture[None], mel.sample_rate, log_mels, mel, sampling.mask_exponent)[:, 0]
            values = [
                si_sdr_improvement(estimate, stems[name][:samples], mixture)
                for name, estimate in zip(pipeline.stems, made, strict=True)
                if name in stems
            ]
            improvements[way].append([value for value in values if value is not None])
            found[way]["SI-SDRi"] += improvements[way][-1]
    if not found:
        parser.exit(2, f"error: {options.stems}: no track has two windows\n")
    for way, columns in found.items():
        cells = [f"{name} {sum(v) / len(v):6.3f}" if v else f"{name}      -" for name, v in columns.items()]
        print(f"{way:<12} " + "   ".join(cells))
    for way in ("cut", "cross-faded"):
        pairs = zip(improvements["blended"], improvements[way], strict=True)
        gains = [[a - b for a, b in zip(ours, theirs, strict=True)] for ours, theirs in pairs if ours]
        mean = sum(map(sum, gains)) / sum(map(len, gains))
        low, high = bootstrap_interval(gains) or (float("nan"), float("nan"))
        print(f"blended less {way}: SI-SDRi {mean:+.3f} dB ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    main()
