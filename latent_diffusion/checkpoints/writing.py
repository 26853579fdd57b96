"""Converting weights files: the published layouts and this project's safetensors, in both directions."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latent_diffusion.checkpoints.contents import (
    AUTOENCODER_PARTS,
    AVERAGED,
    EMA_PREFIX,
    FIRST_STAGE_PREFIX,
    LOGVAR,
    LOSSES,
    SCALE,
    SCHEDULE,
    UNET,
    UNET_PREFIX,
    VAE,
    VOCODER,
    group_of,
    strip_prefix,
)
from latent_diffusion.checkpoints.fitting import (
    check_schedule,
    check_state,
    check_values,
    first_stage_settings_of,
    mel_of,
    settings_of,
    unet_state,
)
from latent_diffusion.checkpoints.loading import (
    autoencoder_state,
    build_on_meta,
    check_networks,
    fuse_weight_norm,
    log_left_out,
)
from latent_diffusion.checkpoints.reading import SAFETENSORS_DTYPES, WeightsFile, expect_kind, read_weights
from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.ema import shadow_name
from latent_diffusion.errors import CheckpointError
from latent_diffusion.files import whole_file
from latent_diffusion.first_stage import AutoencoderKL, HiFiGAN, build_vocoder
from latent_diffusion.settings import MelSettings, ModelSettings

log = logging.getLogger(__name__)

CHOICES = ("both", "ema", "raw")
NETWORKS = (UNET, AVERAGED, VAE, VOCODER, LOSSES)  # what half precision halves; the few other numbers stay exact
PUBLISHED_VERSION = "1.9.4"  # of Lightning, which the published checkpoints were written with


def convert(
    source: str | Path,
    target: str | Path,
    keep: str = "both",
    half: bool = False,
    force: bool = False,
    vocoder: str | Path | None = None,
) -> Path:
    """Write a weights file anew: as safetensors with the settings in its metadata, or in the published layout.

    Everything is checked before anything is written: whoever can convert a file can load it.

    Args:
        source: a weights file of any known format.
        target: `*.safetensors`, or `*.ckpt` for the published layout.
        keep: "both" keeps every tensor; "ema" or "raw" keeps what inference needs, with the averaged or the raw U-Net.
        half: store the networks in half precision (16 bit); loading brings them back to 32.
        force: write over an existing target.
        vocoder: a file whose vocoder takes the place of an MSG-LD model's own.

    Returns:
        The target.

    Raises:
        CheckpointError: source or target cannot be used.
    """
    target = _usable_target(Path(source), Path(target), force)
    weights = read_weights(source) if vocoder is None else _with_vocoder(read_weights(source), read_weights(vocoder))
    if keep not in CHOICES:
        raise CheckpointError(f"weights to keep: found {keep!r}, expected {', '.join(CHOICES)}")
    if keep == "ema" and not weights.has_ema:
        raise CheckpointError(f"{source}: has no averaged weights; keep raw or both")
    settings = _check_all(weights)
    published = target.suffix != ".safetensors"
    tensors = _kept(weights, keep)
    if half:
        tensors = {key: _halve(weights, key, value) for key, value in tensors.items()}
    extra = _description(weights, settings, keep)
    try:
        with whole_file(target) as temporary:
            if published:
                torch.save(_published(weights, tensors, settings, extra, half), temporary)
            else:
                prefix = "generator." if weights.kind == "vocoder" else ""
                named = {prefix + key: value for key, value in tensors.items()}
                write_safetensors(temporary, named | (weights.rest if keep == "both" else {}), {"msgld": extra})
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{target}: cannot be written ({error})") from None
    if weights.training_state:
        log.info("%s: left out: the optimiser's state; only Lightning checkpoints carry it", source)
    return target


def _with_vocoder(weights: WeightsFile, other: WeightsFile) -> WeightsFile:
    """An MSG-LD file with the vocoder of another file, which must be made for the same log-mels."""
    settings, prefix = settings_of(weights), FIRST_STAGE_PREFIX + "vocoder."
    if other.kind == "msgld":
        theirs = settings_of(other)
        vocoder, mel, state = theirs.vocoder, theirs.mel, strip_prefix(other.tensors, prefix)
    else:
        vocoder, _ = first_stage_settings_of(expect_kind(other, "vocoder", "the vocoder"))
        mel, state = mel_of(other), fuse_weight_norm(other.tensors)
    if replace(mel, frames=settings.mel.frames) != settings.mel:
        raise CheckpointError(f"{other.path}: its vocoder is made for log-mels of {mel}, the model has {settings.mel}")
    tensors = {key: value for key, value in weights.tensors.items() if not key.startswith(prefix)}
    tensors |= {prefix + key: value for key, value in state.items()}
    return replace(weights, tensors=tensors, description=replace(settings, vocoder=vocoder).to_dict())


def _usable_target(source: Path, target: Path, force: bool) -> Path:
    if target.suffix not in (".safetensors", ".ckpt"):
        raise CheckpointError(f"{target}: expected a name that ends in .safetensors or .ckpt (the published layout)")
    if target.is_dir() or not target.parent.is_dir():
        raise CheckpointError(f"{target}: {'is a folder' if target.is_dir() else 'its folder does not exist'}")
    if target.exists():
        if source.exists() and target.samefile(source):
            raise CheckpointError(f"{target}: is the file that is to be converted; give another name")
        if not force:
            raise CheckpointError(f"{target}: exists already; give another name, or --force to write over it")
    return target


def _check_all(weights: WeightsFile) -> Any:
    """Settings of the file, after holding every tensor that a network needs against them."""
    path = weights.path
    if weights.kind == "msgld":
        settings = settings_of(weights)
        check_schedule(weights, settings.diffusion)
        unet, first_stage, _ = build_on_meta(settings, path)
        check_networks(weights, unet, first_stage)
        return settings
    settings, _ = first_stage_settings_of(weights)
    try:
        with torch.device("meta"):
            module: nn.Module = (
                AutoencoderKL(settings) if weights.kind == "autoencoder" else build_vocoder(settings, mel_of(weights))
            )
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        raise CheckpointError(f"{path}: no network can be built from its settings: {error}") from None
    if weights.kind == "autoencoder":
        parts = nn.ModuleDict({name: getattr(module, name) for name in AUTOENCODER_PARTS})
        check_state(parts, autoencoder_state(weights), path, "VAE")
    else:
        if isinstance(module, HiFiGAN) and not any(key.endswith("weight_g") for key in weights.tensors):
            module.remove_weight_norm()
        check_state(module, weights.tensors, path, "vocoder")
    return settings


def _kept(weights: WeightsFile, keep: str) -> dict[str, Tensor]:
    """Tensors to write, by published key."""
    if keep == "both":
        return dict(weights.tensors)
    if weights.kind != "msgld":
        group = VAE if weights.kind == "autoencoder" else VOCODER
        log_left_out(weights, group)
        return {key: value for key, value in weights.tensors.items() if group_of(weights.kind, key) == group}
    used = (VAE, VOCODER, SCALE, LOGVAR)
    kept = {key: value for key, value in weights.tensors.items() if group_of("msgld", key) in used}
    unet = {UNET_PREFIX + name: value for name, value in unet_state(weights, keep == "ema").items()}
    log_left_out(weights, VAE, VOCODER, AVERAGED if keep == "ema" else UNET)
    return unet | kept


def _halve(weights: WeightsFile, key: str, tensor: Tensor) -> Tensor:
    if group_of(weights.kind, key) not in NETWORKS or not tensor.is_floating_point() or tensor.dim() == 0:
        return tensor
    halved = tensor.half()
    check_values(halved, weights.path, f"{key!r} in half precision")
    return halved


def _description(weights: WeightsFile, settings: Any, keep: str) -> dict[str, Any]:
    """What our own files tell about themselves, as plain values."""
    if weights.kind == "msgld":
        told = settings.to_dict()
    elif weights.description is not None:
        told = weights.description
    else:
        told = {weights.kind: ModelSettings().to_dict()[weights.kind] | _plain(settings)}
        told["mel"] = _plain(MelSettings())
    extra = {"kind": weights.kind, "settings": told, "step": weights.step, "weights": keep} | weights.trainer
    if "train_step" in weights.extra:
        extra["train_step"] = weights.extra["train_step"]
    updates = weights.tensors.get(EMA_PREFIX + "num_updates")
    extra["ema_updates"] = int(updates) if updates is not None else weights.extra.get("ema_updates")
    return {key: value for key, value in extra.items() if value is not None}


def _plain(settings: Any) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def _published(
    weights: WeightsFile, tensors: dict[str, Tensor], settings: Any, extra: dict[str, Any], half: bool
) -> dict[str, Any]:
    """The nested dict that `torch.save` writes for the published code: networks in 32 bit unless half is wanted."""
    if not half:
        tensors = {key: v.float() if v.dtype in (torch.float16, torch.bfloat16) else v for key, v in tensors.items()}
    extra = json.loads(json.dumps(extra))  # lists instead of tuples: nothing but plain values
    if weights.kind == "vocoder":
        return {"generator": tensors, "msgld": extra}
    if weights.kind == "autoencoder":
        return {"state_dict": tensors, "msgld": extra}
    if settings.diffusion.parameterization != "eps" or tensors["scale_factor"].dim():
        log.warning(
            "%s: the published code knows neither parameterization %s nor a scale a channel: only the layout is its",
            weights.path,
            settings.diffusion.parameterization,
        )
    schedule = NoiseSchedule(settings.diffusion)
    state = {"logvar": torch.zeros(schedule.num_timesteps), **schedule.published_buffers(), "scale_factor": None}
    state |= {key: value for key, value in tensors.items() if group_of("msgld", key) in (UNET, LOGVAR, SCHEDULE, SCALE)}
    state |= _averages(tensors, extra.get("ema_updates", 0))
    state |= {key: value for key, value in tensors.items() if key not in state}
    return {
        "epoch": weights.trainer.get("epoch", 0),
        "global_step": weights.step or 0,
        "pytorch-lightning_version": weights.trainer.get("version", PUBLISHED_VERSION),
        "state_dict": state,
        "msgld": extra,
    }


def _averages(tensors: Mapping[str, Tensor], updates: int) -> dict[str, Tensor]:
    """`model_ema.*`: the file's, or, where only one set of U-Net weights was kept, that one (stored once)."""
    stored = {key: value for key, value in tensors.items() if key.startswith(EMA_PREFIX)}
    if stored:
        return stored
    averages = {
        EMA_PREFIX + "decay": torch.tensor(0.9999),
        EMA_PREFIX + "num_updates": torch.tensor(updates, dtype=torch.int32),
    }
    for key, value in tensors.items():
        if key.startswith(UNET_PREFIX):
            averages[EMA_PREFIX + shadow_name(key.removeprefix("model."))] = value
    return averages


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensor by tensor, so that mapped weights pass through memory once (the library first copies them all).

    Args:
        path: the file; the caller renames.
        tensors: contiguous or not, on the CPU.
        metadata: values that JSON can hold.
    """
    names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {key: json.dumps(value) for key, value in metadata.items()}}
    end = 0
    # The format wants every tensor at a multiple of its element's size: the widest come first.
    ordered = sorted(tensors, key=lambda key: -tensors[key].element_size())
    for key in ordered:
        tensor, start = tensors[key], end
        end += tensor.numel() * tensor.element_size()
        header[key] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for key in ordered:
            if tensors[key].numel():
                file.write(tensors[key].detach().contiguous().reshape(-1).view(torch.uint8).numpy())
