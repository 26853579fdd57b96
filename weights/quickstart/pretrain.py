"""Trains the shipped network on one large GPU, from songs that are rendered beside it (see README.md).

    sh weights/quickstart/make.sh             # all of it, from packages to the model's file

Songs are read as they come, kept in the memory of the device, and made into latents there: cut at random places, stems
of different songs mixed, levels, tones and saturation changed. Every window is used a few times with other noise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latent_diffusion.checkpoints import load_autoencoder, read_weights
from latent_diffusion.checkpoints.contents import FIRST_STAGE_PREFIX, UNET_PREFIX
from latent_diffusion.checkpoints.fitting import first_stage_settings_of, settings_of
from latent_diffusion.checkpoints.loading import first_stage_state
from latent_diffusion.checkpoints.writing import write_safetensors
from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.first_stage import FirstStage, LogMel
from latent_diffusion.models import find_checkpoint
from latent_diffusion.networks.stem_transformer import StemTransformer
from latent_diffusion.plan import BAR, BEAT, CHORD, ROWS
from latent_diffusion.settings import (
    DiffusionSettings,
    MelSettings,
    ModelSettings,
    StemTransformerSettings,
    VocoderSettings,
)

RATE, HOP, FRAMES, PATCH, STEMS = 16_000, 160, 1024, 8, 4
SAMPLES = FRAMES * HOP
MOST_BYTES = 15_000_000  # of a file that is written


class Songs:
    """Waveforms and plans of songs in one large tensor each; the oldest give way when it is full."""

    def __init__(self, folder: Path, hours: float, device: torch.device):
        self.folder, self.device = folder, device
        self.frames = int(hours * 3600 * RATE / HOP)
        self.audio = torch.zeros(STEMS, self.frames * HOP, dtype=torch.int16, device=device)
        self.plan = torch.zeros(ROWS, self.frames, dtype=torch.float16, device=device)
        self.end, self.songs, self.heard = 0, [], 0.0  # songs: (first frame, frames)
        self.come: queue.Queue[tuple[Tensor, Tensor]] = queue.Queue(64)
        self.closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        """Leave songs that come later alone."""
        self.closed.set()

    def _watch(self) -> None:
        """Read songs as they come and remove their files, until `close`."""
        while not self.closed.is_set():
            for file in sorted(self.folder.glob("*.npz")):
                try:
                    with np.load(file) as content:
                        song = torch.from_numpy(content["stems"]), torch.from_numpy(content["plan"])
                except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
                    continue  # not written to its end yet
                self.come.put(song)
                file.unlink()
            time.sleep(0.05)

    def read(self, most: int) -> None:
        """Take over up to `most` of the songs that have come."""
        for _ in range(min(most, self.come.qsize())):
            stems, plan = self.come.get()
            frames = min(stems.shape[1] // HOP, plan.shape[1])
            if frames < FRAMES:
                continue
            if self.end + frames > self.frames:
                self.end = 0
            first, self.end = self.end, self.end + frames
            self.songs = [s for s in self.songs if s[0] + s[1] <= first or s[0] >= self.end]
            self.audio[:, first * HOP : self.end * HOP] = stems[:, : frames * HOP].to(self.device)
            self.plan[:, first : self.end] = plan[:, :frames].to(self.device)
            self.songs.append((first, frames))
            self.heard += frames * HOP / RATE / 3600
        table = torch.tensor(self.songs, dtype=torch.long)
        if most and len(table):
            self.first, self.length = table[:, 0].to(self.device), table[:, 1].to(self.device)
            self.weight = (self.length - FRAMES + 1).float()

    def places(self, count: int) -> Tensor:
        """First frames (count,) of windows at random places."""
        which = torch.multinomial(self.weight, count, replacement=True)
        room = self.length[which] - FRAMES + 1
        return self.first[which] + (torch.rand(count, device=self.device) * room).long()

    def windows(self, places: Tensor) -> Tensor:
        """Waveforms (B, S, N) of a first frame for each stem (B, S)."""
        index = places[..., None] * HOP + torch.arange(SAMPLES, device=self.device)
        return torch.stack([self.audio[i][index[:, i]] for i in range(STEMS)], dim=1).float() / 32768

    def plans(self, places: Tensor) -> Tensor:
        """Plans (B, P, T / r) of windows that begin at frames (B,): of the frame in the middle of each patch."""
        index = places[:, None] + PATCH * torch.arange(FRAMES // PATCH, device=self.device) + PATCH // 2
        return self.plan[:, index].transpose(0, 1)


class Encoder:
    """Makes waveforms into latents, with changed levels, tones and saturation; stems and mixture from one spectrum."""

    def __init__(self, first_stage: FirstStage, device: torch.device):
        self.first_stage, self.log_mel = first_stage, LogMel(MelSettings()).to(device)
        self.device = device
        hz = torch.fft.rfftfreq(1024, 1 / RATE).clamp(min=62.5)
        octave = (hz / 62.5).log2()
        self.bands = torch.stack([(1 - (octave - k).abs()).clamp(min=0) for k in range(8)]).to(device)

    @torch.no_grad()
    def __call__(self, waves: Tensor, remixed: Tensor) -> Tensor:
        """Latents (B, S + 1, C, T/r, F), unscaled, the mixture's last, of waveforms (B, S, N); remixed (B,) bool."""
        items, device = len(waves), self.device
        bent = torch.rand(items, STEMS, 1, device=device) < 0.15
        drive = torch.exp(torch.rand(items, STEMS, 1, device=device) * math.log(4.0)) / waves.abs().amax(
            -1, keepdim=True
        ).clamp(min=1e-4)
        waves = torch.where(bent, torch.tanh(waves * drive) / drive, waves)
        muted = (torch.rand(items, STEMS, 1, device=device) < 0.15) & remixed[:, None, None]
        spread = torch.where(remixed, 7.0, 3.0)[:, None]
        db = (2 * torch.rand(items, STEMS, device=device) - 1) * spread + (
            torch.rand(items, 1, device=device) * 14 - 10
        )
        spectrum = torch.stft(
            (waves * ~muted).flatten(0, 1),
            1024,
            HOP,
            window=self.log_mel.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )[..., :FRAMES].unflatten(0, (items, STEMS))
        tone = (2 * torch.rand(items, STEMS, 8, device=device) - 1) * 5.0
        gain = 10 ** ((tone @ self.bands + db[..., None]) / 20)
        spectrum = spectrum * gain[..., None]
        magnitudes = torch.cat([spectrum.abs(), spectrum.sum(1, keepdim=True).abs()], dim=1).transpose(2, 3)
        log_mels = self.log_mel.from_magnitudes(magnitudes)
        return self.first_stage.log_mel_to_posterior(log_mels).mean.unflatten(0, (items, STEMS + 1))


class Windows:
    """A ring of encoded windows: latents, plans, and whether the stems belong together."""

    def __init__(self, songs: Songs, encoder: Encoder, size: int, device: torch.device):
        self.songs, self.encoder, self.device = songs, encoder, device
        self.z = torch.zeros(size, STEMS + 1, 8, FRAMES // PATCH, 8, dtype=torch.float16, device=device)
        self.plan = torch.zeros(size, ROWS, FRAMES // PATCH, dtype=torch.float16, device=device)
        self.coherent = torch.zeros(size, dtype=torch.bool, device=device)
        self.made = 0

    def add(self, count: int, remix: float) -> None:
        """Encode `count` more windows."""
        remixed = torch.rand(count, device=self.device) < remix
        own = self.songs.places(count * STEMS).reshape(count, STEMS)
        places = torch.where(remixed[:, None], own, own[:, :1])
        z = self.encoder(self.songs.windows(places), remixed)
        rows = (self.made + torch.arange(count, device=self.device)) % len(self.z)
        self.z[rows], self.plan[rows], self.coherent[rows] = z.half(), self.songs.plans(places[:, 0]), ~remixed
        self.made += count

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of latents, plans and coherence."""
        rows = torch.randint(min(self.made, len(self.z)), (count,), device=self.device)
        return self.z[rows].float(), self.plan[rows].float(), self.coherent[rows]


def load_first_stage(name: str) -> FirstStage:
    """The VAE of a model or of a VAE's checkpoint, frozen."""
    weights = read_weights(path := find_checkpoint(name, "--first-stage"))
    settings = settings_of(weights).autoencoder if weights.kind == "msgld" else first_stage_settings_of(weights)[0]
    first_stage = FirstStage(ModelSettings(autoencoder=settings, vocoder=VocoderSettings("griffin_lim")))
    load_autoencoder(first_stage, path)
    return first_stage.requires_grad_(False).eval()


def draw_task(coherent: Tensor, steps: int, separation: float = 0.3) -> tuple[Tensor, Tensor]:
    """Noise levels (B, S), -1 for stems that are given, and whether each item sees its mixture (B,).

    Of coherent items a share `separation` sees the mixture, a third of them with a level for each stem; of the others
    64 % are generation and 36 % arrangement. Items that are not coherent are all separation.
    """
    items, device = len(coherent), coherent.device
    kind = torch.rand(items, device=device)
    kind = torch.where(kind < 1 - separation, kind / (1 - separation) * 0.7, 1 - (1 - kind) / separation * 0.3)
    t = torch.randint(0, steps, (items, 1), device=device).expand(-1, STEMS)
    generation, arrangement = coherent & (kind < 0.45), coherent & (kind >= 0.45) & (kind < 0.7)
    mixed = ~(generation | arrangement)
    late = torch.randint(steps - steps // 10, steps, (items, 1), device=device)
    t = torch.where(mixed[:, None] & (torch.rand(items, 1, device=device) < 0.4), late, t)
    own = torch.randint(0, steps, (items, STEMS), device=device)
    t = torch.where((coherent & (kind >= 0.9))[:, None], own, t)
    share = torch.rand(items, 1, device=device)
    given = torch.rand(items, STEMS, device=device) < share
    some = arrangement | (torch.rand(items, device=device) < 0.1)
    given &= some[:, None]
    given[given.all(1)] = False  # something is to be made
    return torch.where(given, -1, t), mixed


def hide_plans(plan: Tensor) -> Tensor:
    """Plans (B, P, T) of which beats, bars and chords are often unknown, and four in ten wholly."""
    for part in (BEAT, BAR, CHORD):
        plan[:, part] *= torch.rand(len(plan), 1, 1, device=plan.device) >= 0.3
    return plan * (torch.rand(len(plan), 1, 1, device=plan.device) >= 0.4)


def loss_of(network, schedule, z: Tensor, mixture: Tensor, plan: Tensor, t: Tensor, weight: Tensor) -> Tensor:
    """Squared error of the velocity (B,), averaged over the stems that are made."""
    made = (t >= 0).float()
    noise = torch.randn_like(z)
    z_t, target = schedule.add_noise(z, noise, t), schedule.target(z, noise, t)
    error = ((network(z_t, t, mixture, plan).float() - target) ** 2 * weight).mean((2, 3, 4))
    return (error * made).sum(1) / made.sum(1)


def learning_rate(done: float, step: int) -> float:
    """Factor of the rate: rises over 300 steps, falls as a cosine over the part `done` of the time that there is."""
    return min(1.0, (step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, done)))


def save_state(
    file: Path, network: StemTransformer, average: list[Tensor], stepper: torch.optim.Optimizer, step: int
) -> None:
    """Write all that going on needs, whole or not at all."""
    state = {"network": network.state_dict(), "average": average, "step": step, "stepper": stepper.state_dict()}
    torch.save(state, file.with_suffix(".partial"))
    os.replace(file.with_suffix(".partial"), file)


def save(
    folder: Path, network: StemTransformer, average: list[Tensor], mean: Tensor, scale: Tensor, step: int, parts: bool
) -> None:
    """Write the averaged weights in half precision, in files that are small enough to be sent."""
    names = [name for name, _ in network.named_parameters()]
    tensors = {name: value.half().cpu().contiguous() for name, value in zip(names, average, strict=True)}
    tensors |= {"latent_mean": mean.float().cpu(), "latent_scale": scale.float().cpu()}
    groups: list[dict[str, Tensor]] = [{}]
    for name, value in tensors.items():
        if parts and sum(v.nbytes for v in groups[-1].values()) + value.nbytes > MOST_BYTES:
            groups.append({})
        groups[-1][name] = value
    for number, group in enumerate(groups):
        save_file(group, folder / f"weights-{number}.safetensors", {"step": str(step)})


def write_model(folder: Path, first_stage: str, target: Path) -> None:
    """Write the whole model: the pretrained network, and VAE and vocoder of another model.

    Args:
        folder: where `train` has written.
        first_stage: a model's name or file.
        target: `*.safetensors`, networks in half precision.
    """
    weights = read_weights(find_checkpoint(first_stage, "--first-stage"))
    parts = {
        key: value for file in sorted(folder.glob("weights-*.safetensors")) for key, value in load_file(file).items()
    }
    mean, scale = (parts.pop(f"latent_{name}")[:, None] for name in ("mean", "scale"))
    depth = 1 + max(int(key.split(".")[1]) for key in parts if key.startswith("blocks."))
    width = parts["embed_frames.weight"].shape[0]
    network = StemTransformerSettings(width=width, depth=depth, heads=width // 64)
    settings = replace(settings_of(weights), unet=network, diffusion=DiffusionSettings(parameterization="v"))
    tensors = {FIRST_STAGE_PREFIX + key: value for key, value in first_stage_state(weights).items()}
    tensors |= {UNET_PREFIX + key: value for key, value in parts.items()} | {"scale_factor": scale, "latent_mean": mean}
    write_safetensors(target, tensors, {"msgld": {"kind": "msgld", "settings": settings.to_dict(), "weights": "ema"}})


def train(arguments: argparse.Namespace) -> int:
    """Train for so many minutes; returns the exit status."""
    device = torch.device(arguments.device)
    songs = Songs(arguments.songs, arguments.hours, device)
    try:
        return train_on(songs, arguments, device)
    finally:
        songs.close()


def train_on(songs: Songs, arguments: argparse.Namespace, device: torch.device) -> int:
    """The same on songs that come."""
    torch.set_float32_matmul_precision("high")
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    first_stage = load_first_stage(arguments.first_stage).to(device)
    while len(songs.songs) < arguments.least:
        songs.read(64)
        time.sleep(0.2)
    windows = Windows(songs, Encoder(first_stage, device), arguments.ring, device)
    for _ in range(max(1, arguments.ring // 4 // arguments.fresh)):
        windows.add(arguments.fresh, arguments.remix)
    stems = windows.z[: min(windows.made, 4096), :STEMS].float()
    mean, std = stems.mean((0, 1, 3)), stems.std((0, 1, 3))  # (C, F)
    if arguments.resume:
        resumed = {
            k: v for f in sorted(arguments.resume.glob("weights-*.safetensors")) for k, v in load_file(f).items()
        }
        mean, std = resumed.pop("latent_mean").to(device), 1 / resumed.pop("latent_scale").to(device)
    weight = std.sqrt() / std.sqrt().mean()
    mean, std, weight = mean[:, None], std[:, None], weight[:, None]
    settings = StemTransformerSettings(width=arguments.width, depth=arguments.depth, heads=arguments.width // 64)
    torch.manual_seed(arguments.seed)
    network = StemTransformer(settings).to(device)
    if arguments.resume:
        network.load_state_dict({k: v.float() for k, v in resumed.items()})
    average = [p.detach().clone() for p in network.parameters()]
    schedule = NoiseSchedule(DiffusionSettings(parameterization="v")).to(device)
    compiled = torch.compile(network) if arguments.compile else network
    stepper = torch.optim.AdamW(
        network.parameters(), arguments.rate, (0.9, 0.98), weight_decay=0.01, fused=device.type == "cuda"
    )
    began, step, log = time.time(), 0, (out / "log.csv").open("a")
    if arguments.resume and (arguments.resume / "state.pt").is_file():
        state = torch.load(arguments.resume / "state.pt", map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        average, step = state["average"], state["step"]
        stepper.load_state_dict(state["stepper"])
    saved = told = began
    sums = torch.zeros(3, 2, device=device)
    print(
        f"{len(songs.songs)} songs, {songs.heard:.2f} h; {sum(p.numel() for p in network.parameters()) / 1e6:.1f} M",
        flush=True,
    )
    while (seconds := time.time() - began) < arguments.minutes * 60:
        songs.read(4)
        windows.add(arguments.fresh, arguments.remix)
        z, plan, coherent = windows.draw(arguments.batch)
        z = (z - mean) / std
        t, mixed = draw_task(coherent, schedule.num_timesteps, arguments.separation)
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
            losses = loss_of(
                compiled, schedule, z[:, :STEMS], z[:, STEMS] * mixed[:, None, None, None], hide_plans(plan), t, weight
            )
        for group in stepper.param_groups:
            done = 0.0 if arguments.constant else seconds / (arguments.minutes * 60)
            group["lr"] = arguments.rate * learning_rate(done, step)
        stepper.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        stepper.step()
        step += 1
        torch._foreach_lerp_(
            average, [p.detach() for p in network.parameters()], 1 - min(arguments.ema, (1 + step) / (10 + step))
        )
        given = (t < 0).any(1)
        for row, chosen in enumerate((~mixed & ~given, ~mixed & given, mixed)):
            sums[row, 0] += (losses.detach() * chosen).sum()
            sums[row, 1] += chosen.sum()
        if step % arguments.every == 0:
            made, arranged, separated = (sums[:, 0] / sums[:, 1].clamp(min=1)).tolist()
            now = time.time()
            rate = arguments.every * arguments.batch / (now - told)
            line = f"{step},{now - began:.0f},{songs.heard:.2f},{made:.4f},{arranged:.4f},{separated:.4f},{rate:.0f}"
            print(line, flush=True)
            log.write(line + "\n")
            log.flush()
            if not math.isfinite(made + separated):
                print("not finite: stop", flush=True)
                return 1
            sums.zero_()
            told = now
        if arguments.save_minutes and time.time() - saved > arguments.save_minutes * 60:
            save(out, network, average, mean[:, 0], 1 / std[:, 0], step, arguments.parts)
            if arguments.constant:
                save_state(out / "state.pt", network, average, stepper, step)
            saved = time.time()
    save(out, network, average, mean[:, 0], 1 / std[:, 0], step, arguments.parts)
    if arguments.model:
        write_model(out, arguments.first_stage, arguments.model)
    (out / "arguments.json").write_text(json.dumps({k: str(v) for k, v in vars(arguments).items()}, indent=1))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m weights.quickstart.pretrain", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add(
        "--songs",
        type=Path,
        required=True,
        metavar="DIR",
        help="where data.endless writes; songs are removed once read",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="for weights and log.csv")
    add("--model", type=Path, metavar="FILE", help="at the end write the whole model to this .safetensors")
    add("--first-stage", default="quickstart", metavar="MODEL", help="whose VAE is used (default: %(default)s)")
    add("--resume", type=Path, metavar="DIR", help="go on from what an earlier call wrote to its --out")
    add(
        "--minutes",
        type=float,
        default=9.0,
        help="length of the training; the rate falls over it (default: %(default)s)",
    )
    add("--constant", action="store_true", help="keep the rate constant, and keep all that resuming needs")
    add("--device", default="cuda", help="default: %(default)s")
    add("--bf16", action="store_true", help="matrix products in bfloat16")
    add("--compile", action="store_true", help="compile the network: a minute at the start, then faster on a GPU")
    add("--hours", type=float, default=80.0, help="music in memory at most, 0.5 GB an hour (default: %(default)s)")
    add("--least", type=int, default=64, metavar="N", help="songs to wait for at the start (default: %(default)s)")
    add(
        "--ring",
        type=int,
        default=24_000,
        metavar="N",
        help="encoded windows in memory, 0.09 MB each (default: %(default)s)",
    )
    add("--batch", type=int, default=512, metavar="N", help="windows of a step (default: %(default)s)")
    add("--fresh", type=int, default=64, metavar="N", help="windows encoded for each step (default: %(default)s)")
    add(
        "--remix",
        type=float,
        default=0.3,
        metavar="P",
        help="share of windows of unrelated stems (default: %(default)s)",
    )
    add(
        "--separation",
        type=float,
        default=0.3,
        metavar="P",
        help="share of songs that are separated (default: %(default)s)",
    )
    add("--width", type=int, default=384, help="of the network's tokens (default: %(default)s)")
    add("--depth", type=int, default=8, help="the network's blocks (default: %(default)s)")
    add("--rate", type=float, default=1.2e-3, help="learning rate (default: %(default)s)")
    add("--ema", type=float, default=0.999, help="decay of the averaged weights (default: %(default)s)")
    add("--parts", action="store_true", help="write the weights in files of at most 15 MB")
    add("--save-minutes", type=float, default=2.0, help="time between saved weights (default: %(default)s)")
    add("--every", type=int, default=100, metavar="N", help="steps between lines of the log (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the network's first weights (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(train(make_parser().parse_args()))
