"""Opening weights files of every known format, memory-mapped, without running anything that lies in them."""

from __future__ import annotations

import json
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from latent_diffusion.checkpoints.contents import EMA_PREFIX, UNET_PREFIX, strip_prefix
from latent_diffusion.errors import CheckpointError
from latent_diffusion.files import named_in_utf8

MAX_EXPANSION = 50  # a zip member set that grows more than this on unpacking is taken for a bomb
MAX_UNPACKED_BYTES = 2**30  # ... if it also exceeds this
# What PyTorch's restricted unpickler says of a name, call or object state that it will not touch.
NEEDS_CODE = re.compile(r"GLOBAL|global|class|function|reduce|build|BUILD|instantiate|persistent")

KINDS = {"msgld": "an MSG-LD model", "autoencoder": "a VAE", "vocoder": "a vocoder"}
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass
class WeightsFile:
    """The contents of a weights file.

    Args:
        path: where it was read.
        kind: a key of `KINDS`.
        tensors: all tensors by published key (a vocoder's without prefix).
        description: the model settings that our own files carry, as a plain dict; None in published ones.
        step: training step, where the file tells.
        extra: all that our own files tell about themselves.
        rest: tensors outside the network that a vocoder's file holds, its discriminators for one.
        trainer: plain values that Lightning stores beside the weights: epoch, version.
        training_state: whether the states of optimiser and loops are there, so that a training can go on exactly.
    """

    path: Path
    kind: str
    tensors: dict[str, Tensor]
    description: dict[str, Any] | None = None
    step: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    rest: dict[str, Tensor] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    training_state: bool = False

    @property
    def has_ema(self) -> bool:
        """Whether averaged weights are there."""
        return any(key.startswith(EMA_PREFIX) for key in self.tensors)


def read_weights(path: str | Path) -> WeightsFile:
    """Read a weights file of any known format, memory-mapped where the format allows.

    Nothing but the headers is read from disk before a tensor is looked at.

    Raises:
        CheckpointError: not there, not a weights file, damaged, needs code to be read, or of no known kind.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path}: found a folder, expected a weights file")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path or download the weights")
    try:
        if path.suffix == ".safetensors":
            tensors, extra = _read_safetensors(path)
            return _classify(path, tensors, extra, trainer={k: extra[k] for k in ("epoch", "version") if k in extra})
        return weights_of(_read_torch(path), path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({_first_line(error)})") from None


def weights_of(content: Any, path: str | Path) -> WeightsFile:
    """The same for what `torch.load` has read.

    Args:
        content: a Lightning checkpoint, {"state_dict": ...}, {"generator": ...}, or a bare state dict.
        path: for messages.

    Raises:
        CheckpointError: see `read_weights`.
    """
    path = Path(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: found a {type(content).__name__}, expected a dict with weights")
    if isinstance(content.get("generator"), Mapping):
        parts = {name: part for name, part in content.items() if isinstance(part, Mapping) and name != "msgld"}
        state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    else:
        state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: 'state_dict' is a {type(state).__name__}, expected a dict with weights")
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    extra = content.get("msgld")
    step, epoch, version = (content.get(key) for key in ("global_step", "epoch", "pytorch-lightning_version"))
    trainer = {"epoch": epoch, "version": version}
    return _classify(
        path,
        tensors,
        dict(extra) if isinstance(extra, Mapping) else {},
        step if isinstance(step, int) else None,
        {key: value for key, value in trainer.items() if isinstance(value, int | str)},
        bool(content.get("optimizer_states") and content.get("loops")),
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors that lie in the mapped file, and our description."""
    try:
        with (
            named_in_utf8(path) as name,
            safe_open(name, framework="pt") as file,
        ):  # checks the whole header against the file's size
            metadata = file.metadata() or {}
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        extra = json.loads(metadata.get("msgld", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError, struct.error) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({_first_line(error)})") from None
    if not isinstance(extra, dict):
        raise CheckpointError(f"{path}: metadata 'msgld' is a {type(extra).__name__}, expected a JSON object")
    with named_in_utf8(path) as name:
        data = torch.UntypedStorage.from_file(str(name), False, path.stat().st_size)
    tensors = {}
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        if entry["dtype"] not in SAFETENSORS_DTYPES:
            raise CheckpointError(f"{path}: {key!r} is {entry['dtype']}, expected floating point of 16 to 64 bits")
        dtype, (start, end) = SAFETENSORS_DTYPES[entry["dtype"]], entry["data_offsets"]
        flat = torch.empty(0, dtype=torch.uint8).set_(data[8 + length + start : 8 + length + end])
        if flat.data_ptr() % dtype.itemsize:
            flat = flat.clone()  # a foreign writer without padding
        tensors[key] = flat.view(dtype).reshape(entry["shape"])
    return tensors, extra


def _read_torch(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path}: not a complete PyTorch checkpoint (text, truncated or older than PyTorch 1.6); download it again"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({_first_line(error)}); download it again") from None
    unpacked = sum(member.file_size for member in members)
    if unpacked > max(MAX_UNPACKED_BYTES, MAX_EXPANSION * path.stat().st_size):
        raise CheckpointError(f"{path}: would unpack to {unpacked / 2**20:,.0f} MiB, far more than its size; refused")
    stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
    try:
        with named_in_utf8(path) as name:
            return torch.load(name, map_location="cpu", weights_only=True, mmap=stored)
    except pickle.UnpicklingError as error:
        if not NEEDS_CODE.search(str(error)):
            raise CheckpointError(f"{path}: damaged ({_unsafe_name(error)}); download it again") from None
        raise CheckpointError(
            f"{path}: holds Python objects that run code when read ({_unsafe_name(error)}); refused. If you trust it: "
            "torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW)"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way; nothing of it has run
        raise CheckpointError(f"{path}: damaged or not a PyTorch checkpoint ({_first_line(error)})") from None


def _unsafe_name(error: BaseException) -> str:
    """What the unpickler stumbled over, out of PyTorch's page of advice."""
    for line in str(error).splitlines():
        if "GLOBAL" in line or "Unsupported" in line:
            return line.strip().removeprefix("WeightsUnpickler error: ").split(" was not")[0].split(". Please")[0][:120]
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def _classify(
    path: Path,
    tensors: dict[str, Tensor],
    extra: dict[str, Any],
    step: int | None = None,
    trainer: dict[str, Any] | None = None,
    training_state: bool = False,
) -> WeightsFile:
    _check_plain(path, tensors)
    rest: dict[str, Tensor] = {}
    if any(key.startswith(UNET_PREFIX) for key in tensors):
        kind = "msgld"
    elif "encoder.conv_in.weight" in tensors or "encoder.map.weight" in tensors:
        kind = "autoencoder"
    elif any(key.startswith("generator.conv_pre.") for key in tensors):
        rest = {key: value for key, value in tensors.items() if not key.startswith("generator.")}
        kind, tensors = "vocoder", strip_prefix(tensors, "generator.")
    else:
        some = ", ".join(list(tensors)[:3]) or "none"
        raise CheckpointError(f"{path}: of no known kind (MSG-LD, VAE or vocoder); its first tensors: {some}")
    description = extra.get("settings")
    if description is not None and not isinstance(description, dict):
        raise CheckpointError(f"{path}: its settings are a {type(description).__name__}, expected a dict")
    step = extra.get("step", extra.get("train_step", step))
    return WeightsFile(path, kind, tensors, description, step, extra, rest, trainer or {}, training_state)


def _check_plain(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Every tensor must bring its own data: no sparse ones, and no views that are larger than what is stored."""
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"{path}: {key!r} is {tensor.layout}, expected a plain tensor")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {key!r} claims {tensor.numel()} values, more than the file holds; refused")


def expect_kind(weights: WeightsFile, kind: str, key: str = "") -> WeightsFile:
    """The same file, if it is of the kind that is wanted.

    Raises:
        CheckpointError: it is of another kind.
    """
    if weights.kind != kind:
        hint = f" for {key}" if key else ""
        raise CheckpointError(f"{weights.path}: found {KINDS[weights.kind]}, expected {KINDS[kind]}{hint}")
    return weights
