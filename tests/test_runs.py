"""What surrounds a run: several processes, precision, folders, records."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.tiny import config, write_config, write_first_stage, write_songs
from train_musicldm import main


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with songs, first-stage weights and a trained run's configuration."""
    folder = tmp_path_factory.mktemp("runs")
    write_songs(folder / "train", 2, 1.3, seed=1)
    write_songs(folder / "valid", 1, 0.4, seed=2)
    write_first_stage(folder)
    return folder


def arguments(root: Path, name: str, kind: str = "msgld", **trainer: object) -> list[str]:
    path = root / f"{name}.yaml"
    write_config(path, config(root, kind, **trainer) | {"project_name": name})
    return ["--config", str(path)]


@pytest.mark.parametrize("kind", ["msgld", "vae"])
def test_two_processes_train_together_in_one_folder(root: Path, kind: str) -> None:
    """The VAE with its discriminator from the start: two losses, each of which leaves the other network out."""
    given = arguments(root, f"two_{kind}", kind, max_steps=2, devices=2, strategy="ddp")
    given += ["data.params.batch_size=1"]
    if kind == "vae":
        given += ["model.params.lossconfig.params.disc_start=0", "model.params.lossconfig.params.disc_num_layers=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train_musicldm.py", *given]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    (folder,) = (root / "runs" / f"two_{kind}").iterdir()
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert result.stdout.count("run folder:") == 1


def test_other_launchers_have_to_name_the_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(arguments(root, "torchrun", max_steps=1)) == 2
    assert "set MSGLD_RUN_FOLDER to one folder" in capsys.readouterr().err
    assert not (root / "runs" / "torchrun").exists()


def test_mixed_precision_trains_and_hears_in_full_precision(root: Path) -> None:
    given = arguments(root, "bf16", max_steps=2, precision="bf16-mixed")
    assert main([*given, "model.params.evaluation_params.ddim_sampling_steps=2"]) == 0
    (folder,) = (root / "runs" / "bf16").iterdir()
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.dtype == torch.float32 for key, value in weights.items() if key.startswith("model."))
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    assert main([*given, "trainer.precision=bf16-true"]) == 2  # would round the noise schedule


def test_evaluating_in_a_run_keeps_the_record_of_its_training(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = arguments(root, "record", max_steps=2)
    assert main(given) == 0
    (folder,) = (root / "runs" / "record").iterdir()
    overrides = [f"trainer.resume={folder}", "model.params.evaluation_params.ddim_sampling_steps=2"]
    assert main([*given, *overrides, "mode=test"]) == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["mode"] == "train"
    assert yaml.safe_load((folder / "config_test.yaml").read_text())["mode"] == "test"
    with caplog.at_level(logging.WARNING):
        assert main([*given, *overrides]) == 0
    assert "nothing was trained" in caplog.text


def test_a_run_stays_in_its_log_directory(root: Path) -> None:
    assert main([*arguments(root, "names", max_steps=1), "id.name=a/../../../b"]) == 0
    (folder,) = (root / "runs" / "names").iterdir()
    assert "/" not in folder.name and ".._" in folder.name


def test_evaluation_wants_weights(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(root, "untrained"), "mode=test"]) == 2
    assert "trainer.resume_from_checkpoint: found nothing" in capsys.readouterr().err
