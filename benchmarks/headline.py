"""The headline: one window of 10.24 s separated, wav to wav, the published way against ours, with the same weights.

    python -m benchmarks.headline --model quickstart --stems DIR
    python -m benchmarks.headline --full --calls 10

The first takes turns (A B C A B C ...) on one window and prints seconds, ratios, real-time factors and errors of the
log-mels. The second measures the published size by its parts, each in a process of its own so that its peak memory is
its own: a network call, encoding, decoding, vocoding. It adds up what a window takes with the calls that equal quality
needs (`benchmarks.steps` says how many), and sets the network's speed beside that of a large matrix product. The
published way runs both branches of guidance; where the scale is 1 one is enough, and the ratio to that is told, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.checkpoint_memory import peak_bytes
from benchmarks.published import PublishedPipeline, as_published
from benchmarks.separation import parse_variant, read_track
from latent_diffusion.errors import MSGLDError
from latent_diffusion.first_stage import FirstStage
from latent_diffusion.inference import MaskSettings, MultiTrackPipeline, SamplingSettings
from latent_diffusion.resampling import resample
from latent_diffusion.settings import MelSettings, ModelSettings
from latent_diffusion.unet import UNet3d
from utilities.audio import read_audio, write_wav
from utilities.evaluation.metrics import is_silent, log_mel_mse
from utilities.songs import load_model

STEPS = 200  # of the published sampling
WAYS = ("published", "ours")
PARTS = ("call, two branches", "call, one branch", "encode a window", "decode 4 stems", "vocode 4 stems")


def with_window(settings: ModelSettings) -> ModelSettings:
    """The settings with the published window of 10.24 s, whatever window the model was trained on."""
    frames = round(MelSettings().window_seconds * settings.mel.sample_rate / settings.mel.hop_length)
    return replace(settings, mel=replace(settings.mel, frames=frames))


def write_window(folder: Path, track: Path, pipeline: MultiTrackPipeline) -> Tensor:
    """The first window of a track as wav files at the model's rate, the mixture beside the stems: (S, N)."""
    mel = pipeline.settings.mel
    read, rate = read_track(track)
    silence = torch.zeros(1, 1)
    low = [resample(read.get(stem, silence).mean(0), rate, mel.sample_rate) for stem in pipeline.stems]
    stems = torch.stack([torch.nn.functional.pad(x, (0, mel.window_samples))[: mel.window_samples] for x in low])
    for name, waveform in zip([*pipeline.stems, "mixture"], [*stems, stems.sum(0).clamp(-1, 1)], strict=True):
        write_wav(folder / f"{name}.wav", waveform, mel.sample_rate)
    return stems


def ways(pipeline: MultiTrackPipeline, folder: Path, sampling: SamplingSettings) -> dict[str, Callable[[], Tensor]]:
    """Functions that read the window, separate it and write stems; each returns log-mels (S, T, M) of what it wrote."""
    published, rate = PublishedPipeline(pipeline), pipeline.settings.mel.sample_rate

    def write(name: str, waveforms: Tensor) -> Tensor:
        for stem, waveform in zip(pipeline.stems, waveforms, strict=True):
            write_wav(folder / name / f"{stem}.wav", waveform, rate)
        return pipeline.first_stage.waveform_to_log_mel(waveforms)

    def the_published(both: bool) -> Tensor:
        stems = torch.cat([read_audio(folder / f"{stem}.wav")[0] for stem in pipeline.stems])
        return write("published", published.separate(stems, steps=STEPS, both=both)[1])

    def ours(refine: str) -> Tensor:
        mixture, _ = read_audio(folder / "mixture.wav")
        return write(
            refine,
            torch.cat(list(pipeline.separate(mixture, rate, sampling=sampling, masks=MaskSettings(refine)).values())),
        )

    return {
        "published": lambda: the_published(True),
        "published, one branch": lambda: the_published(False),
        "ours, vocoder": lambda: ours("none"),
        "ours, masks": lambda: ours("mask"),
    }


def compare(pipeline: MultiTrackPipeline, track: Path, sampling: SamplingSettings, rounds: int) -> None:
    """Separate one window each way in turns, and print."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stems = write_window(folder, track, pipeline)
        truth = pipeline.first_stage.waveform_to_log_mel(stems)
        sounding = [i for i, stem in enumerate(stems) if not is_silent(stem)]
        taken: dict[str, list[float]] = {}
        errors: dict[str, float] = {}
        functions = ways(pipeline, folder, sampling)
        functions["ours, vocoder"]()  # to warm up
        for number in range(rounds):
            for name, function in functions.items():
                start = time.perf_counter()
                made = function()
                taken.setdefault(name, []).append(time.perf_counter() - start)
                errors[name] = statistics.mean(log_mel_mse(made[i], truth[i]) for i in sounding)
                print(f"round {number + 1}  {name:<22} {taken[name][-1]:8.2f} s", flush=True)
    seconds, threads = pipeline.settings.mel.window_seconds, torch.get_num_threads()
    calls = f"{2 * STEPS}, {STEPS} and {sampling.calls_in_all}"
    print(f"\n{track.name}, {seconds:g} s, {threads} threads; network calls: {calls}")
    print("| | seconds | against published | against one branch | real-time factor | log-mel error, nats^2 |")
    print("|---" * 6 + "|")
    for name, values in taken.items():
        cells = [name, f"{statistics.median(values):.2f}"]
        for other in ("published", "published, one branch"):
            cells.append(f"{statistics.median(a / b for a, b in zip(taken[other], values, strict=True)):.1f}")
        cells += [f"{statistics.median(values) / seconds:.2f}", f"{errors[name]:.2f}"]
        print("| " + " | ".join(cells) + " |")


def measure_part(way: str, part: str) -> dict[str, float]:
    """Seconds and peak memory of one part at the published size; weights are random, which does not matter here."""
    settings = ModelSettings()
    z = torch.randn(1, len(settings.stems), *settings.latent_shape)
    with torch.no_grad():
        if part.startswith("call"):
            unet = UNet3d(settings.unet).eval().requires_grad_(False)
            unet = as_published(unet) if way == "published" else unet
            z = z.repeat(2 if "two" in part else 1, 1, 1, 1, 1)
            run = lambda: unet(z, torch.full((len(z),), 500), z[:, 0])  # noqa: E731
        else:
            stage = FirstStage(settings).eval()
            stage = as_published(stage) if way == "published" else stage
            waveform = 0.1 * torch.randn(1, settings.mel.window_samples)
            log_mels = torch.randn(len(settings.stems), settings.mel.frames, settings.mel.n_mels) - 5
            run = {
                "encode a window": lambda: stage.log_mel_to_posterior(stage.waveform_to_log_mel(waveform)),
                "decode 4 stems": lambda: stage.latents_to_log_mel(z[0]),
                "vocode 4 stems": lambda: stage.log_mel_to_waveform(log_mels),
            }[part]
        before, start = peak_bytes(), time.perf_counter()
        run()
        return {"seconds": time.perf_counter() - start, "gigabytes": (peak_bytes() - before) / 1e9}


def gflop_of_a_call() -> float:
    """Floating-point operations of one network call on one window, in 10^9."""
    from torch.utils.flop_counter import FlopCounterMode

    settings = ModelSettings()
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        z = torch.empty(1, len(settings.stems), *settings.latent_shape)
        as_published(UNet3d(settings.unet).eval())(z, torch.tensor([500]), z[:, 0])
    return counter.get_total_flops() / 1e9


def matmul_gflops(clock: Callable[[], float] = time.perf_counter, size: int = 4096, rounds: int = 3) -> float:
    """What this machine reaches in a large float32 matrix product, in 10^9 operations a second of the clock."""
    a = torch.randn(size, size)
    seconds = []
    for _ in range(rounds):
        start = clock()
        a @ a
        seconds.append(clock() - start)
    return 2 * size**3 / min(seconds) / 1e9


def full(calls: int) -> None:
    """The published size by its parts."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    print("| part | published, s | ours, s | times as fast | published, GB | ours, GB |\n|---|---|---|---|---|---|")
    for part in PARTS:
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.headline", "--part", way, part]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[way, part] = json.loads(output.splitlines()[-1])
        a, b = (found[way, part] for way in WAYS)
        cells = [part, f"{a['seconds']:.2f}", f"{b['seconds']:.2f}", f"{a['seconds'] / b['seconds']:.1f}"]
        print("| " + " | ".join([*cells, f"{a['gigabytes']:.2f}", f"{b['gigabytes']:.2f}"]) + " |", flush=True)

    def total(way: str, call: str, count: int, encodes: int) -> float:
        seconds = {part: found[way, part]["seconds"] for part in PARTS}
        return count * seconds[call] + encodes * seconds[PARTS[2]] + seconds[PARTS[3]] + seconds[PARTS[4]]

    ours = total("ours", PARTS[1], calls, 1)
    for call in PARTS[:2]:
        published = total("published", call, STEPS, 1 + len(ModelSettings().stems))
        print(f"a window, published, {STEPS} x {call}: {published:.0f} s")
        print(f"a window, ours, {calls} calls: {ours:.0f} s, {published / ours:.1f} times as fast")
    speed, most = gflop_of_a_call() / found["ours", PARTS[1]]["seconds"], matmul_gflops()
    print(f"a network call: {speed:.0f} GFLOP/s, {100 * speed / most:.0f} % of a matrix product's {most:.0f}")


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="quickstart", metavar="NAME_OR_PATH", help="default: %(default)s")
    parser.add_argument("--stems", type=Path, help="folder with one folder a track; its first window is separated")
    parser.add_argument("--track", help="which (default: the first)")
    parser.add_argument(
        "--variant", default="sampler=mean,average=4,passes=2", metavar="KEY=VALUE,...", help="default: %(default)s"
    )
    parser.add_argument("--rounds", type=int, default=2, help="turns of each way (default: %(default)s)")
    parser.add_argument("--full", action="store_true", help="the published size, by its parts")
    parser.add_argument("--calls", type=int, default=10, help="with --full: our network calls (default: %(default)s)")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.part:
            print(json.dumps(measure_part(*options.part)))
        elif options.full:
            full(options.calls)
        elif options.stems is None:
            parser.error("--stems is needed, or --full")
        else:
            tracks = sorted(folder for folder in options.stems.iterdir() if folder.is_dir())
            track = options.stems / options.track if options.track else tracks[0]
            sampling = parse_variant(options.variant).sampling
            pipeline = load_model(options.model, "cpu")
            pipeline.settings = with_window(pipeline.settings)
            compare(pipeline, track, sampling, options.rounds)
    except (MSGLDError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
