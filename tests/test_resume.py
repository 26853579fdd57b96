"""Trainings that are killed at any moment and resumed end with the weights of an uninterrupted one."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import config, write_config, write_first_stage, write_songs
from train_musicldm import main

REPOSITORY = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore")

# What is trained, and how long: 8 windows of two songs make 4 batches an epoch.
TRAININGS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "msgld": ("msgld", {"max_steps": 10, "save_checkpoint_every_n_steps": 1}, []),
    "workers": (
        "msgld",
        {"max_steps": 10, "save_checkpoint_every_n_steps": 2, "validation_every_n_steps": 3},
        ["data.params.num_workers=2"],
    ),
    "accumulation": (
        "msgld",
        {"max_steps": 8, "save_checkpoint_every_n_steps": 1, "accumulate_grad_batches": 2, "gradient_clip_val": 1.0},
        [
            "data.params.augmentation.masking=true",
            "data.params.augmentation.gain_db=[-9,6]",
            "data.params.augmentation.remix=0.5",
            "model.params.scale_per_channel=true",
        ],
    ),
    # an epoch's last step is of one batch only
    "odd accumulation": (
        "msgld",
        {
            "max_steps": 8,
            "save_checkpoint_every_n_steps": 1,
            "accumulate_grad_batches": 2,
            "limit_train_batches": 3,
        },
        [],
    ),
    "epochs": ("msgld", {"max_epochs": 3}, []),  # saved at the end of each
    "vae": ("vae", {"max_steps": 8, "save_checkpoint_every_n_steps": 1}, []),
    "vocoder": ("vocoder", {"max_steps": 8, "save_checkpoint_every_n_steps": 3}, []),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with songs and first-stage weights."""
    folder = tmp_path_factory.mktemp("resume")
    write_songs(folder / "train", 2, 1.3, seed=1)
    write_songs(folder / "valid", 1, 0.4, seed=2)
    write_first_stage(folder)
    return folder


def arguments(root: Path, case: str, *overrides: str) -> list[str]:
    kind, trainer, given = TRAININGS[case]
    path = root / f"{case}.yaml"
    if not path.exists():
        values = config(root, kind, **trainer)
        values["project_name"] = case
        if "validation_every_n_steps" not in trainer:
            values["data"]["params"]["path"]["valid_data"] = None
        write_config(path, values)
    return ["--config", str(path), *given, *overrides]


def train(root: Path, case: str, *overrides: str) -> Path:
    """Train in this process; returns the run's folder."""
    before = set((root / "runs" / case).glob("*"))
    assert main(arguments(root, case, *overrides)) == 0
    new = set((root / "runs" / case).glob("*")) - before
    assert len(new) <= 1
    return new.pop() if new else Path()


def state(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from leaves(item, f"{where}.{number}")
    else:
        yield where, value


def assert_equal(run: Path, whole: Path) -> None:
    """Weights, averages, scale, optimisers, learning rates and counters: all equal, to the last bit."""
    found, expected = state(run), state(whole)
    assert found["global_step"] == expected["global_step"]
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        ours, theirs = dict(leaves(found[part])), dict(leaves(expected[part]))
        assert ours.keys() == theirs.keys() and (ours or part == "lr_schedulers")
        unequal = [
            name
            for name, value in theirs.items()
            if not (torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value)
        ]
        assert not unequal, f"{len(unequal)} of {len(theirs)} differ in {part}, first {unequal[:5]}"


@pytest.fixture(scope="module")
def uninterrupted(root: Path) -> Callable[[str], Path]:
    """The run's folder of a training that was left alone; made once."""
    made: dict[str, Path] = {}

    def get(case: str) -> Path:
        if case not in made:
            made[case] = train(root, case)
        return made[case]

    return get


def start(root: Path, case: str, *overrides: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(REPOSITORY / "train_musicldm.py"), *arguments(root, case, *overrides)]
    environment = {key: value for key, value in os.environ.items() if key != "MSGLD_RUN_FOLDER"}
    log = (root / f"{case}.log").open("ab")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def kill_when(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    """SIGKILL to the training and its loader processes as soon as a condition holds."""
    end = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class KillAt(Exception):
    """Stands in for SIGKILL where the training runs in this process."""


def killed_in_process(root: Path, case: str, monkeypatch: pytest.MonkeyPatch, batches: int, *overrides: str) -> Path:
    """A training that ends right after so many batches, whatever has been saved until then."""
    from utilities.runs import LastCheckpoint

    left = batches
    original = LastCheckpoint.on_train_batch_end

    def dying(self: LastCheckpoint, trainer: Any, *rest: Any) -> None:
        nonlocal left
        original(self, trainer, *rest)
        left -= 1
        if left == 0:
            raise KillAt

    before = set((root / "runs" / case).glob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_end", dying)
        with pytest.raises(KillAt):
            main(arguments(root, case, *overrides))
    new = set((root / "runs" / case).glob("*")) - before
    return new.pop() if new else Path()


@pytest.mark.parametrize(
    ("case", "kills"),
    [
        ("msgld", (1, 5, 2)),
        ("msgld", (4, 4)),  # between two epochs
        ("accumulation", (3, 2, 5)),
        ("accumulation", (4, 1, 3)),
        ("accumulation", (7, 4)),
        ("odd accumulation", (4, 1, 4)),
        ("epochs", (6, 3)),
        ("workers", (5, 3)),
        ("vae", (3, 2)),
        ("vocoder", (4, 4)),
    ],
)
def test_killed_and_resumed(
    root: Path,
    uninterrupted: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    kills: tuple[int, ...],
) -> None:
    whole = uninterrupted(case)
    run = killed_in_process(root, case, monkeypatch, kills[0])
    resume = f"trainer.resume={run}"
    for batches in kills[1:]:
        assert killed_in_process(root, case, monkeypatch, batches, resume) == Path(), "goes on in the same folder"
    train(root, case, resume)
    assert_equal(run, whole)


@pytest.mark.parametrize(("case", "steps"), [("msgld", (1, 6)), ("workers", (4,))])
def test_killed_by_signal(root: Path, uninterrupted: Callable[[str], Path], case: str, steps: tuple[int, ...]) -> None:
    """SIGKILL from outside, whatever the training is doing once it has saved the given step."""
    whole = uninterrupted(case)
    folder = root / "runs" / case
    before = set(folder.glob("*"))
    process = start(root, case, "trainer.max_steps=10000")
    run: Path | None = None

    def saved(step: int) -> bool:
        nonlocal run
        run = run or next(iter(set(folder.glob("*")) - before), None)
        last = run / "checkpoints" / "last.ckpt" if run else None
        return last is not None and last.exists() and torch.load(last, weights_only=True)["global_step"] >= step

    kill_when(process, lambda: saved(steps[0]))
    for step in steps[1:]:
        if state(run)["global_step"] < step:
            kill_when(start(root, case, "trainer.max_steps=10000", f"trainer.resume={run}"), lambda s=step: saved(s))
    reached = state(run)["global_step"]
    longest = TRAININGS[case][1]["max_steps"]
    if reached >= longest:  # a quick machine: compare with as long a training
        longest = reached + 3
        whole = train(root, case, f"trainer.max_steps={longest}")
    train(root, case, f"trainer.max_steps={longest}", f"trainer.resume={run}")
    assert_equal(run, whole)
    assert not [p for p in (run / "checkpoints").iterdir() if p.name != "last.ckpt"], "half-written files are removed"


@pytest.mark.parametrize("case", ["msgld", "accumulation"])
def test_a_finished_training_goes_on(root: Path, uninterrupted: Callable[[str], Path], case: str) -> None:
    run = train(root, case, "trainer.max_steps=3")
    assert state(run)["global_step"] == 3
    train(root, case, f"trainer.resume={run}/checkpoints/last.ckpt", "trainer.max_steps=5")
    train(root, case, f"trainer.resume={run}")
    assert_equal(run, uninterrupted(case))


def test_nothing_left_to_train(root: Path, uninterrupted: Callable[[str], Path], caplog: Any) -> None:
    train(root, "msgld", f"trainer.resume_from_checkpoint={uninterrupted('msgld')}")
    assert "nothing was trained" in caplog.text


def test_both_ways_to_go_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(root, "msgld", "trainer.resume=a", "trainer.resume_from_checkpoint=b")) == 2
    assert "trainer.resume and trainer.resume_from_checkpoint: found both" in capsys.readouterr().err


def test_resume_from_checkpoint_makes_a_new_folder(root: Path, uninterrupted: Callable[[str], Path]) -> None:
    run = train(root, "msgld", "trainer.max_steps=4")
    kept = (run / "checkpoints" / "last.ckpt").read_bytes()
    other = train(root, "msgld", f"trainer.resume_from_checkpoint={run}/checkpoints/last.ckpt")
    assert other != Path() and other != run
    assert_equal(other, uninterrupted("msgld"))
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == kept


def test_what_the_checkpoint_holds(uninterrupted: Callable[[str], Path]) -> None:
    """The comparisons above look at what they claim to look at, and at a training that did something."""
    content = state(uninterrupted("msgld"))
    keys = content["state_dict"]
    assert any(key.startswith("model_ema.diffusion_model") for key in keys) and "scale_factor" in keys
    assert int(keys["model_ema.num_updates"]) == 10 and not math.isclose(float(keys["scale_factor"]), 1.0)
    weight, average = keys["model.diffusion_model.out.2.weight"], keys["model_ema.diffusion_modelout2weight"]
    assert weight.any() and not torch.equal(weight, average)
    assert content["optimizer_states"][0]["state"][0]["step"] == 10
    assert content["msgld"]["step"] == 10 and content["lr_schedulers"][0]["last_epoch"] == 10
