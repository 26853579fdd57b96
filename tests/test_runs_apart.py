"""Runs that start together, ranks without items, folders named twice, names that are not UTF-8, Python's own slips."""

from __future__ import annotations

import json
import logging
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from latent_diffusion.checkpoints import read_weights
from latent_diffusion.errors import CheckpointError, ConfigError, DataError
from tests import tiny
from tests.tiny import config, write_config, write_first_stage, write_songs
from train_musicldm import main
from utilities.config import load_config
from utilities.data.stems import StemDataset
from utilities.runs import alone_in, run_folder

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apart")
    write_songs(folder / "train", 2, 0.7, seed=1)
    write_songs(folder / "valid", 1, 0.33, seed=2)
    write_first_stage(folder)
    return folder


def test_runs_that_start_together_have_folders_of_their_own(root: Path) -> None:
    path = write_config(root / "c.yaml", config(root))
    loaded = load_config(path)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: run_folder(loaded, make=True), range(24)))
    assert len(set(folders)) == 24 and all(folder.is_dir() for folder in folders)
    with alone_in(folders[0]), pytest.raises(ConfigError, match="another training is at work"), alone_in(folders[0]):
        pass
    with alone_in(folders[0]):
        pass


def test_a_refused_run_leaves_no_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = config(root, strategy="nonsense", max_steps=1) | {"project_name": "refused"}
    assert main(["--config", str(write_config(root / "r.yaml", values))]) == 2
    assert not list((root / "runs" / "refused").glob("*"))
    assert main(["--config", str(root / "r.yaml"), f"log_directory={root}/a::b", "trainer.strategy=auto"]) == 2
    assert "holds '::'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["msgld", "vae"])
def test_ranks_without_items_wait(root: Path, kind: str) -> None:
    values = config(root, kind, max_steps=1, devices=2, strategy="ddp", save_top_k=1) | {"project_name": f"one_{kind}"}
    given = ["--config", str(write_config(root / f"{kind}.yaml", values)), "data.params.batch_size=1"]
    command = [sys.executable, "train_musicldm.py", *given, "trainer.validation_every_n_steps=1"]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=200
    )
    assert result.returncode == 0, result.stderr[-2000:]
    (run,) = (root / "runs" / f"one_{kind}").iterdir()
    assert len(list(run.glob("checkpoints/best*"))) == 1 and (run / "val_1").is_dir()


def test_a_folder_twice_counts_once(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "link").symlink_to(root / "train")
    once = StemDataset(root / "train", tiny.STEMS, tiny.MEL, shift=True)
    with caplog.at_level(logging.WARNING):
        twice = StemDataset([root / "train", f"{root}/./train", tmp_path / "link"], tiny.STEMS, tiny.MEL, shift=True)
    assert len(twice) == len(once) and "4 of 6 tracks are named twice" in caplog.text


def test_training_and_validation_on_the_same(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    from utilities.data.datamodule import StemDataModule

    data = StemDataModule(root / "train", root / "train", tiny.STEMS, tiny.MEL)
    with caplog.at_level(logging.WARNING):
        data.setup("fit")
        data.setup("fit")
    assert caplog.text.count("2 of its tracks are in train_data") == 1


def test_names_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A track and the folders around it, from the data to the report."""
    root = tmp_path / "r"
    write_songs(root / "train", 2, 0.7, seed=1)
    write_songs(root / "valid", 1, 0.4, seed=2)
    write_first_stage(root)
    os.rename(root / "valid/Track00000", os.fsencode(root / "valid") + b"/n\xfa\xe9")
    os.rename(root / "train/Track00000", os.fsencode(root / "train") + b"/\xff\xfe")
    root = Path(os.fsdecode(os.fsencode(root) + b"\xff"))
    os.rename(tmp_path / "r", root)
    plain = [f"log_directory={tmp_path}/runs", b"id.name=\xff".decode("utf-8", "surrogateescape")]
    given = ["--config", str(write_config(root / "c.yaml", config(root, max_steps=1, logger=["csv", "tensorboard"])))]
    assert main(given) == 2
    assert "is not UTF-8" in capsys.readouterr().err
    given += plain
    assert main([*given, "trainer.validation_every_n_steps=1"]) == 0
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert load_config(run / "config.yaml").data.params.path.train_data == [str(root / "train")]
    assert main([*given, f"trainer.resume={run}", "trainer.max_steps=2"]) == 0
    assert (run / "report.html").is_file()


def test_what_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, x = tiny.pipeline(), tiny.tones(2000, 1)
    for seed in (None, 1.5, "a"):
        with pytest.raises(ConfigError, match="seed: found"):
            pipeline.separate(x, 4000, seed=seed)
        with pytest.raises(ConfigError, match="seed: found"):
            pipeline.generate(seed=seed)
    with pytest.raises(DataError, match="found samples up to"):
        pipeline.separate(x * 1e19, 4000)
    for rate in (True, 1, 0, 4000.5):
        with pytest.raises(DataError, match="sample rate"):
            pipeline.separate(x, rate)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ConfigError, match="default dtype"):
            pipeline.separate(x, 4000)
    finally:
        torch.set_default_dtype(torch.float32)
    from latent_diffusion import MultiTrackPipeline

    assert MultiTrackPipeline.from_checkpoint("quickstart", device="auto").stems
    with pytest.raises(ConfigError, match="device: found 'nowhere'"):
        MultiTrackPipeline.from_checkpoint("quickstart", device="nowhere")


def test_deep_metadata(tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    header = json.dumps({"__metadata__": {"msgld": "[" * 100_000}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        read_weights(path)
