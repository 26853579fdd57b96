"""Published keys that have no effect here: the only list of them.

Such a key is accepted with any value. One warning lists those that a file sets, but for values that describe what
happens here anyway: off (empty, false, 0), and those that stand beside the key. A key that names a group speaks for all
that the group holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_DATA = "data.params."
_MODEL = "model.params."
_UNET = "model.params.unet_config.params."
FIRST_STAGE = "model.params.first_stage_config.params."  # a VAE's own training has these keys in `model.params`
_CONDITION = "model.params.cond_stage_config.params."


@dataclass(frozen=True)
class WithoutEffect:
    """What a published key was about, and which values say what happens here anyway."""

    doc: str
    same: tuple[Any, ...] = ()
    off_is_same: bool = True  # not where off would leave something in

    def describes(self, value: Any) -> bool:
        """Whether the value says what happens here anyway."""
        off = value in (None, False, 0, "", [], {}) or str(value).lower() in ("none", "null", "off", "false")
        return (off and (self.off_is_same or value is None)) or value in self.same


def _row(doc: str, *same: Any) -> WithoutEffect:
    return WithoutEffect(doc, same)


WITHOUT_EFFECT: dict[str, WithoutEffect] = {
    _DATA + "augmentation.mixup": _row("mixing of two items"),
    _DATA + "augmentation.return_all_wav": _row("the batch always holds the waveforms here", True),
    _DATA + "augmentation.balanced_sampling": _row("sampling balanced by label"),
    _DATA + "path.dataset_type": _row("published loader variant; the folder layout alone decides here"),
    _DATA + "path.test_data": _row("`test` runs on valid_data, as published"),
    _DATA + "path.label_data": _row("label files"),
    _DATA + "path.tempo_data": _row("tempo files"),
    _DATA + "path.tempo_map": _row("tempo classes"),
    _DATA + "preprocessing.label": _row("label mapping"),
    _DATA + "preprocessing.audio.max_wav_value": _row(
        "scale of integer samples; files are read as numbers in [-1, 1]", 32768.0
    ),
    _DATA + "preprocessing.audio.duration": _row(
        "seconds of a window; follows from mel.target_length and stft.hop_length", 10.24
    ),
    _DATA + "preprocessing.mel.freqm": _row("frequency masking"),
    _DATA + "preprocessing.mel.timem": _row("time masking"),
    _DATA + "preprocessing.mel.blur": _row("blurring of the log-mel"),
    _DATA + "preprocessing.mel.mean": _row("normalisation; log-mels are not normalised"),
    _DATA + "preprocessing.mel.std": _row("normalisation; log-mels are not normalised"),
    _MODEL + "batchsize": _row("see data.params.batch_size"),
    _MODEL + "num_timesteps_cond": _row("noise on the condition", 1),
    _MODEL + "log_every_t": _row("intermediate samples"),
    _MODEL + "first_stage_key": _row("entry of the batch: the stems' log-mels", "fbank_stems", "fbank"),
    _MODEL + "cond_stage_key": _row("entry of the batch: the mixture's log-mel", "fbank"),
    _MODEL + "cond_stage_trainable": _row("the condition has no weights"),
    _MODEL + "latent_mixup": _row("mixing of latents"),
    _MODEL + "conditioning_key": _row("how the condition enters; it is added in the network", "concat"),
    _MODEL + "scheduler_config": _row("learning rate schedule; see warmup_steps"),
    _MODEL + "loss_type": _row("loss; mean squared error here", "l2"),
    _MODEL + "use_ema": _row("averaged weights; see ema_decay", True),
    _MODEL + "clip_denoised": _row("clipping of denoised latents"),
    _UNET + "no_condition": WithoutEffect("the network always takes the mixture", off_is_same=False),
    _UNET + "image_size": _row("the network takes any size"),
    _UNET + "num_heads": _row("heads follow from num_head_channels", -1),
    _UNET + "num_heads_upsample": _row("heads follow from num_head_channels", -1),
    _UNET + "use_checkpoint": _row("recomputing activations; attention needs no such saving here"),
    _UNET + "use_spatial_transformer": _row("cross-attention; the mixture is added instead"),
    _UNET + "transformer_depth": _row("depth of the cross-attention", 1),
    _UNET + "context_dim": _row("width of the cross-attention's context"),
    _UNET + "extra_film_condition_dim": _row("embedding condition"),
    _UNET + "extra_film_use_concat": _row("embedding condition"),
    _UNET + "use_extra_film_by_concat": _row("embedding condition"),
    _UNET + "use_extra_film_by_addition": _row("embedding condition"),
    _UNET + "num_classes": _row("class condition"),
    _UNET + "conv_resample": _row("up- and downsampling always have a convolution", True),
    _UNET + "resblock_updown": _row("up- and downsampling by residual blocks"),
    _UNET + "use_new_attention_order": _row("order of the heads in qkv"),
    _UNET + "legacy": _row("width of the heads in older versions", True),
    _UNET + "use_fp16": _row("half precision; see trainer.precision"),
    _UNET + "n_embed": _row("codebook output"),
    _MODEL + "first_stage_config.base_learning_rate": _row("learning rate of the VAE's own training"),
    FIRST_STAGE + "monitor": _row("monitored value of the VAE's own training"),
    FIRST_STAGE + "lossconfig": _row("objective of the VAE's own training"),
    FIRST_STAGE + "lossconfig.params.logvar_init": _row("learnt scale of the reconstruction", 0.0),
    FIRST_STAGE + "lossconfig.params.pixelloss_weight": _row("weight of the reconstruction", 1.0),
    FIRST_STAGE + "lossconfig.params.perceptual_weight": _row("LPIPS of photographs; not used on log-mels"),
    FIRST_STAGE + "lossconfig.params.disc_factor": _row("second weight of the adversarial term", 1.0),
    FIRST_STAGE + "lossconfig.params.disc_conditional": _row("conditional discriminator"),
    FIRST_STAGE + "lossconfig.params.disc_loss": _row("adversarial loss", "hinge"),
    FIRST_STAGE + "lossconfig.params.use_actnorm": _row("activation normalisation in the discriminator"),
    FIRST_STAGE + "image_key": _row("entry of the batch", "fbank"),
    FIRST_STAGE + "mel_num": _row("mel bins; see data.params.preprocessing.mel.n_mel_channels"),
    FIRST_STAGE + "subband": _row("frequency subbands", 1),
    FIRST_STAGE + "time_shuffle": _row("folding of time into channels", 1),
    FIRST_STAGE + "batchsize": _row("batch size of the VAE's own training"),
    FIRST_STAGE + "ckpt_path": _row("reload_from_ckpt names the weights"),
    FIRST_STAGE + "ddconfig.downsample_time": _row("time is always downsampled with frequency"),
    _CONDITION + "sampling_rate": _row("the mixture is prepared as the stems are", 16_000),
    _CONDITION + "embed_mode": _row("the condition is the latent of the mixture's log-mel", "fbank"),
}
