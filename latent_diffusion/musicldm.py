"""MusicLDM: the LightningModule that trains the joint distribution of the stems and runs the tasks in validation."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Generator, Tensor, nn

from latent_diffusion.checkpoints import (
    WeightsFile,
    check_fits,
    check_networks,
    check_optimiser,
    expect_kind,
    load_autoencoder,
    load_vocoder,
    mean_of,
    merge_state,
    read_weights,
    scale_of,
    weights_of,
)
from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.diffusion.loss import LossSettings, diffusion_loss
from latent_diffusion.diffusion.samplers import Progress
from latent_diffusion.ema import EMA
from latent_diffusion.errors import ConfigError
from latent_diffusion.first_stage import DiagonalGaussian, FirstStage
from latent_diffusion.inference import MultiTrackPipeline, SamplingSettings
from latent_diffusion.networks import build_network
from latent_diffusion.noise import NoiseSource
from latent_diffusion.plan import drawn_plan
from latent_diffusion.rates import rate_factor
from latent_diffusion.settings import ModelSettings, StemTransformerSettings
from latent_diffusion.tasks import Separation, Task


@dataclass(frozen=True)
class TrainingSettings:
    """How the U-Net is trained; the defaults are the published ones.

    Args:
        base_learning_rate: of AdamW after the warm-up.
        weight_decay: of AdamW.
        warmup_steps: the rate grows linearly from 0 over so many steps.
        lr_schedule, lr_decay_steps, lr_final: how the rate falls afterwards (see `rates.rate_factor`).
        high_noise_share: probability that an item's timestep is one of the last tenth, where separation is decided:
            nothing but the mixture tells the stems there.
        cond_drop_prob: probability that a coherent item's condition becomes zeros.
        validation_drop_prob: the same in the losses of validation; what validation makes always has its condition.
        ema_decay: decay of the averaged weights; None for none.
        scale_by_std: set the latents' scale from the first batch.
        scale_per_channel: one scale for each latent channel instead of one in all.
        scale_per_band: mean and scale for each latent channel and band; the mean is taken off, too.
        given_share: probability that some stems of an item are given: without noise, and not part of the loss. For
            networks with a noise level for each stem; arrangement is then what the network was trained for.
        learn_logvar, logvar_init: learn the error's log-variance at each step, starting there.
        seed: of everything random in training.
        loss: terms of the objective.
    """

    base_learning_rate: float = 3e-5
    weight_decay: float = 0.01
    warmup_steps: int = 1000
    lr_schedule: str = "constant"
    lr_decay_steps: int = 100_000
    lr_final: float = 0.1
    high_noise_share: float = 0.0
    cond_drop_prob: float = 0.1
    validation_drop_prob: float = 0.0
    ema_decay: float | None = 0.9999
    scale_by_std: bool = True
    scale_per_channel: bool = False
    scale_per_band: bool = False
    given_share: float = 0.0
    learn_logvar: bool = False
    logvar_init: float = 0.0
    seed: int = 0
    loss: LossSettings = field(default_factory=LossSettings)


@dataclass(frozen=True)
class EvaluationSettings:
    """What validation makes.

    Args:
        task: separation, generation or arrangement; None for losses only.
        sampling: sampler, steps, eta.
        seed: of the sampling noise; an item's noise derives from it and from the item's name.
        draw_plans: generation follows a tempo and chords that are drawn from an item's seed.
    """

    task: Task | None = field(default_factory=Separation)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    seed: int = 0
    draw_plans: bool = False


class DiffusionWrapper(nn.Module):
    """Holds the network under its published name, `model.diffusion_model`."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.diffusion_model = network


class MusicLDM(pl.LightningModule):
    """Multi-source latent diffusion.

    A batch is {"stems": (B, S, N), "mixture": (B, N), "name": B names}; a training batch may hold cached posteriors
    instead of waveforms (see `latents_of`), and "coherent" (B,) bool: whether an item's stems belong together (all do
    where it is missing); those that do not never train without their mixture. State-dict keys are those of the
    published checkpoints, less the schedule's tables, which the settings imply.

    Args:
        settings: sizes of all networks.
        training: optimiser, condition dropout, objective.
        evaluation: what validation makes.
    """

    def __init__(
        self,
        settings: ModelSettings,
        training: TrainingSettings | None = None,
        evaluation: EvaluationSettings | None = None,
    ):
        super().__init__()
        self.settings = settings
        self.training_settings = training or TrainingSettings()
        self.evaluation = evaluation or EvaluationSettings()
        self.model = DiffusionWrapper(build_network(settings.unet))
        decay = self.training_settings.ema_decay
        self.model_ema = EMA(self.model, decay) if decay is not None else None
        self.first_stage_model = FirstStage(settings).requires_grad_(False).eval()
        self.noise_schedule = NoiseSchedule(settings.diffusion)
        if self.training_settings.given_share and not isinstance(settings.unet, StemTransformerSettings):
            raise ConfigError("given_share: found above 0, but the network has one noise level for all stems")
        self.register_buffer("scale_factor", torch.ones(self._scale_shape))
        self.register_buffer("latent_mean", torch.zeros(self._scale_shape), persistent=self._has_mean)
        logvar = torch.full((settings.diffusion.timesteps,), self.training_settings.logvar_init)
        self.logvar = nn.Parameter(logvar, requires_grad=self.training_settings.learn_logvar)
        self.sampling_progress: Progress | None = None  # told of every network call while validation samples

    @property
    def pipeline(self) -> MultiTrackPipeline:
        """The inference path over this module's networks."""
        return MultiTrackPipeline(
            self.model.diffusion_model,
            self.first_stage_model,
            self.noise_schedule,
            self.scale_factor,
            self.settings,
            self.latent_mean,
        )

    @property
    def _has_mean(self) -> bool:
        return self.training_settings.scale_per_band

    @property
    def _scale_shape(self) -> tuple[int, ...]:
        """Of the latents' scale and mean: (C, 1, F), (C, 1, 1) or ()."""
        channels, _, bins = self.settings.latent_shape
        if self.training_settings.scale_per_band:
            return channels, 1, bins
        return (channels, 1, 1) if self.training_settings.scale_per_channel else ()

    def train(self, mode: bool = True) -> MusicLDM:
        """The first stage stays in evaluation mode."""
        super().train(mode)
        self.first_stage_model.eval()
        return self

    # Weights

    def load_first_stage(self, vae: str | Path | None, vocoder: str | Path | None) -> None:
        """Weights of the frozen first stage from VAE and vocoder checkpoints.

        Raises:
            CheckpointError: a file cannot be used.
        """
        if vae:
            load_autoencoder(self.first_stage_model, vae)
        if vocoder:
            load_vocoder(self.first_stage_model.vocoder, vocoder)

    def check_model(self, weights: WeightsFile, own_vocoder: bool = True) -> None:
        """Hold an MSG-LD file against this model, but for its vocoder where that is not used; nothing is taken over.

        Raises:
            CheckpointError: the file does not fit the settings; says which value of the configuration would.
        """
        check_fits(weights, self.settings, own_vocoder)
        check_networks(weights, self.model.diffusion_model, self.first_stage_model if own_vocoder else None)

    def load_model(self, path: str | Path, vocoder: str | Path | None = None) -> WeightsFile:
        """All weights, averaged ones included, from an MSG-LD checkpoint of this project or a published one.

        Args:
            path: the model.
            vocoder: a checkpoint whose vocoder takes the place of the model's own; None for its own.

        Returns:
            The file, for what else it tells.

        Raises:
            CheckpointError: the file cannot be used or does not fit the settings.
        """
        weights = expect_kind(read_weights(path), "msgld")
        self.check_model(weights, own_vocoder=vocoder is None)
        self._set_scale(scale_of(weights), mean_of(weights))
        others = ("logvar", "model_ema.num_updates")
        state = merge_state(weights, self.state_dict(), others, first_stage=vocoder is None)
        self.load_state_dict(state, assign=self.logvar.is_meta)  # a model without memory takes the tensors themselves
        if vocoder is not None:
            self.load_first_stage(path, vocoder)
        return weights

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Lightning restores a training: check the weights first, and bring a published checkpoint into our layout.

        Published checkpoints hold tables and training losses that have no place here, and may lack averages.

        Raises:
            CheckpointError: the weights do not fit the settings, in one line.
        """
        weights = expect_kind(weights_of(checkpoint, "checkpoint"), "msgld")
        self.check_model(weights)
        check_optimiser(checkpoint, self._trained_parameters())
        self._set_scale(scale_of(weights), mean_of(weights))
        self._set_optimiser(checkpoint)
        others = ("logvar", "model_ema.num_updates")
        checkpoint["state_dict"] = merge_state(weights, self.state_dict(), others)

    def _set_optimiser(self, checkpoint: dict[str, Any]) -> None:
        """Let a checkpoint's optimiser and schedule go on with this training's learning rate and weight decay."""
        s = self.training_settings
        step = int(checkpoint.get("global_step", 0))
        schedulers = checkpoint.setdefault("lr_schedulers", [])
        if not schedulers and self._rate_changes:
            schedulers.append({"last_epoch": step, "_step_count": step + 1})
        for scheduler in schedulers:
            step = scheduler["last_epoch"]
            rate = s.base_learning_rate * self._rate_factor(step)
            scheduler.update(base_lrs=[s.base_learning_rate], _last_lr=[rate], lr_lambdas=[None])
        for optimiser in checkpoint.get("optimizer_states", []):
            for group in optimiser["param_groups"]:
                group.update(lr=s.base_learning_rate * self._rate_factor(step), weight_decay=s.weight_decay)
                group["initial_lr"] = s.base_learning_rate

    def _trained_parameters(self) -> list[nn.Parameter]:
        return [p for p in [*self.model.parameters(), self.logvar] if p.requires_grad]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the model's description, so that the file needs no configuration beside it."""
        checkpoint["msgld"] = {"kind": "msgld", "settings": self.settings.to_dict(), "step": self.global_step}

    def _set_scale(self, scale: Tensor, mean: Tensor) -> None:
        """Replace the latents' scale factor and mean; their shape follows the new ones."""
        self.scale_factor = scale.detach().clone().to(self.scale_factor)
        persistent = self._has_mean or bool(mean.any())
        self.register_buffer("latent_mean", mean.detach().clone().to(self.scale_factor), persistent=persistent)

    # Training

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW over the U-Net; linear warm-up, then constant (published) or falling."""
        s = self.training_settings
        optimiser = torch.optim.AdamW(self._trained_parameters(), lr=s.base_learning_rate, weight_decay=s.weight_decay)
        if not self._rate_changes:
            return {"optimizer": optimiser}  # before a scheduler is made: making one sets its first rate
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, self._rate_factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def _rate_changes(self) -> bool:
        return self.training_settings.warmup_steps > 0 or self.training_settings.lr_schedule != "constant"

    def _rate_factor(self, step: int) -> float:
        """The learning rate at a step, as a share of `base_learning_rate`."""
        s = self.training_settings
        rise = min(1.0, step / s.warmup_steps) if s.warmup_steps else 1.0  # published: the first step's rate is 0
        return rise * rate_factor(s.lr_schedule, step, 0, s.lr_decay_steps, s.lr_final)

    def step_generator(self, *position: int) -> Generator:
        """Source of all randomness at a place in the run: the same place gives the same numbers, resumed or not."""
        seeds = np.random.SeedSequence([self.training_settings.seed, self.global_rank, *position])
        return Generator().manual_seed(int(seeds.generate_state(1, np.uint64)[0]) % 2**63)

    def on_train_batch_start(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Before the very first step, set the latents' scale from the batch, alike on all ranks."""
        first = self.global_step == 0 and self.current_epoch == 0 and batch_idx == 0
        if first and self.training_settings.scale_by_std and bool((self.scale_factor == 1).all()):
            z, *_ = self.latents_of(batch, self.step_generator(0, 0))
            self._set_scale(*self.latent_statistics(z))

    def latent_statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """1 / standard deviation and mean of unscaled latents (B, S, C, T, F) over all ranks.

        Both are of one shape: (), (C, 1, 1) per channel, or (C, 1, F) per channel and band. Only the last has a mean.
        """
        s = self.training_settings
        axes = (0, 1, 3) if s.scale_per_band else (0, 1, 3, 4) if s.scale_per_channel else tuple(range(5))
        z = z.cpu().double()  # not every device has 64 bit
        count = torch.full_like(z.sum(axes), z.numel() / z.sum(axes).numel())
        moments = torch.stack([count, z.sum(axes), (z**2).sum(axes)])
        if self._trainer is not None and self.trainer.world_size > 1:
            moments = self.all_gather(moments.to(self.device)).sum(0).cpu()
        count, total, squares = moments
        std = ((squares - total**2 / count) / (count - 1)).sqrt()
        scale, mean = (1.0 / std).float(), (total / count).float() * s.scale_per_band
        return scale.reshape(self._scale_shape), mean.reshape(self._scale_shape)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """One step: encode, drop conditions, add noise, predict, compare."""
        generator = self.step_generator(1, self.current_epoch, batch_idx)
        torch.manual_seed(generator.initial_seed())  # dropout layers know no other source
        losses = self.losses(batch, generator, self.training_settings.cond_drop_prob)
        size = len(batch["name"])
        logged = {f"train/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(logged, prog_bar=False, batch_size=size)
        self.log("loss", losses["loss_simple"].detach(), prog_bar=True, logger=False, batch_size=size)
        return losses["loss"]

    def latents_of(self, batch: Mapping[str, Any], noise: NoiseSource) -> tuple[Tensor, Tensor, Tensor | None]:
        """Scaled latents of a batch's stems and mixtures: samples of their posteriors, drawn anew at every call.

        Args:
            batch: of waveforms; or of posteriors that were computed before, mean and log-variance: "latents"
                (B, S, 2, C, T/r, F) and "mixture_latent" (B, 2, C, T/r, F). The same noise gives the same samples.
            noise: source of the samples.

        Returns:
            z0 (B, S, C, T/r, F), mixture (B, C, T/r, F), and the log-mels (B, S, T, M), which only waveforms have.

        Raises:
            ConfigError: the objective weights by log-mels, and there are none.
        """
        pipeline = self.pipeline
        if "latents" not in batch:
            z0, log_mel = pipeline.encode(batch["stems"], noise)
            mixture, _ = pipeline.encode(batch["mixture"], noise)
            return z0.float(), mixture.float(), log_mel
        if self.training_settings.loss.silence_tau is not None:
            raise ConfigError("use_silence_weight needs log-mels, which cached latents lack; train on waveforms")
        z0 = pipeline.draw(DiagonalGaussian(*batch["latents"].unbind(2)), noise)
        mixture = pipeline.draw(DiagonalGaussian(*batch["mixture_latent"].unbind(1)), noise)
        return z0.float(), mixture.float(), None

    def losses(self, batch: Mapping[str, Any], generator: Generator, drop: float) -> dict[str, Tensor]:
        """The objective on a batch, every random number from `generator`; see `diffusion_loss` for what comes back."""
        z0, mixture, log_mel = self.latents_of(batch, generator)
        items = len(z0)
        t = self.draw_timesteps(items, generator)
        if self.training_settings.given_share:
            t = self.draw_given(t, generator)
        t = t.to(z0.device)
        noise = torch.randn(z0.shape, generator=generator).to(z0)
        kept = (torch.rand(items, generator=generator) >= drop).to(z0.device)
        if "coherent" in batch:  # the unconditional network learns from stems that belong together, and no others
            kept |= ~batch["coherent"].to(z0.device)
        return self.loss_at(z0, mixture * kept.to(mixture).reshape(-1, 1, 1, 1), t, noise, log_mel)

    def draw_timesteps(self, items: int, generator: Generator) -> Tensor:
        """Timesteps (items,), uniform but for the `high_noise_share` that comes from the last tenth."""
        total, share = self.noise_schedule.num_timesteps, self.training_settings.high_noise_share
        t = torch.randint(0, total, (items,), generator=generator)
        if share:
            late = torch.randint(total - total // 10, total, (items,), generator=generator)
            t = torch.where(torch.rand(items, generator=generator) < share, late, t)
        return t

    def draw_given(self, t: Tensor, generator: Generator) -> Tensor:
        """Levels of all stems (B, S) from the items' timesteps (B,): -1 for stems that are given, never for all."""
        items, stems = len(t), len(self.settings.stems)
        chosen = torch.rand(items, 1, generator=generator) < self.training_settings.given_share
        share = torch.rand(items, 1, generator=generator)
        given = (torch.rand(items, stems, generator=generator) < share) & chosen
        given &= ~given.all(1, keepdim=True)
        return torch.where(given, -1, t[:, None])

    def loss_at(
        self, z0: Tensor, mixture: Tensor, t: Tensor, noise: Tensor, log_mel: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The objective for given latents (B, S, C, T, F), condition (B, C, T, F), timesteps (B,) or (B, S), noise."""
        z_t = self.noise_schedule.add_noise(z0, noise, t)
        output = self.model.diffusion_model(z_t, t, mixture)
        s = self.training_settings
        logvar = self.logvar if s.learn_logvar or s.logvar_init else None
        return diffusion_loss(
            self.noise_schedule, z0, z_t, noise, output, t, s.loss, logvar, log_mel, 1 / self.scale_factor
        )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Average the weights right after each step, before any checkpoint can be written."""
        super().optimizer_step(*args, **kwargs)
        if self.model_ema is not None:
            self.model_ema.update(self.model)

    # Validation

    @property
    def averaged(self) -> AbstractContextManager[None]:
        """Context in which the U-Net carries the averaged weights, where there are any."""
        return self.model_ema.averaged(self.model) if self.model_ema is not None else nullcontext()

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any] | None:
        """Losses with raw and averaged weights on the same noise, then the task on every item.

        Returns:
            What was made beside what it should have been, for a callback to write; None without a task.
        """
        waits = "waits" in batch
        size = 0 if waits else len(batch["stems"])
        drop = self.training_settings.validation_drop_prob
        raw = self.losses(batch, self.step_generator(2, batch_idx), drop)
        self.log_dict({f"val/{name}": value for name, value in raw.items()}, batch_size=size, sync_dist=True)
        with self.averaged:
            ema = self.losses(batch, self.step_generator(2, batch_idx), drop)
            self.log_dict({f"val/{name}_ema": value for name, value in ema.items()}, batch_size=size, sync_dist=True)
            return None if waits else self.carry_out(batch)

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any] | None:
        """The task alone, with averaged weights."""
        with self.averaged:
            return self.carry_out(batch)

    def carry_out(self, batch: Mapping[str, Any]) -> dict[str, Any] | None:
        """Run the task on a batch and set the results beside the targets; None without a task."""
        task = self.evaluation.task
        if task is None or "waits" in batch:
            return None
        seeds = [
            zlib.crc32(name.encode("utf-8", "backslashreplace"), self.evaluation.seed & 0xFFFFFFFF)
            for name in batch["name"]
        ]
        if self.evaluation.draw_plans:
            task = replace(task, plan=tuple(drawn_plan(seed) for seed in seeds))
        sampling, progress = self.evaluation.sampling, self.sampling_progress
        result = self.pipeline.run(task, batch["mixture"], batch["stems"], seeds, sampling, progress)
        stage = self.first_stage_model
        return {
            "task": task.name,
            "name": list(batch["name"]),
            "stems": result.stems,
            "generated": result.generated,
            "log_mels": result.log_mels,
            "waveforms": result.waveforms,
            "mixture": result.mixture,
            "mixture_log_mel": stage.waveform_to_log_mel(batch["mixture"]),
            "target_log_mels": stage.waveform_to_log_mel(batch["stems"]),
            "target_waveforms": batch["stems"],
            "target_mixture": batch["mixture"],
            "sample_rate": self.settings.mel.sample_rate,
        }
