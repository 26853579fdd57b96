"""Peak memory of `msgld separate` for short and long songs.

`python -m benchmarks.song_memory` writes stereo noise of 10 s, 3 min and 60 min at 44.1 kHz into a temporary folder,
takes each apart in a process of its own, prints a table and deletes the folder. The networks have the published window,
rate and latent size, but are narrow and random: what is measured is what grows with the length, not the networks. Peak
memory is the largest resident size (VmHWM) less the value right before the song is opened.

With `--model NAME` it is the command itself with its defaults and a real model, and the peak of its whole process,
Python and PyTorch included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile
import torch

from benchmarks.checkpoint_memory import peak_bytes
from latent_diffusion.inference import SamplingSettings
from latent_diffusion.musicldm import MusicLDM
from latent_diffusion.settings import AutoencoderSettings, ModelSettings, UNetSettings, VocoderSettings
from utilities.songs import Song, Tally, separate_songs

RATE = 44_100


def write_noise(path: Path, seconds: float) -> None:
    """Stereo noise, written ten seconds at a time."""
    generator = torch.Generator().manual_seed(0)
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_16") as file:
        left = round(seconds * RATE)
        while left:
            count = min(left, 10 * RATE)
            file.write((0.1 * torch.randn(count, 2, generator=generator)).numpy())
            left -= count


def separate(path: Path, out: Path, steps: int) -> None:
    """Take one file apart; prints bytes of peak memory and seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = ModelSettings(
        autoencoder=AutoencoderSettings(ch=8, num_res_blocks=1, num_groups=4),
        vocoder=VocoderSettings(kind="griffin_lim"),
        unet=UNetSettings(
            model_channels=8,
            num_res_blocks=1,
            channel_mult=(1, 1, 1, 2),
            attention_resolutions=(),
            num_head_channels=8,
        ),
    )
    pipeline = MusicLDM(settings).eval().requires_grad_(False).pipeline
    before, start, tally = peak_bytes(), time.monotonic(), Tally()
    sampling = SamplingSettings(steps=steps, batch_size=1)
    separate_songs(pipeline, [Song(path, Path(path.stem))], out, sampling, tally, quiet=True)
    if tally.failed:
        sys.exit(tally.summary())
    print(peak_bytes() - before, time.monotonic() - start)


def run_command(path: Path, model: str) -> tuple[float, float]:
    """`msgld separate` with its defaults in a process of its own: peak bytes of it all, and seconds."""
    start = time.monotonic()
    command = [sys.executable, "-m", "utilities.cli", "separate", path, "--out", path.parent / "out", "--model", model]
    process = subprocess.Popen([*map(str, command), "--quiet"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("msgld separate failed")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), time.monotonic() - start


def run_narrow(path: Path, steps: int) -> tuple[float, float]:
    """`separate` in a process of its own: bytes and seconds."""
    command = [sys.executable, "-m", "benchmarks.song_memory", "--one", path, "--steps", steps]
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
    peak, took = map(float, done.stdout.split())
    return peak, took


def main() -> None:
    """Measure each length in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 180, 3600])
    parser.add_argument("--steps", type=int, default=1, help="denoising steps: memory does not depend on them")
    parser.add_argument("--model", metavar="NAME_OR_PATH", help="measure the whole command with this model instead")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        separate(options.one, options.one.parent / "out", options.steps)
        return
    print("| input | peak memory, GB | seconds |\n|---|---|---|")
    for seconds in options.seconds:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "song.wav"
            write_noise(path, seconds)
            peak, took = run_command(path, options.model) if options.model else run_narrow(path, options.steps)
        print(f"| {seconds:g} s, 44.1 kHz stereo | {peak / 1e9:.2f} | {took:.0f} |", flush=True)


if __name__ == "__main__":
    main()
