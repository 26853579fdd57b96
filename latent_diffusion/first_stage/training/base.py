"""What the VAE's and the vocoder's training share: two optimisers, counting, learning rates, checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from latent_diffusion.errors import CheckpointError, ConfigError
from latent_diffusion.first_stage.mel import SILENCE, LogMel
from latent_diffusion.first_stage.training.segments import (
    cut,
    draw_segments,
    segment_weights,
    step_generator,
)
from latent_diffusion.rates import SCHEDULES, rate_factor
from latent_diffusion.settings import MelSettings

FADING = 1.0  # nepers above the log-mel of digital silence from which a bin counts as sound


@dataclass(frozen=True, kw_only=True)
class FirstStageTrainingSettings:
    """How a first stage is trained; the defaults are the VAE's.

    Args:
        base_learning_rate, disc_learning_rate: of AdamW; None for the discriminator means the same.
        betas: of AdamW.
        lr_schedule: constant, exponential or cosine; see `rate_factor`.
        lr_warmup_steps, lr_decay_steps, lr_final: of the schedule.
        gradient_clip: largest gradient norm of each of the two networks; 0 for no clipping.
        segment_frames: train on random pieces of this many mel frames, which is cheaper; 0 for whole windows, every
            one of the batch.
        segments_per_step: how many pieces a step; 0 for as many as the batch has waveforms.
        silence_db, silence_weight: pieces whose mean level is below this (dB relative to full scale) are drawn this
            often, against 1 for others. Has an effect with segment_frames only.
        seed: of everything random in training.

    Raises:
        ConfigError: a value that cannot be.
    """

    base_learning_rate: float = 1e-4
    disc_learning_rate: float | None = None
    betas: tuple[float, float] = (0.5, 0.9)
    lr_schedule: str = "constant"
    lr_warmup_steps: int = 0
    lr_decay_steps: int = 100_000
    lr_final: float = 0.1
    gradient_clip: float = 0.0
    segment_frames: int = 0
    segments_per_step: int = 0
    silence_db: float = -60.0
    silence_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("segment_frames", "segments_per_step", "silence_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: found {getattr(self, name)}, expected 0 or more")
        if self.lr_schedule not in SCHEDULES:
            raise ConfigError(f"lr_schedule: found {self.lr_schedule!r}, expected one of {', '.join(SCHEDULES)}")
        if self.lr_schedule != "constant" and self.lr_decay_steps < 1:
            raise ConfigError(
                f"lr_decay_steps: found {self.lr_decay_steps}, expected 1 or more with {self.lr_schedule}"
            )


@dataclass(frozen=True, kw_only=True)
class VocoderTrainingSettings(FirstStageTrainingSettings):
    """As the VAE's, with the vocoder's defaults."""

    base_learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.8, 0.99)
    lr_schedule: str = "exponential"
    lr_final: float = 0.5
    segment_frames: int = 64
    silence_weight: float = 0.05


class AdversarialTraining(pl.LightningModule):
    """Base of both trainings.

    Steps are counted by `train_step`, one a batch, kept in the checkpoint. The discriminator's optimiser steps past
    Lightning's counter, which would otherwise count two for every batch once it has started: `trainer.global_step`,
    `max_steps` and `every_n_train_steps` mean batches here, as they do in every other training.

    Every random number derives from (seed, train_step, rank), never from torch's global generator (but for dropout,
    0 by default): a run that was killed and resumed goes on as if it had not been.

    On several devices use a strategy with `find_unused_parameters`: each of the two losses leaves the other network
    out. Runs in 32 bit or bf16-mixed.

    Subclasses set `kind`, hold their loss in `self.loss` (with a `discriminator`), and write `training_step`.
    """

    kind: str

    def __init__(self, mel: MelSettings, loss: nn.Module, training: FirstStageTrainingSettings):
        super().__init__()
        self.automatic_optimization = False
        if training.segment_frames > mel.frames:
            raise ConfigError(
                f"segment_frames: found {training.segment_frames}, expected at most the {mel.frames} frames of a window"
            )
        self.mel_settings = mel
        self.log_mel = LogMel(mel)
        self.loss = loss
        self.training_settings = training
        self.train_step = 0

    # What subclasses define

    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters of the network that is wanted in the end."""
        raise NotImplementedError

    def settings_dict(self) -> dict[str, Any]:
        """Nested plain values from which the network can be built again."""
        raise NotImplementedError

    # Optimisation

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for the network and, where it has one, AdamW for its discriminator, in this order."""
        s = self.training_settings
        trained = [self.trained_parameters(), list(self.loss.discriminator.parameters())]
        return [torch.optim.AdamW(p, lr=self.base_rate(i), betas=s.betas) for i, p in enumerate(trained) if p]

    def base_rate(self, index: int) -> float:
        """Base learning rate of the network, 0, or the discriminator, 1."""
        s = self.training_settings
        return (s.disc_learning_rate or s.base_learning_rate) if index else s.base_learning_rate

    def on_fit_start(self) -> None:
        """Refuse the one precision that manual optimisation with clipping cannot do right."""
        if str(self.trainer.precision).startswith("16"):
            raise ConfigError(f"trainer precision: found {self.trainer.precision}, expected 32 or bf16-mixed here")

    @property
    def adversarial(self) -> bool:
        """Whether the discriminator takes part in the present step."""
        return 0 <= self.loss.settings.disc_start <= self.train_step

    def generator_of_step(self) -> Generator:
        """The source of everything random in the present step."""
        return step_generator(self.training_settings.seed, self.train_step, self.global_rank)

    def optimise(self, index: int, loss: Tensor) -> Tensor:
        """Backward pass and step of one of the two optimisers.

        Args:
            index: 0 for the network, 1 for the discriminator.
            loss: scalar.

        Returns:
            Norm of the gradient before clipping, detached.
        """
        s = self.training_settings
        optimisers = self.optimizers()
        optimiser = optimisers[index] if isinstance(optimisers, list) else optimisers  # Lightning unpacks a single one
        # Set from the step, not by a stateful scheduler: nothing to lose when the run is killed.
        factor = rate_factor(s.lr_schedule, self.train_step, s.lr_warmup_steps, s.lr_decay_steps, s.lr_final)
        for group in optimiser.param_groups:
            group["lr"] = self.base_rate(index) * factor
        self.manual_backward(loss)
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, s.gradient_clip if s.gradient_clip > 0 else float("inf"))
        if index == 0:
            optimiser.step()
        else:  # the same step through the strategy, past the counter that `trainer.global_step` reads
            self.trainer.strategy.optimizer_step(optimiser.optimizer, closure=lambda: None, model=self)
        optimiser.zero_grad()
        return norm.detach()

    def step_discriminator(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator, where it takes part; what to log."""
        if not self.adversarial:
            return {}
        optimiser = self.optimizers()[1]
        self.toggle_optimizer(optimiser)
        loss = self.loss.discriminate(real, fake)
        self.optimise(1, loss)
        self.untoggle_optimizer(optimiser)
        return {"discriminator": loss.detach()}

    def draw(self, waveforms: Tensor, generator: Generator) -> tuple[Tensor, Tensor] | None:
        """Segments of waveforms (P, N) for this step: rows and start frames, or None for all of every waveform."""
        s, hop = self.training_settings, self.mel_settings.hop_length
        if s.segment_frames == 0:
            return None
        weights = segment_weights(waveforms, hop, s.segment_frames, s.silence_db, s.silence_weight)
        return draw_segments(weights, s.segments_per_step or len(waveforms), generator)

    def cut_frames(self, log_mel: Tensor, items: Tensor, starts: Tensor) -> Tensor:
        """The drawn segments (K, frames, M) of log-mels (P, T, M)."""
        return cut(log_mel, items, starts, self.training_settings.segment_frames)

    def cut_samples(self, waveforms: Tensor, items: Tensor, starts: Tensor) -> Tensor:
        """The drawn segments (K, frames * hop) of waveforms (P, N)."""
        hop = self.mel_settings.hop_length
        return cut(waveforms, items, starts * hop, self.training_settings.segment_frames * hop)

    def log_mel_of(self, waveforms: Tensor) -> Tensor:
        """Log-mels (..., N // hop_length, M) of waveforms (..., N), without the extra frame that centring adds."""
        return self.log_mel(waveforms)[..., : waveforms.shape[-1] // self.mel_settings.hop_length, :]

    # Logging

    def log_parts(self, stage: str, parts: dict[str, Tensor], batch_size: int) -> None:
        """Log every part as `<stage>/<name>`, averaged over devices in validation."""
        for name, value in parts.items():
            shown = stage == "train" and name == "loss"
            self.log(f"{stage}/{name}", value, batch_size=batch_size, sync_dist=stage == "val", prog_bar=shown)

    def log_distances(self, target: Tensor, estimate: Tensor, waits: bool = False) -> None:
        """Log how far apart log-mels (..., T, M) are, as val/log_mel_mse, val/log_mel_l1 and val/log_mel_l1_audible.

        The last is over the frames in which the target has any sound: stems are silent for much of a song, and
        silence is easy. Every audible frame of the validation set has the same weight in it; without any it is nan.
        An item of a rank that only waits for the others counts for nothing.
        """
        distances = {"log_mel_mse": F.mse_loss(estimate, target), "log_mel_l1": F.l1_loss(estimate, target)}
        self.log_parts("val", distances, 0 if waits else target.shape[:-2].numel())
        audible = target.amax(-1) > SILENCE + FADING
        count = 0 if waits else int(audible.sum())
        distance = F.l1_loss(estimate[audible], target[audible]) if count else target.new_zeros(())
        self.log_parts("val", {"log_mel_l1_audible": distance}, count)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a loader needs to build the network, in plain types, and the step count."""
        checkpoint["msgld"] = {"kind": self.kind, "settings": self.settings_dict(), "train_step": self.train_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the step count.

        Raises:
            CheckpointError: a checkpoint of another kind, or of a network of other settings.
        """
        found = checkpoint.get("msgld")
        if not isinstance(found, dict) or found.get("kind") != self.kind:
            kind = found.get("kind") if isinstance(found, dict) else "no first-stage training"
            raise CheckpointError(f"checkpoint: found {kind}, expected the training state of the {self.kind}")
        for part, expected in self.settings_dict().items():
            stored = found["settings"].get(part, {})
            for key, value in expected.items():
                if key in stored and stored[key] != value:  # keys younger than the checkpoint are not in it
                    raise CheckpointError(
                        f"checkpoint: {part} {key} is {stored.get(key)}, the configuration says {value}; "
                        "make them equal or train from the start"
                    )
        self.train_step = int(found["train_step"])
        for optimiser in checkpoint.get("optimizer_states", []):
            for group in optimiser["param_groups"]:
                group["betas"] = self.training_settings.betas  # the learning rate is set at every step
