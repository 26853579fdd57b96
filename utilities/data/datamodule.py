"""Loaders for training and validation whose order is a function of the seed and of the number of batches trained.

A training item is asked for as (index, item seed). Both come from the run's seed and the epoch alone, and where in the
epoch to start comes from the trainer's own count of processed batches, which every checkpoint carries. So a run that
is killed and resumed sees the batches that it would have seen, whatever the loader had prefetched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from latent_diffusion.errors import DataError
from latent_diffusion.settings import MelSettings

from .augmentation import Augmentation
from .stems import StemDataset

log = logging.getLogger(__name__)


class StepSampler(DistributedSampler):
    """Shuffled (index, item seed) pairs, the same for the same seed and epoch.

    A `DistributedSampler` by name, so that Lightning does not wrap it in one of its own.

    Args:
        size: number of items of the dataset.
        seed: of the run.
        rank: of this process.
        world_size: number of processes; each gets `size // world_size` of the items, none twice.
    """

    def __init__(self, size: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.size = size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._start: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; `start_at` has precedence where it was called."""
        self.epoch = epoch

    def start_at(self, epoch: int, items: int) -> None:
        """Let the next iteration be that of `epoch` without its first `items` items (of this rank)."""
        self._start = (epoch, items)

    def __len__(self) -> int:
        return self.size // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, skip = self._start or (self.epoch, 0)
        rng = np.random.default_rng([self.seed % 2**63, epoch])
        order = rng.permutation(self.size)
        seeds = rng.integers(0, 2**63, size=self.size)
        mine = slice(self.rank, len(self) * self.world_size, self.world_size)
        return iter(list(zip(order[mine].tolist(), seeds[mine].tolist(), strict=True))[skip:])


class EvaluationSampler(DistributedSampler):
    """Every item once, in order or in one fixed shuffled order; split over the ranks without repeating any.

    The shares of the ranks differ by one item where the size is not a multiple of their number.
    """

    def __init__(self, size: int, rank: int = 0, world_size: int = 1, shuffle_seed: int | None = None) -> None:
        order = np.arange(size) if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(size)
        self._items: list[int] = order[rank::world_size].tolist()

    def set_epoch(self, epoch: int) -> None:
        """The order is the same in every epoch."""

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[int]:
        return iter(self._items)


class _Waiting(Dataset):
    """The first item of a dataset, to keep a rank in step with the others; it counts for nothing."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.dataset[0], "waits": True}


class ResumableLoader(DataLoader):
    """A `DataLoader` over a `StepSampler` that starts where the trainer stands.

    Set `batches_done` to a function that returns how many batches of how long an epoch were trained so far; without
    it every iteration is a whole epoch. The state in a checkpoint only serves to notice that the data has changed.
    """

    batches_done: Callable[[], tuple[int, int]] | None = None

    def __iter__(self) -> Any:
        if self.batches_done is not None and isinstance(self.sampler, StepSampler):
            done, epoch_length = self.batches_done()
            epoch, batches = divmod(done, max(1, epoch_length))
            self.sampler.start_at(epoch, batches * (self.batch_size or 1))
        return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """What the order of the batches depends on."""
        if not isinstance(self.sampler, StepSampler):
            return {}
        return {
            "windows": self.sampler.size,
            "seed": self.sampler.seed,
            "batch size": self.batch_size,
            "devices": self.sampler.world_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Warn if the batches will differ from those the checkpoint's run would have seen."""
        now = self.state_dict()
        changed = [f"{key} {old} -> {now[key]}" for key, old in state.items() if key in now and now[key] != old]
        if changed:
            log.warning("resumed with other data than before (%s): the batches will differ", ", ".join(changed))


def train_loader(
    dataset: Dataset,
    batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    trainer: pl.Trainer | None = None,
    drop_last: bool = True,
) -> ResumableLoader:
    """A shuffled loader over a dataset that is indexed with (index, seed).

    Args:
        dataset: with a length; `dataset[index, seed]` returns an item.
        batch_size: items a batch on each device.
        num_workers: loader processes; 0 loads in the training process.
        seed: of the run.
        trainer: where given, ranks and the position to resume at come from it.
        drop_last: leave out the last batch of an epoch where it is smaller than the others.

    Raises:
        DataError: the dataset cannot fill one batch on each device.
    """
    rank, world_size = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
    size = len(dataset)  # type: ignore[arg-type]
    share = size // world_size
    if share < (batch_size if drop_last else 1):
        raise DataError(
            f"training data: {size} windows do not fill one batch of {batch_size} on each of {world_size} devices; "
            + (f"set batch_size to {share} or less, or add tracks" if share else "add tracks or use fewer devices")
        )
    sampler = StepSampler(size, seed, rank, world_size)
    loader = ResumableLoader(
        dataset, batch_size=batch_size, sampler=sampler, drop_last=drop_last, **_process_options(num_workers)
    )
    if trainer is not None:
        _settle_progress(trainer)
        loader.batches_done = lambda: _trained_batches(trainer, len(loader))
    return loader


def evaluation_loader(
    dataset: Dataset,
    batch_size: int,
    num_workers: int = 0,
    trainer: pl.Trainer | None = None,
    shuffle_seed: int | None = None,
) -> DataLoader:
    """A loader of every item once, in order or, with `shuffle_seed`, in one fixed shuffled order.

    A rank without items gets one that says "waits": Lightning leaves out the validation of a rank without any, and
    the others would wait for it for ever.
    """
    rank, world_size = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
    size = len(dataset)  # type: ignore[arg-type]
    if rank >= size:
        return DataLoader(_Waiting(dataset), batch_size=1)
    sampler = EvaluationSampler(size, rank, world_size, shuffle_seed)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, **_process_options(num_workers))


def _process_options(num_workers: int) -> dict[str, Any]:
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }


def _trained_batches(trainer: pl.Trainer, loader_length: int) -> tuple[int, int]:
    """Batches processed since the run began, and batches of an epoch under `limit_train_batches`.

    `total.processed` is the one counter that agrees with the weights wherever a checkpoint is written: it grows right
    after the optimiser's step, and Lightning does not turn it back on a restart.
    """
    limit = trainer.limit_train_batches
    epoch_length = min(loader_length, limit) if isinstance(limit, int) else int(loader_length * limit)
    return trainer.fit_loop.epoch_loop.batch_progress.total.processed, epoch_length


def _settle_progress(trainer: pl.Trainer) -> None:
    """Bring the counters of a resumed trainer to the last batch whose step was taken.

    Lightning (2.6) keeps a batch that was begun but not trained in some of its counters, and does not count an epoch as
    begun after a checkpoint from the end of its last batch. The run goes on all the same, but its next checkpoint then
    resumes at another batch or epoch. Called before the loops read their counters; nothing happens in a new run.
    """
    fit_loop = trainer.fit_loop
    if not fit_loop.restarting:
        return
    batches, epochs = fit_loop.epoch_loop.batch_progress, fit_loop.epoch_progress
    if batches.current.ready > batches.current.processed:
        batches.is_last_batch = False  # said of the batch that was not trained
    hooks_pending = batches.current.processed > batches.current.completed  # saved within on_train_batch_end
    for counter in (batches.total, batches.current):
        counter.ready = counter.started = counter.processed
    epoch_counted = epochs.current.ready == epochs.current.processed
    if hooks_pending and batches.is_last_batch and not epoch_counted:
        for counter in (batches.total, batches.current):
            counter.completed = counter.processed
        epochs.increment_processed()
        fit_loop.epoch_loop._batches_that_stepped += 1
        epoch_counted = True
    if epoch_counted:
        # between two epochs: the next one begins afresh. Not by the property of the fit loop, which overrules this.
        fit_loop._restarting = False
        fit_loop.epoch_loop.restarting = False


class StemDataModule(pl.LightningDataModule):
    """Training and validation data from folders of stems.

    Args:
        train_data: folder or folders of training tracks; None where nothing is trained.
        valid_data: folder or folders of validation tracks; None where nothing is validated.
        stems: names of the stems, in the model's order.
        mel: gives the sample rate and the length of a window.
        batch_size: windows a batch on each device.
        num_workers: loader processes for each of the two loaders.
        seed: of the order, the shifts, the masking and the augmentation.
        masking: silence random stems in training.
        shuffle_validation: validate in one fixed shuffled order (useful with `limit_val_batches`) instead of in order.
        valid_batch_size: windows a validation batch; `batch_size` if None.
        drop_last: leave out the last, smaller training batch of an epoch.
        augmentation: other changes to training items.
    """

    def __init__(
        self,
        train_data: str | Path | Sequence[str | Path] | None,
        valid_data: str | Path | Sequence[str | Path] | None,
        stems: Sequence[str],
        mel: MelSettings,
        batch_size: int = 1,
        num_workers: int = 0,
        seed: int = 0,
        masking: bool = False,
        shuffle_validation: bool = False,
        valid_batch_size: int | None = None,
        drop_last: bool = True,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        # a rank may have no validation window of a small set
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.train_data = train_data
        self.valid_data = valid_data
        self.stems = tuple(stems)
        self.mel = mel
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.masking = masking
        self.shuffle_validation = shuffle_validation
        self.valid_batch_size = valid_batch_size or batch_size
        self.drop_last = drop_last
        self.augmentation = augmentation
        self.train_dataset: Dataset | None = None
        self.valid_dataset: Dataset | None = None
        self._warned = False

    def setup(self, stage: str | None = None) -> None:
        """Scan the folders that the stage needs, each once.

        Raises:
            DataError: a folder is missing or none of its tracks can be used.
        """
        if stage in (None, "fit") and self.train_dataset is None and self.train_data is not None:
            self.train_dataset = StemDataset(
                self.train_data, self.stems, self.mel, True, self.masking, self.augmentation
            )
        if self.valid_dataset is None and self.valid_data is not None:
            self.valid_dataset = StemDataset(self.valid_data, self.stems, self.mel, shift=False)
        if isinstance(self.train_dataset, StemDataset) and isinstance(self.valid_dataset, StemDataset):
            trained = {track.files[0].resolve() for track in self.train_dataset.tracks}
            both = sum(track.files[0].resolve() in trained for track in self.valid_dataset.tracks)
            if both and not self._warned:
                log.warning("valid_data: %d of its tracks are in train_data, too: scores of what was trained on", both)
                self._warned = True

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled windows at random shifts, resumed where the trainer stands."""
        if self.train_dataset is None:
            raise DataError("train_data: found nothing, expected a folder of tracks to train on")
        return train_loader(
            self.train_dataset, self.batch_size, self.num_workers, self.seed, self.trainer, self.drop_last
        )

    def val_dataloader(self) -> DataLoader | list:
        """Every window of the validation tracks; an empty list where there are none."""
        if self.valid_dataset is None:
            return []
        shuffle_seed = self.seed if self.shuffle_validation else None
        return evaluation_loader(
            self.valid_dataset, self.valid_batch_size, self.num_workers, self.trainer, shuffle_seed
        )
