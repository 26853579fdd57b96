"""A run: its folder, its trainer, resuming, and what happens in each mode."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from latent_diffusion.checkpoints import expect_kind, read_weights
from latent_diffusion.errors import ConfigError
from latent_diffusion.models import find_checkpoint

from .building import build_data, build_model, encoding_device, load_initial_weights, other_vocoder
from .config import Config, kind, latent_cache, require_data, resolve_accelerator, resolve_devices
from .data.datamodule import train_loader
from .files import safe_name, whole_file
from .report.render import write_run_report
from .results import ResultWriter
from .training_view import SamplingBar, TrainingView, ValidationAudio
from .watch import DivergedError, Watch, advice, is_sound

if TYPE_CHECKING:
    from torch import nn

    from .data.datamodule import StemDataModule

log = logging.getLogger(__name__)

RUN_FOLDER_VARIABLE = "MSGLD_RUN_FOLDER"  # tells the processes of a distributed run the folder that the first one chose
TEMPORARY_CHECKPOINTS = ".*.tmp.ckpt"  # as `whole_file` names them
TRAINING_MODES = ("train", "validate_and_train")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that appear whole or not at all, and only where every weight is a number.

    Args:
        rate: the learning rate, for the error.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside the path, then rename.

        Raises:
            DivergedError: a weight is not finite; what the path holds stays.
        """
        if not is_sound(checkpoint):
            step = checkpoint.get("global_step")
            raise DivergedError(
                f"step {step}: weights are not finite or beyond all bounds, nothing is saved; {advice(self.rate)}"
            )
        with whole_file(path) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


class LastCheckpoint(pl.Callback):
    """Keeps `checkpoints/last.ckpt` up to date: every so many steps, or with every validation, and at the end."""

    def __init__(self, path: Path, every_n_steps: int | None):
        self.path, self.every, self.saved_at, self.step_before = path, every_n_steps, -1, 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Before the step."""
        self.step_before = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """After the step is taken and averaged. Not between the batches of one step: gradients are not saved."""
        step = trainer.global_step
        if self.every and step != self.step_before and step % self.every == 0:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Without an interval, with every validation."""
        if not self.every and trainer.state.fn == "fit" and not trainer.sanity_checking:
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
            trainer.save_checkpoint(self.path, weights_only=False)  # False: with the optimiser's state
            self.saved_at = trainer.global_step


def run_folder(config: Config, make: bool = False) -> Path:
    """The run's folder: a resumed run's own, or `<log_directory>/<project_name>/<time>_<name>_<lr>_<version>`.

    Args:
        config: the configuration.
        make: make a new run's folder, which then is no other run's, however close together they start.

    Raises:
        ConfigError: it cannot be made, or its path holds `::` or is not UTF-8.
    """
    folder = _run_folder(config, make=False)
    if "::" in str(folder):
        why = "holds '::', which the training library takes for a chain of addresses"
    elif not _is_utf8(folder):
        why = "is not UTF-8, which TensorBoard's files have to be in"
    else:
        return _run_folder(config, make)
    raise ConfigError(f"{config.path}: log_directory: {folder} {why}; name another folder")


def _is_utf8(path: Path) -> bool:
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def _run_folder(config: Config, make: bool) -> Path:
    if config.trainer.resume:
        checkpoint = find_checkpoint(config.trainer.resume, "trainer.resume")
        inside = checkpoint.parent.name == "checkpoints"
        return checkpoint.parent.parent if inside else checkpoint.parent
    project = Path(config.log_directory) / safe_name(config.project_name)
    if config.dev:
        return project / "DEV_EXP"
    if RUN_FOLDER_VARIABLE in os.environ:
        return Path(os.environ[RUN_FOLDER_VARIABLE])
    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))) > 1:
        raise ConfigError(
            f"started as one of several processes (torchrun, srun): set {RUN_FOLDER_VARIABLE} to one folder, "
            "the run's, for all of them"
        )
    name = safe_name(f"{config.id.name}_{config.model.params.base_learning_rate:g}_{config.id.version}")
    started = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    folder, attempt = project / f"{started}_{name}", 1
    while not _is_new(folder, make):
        attempt += 1
        folder = project / f"{started}.{attempt}_{name}"
    return folder


def _is_new(folder: Path, make: bool) -> bool:
    """Whether no run has the folder yet; `make` makes it, so that no other run can take it from then on."""
    if not make:
        return not folder.exists()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise ConfigError(f"log_directory: {folder.parent} is a file, or cannot hold folders") from None
        return False
    except OSError as error:
        raise ConfigError(f"log_directory: {folder} cannot be written ({error.strerror})") from None
    return True


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other training writes to the folder within the block.

    Raises:
        ConfigError: one does already.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder}: another training is at work in this run folder; wait for its end") from None
        except OSError as error:
            log.debug("%s: cannot be locked (%s)", folder, error)
        yield
    finally:
        os.close(descriptor)


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
    callbacks += [ValidationAudio(step=step), SamplingBar()]
    if training:
        callbacks.append(TrainingView(folder, t.log_every_n_steps))
        if validates and t.save_top_k:
            callbacks.append(
                ModelCheckpoint(
                    folder / "checkpoints",
                    filename="best_{step}",
                    monitor=config.model.params.monitor,
                    save_top_k=t.save_top_k,
                    save_on_train_epoch_end=False,  # after validations: only these make the monitored value
                )
            )
        last, rate = folder / "checkpoints" / "last.ckpt", config.model.params.base_learning_rate
        callbacks.append(LastCheckpoint(last, t.save_checkpoint_every_n_steps))
        callbacks.append(Watch(last, str(config.path), rate))
        if kind(config) == "msgld" and t.logger:
            callbacks.append(LearningRateMonitor("step"))
    every = t.validation_every_n_steps
    accelerator = resolve_accelerator(config)
    # A first stage optimises by hand; Lightning leaves accumulation and clipping to it.
    by_hand = kind(config) != "msgld"
    devices = resolve_devices(config, accelerator)
    strategy = t.strategy
    if by_hand and strategy in ("auto", "ddp") and (_count(devices) > 1 or t.num_nodes > 1):
        strategy = "ddp_find_unused_parameters_true"  # each of the two losses leaves the other network out
    try:
        return pl.Trainer(
            default_root_dir=folder,
            accelerator=accelerator,
            devices=devices,
            num_nodes=t.num_nodes,
            strategy=strategy,
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
            plugins=[AtomicCheckpointIO(config.model.params.base_learning_rate)],
            use_distributed_sampler=False,  # the data module's samplers know the ranks
            # else Lightning adds a checkpoint of its own after every epoch
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"{config.path}: trainer: {first}") from None


def _count(devices: int | list[int] | str) -> int:
    """How many devices that is here."""
    if isinstance(devices, list):
        return len(devices)
    return torch.cuda.device_count() if devices in ("auto", -1) else int(devices)


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
    _quiet()
    training = config.mode in TRAINING_MODES
    data = scan_data(config)
    model = build_model(config)
    checkpoint, step = take_weights(config, model)
    if training and latent_cache(config):
        read_cached_latents(config, data, model, checkpoint)
    folder = run_folder(config, make=True)
    chosen_here = RUN_FOLDER_VARIABLE not in os.environ
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    resources = ExitStack()
    try:
        trainer = build_trainer(config, folder, step)
        if trainer.is_global_zero:
            prepare_folder(config, folder)
            if training:
                resources.enter_context(alone_in(folder))
        log.info("run folder: %s", folder)
        if config.mode == "validate_and_train" or not training:
            trainer.validate(model, datamodule=data, verbose=False)
        if training:
            for writer in (c for c in trainer.callbacks if isinstance(c, ResultWriter)):
                writer.step = None  # from here on the trainer counts
            watch = next(c for c in trainer.callbacks if isinstance(c, Watch))
            with watch.listening():
                # Lightning restores optimiser, loops and weights; nothing but plain tensors and values is read.
                trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            if trainer.is_global_zero and watch.first_step in (None, trainer.global_step):
                log.warning("nothing was trained: %s has reached max_steps or max_epochs", checkpoint or "the run")
        if trainer.is_global_zero:
            write_run_report(folder)
    finally:
        resources.close()
        with suppress(OSError):
            folder.rmdir()  # nothing came of it
        if chosen_here:  # a later run of this process has a folder of its own
            os.environ.pop(RUN_FOLDER_VARIABLE, None)
    return folder


def scan_data(config: Config) -> StemDataModule:
    """The data module, set up: bad data should be heard of before anything is made.

    Raises:
        ConfigError: the mode's folders are not named.
        DataError: a folder cannot be used, or the training windows do not fill one batch.
    """
    require_data(config)
    data = build_data(config)
    if config.mode in TRAINING_MODES:
        data.setup("fit")
        train_loader(data.train_dataset, data.batch_size, drop_last=data.drop_last)
    else:
        data.setup("validate")
    return data


def take_weights(config: Config, model: pl.LightningModule) -> tuple[Path | None, int | None]:
    """Put the weights into the model that the run starts from.

    Returns:
        The checkpoint that Lightning is to restore, if any, and the step of the weights that are evaluated first.

    Raises:
        MSGLDError: a file is missing, damaged, or does not fit the configuration.
    """
    checkpoint = checkpoint_of(config)
    if checkpoint is None:
        if config.mode in ("validate", "test") and not config.model.params.ckpt_path:
            raise ConfigError(
                f"{config.path}: trainer.resume_from_checkpoint: found nothing, expected the weights to evaluate, "
                f"as mode is {config.mode}"
            )
        load_initial_weights(config, model)
        return None, None
    if config.mode == "train":
        return prepare_resuming(config, model, checkpoint), None
    step = load_for_evaluation(config, model, checkpoint)
    return (prepare_resuming(config, model, checkpoint) if config.mode in TRAINING_MODES else None), step


def read_cached_latents(
    config: Config, data: StemDataModule, model: pl.LightningModule, checkpoint: Path | None
) -> None:
    """Let the training read latents that are encoded once; what the cache lacks is made now, by all ranks together.

    Raises:
        ConfigError: the cache's folder cannot be written.
        DataError: no track can be encoded.
    """
    from latent_diffusion.checkpoints import load_autoencoder

    from .data.latents import latent_dataset

    if checkpoint:  # Lightning restores its weights too, but later
        load_autoencoder(model.first_stage_model, checkpoint)
    data.train_dataset = latent_dataset(
        data.train_dataset, model.first_stage_model, latent_cache(config), encoding_device(config)
    )


def prepare_folder(config: Config, folder: Path) -> None:
    """Make the run's folder with its configuration; drop what a killed run left half written.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if config.trainer.resume:
            for left_over in (folder / "checkpoints").glob(TEMPORARY_CHECKPOINTS):
                left_over.unlink(missing_ok=True)
        # Evaluating in a training's folder leaves the training's own record alone.
        own = config.mode in TRAINING_MODES or not config.trainer.resume
        with whole_file(folder / ("config.yaml" if own else f"config_{config.mode}.yaml")) as temporary:
            temporary.write_text(config.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{config.path}: log_directory: {folder} cannot be written ({error.strerror})") from None


def prepare_resuming(config: Config, model: pl.LightningModule, checkpoint: Path) -> Path | None:
    """Check a checkpoint that a training is to go on from, before anything is made.

    Returns:
        The checkpoint, for Lightning to restore; None where it holds weights only (published ones without an
        optimiser's state, safetensors): they are in the model then, and the training starts anew with them.

    Raises:
        CheckpointError: damaged, of another kind, or it does not fit the configuration.
    """
    weights = expect_kind(read_weights(checkpoint), kind(config), "the training")
    if weights.training_state:
        if kind(config) == "msgld":
            model.check_model(weights)
        return checkpoint
    load_for_evaluation(config, model, checkpoint)
    log.info("%s: holds no optimiser's state: its weights are loaded, the training state starts new", checkpoint)
    return None


def load_for_evaluation(config: Config, model: pl.LightningModule, checkpoint: Path) -> int | None:
    """Weights to evaluate; returns the training step they are from, where the file tells."""
    from latent_diffusion.checkpoints import load_autoencoder, load_normed_vocoder

    if kind(config) == "msgld":
        model.load_model(checkpoint, other_vocoder(config, checkpoint))
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
        ".*module\\(s\\) in eval mode.*",  # the frozen first stage
    ):
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
