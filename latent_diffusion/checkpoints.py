"""Reading and writing weights, without ever running code from a weights file.

Understood, each told by its keys:

- MSG-LD Lightning checkpoints, published or ours: `model.diffusion_model.*`, `model_ema.*`, `first_stage_model.*`;
- VAE checkpoints: `encoder.*`, `decoder.*`, `quant_conv.*`, `post_quant_conv.*` under "state_dict";
- HiFi-GAN checkpoints: the generator under "generator", weight-normed or not;
- this project's safetensors: the same keys, with the model's settings as JSON in the metadata.

Our own files carry a description of the model (`msgld`), so that they need no configuration beside them; for published
ones it is inferred from the tensors' shapes.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from latent_diffusion.architecture import infer_model_settings
from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.ema import shadow_name
from latent_diffusion.errors import CheckpointError
from latent_diffusion.first_stage import FirstStage
from latent_diffusion.settings import ModelSettings
from latent_diffusion.unet import UNet3d

UNET_PREFIX = "model.diffusion_model."
EMA_PREFIX = "model_ema."
FIRST_STAGE_PREFIX = "first_stage_model."
# Tensors that training a first stage leaves in its checkpoints and that inference has no use for.
TRAINING_ONLY = ("loss.", "discriminator", "train_step", "log_mel.", "mel.")
MAX_EXPANSION = 50  # a zip member set that grows more than this on unpacking is taken for a bomb
MAX_UNPACKED_BYTES = 2**30  # ... if it also exceeds this

KINDS = {"msgld": "an MSG-LD model", "autoencoder": "a VAE", "vocoder": "a HiFi-GAN vocoder"}


@dataclass
class WeightsFile:
    """The contents of a weights file.

    Args:
        path: where it was read.
        kind: a key of `KINDS`.
        tensors: all tensors by published key (a vocoder's without prefix).
        description: the model settings that our own files carry, as a plain dict; None in published ones.
        step: training step, where the file tells.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    description: dict[str, Any] | None = None
    step: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def has_ema(self) -> bool:
        """Whether averaged weights are there."""
        return any(key.startswith(EMA_PREFIX) for key in self.tensors)


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose key starts with `prefix`, without it."""
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def read_weights(path: str | Path) -> WeightsFile:
    """Read a weights file of any known format, memory-mapped where the format allows.

    Raises:
        CheckpointError: not there, not a weights file, damaged, needs code to be read, or of no known kind.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: found a folder, expected a weights file")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path or download the weights")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)


def _read_safetensors(path: Path) -> WeightsFile:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        extra = json.loads(metadata.get("msgld", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({_first_line(error)})") from None
    return _classify(path, tensors, extra)


def _read_torch(path: Path) -> WeightsFile:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a complete PyTorch checkpoint (text, truncated or older than PyTorch 1.6); download it again"
        )
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(MAX_UNPACKED_BYTES, MAX_EXPANSION * path.stat().st_size):
        raise CheckpointError(f"{path}: would unpack to {unpacked / 2**30:.0f} GiB, far more than its size; refused")
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=stored)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds Python objects that run code when read ({_first_line(error)}); refused. If you trust it: "
            "torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW)"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged or not a PyTorch checkpoint ({_first_line(error)})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: found a {type(content).__name__}, expected a dict with weights")
    if isinstance(content.get("generator"), dict):
        return _classify(path, {f"generator.{key}": value for key, value in content["generator"].items()}, {})
    state = content.get("state_dict", content)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    extra = dict(content.get("msgld") or {})
    return _classify(path, tensors, extra, content.get("global_step"))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _classify(path: Path, tensors: dict[str, Tensor], extra: dict[str, Any], step: int | None = None) -> WeightsFile:
    if any(key.startswith(UNET_PREFIX) for key in tensors):
        kind = "msgld"
    elif "encoder.conv_in.weight" in tensors:
        kind = "autoencoder"
    elif any(key.startswith("generator.conv_pre.") for key in tensors):
        kind, tensors = "vocoder", strip_prefix(tensors, "generator.")
    else:
        some = ", ".join(list(tensors)[:3]) or "none"
        raise CheckpointError(f"{path}: of no known kind (MSG-LD, VAE or HiFi-GAN); its first tensors: {some}")
    return WeightsFile(path, kind, tensors, extra.get("settings"), extra.get("step", step), extra)


def expect_kind(weights: WeightsFile, kind: str, key: str = "") -> WeightsFile:
    """The same file, if it is of the kind that is wanted.

    Raises:
        CheckpointError: it is of another kind.
    """
    if weights.kind != kind:
        hint = f" for {key}" if key else ""
        raise CheckpointError(f"{weights.path}: found {KINDS[weights.kind]}, expected {KINDS[kind]}{hint}")
    return weights


def fit_state(module: nn.Module, state: Mapping[str, Tensor], path: Path, part: str) -> None:
    """Put tensors into a module, key by key; the module keeps its dtype, but where it was built on "meta" the
    tensors themselves (perhaps memory-mapped) become its parameters.

    Raises:
        CheckpointError: a key is missing, left over, of another shape, not floating point, or not finite.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state]
    surplus = [key for key in state if key not in own]
    if missing or surplus:
        problem, keys = ("lacks", missing) if missing else ("has an unexpected", surplus)
        raise CheckpointError(
            f"{path}: {part} {problem} {keys[0]!r} and {len(keys) - 1} more; the config describes another architecture"
        )
    for key, tensor in own.items():
        found = state[key]
        if found.shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {part} {key!r} has shape {tuple(found.shape)}, the config asks for {tuple(tensor.shape)}"
            )
        if tensor.is_floating_point() and not found.is_floating_point():
            raise CheckpointError(f"{path}: {part} {key!r} is {found.dtype}, expected floating point")
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise CheckpointError(f"{path}: {part} {key!r} holds NaN or infinite values; the file is no use")
    on_meta = any(tensor.is_meta for tensor in own.values())
    typed = {key: state[key].to(own[key].dtype) for key in own}
    module.load_state_dict(typed, assign=on_meta)


def fuse_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """HiFi-GAN weights with every `weight_g`, `weight_v` pair replaced by the `weight` that they mean."""
    fused = {key: value for key, value in state.items() if not key.endswith(("weight_g", "weight_v"))}
    for key, v in state.items():
        if key.endswith("weight_v"):
            v = v.float()
            norm = torch.linalg.vector_norm(v, dim=tuple(range(1, v.dim())), keepdim=True)
            fused[key[:-2]] = state[key[:-1] + "g"].float() * (v / norm)
    return fused


def split_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `fuse_weight_norm`: every `weight` as a pair whose `weight_g` is the norm of `weight_v`."""
    split = {key: value for key, value in state.items() if not key.endswith("weight")}
    for key, weight in state.items():
        if key.endswith("weight"):
            dims = tuple(range(1, weight.dim()))
            split[f"{key}_g"] = torch.linalg.vector_norm(weight.float(), dim=dims, keepdim=True)
            split[f"{key}_v"] = weight
    return split


def load_autoencoder(module: nn.Module, path: str | Path) -> None:
    """Weights of the VAE part of a `FirstStage` (or of an `AutoencoderKL`) from a VAE or MSG-LD checkpoint.

    Raises:
        CheckpointError: see `read_weights` and `fit_state`.
    """
    weights = read_weights(path)
    if weights.kind == "msgld":
        state = strip_prefix(weights.tensors, FIRST_STAGE_PREFIX)
    else:
        state = expect_kind(weights, "autoencoder", "the first stage").tensors
    state = {key: value for key, value in state.items() if not key.startswith((*TRAINING_ONLY, "vocoder."))}
    parts = nn.ModuleDict({name: getattr(module, name) for name in AUTOENCODER_PARTS})
    fit_state(parts, state, weights.path, "VAE")


AUTOENCODER_PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")


def load_vocoder(vocoder: nn.Module, path: str | Path) -> None:
    """Weights of a `HiFiGAN` without weight norm from a HiFi-GAN or MSG-LD checkpoint.

    Raises:
        CheckpointError: see `read_weights` and `fit_state`.
    """
    weights = read_weights(path)
    if weights.kind == "msgld":
        state = strip_prefix(weights.tensors, FIRST_STAGE_PREFIX + "vocoder.")
    else:
        state = fuse_weight_norm(expect_kind(weights, "vocoder", "the vocoder").tensors)
    fit_state(vocoder, state, weights.path, "vocoder")


def load_normed_vocoder(vocoder: nn.Module, path: str | Path) -> None:
    """Weights of a `HiFiGAN` with weight norm, in training, from a HiFi-GAN checkpoint with or without it.

    Raises:
        CheckpointError: see `read_weights` and `fit_state`.
    """
    weights = expect_kind(read_weights(path), "vocoder", "the vocoder")
    state = weights.tensors
    if not any(key.endswith("weight_g") for key in state):
        state = split_weight_norm(state)
    fit_state(vocoder, state, weights.path, "vocoder")


def unet_state(weights: WeightsFile, ema: bool) -> dict[str, Tensor]:
    """U-Net weights of an MSG-LD file, averaged or raw, by the U-Net's own names.

    Raises:
        CheckpointError: averaged weights were asked for and one is missing.
    """
    raw = strip_prefix(weights.tensors, UNET_PREFIX)
    if not ema:
        return raw
    averaged: dict[str, Tensor] = {}
    for name in raw:
        key = EMA_PREFIX + shadow_name(f"diffusion_model.{name}")
        if key not in weights.tensors:
            raise CheckpointError(f"{weights.path}: averaged weights lack {key!r}")
        averaged[name] = weights.tensors[key]
    return averaged


def settings_of(weights: WeightsFile) -> ModelSettings:
    """Settings of an MSG-LD file: those it carries, or those that its tensors' shapes imply."""
    expect_kind(weights, "msgld")
    if weights.description is not None:
        return ModelSettings.from_dict(weights.description)
    return infer_model_settings(weights.tensors, str(weights.path))


def load_pipeline_parts(path: str | Path) -> tuple[UNet3d, FirstStage, NoiseSchedule, Tensor, ModelSettings]:
    """Networks for inference from an MSG-LD checkpoint; averaged weights where it has them.

    Returns:
        U-Net, first stage, schedule, scale factor, settings.

    Raises:
        CheckpointError: see `read_weights` and `fit_state`.
    """
    weights = expect_kind(read_weights(path), "msgld")
    settings = settings_of(weights)
    with torch.device("meta"):  # no memory for weights that are about to be replaced
        unet, first_stage, schedule = UNet3d(settings.unet), FirstStage(settings), NoiseSchedule(settings.diffusion)
    fit_state(unet, unet_state(weights, weights.has_ema), weights.path, "U-Net")
    stage = strip_prefix(weights.tensors, FIRST_STAGE_PREFIX)
    stage = {key: value for key, value in stage.items() if not key.startswith(TRAINING_ONLY)}
    fit_state(first_stage, stage, weights.path, "first stage")
    if "scale_factor" not in weights.tensors:
        raise CheckpointError(f"{weights.path}: lacks 'scale_factor'")
    return unet, first_stage, schedule, weights.tensors["scale_factor"].float(), settings
