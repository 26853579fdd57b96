"""Models by name, and a model of other stems: trained, named, resumed and used, all through the two commands."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import train_musicldm
from benchmarks import separation
from data import synthetic
from latent_diffusion import MultiTrackPipeline, SamplingSettings, models
from latent_diffusion.errors import CheckpointError
from latent_diffusion.tasks import Separation
from tests.msgld.files import few_steps
from tests.tiny import MEL, config, write_config, write_first_stage, write_songs
from utilities import cli
from utilities.audio import read_window

REPOSITORY = Path(__file__).resolve().parent.parent
VOICES = ("vocals", "strings", "bass")  # neither four, nor the usual names, nor sorted
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Songs of three stems, a configuration for them, and `weights/choir`, a model of two training steps."""
    folder = tmp_path_factory.mktemp("choir")
    write_songs(folder / "train", 2, 1.0, seed=1, stems=VOICES)
    write_songs(folder / "valid", 1, 0.7, seed=2, stems=VOICES)
    write_first_stage(folder)
    values = config(folder, max_steps=2)
    values["data"]["params"]["path"]["stems"] = list(VOICES)
    values["model"]["params"]["parameterization"] = "v"
    write_config(folder / "tiny.yaml", values)
    assert train(folder) == 0
    (run,) = (folder / "runs" / "tiny").iterdir()
    (folder / "weights" / "choir").mkdir(parents=True)
    to = folder / "weights" / "choir" / "model.safetensors"
    assert (
        train_musicldm.main(
            ["--convert", str(run / "checkpoints" / "last.ckpt"), "--to", str(to), "--weights", "ema", "--half"]
        )
        == 0
    )
    return folder


def train(root: Path, *overrides: str) -> int:
    """The training command with the tiny configuration; its status."""
    return train_musicldm.main(["--config", str(root / "tiny.yaml"), *overrides])


@pytest.fixture
def choir(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The model is known by its name; relative paths lie in a new folder."""
    monkeypatch.setattr(models, "WEIGHTS", root / "weights")
    monkeypatch.chdir(tmp_path)
    return root / "weights" / "choir" / "model.safetensors"


@pytest.fixture
def msgld(choir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Runs the command with the named model; returns its output folder."""

    def call(*arguments: object) -> Path:
        common = ("--model", "choir", *few_steps(arguments), "--quiet", "--device", "cpu", "--out", "out")
        assert cli.main([str(argument) for argument in (*arguments, *common)]) == 0
        return tmp_path / "out"

    return call


def stems_in(folder: Path) -> dict[str, np.ndarray]:
    """Every file in a folder, (samples, channels), by name without ending."""
    return {file.stem: soundfile.read(file, always_2d=True, dtype="float32")[0] for file in folder.iterdir()}


# ---- names


def test_what_a_value_means(choir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    (tmp_path / "choir").mkdir()  # the demo's folder, say: the name is meant all the same
    (tmp_path / "choir" / "own.ckpt").touch()
    for given, found in {
        "choir": choir,
        "./choir": Path("choir/own.ckpt"),
        Path("choir"): Path("choir/own.ckpt"),
        str(choir): choir,
        str(choir.parent): choir,
        "run": Path("run/checkpoints/last.ckpt"),
        "r*": Path("run/checkpoints/last.ckpt"),
    }.items():
        assert models.find_checkpoint(given, "key") == found


def test_no_such_name(choir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^--model: quire: no such file; .*known by name: choir\)$"):
        models.find_checkpoint("quire", "--model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"key: empty: expected the folder of a run .*found none .*name: choir"):
        models.find_checkpoint("empty", "key")


def test_a_place_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    with pytest.raises(CheckpointError, match=r"known by name: none, for .* holds no <name>/model.safetensors"):
        models.find_checkpoint(models.DEFAULT_MODEL, "--model")


def test_help_lists_the_names(choir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "Models known by name (--model): choir\n" in capsys.readouterr().out


def test_the_models_of_this_clone_are_found() -> None:
    """tests/test_wheel.py finds those of an installed wheel."""
    assert models.WEIGHTS == REPOSITORY / "weights" and "quickstart" in models.model_names()


def test_names_in_a_configuration(choir: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first_stage = "model.params.first_stage_config.params.reload_from_ckpt"
    vocoder = "model.params.first_stage_config.params.vocoder_config.ckpt_path"
    go, quick = f"log_directory={tmp_path}", ("trainer.max_steps=1", "trainer.limit_val_batches=0")
    assert train(root, go, "trainer.resume_from_checkpoint=choir", "mode=test", "trainer.limit_val_batches=1") == 0
    assert train(root, go, "model.params.ckpt_path=choir", f"{first_stage}=", *quick) == 0
    assert train(root, go, f"{first_stage}=choir", f"{vocoder}=choir", *quick) == 0
    assert len(list((tmp_path / "tiny").glob("*/checkpoints/last.ckpt"))) == 2
    (made,) = (tmp_path / "tiny").glob("*/val_2")
    assert {path.name for path in made.iterdir()} >= {*VOICES, "mix"}
    capsys.readouterr()
    assert train(root, go, "model.params.ckpt_path=quire") == 2
    assert "model.params.ckpt_path: quire: no such file" in capsys.readouterr().err


def test_separation_options_in_a_configuration(
    choir: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The posterior mean, averaged, cut out of the mixture: the written stems sum to it."""
    options = [f"model.params.evaluation_params.{o}" for o in ("sampler=mean", "average=2", "passes=2", "refine=mask")]
    test = (f"log_directory={tmp_path}", "trainer.resume_from_checkpoint=choir", "mode=test")
    assert train(root, *test, *options, "trainer.limit_val_batches=1") == 0
    (made,), (target,) = (list((tmp_path / "tiny").glob(f"*/{name}_2")) for name in ("val", "target"))
    for file in (target / "mix").iterdir():
        stems = [soundfile.read(made / voice / file.name, dtype="float32")[0] for voice in VOICES]
        np.testing.assert_allclose(sum(stems), soundfile.read(file, dtype="float32")[0], atol=1e-3)  # 16 bit
    capsys.readouterr()
    assert train(root, *test, options[1], "task=generation") == 2
    assert "evaluation_params.average: found 2, expected 1: the task is generation" in capsys.readouterr().err


# ---- other stems


def test_separate_other_stems(msgld: Callable[..., Path], tmp_path: Path) -> None:
    audio = 0.1 * np.random.default_rng(0).standard_normal((9000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", audio, 11_025, subtype="FLOAT")
    stems = stems_in(msgld("separate", tmp_path / "song.wav", "--guidance", "vocals=2") / "song")
    assert set(stems) == set(VOICES)
    assert np.abs(sum(stems.values()) - audio).max() < 1e-5


def test_generate_and_arrange_other_stems(msgld: Callable[..., Path], tmp_path: Path) -> None:
    made = msgld("generate", "--seconds", 0.5) / "generated_0"
    assert set(stems_in(made)) == {*VOICES, "mix"}
    before = stems_in(made)
    (tmp_path / "given").mkdir()
    (made / "strings.wav").rename(tmp_path / "given" / "strings.wav")
    after = stems_in(msgld("arrange", "--given", "given", "--make", "bass,vocals") / "given")
    assert set(after) == {*VOICES, "mix"} and len(after["bass"]) == round(0.5 * MEL.sample_rate)
    np.testing.assert_array_equal(after["strings"], np.clip(before["strings"], -1, 1))


# ---- the example


def test_the_example_runs(
    choir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a model of other stems, so that nothing in it assumes the usual ones."""
    monkeypatch.setattr(sys, "argv", ["stems.py", "choir"])
    runpy.run_path(str(REPOSITORY / "examples" / "stems.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert "vocals, strings, bass; windows of 0.32 s at 4000 Hz" in shown
    for name, seconds in (("separated", 3), ("arranged", 3), ("generated", 4)):
        stems = stems_in(tmp_path / "example_out" / name)
        assert set(stems) == set(VOICES)
        rate = soundfile.info(tmp_path / "example_out" / name / "bass.wav").samplerate
        assert all(len(stem) == seconds * rate and np.isfinite(stem).all() for stem in stems.values())
    assert float(shown.split("off by ")[1].split()[0]) < 1e-5


def test_the_benchmark_of_separations_runs(
    choir: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = ("--variant", "sampler=mean,passes=2", "--variant", "steps=1,guidance=2")
    common = ("--model", "choir", "--stems", str(root / "valid"), "--device", "cpu")
    assert separation.main([*common, *variants, "--exponents", "1", "2", "--json", str(tmp_path / "all.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split(" | ")[0].lstrip("| "): line.split(" | ")[1:] for line in lines if line.startswith("| ")}
    assert float(cells["true stems (oracle)  p=2, 2 rounds"][0]) > float(cells["steps=1,guidance=2  p=2, 2 rounds"][0])
    assert float(cells["sampler=mean,passes=2"][0].rstrip(" |")) >= 0, "the last table: seconds"
    rows = json.loads((tmp_path / "all.json").read_text())["log-mel error, nats^2"]
    assert {row["stem"] for row in rows} == set(VOICES) and rows[0]["true stems (oracle)"] == 0
    for text, message in (("speed=2", "'speed' is none of sampler"), ("steps=x", "steps: found 'x', expected a num")):
        assert separation.main([*common, "--variant", text]) == 2
        assert message in capsys.readouterr().err


def test_the_shipped_model_separates(tmp_path: Path) -> None:
    """A song that it was not trained on: nearer to the true stems than the mixture is, each of them, by half in all."""
    assert synthetic.main(["--out", str(tmp_path), "--tracks", "1", "--seed", "3", "--seconds", "12", "--quiet"]) == 0
    pipeline = MultiTrackPipeline.from_checkpoint("quickstart")
    mel = pipeline.settings.mel
    files = [tmp_path / "train" / "Track00001" / f"{stem}.wav" for stem in pipeline.stems]
    stems = torch.cat([read_window(file, 0, mel.window_samples, mel.sample_rate) for file in files])[None]
    mixture = stems.sum(1).clamp(-1, 1)
    result = pipeline.run(Separation(), mixture, seeds=[0], sampling=SamplingSettings(sampler="mean", average=2))
    true, bare = (pipeline.first_stage.waveform_to_log_mel(x) for x in (stems, mixture[:, None]))
    error, baseline = (((x - true) ** 2).mean((0, 2, 3)) for x in (result.log_mels, bare))
    assert (error < baseline).all()
    assert error.mean() < 0.5 * baseline.mean()
