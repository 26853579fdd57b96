"""A run: its folder, its trainer, resuming, and what happens in each mode."""

from __future__ import annotations

import logging
import os
import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from latent_diffusion.checkpoints import read_weights
from latent_diffusion.errors import ConfigError
from utilities.building import build_data, build_model, find_checkpoint, load_initial_weights
from utilities.config import Config, kind, require_data, resolve_accelerator, resolve_devices
from utilities.files import whole_file
from utilities.results import ResultWriter

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

RUN_FOLDER_VARIABLE = "MSGLD_RUN_FOLDER"  # tells the processes of a distributed run the folder that the first one chose
TRAINING_MODES = ("train", "validate_and_train")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside the path, then rename."""
        with whole_file(path) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


class LastCheckpoint(pl.Callback):
    """Keeps `checkpoints/last.ckpt` up to date, every so many optimiser steps and at the end."""

    def __init__(self, path: Path, every_n_steps: int | None):
        self.path, self.every, self.saved_at = path, every_n_steps, -1

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """After the step is taken and averaged."""
        if self.every and trainer.global_step and trainer.global_step % self.every == 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Without an interval, once an epoch."""
        if not self.every:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """The end of the run."""
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.global_step != self.saved_at:
            trainer.save_checkpoint(self.path)
            self.saved_at = trainer.global_step


def run_folder(config: Config) -> Path:
    """The run's folder: a resumed run's own, or `<log_directory>/<project_name>/<time>_<name>_<lr>_<version>`."""
    if config.trainer.resume:
        checkpoint = find_checkpoint(config.trainer.resume, "trainer.resume")
        inside = checkpoint.parent.name == "checkpoints"
        return checkpoint.parent.parent if inside else checkpoint.parent
    project = Path(config.log_directory) / config.project_name
    if config.dev:
        return project / "DEV_EXP"
    if RUN_FOLDER_VARIABLE in os.environ:
        return Path(os.environ[RUN_FOLDER_VARIABLE])
    name = f"{config.id.name}_{config.model.params.base_learning_rate:g}_{config.id.version}"
    started = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    folder, attempt = project / f"{started}_{name}", 1
    while folder.exists():
        attempt += 1
        folder = project / f"{started}.{attempt}_{name}"
    return folder


def build_loggers(config: Config, folder: Path) -> list[Logger]:
    """Loggers that the configuration asks for; each start of a run logs to a version of its own."""
    loggers: list[Logger] = []
    for name in config.trainer.logger:
        if name == "tensorboard":
            loggers.append(TensorBoardLogger(folder, name="tensorboard"))
        elif name == "csv":
            loggers.append(CSVLogger(folder, name="csv", flush_logs_every_n_steps=config.trainer.log_every_n_steps))
        elif name == "wandb":
            from pytorch_lightning.loggers import WandbLogger

            try:
                loggers.append(WandbLogger(project=config.project_name, name=folder.name, save_dir=folder))
            except ModuleNotFoundError:
                raise ConfigError(
                    "trainer.logger: wandb is not installed; pip install wandb, or leave it out"
                ) from None
    return loggers


def build_trainer(config: Config, folder: Path, step: int | None = None) -> pl.Trainer:
    """The Lightning trainer of a run.

    Args:
        config: the configuration.
        folder: the run's folder.
        step: step of the weights, where they are only evaluated; names the result folders.

    Raises:
        ConfigError: a value that Lightning refuses.
    """
    t = config.trainer
    training = config.mode in TRAINING_MODES
    validates = bool(config.data.params.path.valid_data)
    callbacks: list[pl.Callback] = [TQDMProgressBar(), ResultWriter(folder, step=step, seed=config.seed)]
    if training:
        if validates and t.save_top_k:
            callbacks.append(
                ModelCheckpoint(
                    folder / "checkpoints",
                    filename="best_{step}",
                    monitor=config.model.params.monitor,
                    save_top_k=t.save_top_k,
                )
            )
        callbacks.append(LastCheckpoint(folder / "checkpoints" / "last.ckpt", t.save_checkpoint_every_n_steps))
        if kind(config) == "msgld" and t.logger:
            callbacks.append(LearningRateMonitor("step"))
    every = t.validation_every_n_steps
    accelerator = resolve_accelerator(config)
    # A first stage optimises by hand; Lightning leaves accumulation and clipping to it.
    by_hand = kind(config) != "msgld"
    try:
        return pl.Trainer(
            default_root_dir=folder,
            accelerator=accelerator,
            devices=resolve_devices(config, accelerator),
            num_nodes=t.num_nodes,
            strategy=t.strategy,
            precision=t.precision,
            max_epochs=-1 if t.max_epochs is None else t.max_epochs,
            max_steps=t.max_steps,
            max_time=t.max_time,
            limit_train_batches=t.limit_train_batches,
            limit_val_batches=t.limit_val_batches,
            val_check_interval=every * t.accumulate_grad_batches if every else None,
            check_val_every_n_epoch=None if every else 1,
            accumulate_grad_batches=1 if by_hand else t.accumulate_grad_batches,
            gradient_clip_val=None if by_hand else t.gradient_clip_val,
            num_sanity_val_steps=t.num_sanity_val_steps,
            log_every_n_steps=t.log_every_n_steps,
            logger=build_loggers(config, folder) or False,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            use_distributed_sampler=False,  # the data module's samplers know the ranks
            enable_checkpointing=training,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"{config.path}: trainer: {first}") from None


def checkpoint_of(config: Config) -> Path | None:
    """The checkpoint that the run goes on from, if any."""
    for name in ("resume", "resume_from_checkpoint"):
        value = getattr(config.trainer, name)
        if value:
            return find_checkpoint(value, f"trainer.{name}")
    return None


def parameter_count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def run(config: Config) -> Path:
    """Carry out what the configuration says.

    Returns:
        The run's folder.

    Raises:
        MSGLDError: whatever is wrong with configuration, data or weights.
    """
    require_data(config)
    _quiet()
    checkpoint = checkpoint_of(config)
    training = config.mode in TRAINING_MODES
    data = build_data(config)
    data.setup("fit" if training else "validate")  # scan now: bad data should be heard of before anything is made
    model = build_model(config)
    step = None
    if checkpoint is None:
        load_initial_weights(config, model)
    elif not training:
        step = load_for_evaluation(config, model, checkpoint)
    else:
        read_weights(checkpoint)  # one clear line for a damaged file, before a folder is made
    folder = run_folder(config)
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    trainer = build_trainer(config, folder, step)
    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / "config.yaml") as temporary:
            temporary.write_text(config.to_yaml(), encoding="utf-8")
    log.info("run folder: %s", folder)
    if config.mode == "validate_and_train" or not training:
        trainer.validate(model, datamodule=data, verbose=False)
    if training:
        # Lightning restores optimiser, loops and weights; nothing but plain tensors and values is read.
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return folder


def load_for_evaluation(config: Config, model: pl.LightningModule, checkpoint: Path) -> int | None:
    """Weights to evaluate; returns the training step they are from, where the file tells."""
    from latent_diffusion.checkpoints import load_autoencoder, load_normed_vocoder

    if kind(config) == "msgld":
        model.load_model(checkpoint)
    elif kind(config) == "autoencoder":
        load_autoencoder(model, checkpoint)
    else:
        load_normed_vocoder(model.generator, checkpoint)
    return read_weights(checkpoint).step


def _quiet() -> None:
    """Leave out what Lightning says that a user can do nothing about."""
    for pattern in (
        ".*does not have many workers.*",
        ".*number of training batches.*",
        ".*Checkpoint directory.*",
        ".*Experiment logs directory.*",
        ".*LeafSpec.*",
        ".*torch.jit.*",
    ):
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
