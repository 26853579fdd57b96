"""The order of the batches, and that a resumed run goes on with the ones it would have seen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import soundfile
import torch
from torch.utils.data import Dataset

from latent_diffusion.errors import DataError
from latent_diffusion.settings import MelSettings
from utilities.data.datamodule import (
    EvaluationSampler,
    StemDataModule,
    StepSampler,
    evaluation_loader,
    train_loader,
)

STEMS = ("bass", "drums")
MEL = MelSettings(sample_rate=4000, n_fft=256, win_length=256, hop_length=40, n_mels=16, f_max=2000.0, frames=100)


# ---- samplers


def test_step_sampler_is_a_function_of_seed_and_epoch() -> None:
    sampler = StepSampler(50, seed=3)
    first = list(sampler)
    assert list(sampler) == first == list(StepSampler(50, seed=3)) and len(sampler) == 50
    assert sorted(index for index, _ in first) == list(range(50)) != [index for index, _ in first]
    assert len({seed for _, seed in first}) == 50
    sampler.set_epoch(1)
    second = list(sampler)
    assert [i for i, _ in second] != [i for i, _ in first] and not {s for _, s in second} & {s for _, s in first}
    assert list(StepSampler(50, seed=4)) != first
    sampler.start_at(0, 20)
    assert list(sampler) == first[20:]


@pytest.mark.parametrize("size", [12, 13])
def test_step_sampler_splits_over_ranks(size: int) -> None:
    whole = list(StepSampler(size, seed=1))
    shares = [list(StepSampler(size, seed=1, rank=rank, world_size=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert sorted(sum(shares, [])) == sorted(whole[:12])


def test_evaluation_sampler_visits_everything_once() -> None:
    assert list(EvaluationSampler(7)) == list(range(7))
    shares = [list(EvaluationSampler(7, rank, 3)) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    shuffled = list(EvaluationSampler(40, shuffle_seed=1))
    assert sorted(shuffled) == list(range(40)) != shuffled and shuffled == list(EvaluationSampler(40, shuffle_seed=1))


# ---- resuming, on a data set that costs nothing


class Pairs(Dataset):
    """Returns what it was asked for."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, int]:
        index, seed = item if isinstance(item, tuple) else (item, 0)
        return {"index": index, "seed": seed}


class PairsData(pl.LightningDataModule):
    def __init__(self, num_workers: int = 0, batch_size: int = 4) -> None:
        super().__init__()
        self.num_workers = num_workers
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return train_loader(Pairs(), self.batch_size, self.num_workers, seed=5, trainer=self.trainer)

    def val_dataloader(self) -> Any:
        return evaluation_loader(Pairs(), 8, trainer=self.trainer)


class Recorder(pl.LightningModule):
    """Keeps (epoch, batch index, items) of every training step and the step it is logged as.

    Its weight depends on all of them in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int, Any]] = []
        self.logged: list[int] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> torch.Tensor:
        items = batch["name"] if "name" in batch else list(zip(*(v.tolist() for v in batch.values()), strict=True))
        self.logged.append(self.trainer.fit_loop.epoch_loop._batches_that_stepped)
        self.seen.append((self.current_epoch, batch_index, items))
        level = batch["mixture"].abs().mean() if "mixture" in batch else batch["index"].float().mean()
        return (self.weight - level) ** 2

    def validation_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Validation only has to happen."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-2)


class SaveOnce(pl.Callback):
    """Writes a checkpoint at the `count`-th call of a hook, and ends the run there as a kill would."""

    HOOKS = (
        "on_train_batch_start",
        "on_train_batch_end",
        "on_validation_batch_end",
        "on_validation_end",
        "on_train_epoch_end",
    )

    def __init__(self, hook: str, count: int, path: Path) -> None:
        self.left = count
        self.path = path
        setattr(self, hook, self._called)

    def _called(self, trainer: pl.Trainer, *_: Any) -> None:
        self.left -= not trainer.sanity_checking
        if self.left == 0 and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)
            raise KeyError("killed")


def run(
    data: pl.LightningDataModule, checkpoint: Path | None = None, kill: SaveOnce | None = None, **options: Any
) -> Recorder:
    model = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[kill] if kill else [],
        **options,
    )
    if kill:
        with pytest.raises(KeyError, match="killed"):
            trainer.fit(model, data, ckpt_path=checkpoint)
    else:
        trainer.fit(model, data, ckpt_path=checkpoint)
    return model


SCHEDULES = {
    "epochs": {"max_epochs": 3, "val_check_interval": 2},
    "steps": {"max_steps": 13, "max_epochs": -1, "val_check_interval": 2},
    "limited": {"max_epochs": 4, "limit_train_batches": 4, "val_check_interval": 4},
    "across epochs": {"max_steps": 14, "val_check_interval": 3, "check_val_every_n_epoch": None},
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_resumed_twice_sees_the_same_batches(schedule: str, tmp_path: Path) -> None:
    options = SCHEDULES[schedule]
    whole = run(PairsData(), **options)
    assert len({tuple(items) for _, _, items in whole.seen}) == len(whole.seen) >= 13
    kills = [("on_train_batch_end", n) for n in (1, 4, 5, 6)] + [("on_train_batch_start", n) for n in (1, 4, 6)]
    kills += [("on_validation_batch_end", 2), ("on_validation_end", 2), ("on_train_epoch_end", 1)]
    for number, (hook, count) in enumerate(kills):
        first = run(PairsData(), kill=SaveOnce(hook, count, tmp_path / "1.ckpt"), **options)
        done = len(first.seen)
        again = kills[number * 3 % len(kills)]  # 3 and 10 have no common factor: every hook comes second, too
        second = run(PairsData(), tmp_path / "1.ckpt", SaveOnce(*again, tmp_path / "2.ckpt"), **options)
        done += len(second.seen)
        assert 0 < len(whole.seen) - done < len(whole.seen), "the second kill must come in mid-training"
        third = run(PairsData(), tmp_path / "2.ckpt", **options)
        assert first.seen + second.seen + third.seen == whole.seen, (hook, count, again)
        if "on_train_batch_start" not in (hook, again[0]):  # where Lightning's count is one too high
            assert first.logged + second.logged + third.logged == whole.logged, (hook, count, again)
        assert torch.equal(third.weight, whole.weight)


@pytest.mark.filterwarnings("ignore")
def test_resumed_under_accumulation(tmp_path: Path) -> None:
    options = {"max_epochs": 3, "accumulate_grad_batches": 2, "limit_val_batches": 0}
    whole = run(PairsData(), **options)
    for count in range(1, 11):
        killed = run(PairsData(), kill=SaveOnce("on_train_batch_end", count, tmp_path / "x.ckpt"), **options)
        resumed = run(PairsData(), tmp_path / "x.ckpt", **options)
        assert killed.seen + resumed.seen == whole.seen
        if count % 5 in (2, 4, 0):  # between two optimiser steps; the fifth batch is the epoch's last
            assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.filterwarnings("ignore")
def test_changed_data_is_noticed_on_resuming(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(PairsData(), kill=SaveOnce("on_train_batch_end", 3, tmp_path / "x.ckpt"), max_epochs=1)
    with caplog.at_level(logging.WARNING, "utilities.data.datamodule"):
        run(PairsData(), tmp_path / "x.ckpt", max_epochs=1)
        assert not caplog.records
        run(PairsData(batch_size=2), tmp_path / "x.ckpt", max_epochs=1)
    assert "batch size 4 -> 2" in caplog.text


# ---- the data module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tracks")
    rng = np.random.default_rng(0)
    for number in range(3):
        (root / f"Track{number}").mkdir()
        for stem in STEMS:
            audio = rng.standard_normal(5 * 4410) * 0.05 * (1 + number)
            soundfile.write(root / f"Track{number}" / f"{stem}.wav", audio, 4410)
    return root


@pytest.fixture
def stem_data(folder: Path) -> Callable[..., StemDataModule]:
    return lambda **options: StemDataModule(folder, folder, STEMS, MEL, **{"batch_size": 2, **options})


@pytest.mark.filterwarnings("ignore")
def test_resumed_with_workers_and_audio(stem_data: Callable[..., StemDataModule], tmp_path: Path) -> None:
    options = {"max_epochs": 2, "val_check_interval": 3}
    whole = run(stem_data(masking=True), **options)
    assert len(whole.seen) == 14
    killed = run(
        stem_data(masking=True, num_workers=2), kill=SaveOnce("on_train_batch_end", 5, tmp_path / "x.ckpt"), **options
    )
    resumed = run(stem_data(masking=True, num_workers=2), tmp_path / "x.ckpt", **options)
    assert killed.seen + resumed.seen == whole.seen and len(killed.seen) == 5
    assert torch.equal(resumed.weight, whole.weight)


def test_batches(stem_data: Callable[..., StemDataModule]) -> None:
    data = stem_data(batch_size=4)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 3  # of 15 windows
    assert batches[0]["stems"].shape == (4, 2, 4000) and batches[0]["mixture"].shape == (4, 4000)
    assert len(batches[0]["name"]) == 4 and isinstance(batches[0]["name"][0], str)
    validation = list(data.val_dataloader())
    found = [name for batch in validation for name in batch["name"]]
    assert found == [f"Track{t}_from_{s}" for t in range(3) for s in range(5)]
    assert batches[0]["valid_samples"].tolist() == [4000] * 4
    shuffled = stem_data(shuffle_validation=True, seed=1)
    shuffled.setup("validate")
    mixed = [name for batch in shuffled.val_dataloader() for name in batch["name"]]
    assert sorted(mixed) == found != mixed and shuffled.train_dataset is None


def test_too_few_windows_for_a_batch(stem_data: Callable[..., StemDataModule]) -> None:
    data = stem_data(batch_size=16)
    data.setup("fit")
    with pytest.raises(DataError, match="15 windows do not fill one batch of 16 .* set batch_size to 15 or less"):
        data.train_dataloader()
    small = stem_data(batch_size=16, drop_last=False)
    small.setup("fit")
    assert [len(batch["name"]) for batch in small.train_dataloader()] == [15]


def test_missing_parts(folder: Path) -> None:
    data = StemDataModule(None, None, STEMS, MEL)
    data.setup("fit")
    assert data.val_dataloader() == []
    with pytest.raises(DataError, match="train_data"):
        data.train_dataloader()
    with pytest.raises(DataError, match="nowhere"):
        StemDataModule(folder / "nowhere", None, STEMS, MEL).setup("fit")
