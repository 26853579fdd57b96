"""The recipe of the shipped model at a tiny size: songs rendered, a training that goes on, and a model that loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data import endless
from latent_diffusion import MultiTrackPipeline
from latent_diffusion.plan import BAR, BEAT, CHORD, ROWS
from weights.quickstart.pretrain import draw_task, hide_plans, make_parser, train


def write_songs(folder: Path, count: int, seconds: int = 11) -> None:
    """Songs of noise, as `data.endless` writes them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        stems = (3000 * rng.standard_normal((4, seconds * 16_000))).astype(np.int16)
        np.savez(folder / f"{number}.npz", stems=stems, plan=rng.random((ROWS, seconds * 100)).astype(np.float16))


def test_trains_goes_on_and_writes_a_model(tmp_path: Path) -> None:
    sizes = ["--device", "cpu", "--minutes", "0.03", "--hours", "0.02", "--least", "2", "--ring", "8", "--batch", "2"]
    sizes += ["--fresh", "2", "--width", "64", "--depth", "1", "--every", "1", "--save-minutes", "0.001", "--constant"]
    for run in range(2):
        write_songs(tmp_path / "songs", 2)
        arguments = ["--songs", str(tmp_path / "songs"), "--out", str(tmp_path / "out"), *sizes]
        arguments += ["--resume", str(tmp_path / "out"), "--model", str(tmp_path / "m.safetensors")] if run else []
        assert train(make_parser().parse_args(arguments)) == 0
    steps = [int(line.split(",")[0]) for line in (tmp_path / "out" / "log.csv").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > 2
    pipeline = MultiTrackPipeline.from_checkpoint(tmp_path / "m.safetensors")
    assert pipeline.settings.unet.width == 64
    assert pipeline.latent_mean.shape == pipeline.scale_factor.shape == (8, 1, 8)


def test_tasks() -> None:
    """Incoherent items are separations; something is always made; given stems are at -1."""
    torch.manual_seed(0)
    coherent = torch.arange(8000) % 2 == 0
    t, mixed = draw_task(coherent, 1000)
    assert t.shape == (8000, 4) and int(t.min()) == -1 and int(t.max()) == 999
    assert bool(mixed[~coherent].all())
    assert float(mixed[coherent].float().mean()) == pytest.approx(0.3, abs=0.03)
    assert not bool((t == -1).all(1).any())
    given = (t == -1).any(1)
    assert float((given & ~mixed)[coherent].float().mean()) == pytest.approx(0.25 * 0.6, abs=0.05)
    assert float(draw_task(coherent, 1000, 0.6)[1][coherent].float().mean()) == pytest.approx(0.6, abs=0.03)


def test_plans_are_hidden_in_parts() -> None:
    torch.manual_seed(0)
    plan = hide_plans(torch.ones(4000, ROWS, 3))
    for part in (BEAT, BAR, CHORD):
        known = plan[:, part].flatten(1)
        assert bool(((known == 0).all(1) | (known == 1).all(1)).all())
        assert float(known[:, 0].mean()) == pytest.approx(0.6 * 0.7, abs=0.04)
    assert float((plan == 0).flatten(1).all(1).float().mean()) == pytest.approx(0.4 + 0.6 * 0.027, abs=0.04)


def test_endless_songs(tmp_path: Path) -> None:
    """A composed song and its plan; the same seed gives the same song; too many unread ones are waited for."""
    for out in ("a", "b"):
        assert endless.main(["--out", str(tmp_path / out), "--songs", "1", "--composed", "1", "--seed", "5"]) == 0
    first, second = (np.load(next((tmp_path / out).glob("*.npz"))) for out in ("a", "b"))
    assert np.array_equal(first["stems"], second["stems"])
    stems, plan = first["stems"], first["plan"]
    assert stems.dtype == np.int16 and stems.shape[0] == 4 and stems.shape[1] == plan.shape[1] * 160
    assert plan.shape[0] == ROWS and (np.abs(stems).max(1) > 300).all()
    assert (plan[BEAT.start] == 1).all() and (plan[BAR.start] == 1).all() and plan[CHORD.start].mean() > 0.8
    drums = np.abs(stems[1].astype(float)).reshape(-1, 160).mean(1)
    rising = np.maximum(np.diff(drums, prepend=0), 0)
    on_beat = plan[BEAT.start + 1] > 0.9
    assert rising[on_beat].mean() > 1.5 * rising[plan[BEAT.start + 1] < -0.9].mean()  # hits fall on beats
