"""What a training leaves behind to be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from latent_diffusion.inference import SamplingSettings
from latent_diffusion.musicldm import EvaluationSettings
from tests.tiny import batch, config, model, write_config, write_first_stage, write_songs
from train_musicldm import main
from utilities.bar import Bar
from utilities.report.curves import draw_training, panels_of, read_training
from utilities.training_view import SamplingBar, TrainingView


class Line(pl.LightningModule):
    """Its loss is 3 a + 4 b: the gradient's norm is 5."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(2))

    def training_step(self, batch, batch_idx):
        loss = (self.weights * torch.tensor([3.0, 4.0])).sum()
        self.log("train/loss", loss.detach(), batch_size=2)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss_simple", torch.tensor(float(self.global_step)), batch_size=2)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ByHand(Line):
    """Two optimisers that step in every batch, as a first stage and its discriminator do."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx) + 7 * self.other.sum()
        self.manual_backward(loss)
        for optimiser in self.optimizers():
            optimiser.step()
            optimiser.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD([p], lr=0.1) for p in (self.weights, self.other)]


def fit(folder: Path, steps: int, checkpoint: Path | None = None, model: type[Line] = Line) -> pl.Trainer:
    trainer = pl.Trainer(
        default_root_dir=folder,
        max_steps=steps,
        callbacks=[TrainingView(folder, 2)],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        val_check_interval=4,
        gradient_clip_val=1.0 if model is Line else None,
    )
    data = DataLoader([{"name": ["a", "b"]}] * 8, batch_size=None)
    trainer.fit(model(), data, data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def test_values_of_a_training(tmp_path: Path) -> None:
    trainer = fit(tmp_path, 6)
    curves = read_training(tmp_path)
    assert curves["train/grad_norm"] == [(step, pytest.approx(5.0)) for step in (2, 4, 6)]  # before clipping
    assert [step for step, _ in curves["train/loss"]] == [2, 4, 6] and curves["train/loss"][0][1] < 0
    assert curves["val/loss_simple"] == [(4, 4.0)] and curves["train/learning_rate"][0][1] == pytest.approx(0.1)
    assert all(rate > 1 for _, rate in curves["train/items_per_second"])
    assert [panel.title for panel in panels_of(curves)][:2] == ["Validation loss", "Training loss"]
    with Image.open(tmp_path / "training.png") as image:
        assert image.width > 800

    trainer.save_checkpoint(tmp_path / "six.ckpt")
    fit(tmp_path, 10, tmp_path / "six.ckpt")  # trains beyond, and is killed
    fit(tmp_path, 8, tmp_path / "six.ckpt")  # goes on from the same checkpoint
    assert [step for step, _ in read_training(tmp_path)["train/loss"]] == [2, 4, 6, 8]


def test_two_optimisers(tmp_path: Path) -> None:
    fit(tmp_path, 8, model=ByHand)
    assert read_training(tmp_path)["train/grad_norm"] == [(step, pytest.approx(5.0)) for step in (2, 4, 6, 8)]


def test_no_panel_is_empty(tmp_path: Path) -> None:
    """Three charts in two columns: the fourth place stays white."""
    rows = [f"{step},{name},0.5" for step in (1, 2) for name in ("loss_simple", "loss", "learning_rate")]
    rows = [row.replace(",", ",train/", 1) for row in rows] + ["2,val/loss_simple,0.5"]
    (tmp_path / "training.csv").write_text("\n".join(["step,name,value", *rows]) + "\n")
    assert len(panels_of(read_training(tmp_path))) == 3
    draw_training(tmp_path)
    with Image.open(tmp_path / "training.png") as image:
        quarter = image.convert("L").crop((image.width // 2 + 60, image.height // 2 + 40, image.width, image.height))
    assert quarter.getextrema() == (255, 255)


def test_nothing_recorded_draws_nothing(tmp_path: Path) -> None:
    draw_training(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_shows_its_training(tmp_path: Path) -> None:
    write_songs(tmp_path / "train", 1, 0.7, seed=1)
    write_songs(tmp_path / "valid", 1, 0.4, seed=2)
    write_first_stage(tmp_path)
    values = config(tmp_path, max_steps=4, validation_every_n_steps=2, log_every_n_steps=1, logger=["tensorboard"])
    assert main(["--config", str(write_config(tmp_path / "c.yaml", values))]) == 0
    (run,) = (tmp_path / "runs/tiny").iterdir()
    curves = read_training(run)
    for name in ("train/loss_simple", "train/grad_norm", "train/learning_rate", "train/items_per_second"):
        assert [step for step, _ in curves[name]] == [1, 2, 3, 4] and curves[name][-1][1] > 0
    assert [step for step, _ in curves["val/loss_simple_ema"]] == [2, 4]
    events = EventAccumulator(str(next(run.glob("tensorboard/version_0"))), size_guidance={"audio": 0})
    events.Reload()
    tags = events.Tags()
    assert "train/grad_norm" in tags["scalars"]
    assert any(tag.endswith("/bass") for tag in tags["audio"]) and any("(target)" in tag for tag in tags["audio"])
    html = (run / "report.html").read_text(encoding="utf-8")
    for heading in ("Listen", "Scores", "Training", "Over training", "Gradient norm", "averaged weights (EMA)"):
        assert heading in html


def test_a_bar_moves_with_every_network_call_of_a_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only with every batch, which may take a minute."""
    shown: list[tuple[int, int]] = []
    show = Bar.__call__

    def watched(self: Bar, done: int, total: int) -> None:
        shown.append((done, total))
        show(self, done, total)

    monkeypatch.setattr(Bar, "__call__", watched)
    module = model(evaluation=EvaluationSettings(sampling=SamplingSettings(steps=5)))
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[SamplingBar()],
    )
    batches = DataLoader([batch(1), batch(2)], batch_size=None)
    trainer.validate(module, batches, verbose=False)
    vocoded = [4, 8]  # windows: stems of one item, and of two
    assert shown == [(i, 5 + n) for n in vocoded for i in (*range(1, 6), 5 + n)]
    assert module.sampling_progress is None
