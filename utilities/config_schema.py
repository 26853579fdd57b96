"""The configuration's schema: every key of a YAML file with its type, default and meaning.

The model's half lies in `config_schema_model.py`, with what the arguments of `key()` mean. Importing the schema imports
nothing but dataclasses and yaml.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import yaml

from .config_schema_model import UNSET, ModelConfig, key

MODES = ("train", "validate_and_train", "validate", "test")
TASKS = ("separation", "generation", "arrangement")


@dataclass
class IdConfig:
    name: str | int | float = key("msg_ld", "name of the experiment, part of the run folder's name")
    version: str | int | float = key("v1", "version of the experiment, last part of the run folder's name")


@dataclass
class TrainerConfig:
    validation_every_n_steps: int | None = key(
        None, "validate every so many optimiser steps; empty: every epoch", low=1
    )
    save_checkpoint_every_n_steps: int | None = key(
        None, "write a checkpoint every so many optimiser steps; empty: with every validation", low=1
    )
    save_top_k: int = key(1, "how many best checkpoints by `monitor` to keep; -1 keeps all", low=-1)
    max_epochs: int | None = key(None, "stop after so many epochs; empty or -1: no limit", low=-1)
    limit_train_batches: int | float | None = key(None, "batches of a training epoch (1.0 or empty: all)", low=0)
    limit_val_batches: int | float | None = key(None, "batches of a validation (1.0 or empty: all)", low=0)
    resume: str | None = key(None, "go on in this run folder, or in the folder of this checkpoint file", path=True)
    resume_from_checkpoint: str | None = key(
        None, "start a new run folder from this checkpoint: a file, a run folder or a model's name", path=True
    )
    accelerator: str = key("auto", "where to compute", choices=("auto", "gpu", "cuda", "cpu", "mps", "tpu"))
    precision: str | int = key("32-true", "32, 16, bf16 (both mixed), or 32-true, 16-mixed, bf16-mixed")
    devices: int | list[int] | str = key("auto", "how many devices, a list of device numbers, or auto")
    max_steps: int = key(-1, "stop after so many optimiser steps; -1: no limit", ours=True, low=-1)
    max_time: str | int | float | None = key(None, 'stop after "DD:HH:MM:SS", "HH:MM:SS" or seconds', ours=True)
    accumulate_grad_batches: int = key(1, "batches whose gradients make one optimiser step", ours=True, low=1)
    gradient_clip_val: float | None = key(None, "largest norm of the gradient; empty: not clipped", ours=True, low=0)
    strategy: str = key("auto", "how several devices share the work, as Lightning names it (ddp ...)", ours=True)
    num_nodes: int = key(1, "machines that train together", ours=True, low=1)
    log_every_n_steps: int = key(10, "optimiser steps between two logged values", ours=True, low=1)
    logger: list[str] = key(
        ["tensorboard", "csv"],
        "where values are logged; empty: nowhere",
        ours=True,
        single=True,
        empty=(),
        choices=("tensorboard", "csv", "wandb"),
    )
    num_sanity_val_steps: int = key(0, "validation batches run before training starts", ours=True, low=-1)


@dataclass
class AugmentationConfig:
    masking: bool = key(False, "silence a random choice of 0 to S-1 stems of each training item")
    gain_db: list[float] = key(
        [], "[lowest, highest] level in dB drawn for each stem, and half of it for the item; empty: none", ours=True
    )
    equaliser_db: float = key(0.0, "largest gain in dB of a random smooth filter for each stem", ours=True, low=0)
    reverb: float = key(0.0, "probability that a stem gets the echo of a small room", ours=True, low=0, high=1)
    saturation: float = key(0.0, "probability that a stem is softly clipped", ours=True, low=0, high=1)
    remix: float = key(
        0.0,
        "probability that an item's stems come from different songs; it then trains separation only: its condition is "
        "never dropped",
        ours=True,
        low=0,
        high=1,
    )
    mute: float = key(0.0, "probability that a stem of a remixed item is silent", ours=True, low=0, high=1)


@dataclass
class PathConfig:
    train_data: list[str] = key([], "folder of tracks for training, or a list of folders", single=True, path=True)
    valid_data: list[str] = key(
        [], "folder of tracks for validation and test, or a list of folders", single=True, path=True
    )
    stems: list[str] = key(
        ["bass", "drums", "guitar", "piano"], "stems in their order, the file names in a track folder", single=True
    )
    stems_to_inpaint: list[str | int] = key([], "stems to generate given the others (names or indices)", single=True)
    shuffle_val_test: bool = key(False, "visit the validation items in a fixed shuffled order")


@dataclass
class AudioConfig:
    sampling_rate: int = key(16_000, "sample rate of the model in Hz; files of other rates are resampled", low=1000)


@dataclass
class StftConfig:
    filter_length: int = key(1024, "FFT size in samples", low=2)
    hop_length: int = key(160, "samples between two frames", low=1)
    win_length: int = key(1024, "window of the FFT in samples", low=2)


@dataclass
class MelConfig:
    n_mel_channels: int = key(64, "mel bins (M)", low=1)
    mel_fmin: float = key(0.0, "lowest frequency in Hz", low=0)
    mel_fmax: float = key(8000.0, "highest frequency in Hz", low=1)
    target_length: int = key(1024, "mel frames of a window (T)", low=1)


@dataclass
class PreprocessingConfig:
    audio: AudioConfig = key(AudioConfig, "waveforms")
    stft: StftConfig = key(StftConfig, "short-time Fourier transform")
    mel: MelConfig = key(MelConfig, "log-mel")


@dataclass
class DataParams:
    batch_size: int = key(3, "items of a batch on each device", low=1)
    num_workers: int = key(4, "processes that read audio", low=0)
    latent_cache: str | None = key(
        None,
        "folder in which the training tracks' latents are kept, encoded once; empty: encoded at every step",
        ours=True,
        path=True,
    )
    augmentation: AugmentationConfig = key(AugmentationConfig, "changes made to training items")
    path: PathConfig = key(PathConfig, "where the data lies")
    preprocessing: PreprocessingConfig = key(PreprocessingConfig, "from files to log-mels")


@dataclass
class DataConfig:
    target: str = key("utilities.data.datamodule.StemDataModule", "the data module")
    params: DataParams = key(DataParams, "its settings")


@dataclass
class Config:
    """A whole configuration file; `path` and `strict` are not keys of it."""

    project_name: str = key("msg_ld", "name of the project, a folder in log_directory")
    log_directory: str = key("runs", "folder that holds all run folders", path=True)
    mode: str = key("train", "what to do", choices=MODES)
    dev: bool = key(False, "a try: the run folder is named DEV_EXP")
    id: IdConfig = key(IdConfig, "name of the experiment")
    seed: int = key(0, "seed of everything random in the run", ours=True, low=0, high=2**32 - 1)
    task: str | None = key(
        None, "task of validation and test; empty: as the published rules say", ours=True, choices=TASKS
    )
    trainer: TrainerConfig = key(TrainerConfig, "the training loop")
    data: DataConfig = key(DataConfig, "the data")
    model: ModelConfig = key(ModelConfig, "the model")
    path: str | None = field(default=None, compare=False)
    strict: bool = field(default=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain values, fully resolved; published keys without effect are left out."""
        values = _plain(self)
        return {name: value for name, value in values.items() if name not in ("path", "strict")}

    def to_yaml(self) -> str:
        """The configuration as YAML text that `load_config` reads back to an equal one."""
        return dump_yaml(self.to_dict())


class _Dumper(yaml.SafeDumper):
    """Groups in blocks, lists in one line."""


_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def dump_yaml(values: dict[str, Any]) -> str:
    """Nested dicts as YAML text in the style of the configuration files."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Dataclasses as dicts, without a None that would be read back as something else."""
    if not is_dataclass(value):
        return value
    items = ((f, getattr(value, f.name)) for f in fields(value))
    return {f.name: _plain(item) for f, item in items if item is not None or f.metadata.get("empty", UNSET) is UNSET}
