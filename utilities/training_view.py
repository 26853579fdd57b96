"""What can be watched of a training: losses, learning rate, gradient norm, throughput, and what validations sound like.

In the run folder, whatever the loggers are:

    training.csv   step,name,value: one row a value; a resumed run goes on in it
    training.png   the curves, drawn anew at validations and at the end

The gradient's norm and the throughput are logged, too; TensorBoard gets the first items of each validation as audio.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from .bar import Bar
from .files import whole_file
from .report.curves import CSV_NAME, append_values, draw_training, read_values

_DRAW_SECONDS = 60.0  # between two drawings of the curves


class TrainingView(pl.Callback):
    """Records the values of a training and draws them.

    Args:
        folder: the run's.
        every: optimiser steps between two records.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, max(1, every)
        self._seen, self._items, self._since, self._away = -1, 0, 0.0, 0.0
        self._left = self._drawn = 0.0  # when validation began, and when the curves were drawn

    # ---- Lightning's hooks -----------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run keeps what was recorded up to its checkpoint."""
        self._seen, self._items, self._away = trainer.global_step, 0, 0.0
        self._since = self._drawn = time.monotonic()
        if trainer.is_global_zero and (self.folder / CSV_NAME).is_file():
            kept = [row for row in read_values(self.folder) if row[0] <= trainer.global_step]
            with whole_file(self.folder / CSV_NAME) as temporary:
                temporary.write_bytes(b"")
                append_values(temporary, kept)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """The gradient's norm, of the first optimiser, where it is recorded."""
        before, after = trainer.global_step, trainer.global_step + len(trainer.optimizers)  # a batch may step them all
        if optimizer is not trainer.optimizers[0] or before // self.every == after // self.every:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            pl_module.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record every so many steps."""
        self._items += _items_of(batch) * trainer.world_size
        step = trainer.global_step
        if step // self.every == self._seen // self.every:
            return
        self._seen = step
        now = time.monotonic()
        rate = self._items / max(now - self._since - self._away, 1e-9)
        self._items, self._since, self._away = 0, now, 0.0
        pl_module.log("train/items_per_second", rate)
        values = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
        values |= {"train/learning_rate": trainer.optimizers[0].param_groups[0]["lr"], "train/items_per_second": rate}
        self._record(trainer, values)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock of the throughput stands still."""
        self._left = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record what the validation said."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        values = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self._record(trainer, values)
        if time.monotonic() - self._drawn > _DRAW_SECONDS:
            self._draw(trainer)
        self._away += time.monotonic() - self._left

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The end of the run."""
        self._draw(trainer)

    # ---- files -----------------------------------------------------------------------------------------------------

    def _record(self, trainer: pl.Trainer, values: Mapping[str, Any]) -> None:
        if trainer.is_global_zero and values:
            rows = [(trainer.global_step, name, float(value)) for name, value in values.items()]
            append_values(self.folder / CSV_NAME, rows)

    def _draw(self, trainer: pl.Trainer) -> None:
        self._drawn = time.monotonic()
        if trainer.is_global_zero:
            draw_training(self.folder)


class ValidationAudio(pl.Callback):
    """Hands the first items of each validation to TensorBoard, where that is a logger.

    Args:
        items: how many of a validation.
        step: of the weights, where they are only evaluated; `None`: the trainer's.
    """

    def __init__(self, items: int = 2, step: int | None = None) -> None:
        self.items, self.step, self._given = items, step, 0

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count anew."""
        self._given = 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Give what was made, the targets beside it."""
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        wanted = isinstance(outputs, Mapping) and "task" in outputs and trainer.is_global_zero
        if not wanted or not boards or trainer.sanity_checking:
            return
        fitting = trainer.state.fn == "fit"
        step, rate = trainer.global_step if fitting or self.step is None else self.step, int(outputs["sample_rate"])
        for b, name in enumerate(outputs["name"][: self.items - self._given]):
            self._given += 1
            sounds = {f"{name}/mix": outputs["mixture"][b]}
            for i, stem in enumerate(outputs["stems"]):
                if stem in outputs["generated"]:
                    sounds[f"{name}/{stem}"] = outputs["waveforms"][b, i]
                if outputs.get("target_waveforms") is not None:
                    sounds[f"{name}/{stem} (target)"] = outputs["target_waveforms"][b, i]
            for tag, waveform in sounds.items():
                clean = waveform.detach().float().cpu().nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)
                for board in boards:
                    board.add_audio(tag, clean[None], step, rate)


def _items_of(batch: Any) -> int:
    names = batch.get("name") if isinstance(batch, Mapping) else None
    return len(names) if names is not None else 1


class SamplingBar(pl.Callback):
    """A bar for the network calls of each validation batch that is sampled, beside Lightning's own for the batches."""

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Let the model tell a new bar."""
        if hasattr(pl_module, "sampling_progress"):
            pl_module.sampling_progress = Bar("sampling", quiet=not trainer.is_global_zero)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Take it away."""
        bar = getattr(pl_module, "sampling_progress", None)
        if isinstance(bar, Bar):
            bar.__exit__()
            pl_module.sampling_progress = None
