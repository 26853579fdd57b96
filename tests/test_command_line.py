"""The command line, from its help to every kind of bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from latent_diffusion.errors import ConfigError
from tests.tiny import STEMS, config, write_config, write_first_stage, write_songs
from train_musicldm import main

REPOSITORY = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Songs, first-stage weights, a configuration, and a trained model."""
    folder = tmp_path_factory.mktemp("command line")
    write_songs(folder / "train", 1, 1.0, seed=1)
    write_songs(folder / "valid", 2, 0.5, seed=2)
    write_first_stage(folder)
    write_config(folder / "tiny.yaml", config(folder, max_steps=2))
    no_validation = "data.params.path.valid_data="
    assert main(["--config", str(folder / "tiny.yaml"), no_validation, f"log_directory={folder}/trained"]) == 0
    (trained,) = (folder / "trained" / "tiny").iterdir()
    shutil.copy(trained / "checkpoints" / "last.ckpt", folder / "model.ckpt")
    return folder


def command(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command as a user calls it, from anywhere."""
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "train_musicldm.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        timeout=300,
    )


# ---- as a process of its own


def test_help_and_use() -> None:
    shown = command("--help", cwd=REPOSITORY)
    assert shown.returncode == 0 and not shown.stderr
    for word in ("validate_and_train", "separation", "generation", "arrangement", "--dry-run", "key=value"):
        assert word in shown.stdout
    wrong = command(cwd=REPOSITORY)
    assert wrong.returncode == 2 and "--config" in wrong.stderr and "Traceback" not in wrong.stderr


def test_an_error_is_one_line(root: Path) -> None:
    given = ("--config", root / "tiny.yaml", "trainer.max_steps=many")
    failed = command(*given, cwd=root)
    assert failed.returncode == 2 and not failed.stdout
    (line,) = failed.stderr.splitlines()
    assert line.startswith("error: ") and "trainer.max_steps" in line and "'many'" in line
    debugged = command(*given, "--debug", cwd=root)
    assert debugged.returncode != 0 and "Traceback" in debugged.stderr and "ConfigError" in debugged.stderr


def test_train_from_another_folder(root: Path, tmp_path: Path) -> None:
    """Mode and options as a user gives them; a relative log directory lies where the command was called."""
    done = command(
        "--config",
        root / "tiny.yaml",
        "log_directory=here",
        "trainer.max_steps=1",
        "trainer.logger=[csv]",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "here" / "tiny").iterdir()
    assert run.name.endswith("_msgld_0.001_v1") and f"here/tiny/{run.name}" in done.stdout
    assert (run / "checkpoints" / "last.ckpt").is_file() and (run / "config.yaml").is_file()
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"last.ckpt"}
    assert list((run / "csv").rglob("metrics.csv")) and {p.name for p in tmp_path.iterdir()} == {"here"}


# ---- in this process


@pytest.fixture
def run(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs the command with the tiny configuration: status, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["--config", str(root / "tiny.yaml"), f"log_directory={tmp_path}/runs", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_dry_run(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    before = set(os.environ)
    status, out, err = run("--dry-run")
    assert status == 0 and not err
    for line in (
        "mode         train",
        "task         separation, ddim with 2 steps",
        "stems        bass, drums, guitar, piano",
        "window       0.32 s, latent (4, 4, 16, 8)",
        "train        1 tracks, 3 windows",
        "validation   2 tracks, 4 windows",
        "until 2 steps",
    ):
        assert line in out
    assert not list(tmp_path.iterdir()), "nothing is made"
    assert set(os.environ) == before


TASKS = {
    "separation": ([], STEMS),
    "generation": (["model.params.evaluation_params.unconditional_guidance_scale=0"], STEMS),
    "arrangement": (["data.params.path.stems_to_inpaint=[piano,drums]"], ("drums", "piano")),
}


@pytest.mark.parametrize("task", TASKS)
def test_tasks_write_their_results(
    task: str, run: Callable[..., tuple[int, str, str]], root: Path, tmp_path: Path
) -> None:
    overrides, made = TASKS[task]
    mode = "test" if task == "generation" else "validate"
    status, out, _ = run(f"mode={mode}", f"trainer.resume_from_checkpoint={root}/model.ckpt", *overrides)
    assert status == 0
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert str(folder) in out
    results, targets = folder / "val_2", folder / "target_2"  # by the step of the weights
    items = {f"Track0000{track}_from_{start}.wav" for track in (0, 1) for start in ("0_000", "0_320")}
    for number, stem in enumerate(STEMS):
        assert (results / stem).exists() == (results / f"stem_{number}").exists() == (stem in made)
        assert {p.name for p in (targets / stem).iterdir()} == items
        if stem in made:
            assert {p.name for p in (results / f"stem_{number}").iterdir()} == items
            assert len(list((results / f"stem_mel_{number}").glob("*.npy"))) == 4
    assert {p.name for p in (results / "mix").iterdir()} == items
    assert (results / "stem_1_3").is_dir() == (task == "arrangement")
    assert len(list((results / "spectrograms").glob("*.png"))) == 4
    metrics = json.loads((results / "metrics.json").read_text())
    assert metrics["task"] == task and tuple(metrics["generated"]) == made and metrics["items"] == 4
    assert metrics["step"] == 2 and ("model" in metrics) == (task == "separation")
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["mode"] == mode and not (folder / "checkpoints").exists()


def test_validate_and_train(run: Callable[..., tuple[int, str, str]], root: Path, tmp_path: Path) -> None:
    """What is validated first are the weights that the training starts from."""
    fast = "trainer.limit_val_batches=1"
    assert run("mode=validate", f"trainer.resume_from_checkpoint={root}/model.ckpt", fast)[0] == 0
    both = ("mode=validate_and_train", f"trainer.resume_from_checkpoint={root}/model.ckpt", fast)
    assert run(*both, "trainer.max_steps=3", "trainer.validation_every_n_steps=1")[0] == 0
    alone, resumed = sorted((tmp_path / "runs" / "tiny").iterdir(), key=lambda p: (p / "val_3").exists())
    assert (resumed / "val_3").is_dir() and not (resumed / "val_0").exists()
    item = "mel/bass/Track00000_from_0_000.npy"
    assert (resumed / "val_2" / item).read_bytes() == (alone / "val_2" / item).read_bytes()


def test_validate_and_train_from_nothing(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    status, _, _ = run("mode=validate_and_train", "trainer.validation_every_n_steps=2", "trainer.save_top_k=1")
    assert status == 0
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert (folder / "val_0" / "metrics.json").is_file() and (folder / "val_2" / "metrics.json").is_file()
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best_step=2.ckpt"}


def test_a_run_goes_on_with_its_own_configuration(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """config.yaml of a run folder is a configuration that gives the same run."""
    assert run("data.params.path.valid_data=")[0] == 0
    (folder,) = (tmp_path / "runs" / "tiny").iterdir()
    assert main(["--config", str(folder / "config.yaml"), "trainer.max_steps=3", f"trainer.resume={folder}"]) == 0
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3
    assert [p.name for p in (tmp_path / "runs" / "tiny").iterdir()] == [folder.name]


def test_developing(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for _ in range(2):
        assert run("dev=true", "data.params.path.valid_data=")[0] == 0
    assert [p.name for p in (tmp_path / "runs" / "tiny").iterdir()] == ["DEV_EXP"]


# ---- bad input


def other_model(root: Path) -> Path:
    """A checkpoint of a network of another width."""
    path = root / "wider.ckpt"
    if not path.exists():
        content = torch.load(root / "model.ckpt", weights_only=True)
        for key in ("model.diffusion_model.out.2.weight", "model_ema.diffusion_modelout2weight"):
            content["state_dict"][key] = torch.zeros(4, 16, 3, 3, 3)
        content.pop("msgld")
        torch.save(content, path)
    return path


def truncated(root: Path) -> Path:
    path = root / "truncated.ckpt"
    path.write_bytes((root / "model.ckpt").read_bytes()[:20_000])
    return path


def unusable_songs(root: Path) -> Path:
    folder = root / "unusable"
    if not folder.exists():
        write_songs(folder, 3, 0.5)
        (folder / "Track00000" / "bass.wav").unlink()
        (folder / "Track00001" / "drums.wav").write_text("not a wav file")
        (folder / "Track00002" / "piano.wav").write_bytes(b"")
    return folder


RESUME, START = "trainer.resume={}", "trainer.resume_from_checkpoint={}"
BAD: dict[str, tuple[list[str], list[str]]] = {
    "unknown key": (["trainer.max_step=3"], ["trainer.max_step", "max_steps"]),
    "unregistered target": (["model.target=os.system"], ["os.system", "not registered"]),
    "wrong type": (["trainer.max_steps=many"], ["trainer.max_steps", "many"]),
    "out of range": (["data.params.batch_size=0"], ["data.params.batch_size", "0"]),
    "unknown task": (["task=remix"], ["task", "remix", "separation"]),
    "missing data": (["data.params.path.train_data={root}/nowhere"], ["nowhere", "no such folder"]),
    "no data": (["data.params.path.train_data="], ["train_data", "mode is train"]),
    "no validation data": (["mode=validate", "data.params.path.valid_data="], ["valid_data", "mode is validate"]),
    "unusable tracks": (["data.params.path.train_data={unusable}"], ["none of 3 tracks", "lacks bass.wav"]),
    "empty data": (["data.params.path.train_data={root}/runs-none"], ["no such folder"]),
    "batch too large": (["data.params.batch_size=50"], ["batch of 50"]),
    "missing vae": (
        ["model.params.first_stage_config.params.reload_from_ckpt=no.ckpt"],
        ["reload_from_ckpt", "no.ckpt"],
    ),
    "vae for a vocoder": (
        ["model.params.first_stage_config.params.vocoder_config.ckpt_path={root}/vae.ckpt"],
        ["vae.ckpt", "VAE", "vocoder"],
    ),
    "missing checkpoint": ([START.format("no.ckpt")], ["trainer.resume_from_checkpoint", "no.ckpt", "no such file"]),
    "missing checkpoint to resume": ([RESUME.format("{root}/train")], ["trainer.resume", "last.ckpt"]),
    "truncated checkpoint": ([START.format("{truncated}")], ["truncated.ckpt"]),
    "truncated checkpoint to resume": ([RESUME.format("{truncated}")], ["truncated.ckpt"]),
    "truncated checkpoint to validate": (["mode=validate", START.format("{truncated}")], ["truncated.ckpt"]),
    "other shape": ([START.format("{other}")], ["wider.ckpt", "shape"]),
    "other shape to validate": (["mode=validate", START.format("{other}")], ["wider.ckpt", "shape"]),
    "checkpoint of another kind": ([START.format("{root}/vae.ckpt")], ["vae.ckpt", "VAE", "MSG-LD"]),
    "other width": (
        [START.format("{root}/model.ckpt"), "model.params.unet_config.params.model_channels=16"],
        ["model.ckpt", "model_channels"],
    ),
    "both ways to go on": ([RESUME.format("a"), START.format("b")], ["found both"]),
    "override without =": (["trainer.max_steps"], ["trainer.max_steps", "key=value"]),
    "log directory is a file": (["log_directory={root}/model.ckpt"], ["log_directory"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, run: Callable[..., tuple[int, str, str]], root: Path, tmp_path: Path) -> None:
    overrides, words = BAD[case]
    places = {"root": root, "other": other_model(root), "truncated": truncated(root), "unusable": unusable_songs(root)}
    status, out, err = run(*(text.format(**places) for text in overrides))
    assert status == 2, err
    (line,) = [line for line in err.splitlines() if line]
    assert line.startswith("error: ") and "results:" not in out
    for word in words:
        assert word in line, line
    assert not list(tmp_path.rglob("*.ckpt")), "nothing is left behind"
    assert not (tmp_path / "runs").exists()


def test_bad_files(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.yaml").write_text("trainer: [1, 2")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    for name in ("missing.yaml", "broken.yaml", "list.yaml", "binary.yaml", "."):
        assert main(["--config", str(tmp_path / name)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and str(tmp_path) in line


def test_debug_raises(root: Path) -> None:
    with pytest.raises(ConfigError):
        main(["--config", str(root / "nothing.yaml"), "--debug"])


def test_dry_run_finds_what_a_run_would_stumble_over(run: Callable[..., tuple[int, str, str]], root: Path) -> None:
    for case in ("missing vae", "missing data", "truncated checkpoint", "other shape to validate", "batch too large"):
        overrides, words = BAD[case]
        places: dict[str, Any] = {"root": root, "other": other_model(root), "truncated": truncated(root)}
        status, out, err = run("--dry-run", *(text.format(**places) for text in overrides))
        assert status == 2 and not out, case
        assert all(word in err for word in words)
