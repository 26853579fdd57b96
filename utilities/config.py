"""Configuration files: read, override, check against the schema, and translate into settings of a model.

    config = load_config("config/quickstart/train.yaml", ["trainer.max_epochs=3"])
    config.model.params.evaluation_params.ddim_sampling_steps
    model_settings(config)          # what latent_diffusion builds networks from
    task_name(config), kind(config)

Everything a user can get wrong ends in one `ConfigError` that names the file, the dotted key, what was found and what
was expected. Importing this module does not import torch.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from latent_diffusion.errors import ConfigError

from .config_reader import KeyDoc, Reader, key_docs, path_keys
from .config_schema import Config
from .config_schema_model import AdversarialTrainingParams
from .config_settings import (
    augmentation,
    autoencoder_settings,
    condition_dropout,
    guidance_scale,
    kind,
    latent_cache,
    mel_settings,
    model_settings,
    task_name,
    vocoder_settings,
    vocoder_weights,
)
from .config_yaml import LONGEST_QUOTE, read_value, read_yaml_file, shown, typed
from .registry import PUBLISHED_TARGETS

__all__ = [
    "Config",
    "KeyDoc",
    "augmentation",
    "condition_dropout",
    "config_from_dict",
    "first_stage_training_arguments",
    "guidance_scale",
    "key_docs",
    "kind",
    "latent_cache",
    "load_config",
    "mel_settings",
    "model_settings",
    "require_data",
    "resolve_accelerator",
    "resolve_devices",
    "task_name",
    "vocoder_settings",
    "vocoder_weights",
    "autoencoder_settings",
]

log = logging.getLogger(__name__)

LONGEST_TIME = 365_000 * 86_400  # seconds
PRECISIONS = {
    "32": "32-true",
    "16": "16-mixed",
    "bf16": "bf16-mixed",
    **{name: name for name in ("32-true", "16-mixed", "bf16-mixed")},
}

# ---- reading ---------------------------------------------------------------------------------------------------------


def load_config(path: str | Path, overrides: Sequence[str] = (), strict: bool = False) -> Config:
    """Read a configuration file of the published schema.

    Args:
        path: the YAML file.
        overrides: `dotted.key=value` each, the value in YAML; they win over the file.
        strict: kept in the result for `resolve_accelerator`.

    Returns:
        The checked configuration, with attributes for keys, defaults filled in and interpolations resolved.

    Raises:
        ConfigError: anything that is wrong with file, overrides, keys, values or targets, in one line.
    """
    path = Path(path).expanduser()
    values = _with_base(path)
    values = _override(values, overrides, path)
    return config_from_dict(values, str(path), overrides, strict)


def config_from_dict(values: dict[str, Any], path: str, overrides: Sequence[str] = (), strict: bool = False) -> Config:
    """As `load_config`, from the nested dict that a file holds; `path` and `overrides` are for messages only."""
    reader = Reader(str(path), tuple(text.partition("=")[0].strip() for text in overrides))
    config = reader.group(Config, values, "")
    config.path, config.strict = str(path), strict
    if reader.without_effect:
        log.warning("%s: without effect here, ignored: %s", path, ", ".join(reader.without_effect))
    _normalise(config)
    _check(config)
    return config


def _with_base(path: Path, above: tuple[Path, ...] = ()) -> DictConfig:
    """A file over the one that its `base` key names, relative to it, which may have a base of its own."""
    values = _read(path)
    base = values.pop("base", None)
    if base is None:
        return values
    above = (*above, path.resolve())
    below = path.parent / Path(base).expanduser() if isinstance(base, str) else None
    if below is None or below.resolve() in above:
        raise ConfigError(
            f"{path}: base: found {shown(base)}, expected another configuration file, relative to this one"
        )
    return OmegaConf.merge(_with_base(below, above), values)


def _read(path: Path) -> DictConfig:
    values = read_yaml_file(path)
    if isinstance(values, str) and re.fullmatch(r"[a-z_]{1,20}", values):
        values = {values: None}  # a key without its colon
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values at the top level, found a list or a single value")
    try:
        return OmegaConf.create(values or {})
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {_one_line(error)}") from None


def _override(values: DictConfig, overrides: Sequence[str], path: str | Path) -> dict[str, Any]:
    for text in overrides:
        name, equals, typed_text = text.partition("=")
        if not equals or not re.fullmatch(r"\s*\w+(\.\w+|\[\d+\])*\s*", name):
            raise ConfigError(f"override {text!r}: expected dotted.key=value")
        key = re.split(r"[.\[]", name.strip())
        takes_list = path_keys().get(key[-1])
        try:
            value = read_value(typed_text, takes_list is not None, bool(takes_list))
            OmegaConf.update(values, name.strip(), value)
        except (ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise ConfigError(f"override {text!r}: {_one_line(error)}") from None
        except (ConfigError, OmegaConfBaseException) as error:
            raise ConfigError(f"override {text!r}: {_one_line(error)}") from None
    try:
        return OmegaConf.to_container(values, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 2 * LONGEST_QUOTE else f"{text[: 2 * LONGEST_QUOTE - 4]} ..."


# ---- rules between keys ----------------------------------------------------------------------------------------------


def _normalise(config: Config) -> None:
    """Bring values that may be written in several ways into one."""
    trainer = config.trainer
    at = f"{config.path}: trainer"
    precision = PRECISIONS.get(str(trainer.precision))
    if precision is None:
        raise ConfigError(f"{at}.precision: found {shown(trainer.precision)}, expected one of {', '.join(PRECISIONS)}")
    trainer.precision = precision
    trainer.devices = _devices(trainer.devices, at)
    if trainer.max_time is not None:
        trainer.max_time = _max_time(trainer.max_time, at)
    path = config.data.params.path
    path.stems_to_inpaint = [_stem_name(stem, path.stems, config.path) for stem in path.stems_to_inpaint]
    params = config.model.params
    if kind(config) == "autoencoder":
        params.ckpt_path = params.ckpt_path or params.reload_from_ckpt
        if params.monitor == "val/rec_loss":
            params.monitor = "val/log_mel_l1"
    elif kind(config) == "vocoder":
        params.ckpt_path = params.ckpt_path or params.vocoder_config.ckpt_path


def _devices(devices: int | list[int] | str, at: str) -> int | list[int] | str:
    found = devices
    if isinstance(devices, str):
        if devices == "auto":
            return devices
        if re.fullmatch(r"\s*-?\d+\s*", devices):
            devices = int(devices)
        elif re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*,?\s*", devices):
            devices = [int(number) for number in devices.split(",") if number.strip()]
    if isinstance(devices, int) and (devices == -1 or devices > 0):
        return devices
    if isinstance(devices, list) and devices and min(devices) >= 0 and len(set(devices)) == len(devices):
        return devices
    raise ConfigError(
        f"{at}.devices: found {shown(found)}, expected auto, a number of devices or a list of device numbers"
    )


def _max_time(value: str | float, at: str) -> str:
    """As Lightning's DD:HH:MM:SS."""
    found, value = value, typed(value)
    if isinstance(value, str):
        parts = value.split(":")
        numbers = [int(part) for part in parts if part.isdigit()]
        if len(parts) not in (1, 3, 4) or len(numbers) != len(parts):
            raise ConfigError(f"{at}.max_time: found {shown(found)}, expected DD:HH:MM:SS, HH:MM:SS or seconds")
        numbers = [0] * (4 - len(numbers)) + numbers
        value = numbers[0] * 86_400 + numbers[1] * 3600 + numbers[2] * 60 + numbers[3]
    if isinstance(value, bool) or not 1 <= value <= LONGEST_TIME:
        raise ConfigError(f"{at}.max_time: found {shown(found)}, expected at least one second, and at most 1000 years")
    seconds = round(value)
    days, seconds = divmod(seconds, 86_400)
    return f"{days:02d}:{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _stem_name(stem: str | int, stems: list[str], path: str | None) -> str:
    where = f"{path}: data.params.path.stems_to_inpaint"
    stem = str(stem) if str(stem) in stems else typed(stem)
    if isinstance(stem, int) and not isinstance(stem, bool):
        if not 0 <= stem < len(stems):
            raise ConfigError(f"{where}: found stem number {stem}, expected 0 to {len(stems) - 1} or a name")
        return stems[stem]
    if stem not in stems:
        nearest = difflib.get_close_matches(str(stem), stems, n=1, cutoff=0.5)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise ConfigError(f"{where}: found {shown(stem)}, expected some of {', '.join(stems)}{hint}")
    return stem


def _check(config: Config) -> None:
    """Rules that hold between keys; which data a mode needs is `require_data`'s."""
    trainer, path = config.trainer, config.data.params.path
    if trainer.resume and trainer.resume_from_checkpoint:
        raise ConfigError(
            f"{config.path}: trainer.resume and trainer.resume_from_checkpoint: found both, expected one: resume "
            "goes on in the same folder, resume_from_checkpoint starts a new one"
        )
    for name in ("limit_train_batches", "limit_val_batches"):
        value = getattr(trainer, name)
        if isinstance(value, float) and value > 1:
            if value != int(value):
                raise ConfigError(f"{config.path}: trainer.{name}: found {value}, expected a whole number or a share")
            setattr(trainer, name, int(value))
    for name in ("stems", "stems_to_inpaint"):
        names = getattr(path, name)
        if len(set(names)) != len(names):
            raise ConfigError(f"{config.path}: data.params.path.{name}: found {names}, expected no name twice")
    if not path.stems:
        raise ConfigError(f"{config.path}: data.params.path.stems: found none, expected at least one stem")
    wrong = [name for name in path.stems if not name or name.startswith(".") or re.search(r"[/\\\0]", name)]
    if wrong:
        raise ConfigError(f"{config.path}: data.params.path.stems: found {wrong[0]!r}, expected plain file names")
    augmentation(config)
    latent_cache(config)
    if kind(config) == "msgld":
        _check_msgld(config)
    else:
        _check_first_stage(config)


def _check_first_stage(config: Config) -> None:
    mel_settings(config)
    vocoder_settings(config) if kind(config) == "vocoder" else autoencoder_settings(config)
    at = f"{config.path}: trainer"
    if config.trainer.accumulate_grad_batches > 1:
        raise ConfigError(f"{at}.accumulate_grad_batches: found more than 1, expected 1 in training a first stage")
    if config.trainer.precision.startswith("16"):
        raise ConfigError(
            f"{at}.precision: found {config.trainer.precision}, expected 32 or bf16-mixed in training a first stage"
        )
    if len(config.model.params.betas) != 2:
        raise ConfigError(f"{config.path}: model.params.betas: found {config.model.params.betas}, expected two numbers")


def _check_msgld(config: Config) -> None:
    model_settings(config)
    task_name(config)
    p = config.model.params
    where = f"{config.path}: model.params"
    scale = p.evaluation_params.unconditional_guidance_scale
    stems = config.data.params.path.stems
    if isinstance(scale, list) and len(scale) != len(stems):
        raise ConfigError(
            f"{where}.evaluation_params.unconditional_guidance_scale: found {len(scale)} numbers, "
            f"expected one number or one for each of the {len(stems)} stems"
        )
    steps = p.evaluation_params.ddim_sampling_steps
    if steps > p.timesteps:
        raise ConfigError(
            f"{where}.evaluation_params.ddim_sampling_steps: found {steps}, "
            f"expected at most the {p.timesteps} timesteps"
        )
    if p.linear_start > p.linear_end:
        raise ConfigError(
            f"{where}.linear_start: found {p.linear_start:g}, expected at most linear_end {p.linear_end:g}"
        )


def require_data(config: Config) -> None:
    """Check that the folders which the mode needs are named (not that they exist: the data module does that).

    Raises:
        ConfigError: `train_data` is empty in a training mode, or `valid_data` in validate or test.
    """
    needed = "train_data" if config.mode in ("train", "validate_and_train") else "valid_data"
    if not getattr(config.data.params.path, needed):
        raise ConfigError(
            f"{config.path}: data.params.path.{needed}: found nothing, expected a folder of tracks, "
            f"as mode is {config.mode}"
        )


def resolve_accelerator(config: Config, strict: bool | None = None) -> str:
    """The accelerator to give to Lightning: the wanted one, or the CPU where there is none.

    Args:
        config: `trainer.accelerator` says what is wanted.
        strict: whether a missing accelerator is an error; None takes what `load_config` was given.

    Returns:
        "cpu", "gpu", "cuda", "mps", "tpu", or "auto" where there is something better than the CPU.

    Raises:
        ConfigError: strict, and the machine has no such accelerator.
    """
    from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator

    wanted = config.trainer.accelerator
    present = {
        "cuda": CUDAAccelerator.is_available(),
        "mps": MPSAccelerator.is_available(),
        "tpu": XLAAccelerator.is_available(),
    }
    present |= {"cpu": True, "gpu": present["cuda"] or present["mps"]}
    if wanted == "auto":
        return "auto" if present["gpu"] or present["tpu"] else "cpu"
    if present[wanted]:
        return wanted
    if config.strict if strict is None else strict:
        raise ConfigError(
            f"{config.path}: trainer.accelerator: found {wanted}, but this machine has none; expected cpu or auto"
        )
    log.warning("%s: trainer.accelerator is %s, but this machine has none: going on on the CPU", config.path, wanted)
    return "cpu"


def resolve_devices(config: Config, accelerator: str) -> int | list[int] | str:
    """The devices to give to Lightning together with what `resolve_accelerator` returned.

    Raises:
        ConfigError: more GPUs, or other ones, than the machine has.
    """
    devices = config.trainer.devices
    if accelerator == "cpu":
        if config.trainer.accelerator != "cpu" or devices in ("auto", -1):
            return 1  # the numbers meant GPUs
        return len(devices) if isinstance(devices, list) else devices
    import torch

    count = torch.cuda.device_count()
    needed = max(devices) + 1 if isinstance(devices, list) else devices
    if count and isinstance(needed, int) and needed > count:
        raise ConfigError(f"{config.path}: trainer.devices: found {devices}, but this machine has {count} GPU(s)")
    return devices


def first_stage_training_arguments(config: Config) -> dict[str, Any]:
    """Constructor arguments of `AutoencoderTraining` or `VocoderTraining` (by `kind(config)`).

    The published VAE objective counts its terms summed over the T * M elements of a log-mel but the KL averaged over
    the latent; ours averages both. With the published `lossconfig.target` the weight is converted.

    Returns:
        settings, mel, loss and the keyword arguments.

    Raises:
        ConfigError: the model is an MSG-LD.
    """
    from latent_diffusion.first_stage.training import AutoencoderLossSettings, VocoderLossSettings

    model, params = kind(config), config.model.params
    if model == "msgld":
        raise ConfigError(f"{config.path}: model.target: found an MSG-LD, expected a first stage")
    mel, loss = mel_settings(config), params.lossconfig.params
    if model == "autoencoder":
        settings: Any = autoencoder_settings(config)
        published = params.lossconfig.target in PUBLISHED_TARGETS
        objective: Any = AutoencoderLossSettings(
            reconstruction=loss.reconstruction,
            kl_weight=loss.kl_weight / (mel.frames * mel.n_mels if published else 1),
            disc_start=loss.disc_start,
            disc_weight=loss.disc_weight,
            disc_channels=loss.disc_channels,
            disc_layers=loss.disc_num_layers,
        )
    else:
        settings = vocoder_settings(config)
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in asdict(loss).items()}
        objective = VocoderLossSettings(**values)
    names = [f.name for f in fields(AdversarialTrainingParams)]
    keywords = {name: getattr(params, name) for name in (*names, "base_learning_rate")}
    keywords["betas"] = tuple(keywords["betas"])
    keywords["gradient_clip"] = config.trainer.gradient_clip_val or 0.0
    return {"settings": settings, "mel": mel, "loss": objective, "seed": config.seed, **keywords}
