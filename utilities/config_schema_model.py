"""The half of the configuration's schema that describes the model, and how a key is described.

One dataclass a group of keys. A field made by `key()` carries its documentation, which errors, `--help` and the
README's table draw on:

    ours    not a published key; this project added it.
    single  a list that may be written as a single value.
    path    a path, or a list of paths: `~` is the home folder, and on the command line any character is text.
    empty   what an empty value (`key:`) means, where that is not the usual: None where the type allows it, False for
            a switch, the default for everything else.

Empty groups take their defaults. Published keys without effect are not here: `config_published.py` lists them. This
module imports nothing but the dataclasses that it describes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

UNSET = object()
LR_SCHEDULES = ("constant", "exponential", "cosine")
SAMPLERS = ("ddim", "ddpm", "plms", "dpm++", "dpm++sde", "unipc", "mean")
SPACINGS = ("uniform", "trailing", "logsnr", "karras")
PRECISIONS = ("float32", "bfloat16")


def key(
    default: Any,
    doc: str,
    *,
    ours: bool = False,
    single: bool = False,
    path: bool = False,
    empty: Any = UNSET,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with documentation; `low`, `high` (both included) and `choices` bound its value."""
    about = {"doc": doc, "ours": ours, "single": single, "path": path, "empty": empty}
    about |= {"low": low, "high": high, "choices": choices}
    if isinstance(default, type):
        return field(default_factory=default, metadata=about)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)


@dataclass
class UNetParams:
    in_channels: int | None = key(None, "stems in; empty: the number of stems", low=1)
    out_channels: int | None = key(None, "stems out; empty: the number of stems", low=1)
    model_channels: int = key(128, "width of the first level", low=2)
    num_res_blocks: int = key(2, "residual blocks of a level", low=1)
    channel_mult: list[int] = key([1, 2, 3, 5], "width of each level as a multiple of model_channels", low=1)
    attention_resolutions: list[int] = key(
        [8, 4, 2], "downsampling factors of the levels that have attention", low=1, empty=()
    )
    num_head_channels: int = key(32, "channels of an attention head", low=1)
    dropout: float = key(0.0, "dropout in the residual blocks", low=0, high=1)
    use_scale_shift_norm: bool = key(False, "the time embedding scales and shifts instead of being added")
    dims: int = key(3, "dimensions of the convolutions; only 3 exists here", low=3, high=3)
    num_groups: int = key(32, "groups of GroupNorm, lowered where they do not divide the channels", ours=True, low=1)
    width: int = key(384, "StemTransformer alone, as what follows: width of a token", ours=True, low=2)
    depth: int = key(8, "its blocks", ours=True, low=1)
    heads: int = key(6, "its attention heads; twice their number must divide the width", ours=True, low=1)
    kernel_size: int = key(5, "neighbouring frames that a token sees before the first block, odd", ours=True, low=1)


@dataclass
class UNetConfig:
    target: str = key(
        "latent_diffusion.unet.UNet3d", "the denoising network: UNet3d; networks.StemTransformer, far cheaper"
    )
    params: UNetParams = key(UNetParams, "its settings")


@dataclass
class DDConfig:
    kind: str = key(
        "conv",
        "conv (published); patch: principal patches of 2^(levels - 1), a decoder of ch channels and num_res_blocks",
        ours=True,
        choices=("conv", "patch"),
    )
    ch: int = key(128, "channels of the highest resolution", low=1)
    ch_mult: list[int] = key([1, 2, 4], "channels of each level as a multiple of ch; every level but one halves", low=1)
    num_res_blocks: int = key(2, "residual blocks of a level of the encoder", low=1)
    attn_resolutions: list[int] = key([], "sizes with extra attention, counted down from resolution", low=1)
    resolution: int = key(256, "nominal input size that attn_resolutions refers to", low=1)
    z_channels: int = key(8, "channels at the encoder's end", low=1)
    in_channels: int = key(1, "channels of a log-mel; only 1 exists", low=1, high=1)
    out_ch: int = key(1, "channels of a log-mel; only 1 exists", low=1, high=1)
    dropout: float = key(0.0, "dropout in the residual blocks", low=0, high=1)
    hifigan_ckpt: str | None = key(
        None, "a HiFi-GAN's weights (hifigan-ckpt.ckpt), where vocoder_config.ckpt_path names none", path=True
    )
    mel_bins: int | None = key(None, "mel bins; must be preprocessing.mel.n_mel_channels", low=1)
    double_z: bool = key(True, "the encoder predicts mean and log-variance; only true exists", empty=True)
    num_groups: int = key(32, "groups of GroupNorm, lowered where they do not divide the channels", ours=True, low=1)


@dataclass
class VocoderSizes:
    upsample_initial_channel: int = key(1024, "channels before the first upsampling", ours=True, low=2)
    upsample_rates: list[int] = key([5, 4, 2, 2, 2], "upsampling steps; product is the hop length", ours=True, low=1)
    upsample_kernel_sizes: list[int] = key([16, 16, 8, 4, 4], "kernel of each upsampling step", ours=True, low=1)
    resblock_kernel_sizes: list[int] = key([3, 7, 11], "kernels of the residual blocks", ours=True, low=1)
    resblock_dilation_sizes: list[list[int]] = key(
        [[1, 3, 5], [1, 3, 5], [1, 3, 5]], "dilations of each residual block", ours=True, low=1
    )
    width: int = key(256, "SpectralVocoder alone, as what follows: channels of its network", ours=True, low=1)
    blocks: int = key(4, "blocks of its network", ours=True, low=1)
    phase_iterations: int = key(8, "iterations of its search for phases", ours=True, low=0)
    band_iterations: int = key(4, "iterations that then bring the bands to the log-mel", ours=True, low=0)


@dataclass
class VocoderConfig:
    target: str = key(
        "latent_diffusion.first_stage.HiFiGAN",
        "the vocoder: HiFiGAN; SpectralVocoder, cheap to train; GriffinLim, which needs no weights and has no sizes",
        ours=True,
    )
    ckpt_path: str | None = key(
        None,
        "its weights (hifigan-ckpt.ckpt, safetensors, a run's); a model's own come first if they fit",
        ours=True,
        path=True,
    )
    params: VocoderSizes = key(VocoderSizes, "sizes of the generator", ours=True)


@dataclass
class AutoencoderLossParams:
    kl_weight: float = key(0.015, "weight of the KL; with the published target it counts sums, as published", low=0)
    disc_start: int = key(50_001, "training step at which the discriminator joins; negative: never", low=-1)
    disc_weight: float = key(0.5, "weight of the adversarial term", low=0)
    disc_num_layers: int = key(3, "strided layers of the discriminator", low=1)
    disc_in_channels: int = key(1, "channels of a log-mel; only 1 exists", low=1, high=1)
    disc_channels: int = key(64, "channels of the discriminator's first layer", ours=True, low=1)
    reconstruction: str = key("l1", "distance of log-mels", ours=True, choices=("l1", "l2"))


@dataclass
class AutoencoderLossConfig:
    target: str = key("latent_diffusion.first_stage.training.AutoencoderLoss", "the objective")
    params: AutoencoderLossParams = key(AutoencoderLossParams, "its settings")


@dataclass
class FirstStageParams:
    reload_from_ckpt: str | None = key(
        None, "VAE weights (vae-ckpt.ckpt, safetensors, a run's checkpoint, a model's name)", path=True
    )
    embed_dim: int = key(8, "latent channels (C)", low=1)
    lossconfig: AutoencoderLossConfig | None = key(None, "objective of the VAE's own training")
    ddconfig: DDConfig = key(DDConfig, "sizes of encoder and decoder")
    sampling_rate: int | None = key(None, "sample rate in Hz; must be preprocessing.audio.sampling_rate", low=1000)
    vocoder_config: VocoderConfig = key(VocoderConfig, "the vocoder", ours=True)


@dataclass
class FirstStageConfig:
    target: str = key("latent_diffusion.first_stage.AutoencoderKL", "the VAE")
    params: FirstStageParams = key(FirstStageParams, "its settings and the vocoder's")


@dataclass
class CondStageParams:
    unconditional_prob: float | None = key(
        None,
        "how often an item's mixture is hidden, in training and in the losses of validation; empty: in training 0.1, "
        "in validation never",
        low=0,
        high=1,
    )


@dataclass
class CondStageConfig:
    target: str = key("latent_diffusion.first_stage.MixtureCondition", "the condition: the mixture's latent")
    params: CondStageParams = key(CondStageParams, "its settings")


@dataclass
class EvaluationParams:
    unconditional_guidance_scale: float | list[float] | None = key(
        None, "s in e_u + s (e_c - e_u), a number or one a stem; 0: total generation; empty: 1, in arrangement 0"
    )
    ddim_sampling_steps: int = key(200, "steps of the sampler", low=1)
    n_candidates_per_samples: int = key(1, "candidates generated an item; the first is kept", low=1)
    sampler: str = key("ddim", "sampling algorithm", ours=True, choices=SAMPLERS)
    average: int = key(1, "separation: results an item whose mean log-mels are taken", ours=True, low=1)
    passes: int = key(1, "separation: 2 looks again at what the first result cuts out", ours=True, low=1)
    refine: str = key("none", "separation: mask cuts the mixture, none vocodes", ours=True, choices=("none", "mask"))
    mask_exponent: float | None = key(
        None, "of the magnitudes that masks compare; empty: 2, with sampler mean 1.2", ours=True, low=1e-6
    )
    mask_rounds: int = key(2, "in which masks tell tones and hits apart within a mel band", ours=True, low=0, high=20)
    eta: float = key(1.0, "noise of DDIM: 0 deterministic, 1 as DDPM", ours=True, low=0, empty=0.0)
    spacing: str | None = key(
        None, "where on the schedule the steps lie; empty: the sampler's own", ours=True, choices=SPACINGS
    )
    guidance_interval: list[float] = key(
        [0.0, 1.0], "low and high part of the schedule between which guidance counts", ours=True, low=0, high=1
    )
    precision: str = key("float32", "of the denoising network in sampling", ours=True, choices=PRECISIONS)
    draw_plans: bool = key(
        False, "generation, StemTransformer: follow a tempo and chords drawn from each item's seed", ours=True
    )
    seed: int | None = key(None, "seed of the sampling; empty: the run's seed", ours=True, low=0, high=2**63 - 1)
    batch_size: int | None = key(None, "items of a validation batch; empty: data.params.batch_size", ours=True, low=1)


@dataclass
class MusicLDMParams:
    num_stems: int | None = key(None, "stems (S); must be the number of data.params.path.stems", low=1)
    base_learning_rate: float = key(3e-5, "learning rate after the warm-up", low=0)
    linear_start: float = key(0.0015, "first beta of the noise schedule", low=1e-8, high=1)
    linear_end: float = key(0.0195, "last beta of the noise schedule", low=1e-8, high=1)
    timesteps: int = key(1000, "steps of the noise schedule", low=2)
    latent_t_size: int | None = key(None, "latent frames; must be mel.target_length / reduction", low=1)
    latent_f_size: int | None = key(None, "latent bins; must be mel.n_mel_channels / reduction", low=1)
    channels: int | None = key(None, "channels of the network; must be the number of data.params.path.stems", low=1)
    monitor: str = key("val/loss_simple_ema", "value whose smallest is best")
    scale_by_std: bool = key(True, "divide latents by their standard deviation in the first training batch")
    seperate_stem_z: bool = key(False, "reward for latents of different stems being far apart")
    use_silence_weight: bool = key(False, "weight the loss by the loudness of the log-mel")
    tau: float = key(3.0, "softness of use_silence_weight", low=1e-6)
    ckpt_path: str | None = key(
        None, "weights of a whole MSG-LD to start from: a file, a run folder or a model's name", path=True
    )
    unet_config: UNetConfig = key(UNetConfig, "the denoising network")
    first_stage_config: FirstStageConfig = key(FirstStageConfig, "VAE and vocoder")
    cond_stage_config: CondStageConfig = key(CondStageConfig, "the condition")
    evaluation_params: EvaluationParams = key(EvaluationParams, "how validation and test sample")
    learn_logvar: bool = key(False, "learn a loss scale for each timestep", ours=True)
    logvar_init: float = key(0.0, "first value of that scale", ours=True)
    original_elbo_weight: float = key(0.0, "weight of the variational bound in the loss", ours=True, low=0)
    parameterization: str = key("eps", "what the network predicts", ours=True, choices=("eps", "x0", "v"))
    ema_decay: float | None = key(0.9999, "decay of the averaged weights; empty: no average", ours=True, low=0, high=1)
    warmup_steps: int = key(1000, "optimiser steps of the linear warm-up", ours=True, low=0, empty=0)
    lr_schedule: str = key("constant", "shape of the learning rate after the warm-up", ours=True, choices=LR_SCHEDULES)
    lr_decay_steps: int = key(100_000, "training steps until lr_final is reached", ours=True, low=1)
    lr_final: float = key(0.1, "share of base_learning_rate reached at lr_decay_steps", ours=True, low=0, high=1)
    high_noise_share: float = key(
        0.0, "share of training timesteps from the last tenth; the others are uniform", ours=True, low=0, high=1
    )
    channel_power: float = key(
        0.0, "with scale_per_channel or _band: the loss weighs by this power of the spread", ours=True, low=0
    )
    cond_drop_prob: float | None = key(
        None,
        "how often an item's mixture is hidden in training alone; left out: as cond_stage_config's unconditional_prob",
        ours=True,
        low=0,
        high=1,
        empty=0.0,
    )
    scale_per_channel: bool = key(False, "scale_by_std for each latent channel on its own", ours=True)
    scale_per_band: bool = key(False, "mean and scale of each latent channel and band on their own", ours=True)
    given_share: float = key(
        0.0, "StemTransformer: share of training items of which some stems are given clean", ours=True, low=0, high=1
    )
    weight_decay: float = key(0.01, "of AdamW", ours=True, low=0, empty=0.0)
    snr_gamma: float | None = key(None, "min-SNR weighting of the loss; empty: off", ours=True, low=1e-6)


@dataclass
class AdversarialTrainingParams:
    """Keys that both trainings of the first stage share, with the VAE's defaults."""

    disc_learning_rate: float | None = key(None, "of the discriminator; empty: base_learning_rate", ours=True, low=0)
    betas: list[float] = key([0.5, 0.9], "of AdamW", ours=True, low=0, high=1)
    lr_schedule: str = key("constant", "shape of the learning rate", ours=True, choices=LR_SCHEDULES)
    lr_warmup_steps: int = key(0, "training steps of the linear warm-up", ours=True, low=0)
    lr_decay_steps: int = key(100_000, "training steps until lr_final is reached", ours=True, low=1)
    lr_final: float = key(0.1, "share of base_learning_rate reached at lr_decay_steps", ours=True, low=0, high=1)
    segment_frames: int = key(0, "mel frames of a training piece; 0: whole windows", ours=True, low=0)
    segments_per_step: int = key(0, "pieces of a training step; 0: as many as the batch has signals", ours=True, low=0)
    silence_db: float = key(-60.0, "level under which a piece counts as silent, dB of full scale", ours=True)
    silence_weight: float = key(1.0, "how often silent pieces are drawn, against 1", ours=True, low=0)


@dataclass
class AutoencoderTrainingParams(AdversarialTrainingParams, FirstStageParams):
    base_learning_rate: float = key(1e-4, "learning rate", low=0)
    monitor: str = key("val/log_mel_l1", "value whose smallest is best; val/rec_loss, the published name, means it too")
    lossconfig: AutoencoderLossConfig = key(AutoencoderLossConfig, "the objective")
    ckpt_path: str | None = key(None, "weights of a VAE to start from", path=True)


@dataclass
class VocoderLossParams:
    mel_weight: float = key(45.0, "weight of the distance of log-mels", ours=True, low=0)
    feature_weight: float = key(2.0, "weight of feature matching", ours=True, low=0)
    adversarial_weight: float = key(1.0, "weight of the adversarial term", ours=True, low=0)
    stft_weight: float = key(0.0, "weight of the multi-resolution STFT loss", ours=True, low=0)
    stft_ffts: list[int] = key([512, 1024, 2048], "FFT sizes of that loss in samples", ours=True, low=16)
    disc_start: int = key(0, "training step at which the discriminators join; negative: never", ours=True, low=-1)
    disc_periods: list[int] = key([2, 3, 5, 7, 11], "periods of the discriminators", ours=True, low=1, empty=())
    disc_period_channels: int = key(32, "channels of their first layer", ours=True, low=1)
    disc_scales: int = key(3, "scale discriminators", ours=True, low=0)
    disc_scale_channels: int = key(128, "channels of their first layer", ours=True, low=1)


@dataclass
class VocoderLossConfig:
    target: str = key("latent_diffusion.first_stage.training.VocoderLoss", "the objective", ours=True)
    params: VocoderLossParams = key(VocoderLossParams, "its settings", ours=True)


@dataclass
class VocoderTrainingParams(AdversarialTrainingParams):
    base_learning_rate: float = key(2e-4, "learning rate", ours=True, low=0)
    monitor: str = key("val/log_mel_l1", "value whose smallest is best", ours=True)
    ckpt_path: str | None = key(None, "weights of a vocoder to start from", ours=True, path=True)
    vocoder_config: VocoderConfig = key(VocoderConfig, "the generator", ours=True)
    lossconfig: VocoderLossConfig = key(VocoderLossConfig, "a HiFi-GAN's objective; others have their own", ours=True)
    betas: list[float] = key([0.8, 0.99], "of AdamW", ours=True, low=0, high=1)
    lr_schedule: str = key("exponential", "shape of the learning rate", ours=True, choices=LR_SCHEDULES)
    lr_final: float = key(0.5, "share of base_learning_rate reached at lr_decay_steps", ours=True, low=0, high=1)
    segment_frames: int = key(64, "mel frames of a training piece; 0: whole windows", ours=True, low=0)
    silence_weight: float = key(0.05, "how often silent pieces are drawn, against 1", ours=True, low=0)


PARAMS_OF_KIND: dict[str, type] = {
    "msgld": MusicLDMParams,
    "autoencoder": AutoencoderTrainingParams,
    "vocoder": VocoderTrainingParams,
}


@dataclass
class ModelConfig:
    target: str = key("latent_diffusion.musicldm.MusicLDM", "what is trained: an MSG-LD, a VAE or a vocoder")
    params: MusicLDMParams | AutoencoderTrainingParams | VocoderTrainingParams = key(MusicLDMParams, "its settings")
