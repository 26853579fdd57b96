"""How a training ends early, and what it goes on with: signals, losses that are no number, other settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import config, write_config, write_first_stage, write_songs
from train_musicldm import main

REPOSITORY = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with songs and first-stage weights."""
    folder = tmp_path_factory.mktemp("ends")
    write_songs(folder / "train", 2, 1.3, seed=1)
    write_songs(folder / "valid", 1, 0.4, seed=2)
    write_first_stage(folder)
    return folder


def arguments(root: Path, name: str, kind: str = "msgld", *overrides: str, **trainer: Any) -> list[str]:
    values = config(root, kind, **trainer) | {"project_name": name}
    if "validation_every_n_steps" not in trainer:
        values["data"]["params"]["path"]["valid_data"] = None
    return ["--config", str(write_config(root / f"{name}.yaml", values)), *overrides]


def run_of(root: Path, name: str) -> Path:
    (folder,) = (root / "runs" / name).iterdir()
    return folder


def state(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("kind", ["msgld", "vae", "vocoder"])
def test_a_loss_that_is_no_number(root: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"nan_{kind}"
    given = arguments(root, name, kind, max_steps=3, validation_every_n_steps=3, save_top_k=1)
    assert main(given) == 0
    run = run_of(root, name)
    before = {path: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    assert len(before) == 2, "the last and the best"
    more = [f"trainer.resume={run}", "trainer.max_steps=40", "model.params.base_learning_rate=.inf"]
    assert main([*given, *more[:2], "model.params.base_learning_rate=1e30"]) == 2
    error = capsys.readouterr().err
    assert "finite" in error and "lower model.params.base_learning_rate (now 1e+30)" in error
    assert {path: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    assert main([*given, *more]) == 2, "no rate at all"


def test_single_bad_losses_are_forgiven(tmp_path: Path) -> None:
    """Mixed precision leaves out a step whose gradients overflow."""
    from types import SimpleNamespace

    from utilities.watch import DivergedError, Watch

    watch = Watch(tmp_path / "checkpoints/last.ckpt", "c.yaml", 0.1)
    trainer = SimpleNamespace(world_size=1, global_step=7)
    module = SimpleNamespace(device="cpu")
    for loss in (float("nan"), float("inf"), 1.0, float("nan"), float("nan")):
        watch.on_train_batch_end(trainer, module, {"loss": torch.tensor(loss)})
    with pytest.raises(DivergedError, match="step 7: the loss was not finite in 3 steps"):
        watch.on_train_batch_end(trainer, module, torch.tensor(float("nan")))


def start(given: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, str(REPOSITORY / "train_musicldm.py"), *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MSGLD_RUN_FOLDER", None)
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads here as the processes have that are compared with: sums round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wait_for(process: subprocess.Popen[str], reached: Any) -> None:
    end = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.usefixtures("one_thread")
def test_a_signal_saves_and_says_how_to_go_on(root: Path, number: int, status: int) -> None:
    name = f"signal_{status}"
    given = arguments(root, name, max_steps=100_000, log_every_n_steps=1)
    process = start(given)
    wait_for(process, lambda: list((root / "runs" / name).glob("*/training.csv")))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status and "Traceback" not in err
    run = run_of(root, name)
    reached = state(run)["global_step"]
    line = err.strip().splitlines()[-1]
    assert line.startswith(f"stopped by {signal.Signals(number).name}; saved at step {reached}")
    assert line.endswith(f"train_musicldm.py --config {given[1]} trainer.resume={run}")
    assert main([*given, f"trainer.resume={run}", f"trainer.max_steps={reached + 3}"]) == 0
    assert main(arguments(root, f"{name}_whole", max_steps=reached + 3)) == 0
    ours, whole = state(run)["state_dict"], state(run_of(root, f"{name}_whole"))["state_dict"]
    assert all(torch.equal(value, whole[key]) for key, value in ours.items())


def test_a_signal_in_a_validation(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """It ends at once; what is saved resumes as if the training had not been stopped."""
    from latent_diffusion.musicldm import MusicLDM

    given = arguments(root, "validating", max_steps=9, validation_every_n_steps=3)
    original, calls = MusicLDM.carry_out, []

    def carry_out(self: MusicLDM, batch: Any) -> Any:
        calls.append(self.global_step)
        if self.global_step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(MusicLDM, "carry_out", carry_out)
        assert main(given) == 143
    run = run_of(root, "validating")
    assert state(run)["global_step"] == 6 and "saved at step 6" in capsys.readouterr().err
    assert main([*given, f"trainer.resume={run}"]) == 0
    assert main(arguments(root, "validated", max_steps=9, validation_every_n_steps=3)) == 0
    ours, whole = state(run), state(run_of(root, "validated"))
    assert ours["global_step"] == whole["global_step"] == 9
    assert all(torch.equal(value, whole["state_dict"][key]) for key, value in ours["state_dict"].items())
    assert (run / "val_9").is_dir()


def test_ctrl_c_while_libraries_load(root: Path) -> None:
    for delay in (0.3, 1.0):
        process = start(arguments(root, "importing", max_steps=100_000))
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert "Traceback" not in err and process.returncode == 130, err


def test_going_on_with_more_steps_says_nothing(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = arguments(root, "more", max_steps=2)
    assert main(given) == 0
    run = run_of(root, "more")
    assert main([*given, f"trainer.resume={run}", "trainer.max_steps=4"]) == 0
    assert "nothing was trained" not in caplog.text
    assert main([*given, f"trainer.resume={run}"]) == 0
    assert "nothing was trained" in caplog.text


@pytest.mark.parametrize("warmup", [4, 0])
def test_resumed_with_other_settings(root: Path, warmup: int) -> None:
    """What is asked for is done."""
    name = f"other_{warmup}"
    given = arguments(root, name, "msgld", f"model.params.warmup_steps={warmup}", max_steps=6)
    assert main(given) == 0
    run = run_of(root, name)
    changes = {"base_learning_rate": 0.0005, "weight_decay": 0.2, "ema_decay": 0.5}
    more = [f"model.params.{key}={value}" for key, value in changes.items()]
    assert main([*given, *more, f"trainer.resume={run}", "trainer.max_steps=8"]) == 0
    (group,) = state(run)["optimizer_states"][0]["param_groups"]
    assert group["lr"] == pytest.approx(0.0005) and group["weight_decay"] == 0.2
    assert float(state(run)["state_dict"]["model_ema.decay"]) == 0.5
    # a warm-up where there was none, and the other way round
    assert main([*given, *more, f"model.params.warmup_steps={16 - warmup}", f"trainer.resume={run}",
                 "trainer.max_steps=9"]) == 0  # fmt: skip
    (group,) = state(run)["optimizer_states"][0]["param_groups"]
    assert group["lr"] == pytest.approx(0.0005 * 9 / (16 - warmup) if 16 - warmup > 9 else 0.0005)


def test_a_first_stage_resumes_with_other_settings(root: Path) -> None:
    given = arguments(root, "other_vae", "vae", max_steps=2)
    assert main(given) == 0
    run = run_of(root, "other_vae")
    more = ["model.params.base_learning_rate=0.007", "model.params.betas=[0.1,0.2]"]
    assert main([*given, *more, f"trainer.resume={run}", "trainer.max_steps=4"]) == 0
    for optimiser in state(run)["optimizer_states"]:
        (group,) = optimiser["param_groups"]
        assert group["lr"] == 0.007 and tuple(group["betas"]) == (0.1, 0.2)
