"""Peak memory of reading, inspecting and converting a checkpoint of the published size.

`python -m benchmarks.checkpoint_memory` writes a synthetic MSG-LD checkpoint (the published layout with random values,
filler for the VAE's training losses, and the optimiser's state: 5.4 GB at width 128) into a temporary folder, measures
each task in a process of its own, prints a table and deletes the folder. Peak memory is the largest resident size
(VmHWM: ru_maxrss without what a child process inherits of it) less the value right after the imports; touched pages of
the mapped file count.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from latent_diffusion.checkpoints import convert
from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.ema import shadow_name
from latent_diffusion.inference import MultiTrackPipeline
from latent_diffusion.musicldm import MusicLDM
from latent_diffusion.settings import ModelSettings, UNetSettings
from utilities.weights import describe_weights

LOSS_VALUES = 17_481_547  # numbers in the 56 tensors of the published VAE's training losses; here 56 of equal size


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def write_checkpoint(path: Path, width: int) -> None:
    """A checkpoint with all keys of the published layout and AdamW's state, every tensor with numbers of its own."""
    with torch.device("meta"):
        model = MusicLDM(ModelSettings(unet=UNetSettings(model_channels=width)))
    pool = torch.randn(2**24) * 0.02
    offset = 0

    def fill(like: torch.Tensor) -> torch.Tensor:
        nonlocal offset
        offset = (offset + 101) % 2**20
        flat = pool[offset:]
        repeats = -(-like.numel() // len(flat))
        return (flat.repeat(repeats) if repeats > 1 else flat)[: like.numel()].clone().reshape(like.shape)

    state = {key: fill(value) for key, value in model.state_dict().items()}
    state |= NoiseSchedule().published_buffers()
    state |= {"logvar": torch.zeros(1000), "scale_factor": torch.tensor(0.9)}
    state |= {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(500_000, dtype=torch.int32),
    }
    for i in range(56):
        state[f"first_stage_model.loss.filler.{i}"] = fill(torch.empty(LOSS_VALUES // 56, device="meta"))
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    assert all(f"model_ema.{shadow_name(name)}" in state for name, _ in model.model.named_parameters())
    moments = {
        i: {"step": torch.tensor(5e5), "exp_avg": fill(p), "exp_avg_sq": fill(p).square()}
        for i, p in enumerate(parameters)
    }
    group = {"lr": 3e-5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "params": list(moments)}
    checkpoint = {"epoch": 300, "global_step": 500_000, "pytorch-lightning_version": "1.9.4", "state_dict": state}
    torch.save(checkpoint | {"optimizer_states": [{"state": moments, "param_groups": [group]}]}, path)


def carry_out(task: str, source: str, target: str) -> None:
    """One task, in this process; prints peak bytes above the imports, bytes of the kept weights, and seconds."""
    before, started, kept = peak_bytes(), time.perf_counter(), 0
    if task == "load":
        pipeline = MultiTrackPipeline.from_checkpoint(source)
        tensors = [*pipeline.unet.state_dict().values(), *pipeline.first_stage.state_dict().values()]
        kept = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    elif task == "inspect":
        describe_weights(source)
    elif task == "torch.load":
        torch.load(source, map_location="cpu", weights_only=True)
    elif task.startswith("write"):
        write_checkpoint(Path(source), int(task.split()[1]))
    else:
        convert(source, target, keep=task.split()[1], half="half" in task)
    print(peak_bytes() - before, kept, time.perf_counter() - started)


def measure(task: str, source: Path, target: Path | str = "") -> str:
    """One task in a process of its own, as a line of the table."""
    command = [sys.executable, "-m", "benchmarks.checkpoint_memory", "--task", task, str(source), str(target)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, kept, seconds = (float(value) for value in output.split()[-3:])
    ratio = f"{peak / kept:.2f}" if kept else ""
    kept_gb = f"{kept / 1e9:.2f}" if kept else ""
    size = source.stat().st_size / 1e9  # after the task: "write" makes it
    return f"{task:<18} {source.name:<18} {size:>8.2f} {kept_gb:>8} {peak / 1e9:>8.2f} {ratio:>6} {seconds:>8.1f}"


def main() -> None:
    """Write, measure, delete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128, help="model_channels (default 128)")
    parser.add_argument("--folder", help="where the temporary folder is made (16 GB are needed)")
    parser.add_argument("--task", nargs=3, metavar=("TASK", "SOURCE", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        carry_out(*options.task)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        published, ema, half, back = (
            Path(folder) / n for n in ("published.ckpt", "ema.safetensors", "half.safetensors", "back.ckpt")
        )
        measure(f"write {options.width}", published)
        print(f"{'task':<18} {'file':<18} {'file GB':>8} {'kept GB':>8} {'peak GB':>8} {'ratio':>6} {'seconds':>8}")
        for line in (
            ("inspect", published),
            ("load", published),
            ("convert ema", published, ema),
            ("load", ema),
            ("convert ema half", published, half),
            ("load", half),
            ("convert both", ema, back),
            ("torch.load", published),
        ):
            print(measure(*line), flush=True)


if __name__ == "__main__":
    main()
