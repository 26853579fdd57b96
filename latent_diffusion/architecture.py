"""What the shapes in a checkpoint say about the networks that it belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from latent_diffusion.errors import CheckpointError, ConfigError
from latent_diffusion.settings import (
    DEFAULT_STEMS,
    AutoencoderSettings,
    DiffusionSettings,
    MelSettings,
    ModelSettings,
    UNetSettings,
    VocoderSettings,
)

# The upsampling rates leave no trace in the weights; these are the known ones for a row of kernels.
KNOWN_RATES = {(16, 16, 8, 4, 4): (5, 4, 2, 2, 2)}


def _indices(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    """Sorted distinct values of the pattern's first group over all keys."""
    return sorted({int(match.group(1)) for key in state if (match := re.match(pattern, key))})


def infer_unet(state: Mapping[str, Tensor]) -> UNetSettings:
    """Settings of a U-Net from its weights by its own names (`input_blocks.0.0.weight`, ...).

    The width of an attention head and the number of norm groups leave no trace: the published 32 are assumed.
    """
    width, stems = state["input_blocks.0.0.weight"].shape[:2]
    mults: list[int] = []
    blocks: list[int] = []
    attention: set[int] = set()
    new_level, scale_shift = True, False
    for i in _indices(state, r"input_blocks\.(\d+)\.")[1:]:
        if f"input_blocks.{i}.0.op.weight" in state:
            new_level = True
            continue
        c_out = state[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0]
        scale_shift = state[f"input_blocks.{i}.0.emb_layers.1.weight"].shape[0] == 2 * c_out
        if new_level:
            mults.append(c_out // width)
            blocks.append(0)
            new_level = False
        blocks[-1] += 1
        if f"input_blocks.{i}.1.qkv.weight" in state:
            attention.add(2 ** (len(mults) - 1))
    return UNetSettings(
        in_channels=stems,
        out_channels=state["out.2.weight"].shape[0],
        model_channels=width,
        num_res_blocks=blocks[0],
        channel_mult=tuple(mults),
        attention_resolutions=tuple(sorted(attention, reverse=True)),
        use_scale_shift_norm=scale_shift,
    )


def infer_autoencoder(state: Mapping[str, Tensor]) -> AutoencoderSettings:
    """Settings of a VAE from its weights (`encoder.conv_in.weight`, ...); 32 norm groups are assumed."""
    ch, in_channels = state["encoder.conv_in.weight"].shape[:2]
    levels = _indices(state, r"encoder\.down\.(\d+)\.")
    return AutoencoderSettings(
        ch=ch,
        ch_mult=tuple(state[f"encoder.down.{i}.block.0.conv1.weight"].shape[0] // ch for i in levels),
        num_res_blocks=len(_indices(state, r"encoder\.down\.0\.block\.(\d+)\.")),
        attn_resolutions=tuple(256 // 2**i for i in levels if f"encoder.down.{i}.attn.0.q.weight" in state),
        z_channels=state["encoder.conv_out.weight"].shape[0] // 2,
        embed_dim=state["quant_conv.weight"].shape[0] // 2,
        in_channels=in_channels,
        out_ch=state["decoder.conv_out.weight"].shape[0],
    )


def infer_vocoder(state: Mapping[str, Tensor], path: str, like: VocoderSettings | None = None) -> VocoderSettings:
    """Settings of a HiFi-GAN from its weights, weight-normed or not, or of a spectral vocoder.

    Upsampling rates and dilations leave no trace. They are taken from `like` where the kernels are the same; otherwise
    the published rates of these kernels and dilations 1-3-5 (the first of them, where there are fewer) are assumed.

    Raises:
        CheckpointError: upsampling kernels whose rates are not known.
    """

    if "blocks.0.over_time.weight" in state:
        width, mels = state["conv_pre.weight"].shape[:2]
        return VocoderSettings("spectral", mels, width=width, blocks=len(_indices(state, r"blocks\.(\d+)\.")))

    def weight(name: str) -> Tensor:
        return state[f"{name}.weight_v"] if f"{name}.weight_v" in state else state[f"{name}.weight"]

    ups = _indices(state, r"ups\.(\d+)\.")
    kernels = tuple(weight(f"ups.{i}").shape[2] for i in ups)
    rates = dict(KNOWN_RATES)
    if like is not None:
        rates[like.upsample_kernel_sizes] = like.upsample_rates
    if kernels not in rates:
        raise CheckpointError(f"{path}: vocoder with upsampling kernels {kernels}, whose rates the file does not tell")
    per_stage = len(_indices(state, r"resblocks\.(\d+)\.")) // len(ups)
    initial, mels = weight("conv_pre").shape[:2]
    sizes = tuple(weight(f"resblocks.{j}.convs1.0").shape[2] for j in range(per_stage))
    counts = [len(_indices(state, rf"resblocks\.{j}\.convs1\.(\d+)\.")) for j in range(per_stage)]
    dilations = tuple((1, 3, 5, 7, 9, 11)[:count] for count in counts)
    if like is not None and [len(d) for d in like.resblock_dilation_sizes] == counts:
        dilations = like.resblock_dilation_sizes
    return VocoderSettings(
        num_mels=mels,
        upsample_initial_channel=initial,
        upsample_rates=rates[kernels],
        upsample_kernel_sizes=kernels,
        resblock_kernel_sizes=sizes,
        resblock_dilation_sizes=dilations,
    )


def infer_diffusion(tensors: Mapping[str, Tensor], path: str) -> DiffusionSettings:
    """The noise schedule that a checkpoint's `betas` describe, to six digits; the published one where there are none.

    The betas' square roots must be spaced evenly, so that the first and the last tell all.

    Raises:
        CheckpointError: they are not.
    """
    betas = tensors.get("betas")
    if betas is None:
        return DiffusionSettings()
    if betas.dim() != 1 or len(betas) < 2 or not betas.is_floating_point() or not bool((betas > 0).all()):
        raise CheckpointError(f"{path}: 'betas' is no noise schedule (shape {tuple(betas.shape)}, {betas.dtype})")
    roots = betas.double().sqrt()
    even = torch.linspace(float(roots[0]), float(roots[-1]), len(roots), dtype=torch.float64)
    if not torch.allclose(roots, even, rtol=1e-2 if betas.element_size() < 4 else 1e-4):
        raise CheckpointError(f"{path}: a noise schedule that is not square-root linear, which is not known here")
    first, last = (float(f"{float(beta):.6g}") for beta in (betas[0], betas[-1]))
    return DiffusionSettings(timesteps=len(betas), linear_start=first, linear_end=last)


def infer_model_settings(
    tensors: Mapping[str, Tensor], path: str, vocoder: VocoderSettings | None = None
) -> ModelSettings:
    """Settings of a published MSG-LD checkpoint from all its tensors.

    Stem names leave no trace: four stems are taken for the published ones, others are called stem_0, stem_1, ...
    `vocoder`: see `infer_vocoder`.

    Raises:
        CheckpointError: parts are missing or do not go together.
    """

    def part(prefix: str) -> dict[str, Tensor]:
        return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}

    try:
        unet = infer_unet(part("model.diffusion_model."))
        autoencoder = infer_autoencoder(part("first_stage_model."))
        vocoder = infer_vocoder(part("first_stage_model.vocoder."), path, vocoder)
        diffusion = infer_diffusion(tensors, path)
        count = unet.in_channels
        stems = DEFAULT_STEMS if count == len(DEFAULT_STEMS) else tuple(f"stem_{i}" for i in range(count))
        mel = MelSettings(n_mels=vocoder.num_mels)
        return ModelSettings(stems, mel, autoencoder, vocoder, unet, diffusion)
    except KeyError as error:
        raise CheckpointError(f"{path}: lacks {error.args[0]!r}; not a complete MSG-LD checkpoint") from None
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (IndexError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: its tensors have shapes that no MSG-LD has ({error})") from None
