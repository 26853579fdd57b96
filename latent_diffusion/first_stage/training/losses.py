"""The objectives of the first stage's two trainings, as settings, small functions and one module each.

VAE: Rombach et al. 2022 (arXiv 2112.10752) with the adversarial term of VQGAN (Esser, Rombach and Ommer 2021,
arXiv 2012.09841). The published VAE training also has a perceptual term (LPIPS); it is left out here: it needs the
weights of a VGG network trained on photographs, which log-mels are not.

Vocoder: HiFi-GAN (Kong, Kim and Bae 2020, arXiv 2010.05646), with the multi-resolution STFT loss of Parallel WaveGAN
(Yamamoto, Song and Kim 2020, arXiv 1910.11480) as an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_diffusion.errors import ConfigError
from latent_diffusion.first_stage.autoencoder import DiagonalGaussian
from latent_diffusion.first_stage.mel import LogMel
from latent_diffusion.first_stage.training.discriminators import PatchDiscriminator, WaveformDiscriminator, judge_pair
from latent_diffusion.settings import MelSettings

QUIETEST = 0.01  # rms of STFT magnitudes, about -66 dB for noise in frames of 1024
QUIETEST_BIN = 10**-3.5  # magnitude below which bins count as equal
RECONSTRUCTION_LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss}


@dataclass(frozen=True)
class AutoencoderLossSettings:
    """The VAE's objective: reconstruction + kl_weight * KL + adversarial term from `disc_start` on."""

    reconstruction: str = "l1"  # l1 or l2, averaged over all elements of the log-mel
    kl_weight: float = 0.015  # on the KL averaged over latent channels and positions
    disc_start: int = 50_001  # training step from which the discriminator exists; negative: never
    disc_weight: float = 0.5  # on the adversarial term, times the adaptive weight
    disc_channels: int = 64  # of the discriminator's first layer
    disc_layers: int = 3  # strided layers of the discriminator

    def __post_init__(self) -> None:
        if self.reconstruction not in RECONSTRUCTION_LOSSES:
            raise ConfigError(f"loss reconstruction: found {self.reconstruction!r}, expected l1 or l2")
        _require_not_negative(self, "kl_weight", "disc_weight")
        _require_positive(self, "disc_channels", "disc_layers")


@dataclass(frozen=True)
class VocoderLossSettings:
    """HiFi-GAN's objective; the adversarial and feature-matching terms join at `disc_start`."""

    mel_weight: float = 45.0  # on the L1 between log-mels of the model's own front end
    feature_weight: float = 2.0  # on feature matching
    adversarial_weight: float = 1.0  # on the generator's least-squares term
    stft_weight: float = 0.0  # on the multi-resolution STFT loss; not in HiFi-GAN, helps short trainings without a GAN
    stft_ffts: tuple[int, ...] = (512, 1024, 2048)  # samples; the hop is a quarter
    disc_start: int = 0  # training step from which the discriminators exist; negative: never
    disc_periods: tuple[int, ...] = (2, 3, 5, 7, 11)  # samples; empty: no period discriminators
    disc_period_channels: int = 32  # of the period discriminators' first layer
    disc_scales: int = 3  # scale discriminators; 0: none
    disc_scale_channels: int = 128  # of the scale discriminators' first layer

    def __post_init__(self) -> None:
        _require_not_negative(self, "mel_weight", "feature_weight", "adversarial_weight", "stft_weight", "disc_scales")
        _require_positive(self, "disc_period_channels", "disc_scale_channels")
        if self.disc_start >= 0 and not self.disc_periods and not self.disc_scales:
            raise ConfigError(
                "loss disc_periods, disc_scales: no discriminator left; set disc_start to -1 to do without"
            )


def _require_not_negative(settings: object, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 0:
            raise ConfigError(f"loss {name}: found {getattr(settings, name)}, expected 0 or more")


def _require_positive(settings: object, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise ConfigError(f"loss {name}: found {getattr(settings, name)}, expected 1 or more")


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Half the hinge loss of logits of any shape: 0 once real ones exceed 1 and fake ones are below -1."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def least_squares_discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """HiFi-GAN eq. 1, summed over sub-discriminators: real logits are drawn to 1, fake ones to 0."""
    return sum((1.0 - r).square().mean() + f.square().mean() for r, f in zip(real, fake, strict=True))


def least_squares_generator_loss(fake: Sequence[Tensor]) -> Tensor:
    """HiFi-GAN eq. 2, summed over sub-discriminators: fake logits are drawn to 1."""
    return sum((1.0 - f).square().mean() for f in fake)


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """HiFi-GAN eq. 4: mean absolute difference of each layer's features, summed over layers and sub-discriminators.

    Args:
        real: for each sub-discriminator its feature maps of the real waveform; constants here.
        fake: the same of the generated waveform.
    """
    return sum(
        F.l1_loss(f, r.detach())
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for r, f in zip(real_maps, fake_maps, strict=True)
    )


def adaptive_weight(reconstruction_loss: Tensor, adversarial_loss: Tensor, last_layer: Tensor) -> Tensor:
    """How much louder the reconstruction speaks than the discriminator where both enter the decoder (VQGAN eq. 7).

    Args:
        reconstruction_loss, adversarial_loss: scalars whose graphs hold `last_layer`; the graphs are kept.
        last_layer: weight of the decoder's last convolution.

    Returns:
        Scalar ratio of gradient norms, detached, at most 10 000.
    """
    (of_reconstruction,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (of_adversary,) = torch.autograd.grad(adversarial_loss, last_layer, retain_graph=True)
    return (of_reconstruction.norm() / (of_adversary.norm() + 1e-6)).clamp(0.0, 1e4).detach()


class MultiResolutionSTFTLoss(nn.Module):
    """Spectral convergence and log-magnitude distance, averaged over FFT sizes (Yamamoto et al. 2020)."""

    def __init__(self, ffts: Sequence[int] = (512, 1024, 2048)):
        super().__init__()
        self.ffts = tuple(ffts)
        for n_fft in self.ffts:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def _magnitude(self, waveform: Tensor, n_fft: int) -> Tensor:
        window = getattr(self, f"window_{n_fft}")
        spectrum = torch.stft(waveform, n_fft, hop_length=n_fft // 4, window=window, return_complex=True)
        # The floor also keeps the root's gradient finite, and the log from arguing about inaudible bins.
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-6).sqrt()

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """Scalar distance of waveforms (B, N), each longer than half the largest FFT."""
        total = estimate.new_zeros((), dtype=torch.float32)
        with torch.autocast(estimate.device.type, enabled=False):
            for n_fft in self.ffts:
                found, wanted = (self._magnitude(w.float(), n_fft) for w in (estimate, target))
                # Relative to the target's energy, but not to less than a whisper's: a silent target has none.
                whisper = QUIETEST * wanted.numel() ** 0.5
                convergence = (wanted - found).norm() / wanted.norm().clamp(min=whisper)
                total = total + convergence + F.l1_loss(found.log(), wanted.log())
        return total / len(self.ffts)


class SpectralLoss(nn.Module):
    """The spectral vocoder's objective: spectral convergence and log-magnitude distance of what it draws.

    The two terms of `MultiResolutionSTFTLoss`, at the front end's own resolution and before any phase; no
    discriminator, no settings.
    """

    def __init__(self):
        super().__init__()
        self.settings = VocoderLossSettings(disc_start=-1)
        self.discriminator = nn.Module()

    def generator(self, real: Tensor, fake: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss of magnitudes (B, T, F), each item's convergence for itself, and its parts, detached."""
        whisper = QUIETEST * real[0].numel() ** 0.5
        apart, size = (x.flatten(1).norm(dim=1) for x in (fake - real, real))
        parts = {
            "convergence": (apart / size.clamp(min=whisper)).mean(),
            "log_magnitude": F.l1_loss(*(x.clamp(min=QUIETEST_BIN).log() for x in (fake, real))),
        }
        return sum(parts.values()), {name: value.detach() for name, value in parts.items()}


class AutoencoderLoss(nn.Module):
    """The VAE's objective and its discriminator."""

    def __init__(self, settings: AutoencoderLossSettings):
        super().__init__()
        self.settings = settings
        self.discriminator = PatchDiscriminator(settings.disc_channels, settings.disc_layers)

    def generator(
        self, log_mel: Tensor, estimate: Tensor, posterior: DiagonalGaussian, last_layer: Tensor, adversarial: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What encoder and decoder minimise.

        Args:
            log_mel, estimate: input and reconstruction (B, 1, T, M).
            posterior: the encoder's, whose sample gave `estimate`.
            last_layer: weight of the decoder's last convolution, for the adaptive weight.
            adversarial: whether the discriminator takes part yet.

        Returns:
            The scalar loss and its parts, detached, by name.
        """
        reconstruction = RECONSTRUCTION_LOSSES[self.settings.reconstruction](estimate.float(), log_mel.float())
        kl = posterior.kl().mean()
        loss = reconstruction + self.settings.kl_weight * kl
        parts = {"reconstruction": reconstruction.detach(), "kl": kl.detach()}
        if adversarial:
            generator = -self.discriminator(estimate).mean()
            weight = adaptive_weight(reconstruction, generator, last_layer)
            loss = loss + self.settings.disc_weight * weight * generator
            parts |= {"generator": generator.detach(), "adaptive_weight": weight}
        return loss, parts

    def discriminate(self, log_mel: Tensor, estimate: Tensor) -> Tensor:
        """What the discriminator minimises, scalar; `estimate` is a constant here."""
        return hinge_discriminator_loss(self.discriminator(log_mel), self.discriminator(estimate.detach()))


class VocoderLoss(nn.Module):
    """HiFi-GAN's objective and its discriminators."""

    def __init__(self, settings: VocoderLossSettings, mel: MelSettings):
        super().__init__()
        self.settings = s = settings
        self.log_mel = LogMel(mel)
        self.stft = MultiResolutionSTFTLoss(s.stft_ffts)
        self.discriminator = WaveformDiscriminator(
            s.disc_periods, s.disc_period_channels, s.disc_scales, s.disc_scale_channels
        )

    def generator(self, real: Tensor, fake: Tensor, adversarial: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """What the generator minimises (HiFi-GAN eq. 5).

        Args:
            real, fake: recorded and generated waveforms (B, 1, N).
            adversarial: whether the discriminators take part yet.

        Returns:
            The scalar loss and its parts, unweighted and detached, by name.
        """
        s = self.settings
        parts = {"mel": F.l1_loss(self.log_mel(fake), self.log_mel(real))}
        loss = s.mel_weight * parts["mel"]
        if s.stft_weight > 0:
            parts["stft"] = self.stft(fake[:, 0], real[:, 0])
            loss = loss + s.stft_weight * parts["stft"]
        if adversarial:
            with torch.no_grad():  # apart from the fakes, so that nothing is propagated back through the real half
                judged_real = self.discriminator(real)
            judged_fake = self.discriminator(fake)
            parts["generator"] = least_squares_generator_loss([logits for logits, _ in judged_fake])
            parts["feature_matching"] = feature_matching_loss(
                [features for _, features in judged_real], [features for _, features in judged_fake]
            )
            loss = loss + s.adversarial_weight * parts["generator"] + s.feature_weight * parts["feature_matching"]
        return loss, {name: value.detach() for name, value in parts.items()}

    def discriminate(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminators minimise, scalar; `fake` is a constant here."""
        judged_real, judged_fake = judge_pair(self.discriminator, real, fake.detach())
        return least_squares_discriminator_loss(
            [logits for logits, _ in judged_real], [logits for logits, _ in judged_fake]
        )
