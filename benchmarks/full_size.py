"""Time and peak memory of the published full size on this machine: one network call, one training step.

    python -m benchmarks.full_size

Weights are random: what is measured does not depend on them. Each part runs in a process of its own, so that its peak
memory (of the whole process, imports included) is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

PARTS = ("forward", "training step")


def forward() -> dict[str, float]:
    """One U-Net call on one window, without gradients."""
    import torch

    from latent_diffusion.settings import ModelSettings
    from latent_diffusion.unet import UNet3d

    settings = ModelSettings()
    unet = UNet3d(settings.unet).eval()
    x = torch.randn(1, len(settings.stems), *settings.latent_shape)
    started = time.perf_counter()
    with torch.no_grad():
        unet(x, torch.tensor([500]), x[:, 0])
    return {"seconds": time.perf_counter() - started}


def training_step() -> dict[str, float]:
    """One optimiser step on one window, from waveforms: encoding, loss, gradients, AdamW, averaged weights."""
    import torch

    from latent_diffusion.inference import mix
    from latent_diffusion.musicldm import MusicLDM
    from latent_diffusion.settings import ModelSettings

    settings = ModelSettings()
    model = MusicLDM(settings)
    optimiser = model.configure_optimizers()["optimizer"]
    stems = 0.1 * torch.randn(1, len(settings.stems), settings.mel.window_samples)
    batch = {"stems": stems, "mixture": mix(stems), "name": ["noise"]}
    started = time.perf_counter()
    loss = model.losses(batch, torch.Generator().manual_seed(0), 0.1)["loss"]
    encoded_and_forward = time.perf_counter() - started
    loss.backward()
    optimiser.step()
    model.model_ema.update(model.model)
    return {"seconds": time.perf_counter() - started, "seconds to the loss": encoded_and_forward}


def main() -> None:
    """Run the parts, each in its own process, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="run this part only, in this process, and print JSON")
    part = parser.parse_args().part
    if part:
        figures = forward() if part == "forward" else training_step()
        figures["peak GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps(figures))
        return
    for name in PARTS:
        command = [sys.executable, "-m", "benchmarks.full_size", "--part", name]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        figures = json.loads(output.strip().splitlines()[-1])
        print(f"{name:<14} " + "   ".join(f"{key} {value:.1f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
