"""Reading and writing weights, without ever running code from a weights file.

Understood, each told by its keys:

- MSG-LD Lightning checkpoints, published or ours: `model.diffusion_model.*`, `model_ema.*`, `first_stage_model.*`;
- VAE checkpoints: `encoder.*`, `decoder.*`, `quant_conv.*`, `post_quant_conv.*` under "state_dict";
- vocoder checkpoints: the network under "generator", a HiFi-GAN's weight-normed or not;
- this project's safetensors: the same keys, with the model's settings as JSON in the metadata.

Our own files carry a description of the model (`msgld`), so that they need no configuration beside them; for published
ones it is inferred from the tensors' shapes. `reading` opens files, `contents` says what each tensor is for, `fitting`
holds them against settings and networks, `loading` fills networks, `writing` converts.
"""

from latent_diffusion.checkpoints.contents import FIRST_STAGE_PREFIX, TRAINING_ONLY, strip_prefix
from latent_diffusion.checkpoints.fitting import (
    check_fits,
    check_optimiser,
    check_state,
    fit_state,
    has_vocoder,
    mean_of,
    scale_of,
    settings_of,
    unet_state,
)
from latent_diffusion.checkpoints.loading import (
    autoencoder_state,
    check_networks,
    first_stage_state,
    fuse_weight_norm,
    load_autoencoder,
    load_normed_vocoder,
    load_pipeline_parts,
    load_vocoder,
    log_left_out,
    merge_state,
)
from latent_diffusion.checkpoints.reading import KINDS, WeightsFile, expect_kind, read_weights, weights_of
from latent_diffusion.checkpoints.writing import convert

__all__ = [
    "FIRST_STAGE_PREFIX",
    "KINDS",
    "TRAINING_ONLY",
    "WeightsFile",
    "autoencoder_state",
    "check_fits",
    "check_networks",
    "check_optimiser",
    "check_state",
    "convert",
    "expect_kind",
    "first_stage_state",
    "fit_state",
    "fuse_weight_norm",
    "has_vocoder",
    "load_autoencoder",
    "load_normed_vocoder",
    "load_pipeline_parts",
    "load_vocoder",
    "log_left_out",
    "merge_state",
    "read_weights",
    "mean_of",
    "scale_of",
    "settings_of",
    "strip_prefix",
    "unet_state",
    "weights_of",
]
