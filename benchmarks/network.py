"""One call of the denoising network on one window of 10.24 s: the published way, ours, and what may be quicker.

    python -m benchmarks.network --model quickstart
    python -m benchmarks.network --full --rounds 1
    python -m benchmarks.network --model quickstart --compile

Takes turns (A B C A B C ...). Prints processor time, which other programs disturb less than seconds, the ratio to ours,
the relative difference of the output, and the share of what this machine reaches in a large matrix product. `--compile`
adds torch.compile, with the seconds it takes before the first result; `--profile` tells where ours spends its time. The
condition's pyramid and the time embedding are timed, too: they could be computed once for a whole run.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.headline import matmul_gflops, with_window
from benchmarks.published import as_published
from latent_diffusion.settings import ModelSettings, UNetSettings
from latent_diffusion.unet import UNet3d
from latent_diffusion.unet.blocks import timestep_embedding
from utilities.songs import load_model


def gflop(settings: UNetSettings, shape: tuple[int, ...]) -> float:
    """Floating-point operations of a call on (1, S, C, T, F), in 10^9; counted where attention is spelled out."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        z = torch.empty(shape)
        as_published(UNet3d(settings).eval())(z, torch.tensor([500]), z[:, 0])
    return counter.get_total_flops() / 1e9


def in_bfloat16(unet: nn.Module) -> Callable[..., Tensor]:
    """As `SamplingSettings.precision` has it."""

    def call(*inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return unet(*inputs).float()

    return call


def ways(unet: nn.Module, compiled: bool) -> dict[str, Callable[..., Tensor]]:
    """What is compared; the first is the published way, the second ours."""
    last = copy.deepcopy(unet).to(memory_format=torch.channels_last_3d)
    found = {
        "published": as_published(copy.deepcopy(unet)),
        "ours": unet,
        "ours, channels last": lambda z, t, c: last(z.to(memory_format=torch.channels_last_3d), t, c),
        "ours, bfloat16": in_bfloat16(unet),
    }
    if compiled:
        found["ours, compiled"] = torch.compile(unet)
        found["ours, bfloat16, compiled"] = in_bfloat16(torch.compile(copy.deepcopy(unet)))
    return found


@torch.no_grad()
def compare(unet: nn.Module, shape: tuple[int, ...], rounds: int, compiled: bool) -> None:
    """Measure and print the table."""
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    inputs = z, torch.tensor([500]), z[:, 0].clone()
    taken: dict[str, list[float]] = {}
    outputs: dict[str, Tensor] = {}
    functions = ways(unet, compiled)
    for name, function in functions.items():
        start = time.perf_counter()
        outputs[name] = function(*inputs)
        print(f"{name:<26} first call {time.perf_counter() - start:8.2f} s", flush=True)
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.process_time()
            function(*inputs)
            taken.setdefault(name, []).append(time.process_time() - start)
    operations, most = gflop(unet.settings, shape), matmul_gflops(time.process_time)
    print(f"\n{operations:.0f} GFLOP a call; a matrix product of 4096 runs at {most:.0f} GFLOP/s of a processor")
    print("| | processor, s | times as fast as published | of the matrix product | relative difference |")
    print("|---" * 5 + "|")
    for name, values in taken.items():
        ratio = statistics.median(a / b for a, b in zip(taken["published"], values, strict=True))
        share = operations / statistics.median(values) / most
        apart = float((outputs[name] - outputs["ours"]).norm() / outputs["ours"].norm())
        print(f"| {name} | {statistics.median(values):.3f} | {ratio:.2f} | {100 * share:.0f} % | {apart:.1e} |")
    width = unet.settings.model_channels
    for name, function in {
        "the condition's pyramid": lambda: unet.condition_pyramid(inputs[2]),
        "the time embedding": lambda: unet.time_embed(timestep_embedding(inputs[1], width)),
    }.items():
        start = time.process_time()
        for _ in range(10):
            function()
        part = (time.process_time() - start) / 10 / statistics.median(taken["ours"])
        print(f"{name}: {100 * part:.2f} % of a call")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="quickstart", metavar="NAME_OR_PATH", help="default: %(default)s")
    parser.add_argument("--full", action="store_true", help="the published size instead, with random weights")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too (needs a C++ compiler)")
    parser.add_argument("--profile", action="store_true", help="print where a call of ours spends its time")
    options = parser.parse_args()
    if options.full:
        torch.manual_seed(0)
        settings = ModelSettings()
        unet = UNet3d(settings.unet).eval().requires_grad_(False)
        for parameter in unet.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.02)  # a new network's output is nothing
    else:
        pipeline = load_model(options.model, "cpu")
        unet, settings = pipeline.unet, pipeline.settings
    shape = (1, len(settings.stems), *with_window(settings).latent_shape)
    if options.profile:
        z = torch.randn(shape)
        with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as events:
            unet(z, torch.tensor([500]), z[:, 0])
        print(events.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=45))
    compare(unet, shape, options.rounds, options.compile)


if __name__ == "__main__":
    main()
