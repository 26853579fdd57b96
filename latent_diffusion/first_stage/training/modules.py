"""The two LightningModules that train a first stage on anyone's own sounds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from latent_diffusion.errors import ConfigError
from latent_diffusion.first_stage.autoencoder import AutoencoderKL, DiagonalGaussian
from latent_diffusion.first_stage.first_stage import build_vocoder
from latent_diffusion.first_stage.mel import SILENCE
from latent_diffusion.first_stage.patches import fit_patches
from latent_diffusion.first_stage.spectral import SpectralVocoder
from latent_diffusion.first_stage.training.base import (
    AdversarialTraining,
    FirstStageTrainingSettings,
    VocoderTrainingSettings,
)
from latent_diffusion.first_stage.training.discriminators import PatchDiscriminator
from latent_diffusion.first_stage.training.losses import (
    AutoencoderLoss,
    AutoencoderLossSettings,
    SpectralLoss,
    VocoderLoss,
    VocoderLossSettings,
)
from latent_diffusion.first_stage.training.segments import step_generator
from latent_diffusion.noise import NoiseSource
from latent_diffusion.settings import AutoencoderSettings, MelSettings, VocoderSettings

VALIDATION_BATCH = 8  # whole windows through the VAE at once; a data batch times its stems is many


class AutoencoderTraining(AdversarialTraining):
    """Trains the VAE on the stems and, as it has to encode them too, their mixtures.

    `state_dict()` has the layout of the published vae-ckpt: encoder.*, decoder.*, quant_conv.*, post_quant_conv.*
    and loss.discriminator.*.

    The maps of a patch autoencoder are the principal components of the first batch; what is trained is the rest of its
    decoder.

    Args:
        settings: the VAE.
        mel: the front end.
        loss: the objective.
        options: see `FirstStageTrainingSettings`.
    """

    kind = "autoencoder"

    def __init__(
        self,
        settings: AutoencoderSettings | None = None,
        mel: MelSettings | None = None,
        loss: AutoencoderLossSettings | None = None,
        **options: Any,
    ):
        settings, mel, loss = settings or AutoencoderSettings(), mel or MelSettings(), loss or AutoencoderLossSettings()
        super().__init__(mel, AutoencoderLoss(loss), FirstStageTrainingSettings(**options))
        frames = self.training_settings.segment_frames or mel.frames
        for name, size in (("frames of a window or segment", frames), ("mel bins", mel.n_mels)):
            if size % settings.reduction:
                raise ConfigError(
                    f"{name}: {size} is not a multiple of the autoencoder's reduction {settings.reduction}"
                )
            smallest = PatchDiscriminator.smallest_input(loss.disc_layers)
            if loss.disc_start >= 0 and size < smallest:
                raise ConfigError(
                    f"{name}: found {size}, expected at least {smallest} for a discriminator of {loss.disc_layers} "
                    "layers; lower disc_layers"
                )
        self.settings = settings
        autoencoder = AutoencoderKL(settings)
        if settings.kind == "conv":
            # Log-mels lie around half the log-mel of silence; starting there saves thousands of steps of moving a bias.
            nn.init.constant_(autoencoder.decoder.conv_out.bias, SILENCE / 2)
        for name, child in autoencoder.named_children():
            self.add_module(name, child)
        # In a tuple, out of nn.Module's sight: its parts stand at the top level already and must not be listed twice.
        self._autoencoder = (autoencoder,)

    @property
    def autoencoder(self) -> AutoencoderKL:
        """The VAE in training; its parts are this module's own children."""
        return self._autoencoder[0]

    def trained_parameters(self) -> list[nn.Parameter]:
        """Encoder, decoder and the two 1x1 convolutions between them; of patches, only what corrects their decoding."""
        if self.settings.kind == "patch":
            return self.autoencoder.decoder.correction_parameters()
        return list(self.autoencoder.parameters())

    def settings_dict(self) -> dict[str, Any]:
        """{"autoencoder": ..., "mel": ...}."""
        return {"autoencoder": asdict(self.settings), "mel": asdict(self.mel_settings)}

    def forward(self, log_mel: Tensor, noise: NoiseSource = None) -> tuple[Tensor, DiagonalGaussian, Tensor]:
        """Reconstruct log-mels.

        Args:
            log_mel: (B, 1, T, M).
            noise: source of the posterior sample.

        Returns:
            The reconstruction (B, 1, T, M), the posterior and its sample, both (B, C, T/r, M/r).
        """
        posterior = self.autoencoder.encode(log_mel)
        z = posterior.sample(noise)
        return self.autoencoder.decode(z), posterior, z

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step of VAE and, from `disc_start` on, discriminator.

        Args:
            batch: stems (B, S, N) and mixture (B, N).
            batch_idx: unused; everything derives from `train_step`.

        Returns:
            The loss, detached, for callbacks: the optimisers have stepped already.
        """
        generator = self.generator_of_step()
        waveforms = stems_and_mixture(batch).flatten(0, 1)
        with torch.no_grad():
            log_mel = self.log_mel_of(waveforms)
        if self.settings.kind == "patch" and self.train_step == 0:
            fit_patches(self.autoencoder, log_mel)
        drawn = self.draw(waveforms, generator)
        target = (log_mel if drawn is None else self.cut_frames(log_mel, *drawn))[:, None]
        optimiser = self.optimizers()[0]
        self.toggle_optimizer(optimiser)
        estimate, posterior, _ = self(target, generator)
        last_layer = self.autoencoder.decoder.conv_out.weight
        loss, parts = self.loss.generator(target, estimate, posterior, last_layer, self.adversarial)
        parts["gradient_norm"] = self.optimise(0, loss)
        self.untoggle_optimizer(optimiser)
        parts |= self.step_discriminator(target, estimate)
        self.log_parts("train", {"loss": loss.detach()} | parts, len(target))
        self.train_step += 1
        return loss.detach()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any] | None:
        """Reconstruct whole windows, from a posterior sample as in use, with the same noise at every validation.

        Args:
            batch: stems (B, S, N), mixture (B, N), name.
            batch_idx: gives the noise its seed.

        Returns:
            {"name": B names, "log_mels": {"target", "estimate"}, "waveforms": {}}; log-mels (B, S + 1, T, M) on the
            CPU, the mixture last. Nothing is vocoded.
        """
        target = self.log_mel_of(stems_and_mixture(batch))
        noise = step_generator(self.training_settings.seed, batch_idx, self.global_rank)
        parts = target.flatten(0, 1)[:, None].split(VALIDATION_BATCH)
        estimates, posteriors, latents = zip(*(self(part, noise) for part in parts), strict=True)
        estimate = torch.cat(estimates).float().reshape(target.shape)
        z = torch.cat(latents).float()
        spread = {f"latent_std_{channel}": value for channel, value in enumerate(z.std(dim=(0, 2, 3)))}
        kl = torch.cat([posterior.kl() for posterior in posteriors]).mean()
        waits = "waits" in batch
        self.log_distances(target, estimate, waits)
        self.log_parts("val", {"kl": kl, "latent_std": z.std()} | spread, 0 if waits else len(z))
        return (
            None
            if waits
            else {
                "name": batch["name"],
                "log_mels": {"target": target.cpu(), "estimate": estimate.cpu()},
                "waveforms": {},
            }
        )


class VocoderTraining(AdversarialTraining):
    """Trains a HiFi-GAN generator or a spectral vocoder on short random segments of the stems.

    Segments are drawn from all places of all stems in the batch. Silent ones teach a vocoder little, yet it must
    know silence: they are drawn with `silence_weight` against 1.

    `state_dict()` has generator.* (with weight norm) and loss.discriminator.*; a spectral vocoder has neither.

    Args:
        settings: the generator.
        mel: the front end.
        loss: the objective of a HiFi-GAN; a spectral vocoder's has no settings (see `SpectralLoss`).
        options: see `VocoderTrainingSettings`.
    """

    kind = "vocoder"

    def __init__(
        self,
        settings: VocoderSettings | None = None,
        mel: MelSettings | None = None,
        loss: VocoderLossSettings | None = None,
        **options: Any,
    ):
        settings, mel, loss = settings or VocoderSettings(), mel or MelSettings(), loss or VocoderLossSettings()
        objective = SpectralLoss() if settings.kind == "spectral" else VocoderLoss(loss, mel)
        super().__init__(mel, objective, VocoderTrainingSettings(**options))
        if settings.num_mels != mel.n_mels:
            raise ConfigError(f"vocoder num_mels: found {settings.num_mels}, expected the {mel.n_mels} mel bins")
        if settings.kind == "hifigan":
            self._check_sizes(settings, loss)
        self.settings = settings
        self.generator = build_vocoder(settings, mel)

    def _check_sizes(self, settings: VocoderSettings, loss: VocoderLossSettings) -> None:
        """Hold a HiFi-GAN's upsampling and its loss's FFTs against the front end and the segments."""
        mel, segment_frames = self.mel_settings, self.training_settings.segment_frames
        samples = (segment_frames or mel.frames) * mel.hop_length
        needed = max([mel.n_fft, *(loss.stft_ffts if loss.stft_weight > 0 else ())]) // 2 + 1
        if samples < needed:
            raise ConfigError(
                f"segment_frames: found {segment_frames} ({samples} samples), expected at least "
                f"{-(-needed // mel.hop_length)} for the FFTs of the loss"
            )
        factor = int(torch.tensor(settings.upsample_rates).prod())
        if factor != mel.hop_length:
            raise ConfigError(
                f"vocoder upsample_rates: their product is {factor}, expected the hop_length {mel.hop_length}"
            )

    def trained_parameters(self) -> list[nn.Parameter]:
        """The generator's."""
        return list(self.generator.parameters())

    def settings_dict(self) -> dict[str, Any]:
        """{"vocoder": ..., "mel": ...}."""
        return {"vocoder": asdict(self.settings), "mel": asdict(self.mel_settings)}

    def forward(self, log_mel: Tensor) -> Tensor:
        """Vocode log-mels (B, T, M): waveforms (B, 1, T * hop_length), the few extra samples cut off."""
        samples = log_mel.shape[1] * self.mel_settings.hop_length
        return self.generator(log_mel.transpose(1, 2).contiguous())[..., :samples].float()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step of generator and, from `disc_start` on, discriminators.

        Args:
            batch: stems (B, S, N); the mixture is not used.
            batch_idx: unused; everything derives from `train_step`.

        Returns:
            The loss, detached, for callbacks: the optimisers have stepped already.
        """
        waveforms = batch["stems"].flatten(0, 1)[:, : self.mel_settings.window_samples]
        drawn = self.draw(waveforms, self.generator_of_step())
        step = self._step_spectrum if isinstance(self.generator, SpectralVocoder) else self._step_waveform
        parts = step(waveforms, drawn)
        self.log_parts("train", parts, len(waveforms if drawn is None else drawn[0]))
        self.train_step += 1
        return parts["loss"]

    def _step_spectrum(self, waveforms: Tensor, drawn: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
        """One step of a spectral vocoder on waveforms (P, N), or the segments drawn from them; what to log."""
        with torch.no_grad():
            frames = waveforms.shape[-1] // self.mel_settings.hop_length
            if drawn is None:
                real = self.log_mel.magnitudes(waveforms)[:, :frames]
            else:
                rows, position = drawn[0].unique(return_inverse=True)
                spectra = self.log_mel.magnitudes(waveforms[rows.to(waveforms.device)])[:, :frames]
                real = self.cut_frames(spectra, position, drawn[1])
            log_mel = self.log_mel.from_magnitudes(real)
        loss, parts = self.loss.generator(real, self.generator.magnitudes(log_mel))
        return parts | {"loss": loss.detach(), "gradient_norm": self.optimise(0, loss)}

    def _step_waveform(self, waveforms: Tensor, drawn: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
        """One step of a HiFi-GAN on waveforms (P, N), or the segments drawn from them; what to log."""
        with torch.no_grad():
            # Log-mels of whole windows, then cut: a segment's first and last frames see what surrounds them, as in use.
            if drawn is None:
                log_mel, real = self.log_mel_of(waveforms), waveforms
            else:
                items, starts = drawn
                rows, position = items.unique(return_inverse=True)
                log_mel = self.cut_frames(self.log_mel_of(waveforms[rows.to(waveforms.device)]), position, starts)
                real = self.cut_samples(waveforms, items, starts)
        real = real[:, None]
        fake = self(log_mel)
        parts = self.step_discriminator(real, fake)

        optimiser = self.optimizers()[0]
        self.toggle_optimizer(optimiser)
        loss, generator_parts = self.loss.generator(real, fake, self.adversarial)
        parts |= {"loss": loss.detach()} | generator_parts
        parts["gradient_norm"] = self.optimise(0, loss)
        self.untoggle_optimizer(optimiser)
        return parts

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any] | None:
        """Copy synthesis: every stem's whole window to log-mel and back.

        Args:
            batch: stems (B, S, N), mixture (B, N), name.
            batch_idx: unused.

        Returns:
            {"name": B names, "log_mels": {"target", "estimate"}, "waveforms": {"target", "estimate"}}, on the CPU:
            log-mels (B, S, T, M), waveforms (B, S, N).
        """
        stems = batch["stems"][..., : self.mel_settings.window_samples]
        target = self.log_mel_of(stems)
        # One at a time: a whole window through the wide last layers is large.
        vocoded = [self(item[None])[0, 0] for item in target.flatten(0, 1)]
        waveforms = torch.stack(vocoded).reshape(stems.shape)
        estimate = self.log_mel_of(waveforms)
        self.log_distances(target, estimate, "waits" in batch)
        return (
            None
            if "waits" in batch
            else {
                "name": batch["name"],
                "log_mels": {"target": target.cpu(), "estimate": estimate.cpu()},
                "waveforms": {"target": stems.float().cpu(), "estimate": waveforms.cpu()},
            }
        )


def stems_and_mixture(batch: dict[str, Any]) -> Tensor:
    """All waveforms of a batch, (B, S + 1, N): the stems, then the mixture."""
    return torch.cat([batch["stems"], batch["mixture"][:, None]], dim=1)
