"""What ends a training early: a signal, or a loss that is no number any more. The last good checkpoint stays."""

from __future__ import annotations

import math
import shlex
import signal
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from latent_diffusion.errors import MSGLDError

from .signals import StoppedError, listen, listening

LARGEST_WEIGHT = 1e8  # a step that is far too long leaves larger ones, before the first loss is no number
PATIENCE = 3  # steps in a row whose loss is not finite: mixed precision skips single ones


class DivergedError(MSGLDError):
    """The training's loss or weights are no numbers any more."""


def advice(rate: float) -> str:
    """What to lower where a training diverges."""
    return (
        f"lower model.params.base_learning_rate (now {rate:g}) or set trainer.gradient_clip_val, and go on from the "
        "last checkpoint with trainer.resume"
    )


def is_sound(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's weights are numbers of a size that networks have, and the optimisers' averages finite."""
    states = [state for optimiser in checkpoint.get("optimizer_states", ()) for state in optimiser["state"].values()]
    averages = (value for state in states for value in state.values())
    weights = checkpoint.get("state_dict", {}).values()
    return all(
        bool((value.abs() < limit).all())
        for values, limit in ((weights, LARGEST_WEIGHT), (averages, math.inf))
        for value in values
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    )


class Watch(pl.Callback):
    """Ends a training whose loss is not finite in `PATIENCE` steps, and one that a signal asks to stop.

    A signal is heard at the end of an optimiser step, where a checkpoint resumes exactly, or at once in a validation.
    All processes of a distributed training stop at the same step. This callback comes after those that save.

    Args:
        checkpoint: the file that `save` writes, which the training goes on from.
        config: the configuration's path, for the command that goes on.
        rate: the learning rate, for the error.
    """

    def __init__(self, checkpoint: Path, config: str, rate: float) -> None:
        self.checkpoint, self.config, self.rate = checkpoint, config, rate
        self.signal, self.bad, self.step_before = 0, 0, 0
        self.first_step: int | None = None  # none where there is nothing left to train
        self._validating = False

    # ---- signals

    def listening(self) -> AbstractContextManager[None]:
        """Within the block SIGTERM and Ctrl-C stop the training in an orderly way; a second one ends it at once."""
        return listening(self._hear)

    def _hear(self, number: int, _: Any) -> None:
        second, self.signal = bool(self.signal), number
        if second or self._validating:
            raise StoppedError(self._message("nothing newer is saved" if second else ""), number)

    def _message(self, more: str = "") -> str:
        name = signal.Signals(self.signal).name
        saved = self.checkpoint.is_file()
        folder = shlex.quote(str(self.checkpoint.parent.parent))
        go_on = f"go on with: train_musicldm.py --config {shlex.quote(self.config)} trainer.resume={folder}"
        parts = [f"stopped by {name}", more, go_on if saved else "no step was finished, nothing is saved"]
        return "; ".join(part for part in parts if part)

    # ---- Lightning's hooks

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning has put handlers of its own in place by now."""
        listen(self._hear)
        self.first_step = trainer.global_step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Before the step."""
        self.step_before = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        """Look at the loss, and whether a signal has come."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        finite = loss is None or math.isfinite(float(loss))
        found = torch.tensor([float(not finite), float(self.signal)], device=pl_module.device)
        if trainer.world_size > 1:
            found = trainer.strategy.all_gather(found).reshape(-1, 2).amax(0)
        bad, number = found.tolist()
        self.bad = self.bad + 1 if bad else 0
        if self.bad >= PATIENCE:
            raise DivergedError(
                f"step {trainer.global_step}: the loss was not finite in {PATIENCE} steps in a row; {advice(self.rate)}"
            )
        # Between the batches of one step gradients would be lost.
        if number and trainer.global_step != self.step_before:
            self.signal = int(number)
            trainer.save_checkpoint(self.checkpoint, weights_only=False)
            raise StoppedError(self._message(f"saved at step {trainer.global_step}"), self.signal)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation may take long, and changes nothing: a signal ends it at once."""
        self._validating = trainer.state.fn == "fit" and trainer.world_size == 1 and not trainer.sanity_checking
        if self._validating and self.signal:
            raise StoppedError(self._message(), self.signal)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Back to training."""
        self._validating = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """A validation that was stopped: save what it was about to look at."""
        if trainer.progress_bar_callback is not None:
            trainer.progress_bar_callback.teardown(trainer, pl_module, "fit")  # what is said next begins a line
        if self._validating and isinstance(exception, StoppedError):
            self._validating = False
            trainer.save_checkpoint(self.checkpoint, weights_only=False)
            exception.args = (self._message(f"saved at step {trainer.global_step}"),)
