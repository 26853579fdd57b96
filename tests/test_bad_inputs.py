"""Random bad inputs, drawn from a seed: files, configurations, arguments. Each ends with a status and one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from omegaconf import OmegaConf

import train_musicldm
from tests.msgld.files import save
from tests.tiny import model
from utilities import cli

JUNK = [None, "", -1, 0, 1e300, float("nan"), "ä\x00b", "~", "a::b", [], [1, "x"], {"a": {"b": 1}}, True, "01", "1:30"]
OPTIONS = {
    "generate": [
        "--seconds",
        "--tempo",
        "--chords",
        "--beats-per-bar",
        "--first-beat",
        "--seed",
        "--steps",
        "--overlap",
    ],
    "separate": ["--guidance", "--mask-exponent", "--mask-rounds", "--average", "--passes", "--precision", "--sampler"],
    "arrange": ["--make", "--guidance", "--eta", "--spacing", "--batch-size", "--device"],
}
WORDS = [
    "-1",
    "0",
    "nan",
    "1e999",
    "",
    "x" * 3000,
    "a=b=c",
    "bass=",
    "\udcff",
    "99999999999999999999",
    "C H Am",
    "/dev/null",
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "last.ckpt", model(parameterization="v"))


def status_of(run: object, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status, argparse's too, and what was said on standard error."""
    capsys.readouterr()
    try:
        status = run(arguments)
    except SystemExit as ended:
        status = int(ended.code)
    return status, capsys.readouterr().err


@pytest.mark.parametrize("seed", range(30))
def test_damaged_sound_files(seed: int, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut, overwritten with noise, or noise alone, under any ending."""
    rng = np.random.default_rng(seed)
    kind = ["wav", "flac", "ogg", "aiff", "au", "mp3", "w64", "caf"][seed % 8]
    file = tmp_path / f"song.{kind}"
    soundfile.write(file, 0.1 * rng.standard_normal((4000, 2)), 16_000, format={"aiff": "AIFF"}.get(kind, kind.upper()))
    data = bytearray(file.read_bytes())
    if seed % 3 == 0:
        data = data[: int(rng.integers(1, len(data)))]
    elif seed % 3 == 1:
        places = rng.integers(0, min(200, len(data)), 12)
        for place in places:
            data[place] = int(rng.integers(256))
    else:
        data = bytearray(rng.bytes(int(rng.integers(1, 3000))))
    file.write_bytes(data)
    arguments = [
        "separate",
        str(file),
        "--model",
        str(weights),
        "--quiet",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "out"),
    ]
    status, err = status_of(cli.main, arguments, capsys)
    assert status in (0, 1, 2) and "Traceback" not in err


@pytest.mark.parametrize("seed", range(30))
def test_damaged_configurations(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shipped configuration with junk at a random key, or with its text cut and stirred."""
    rng = np.random.default_rng(seed)
    text = Path("config/quickstart/train.yaml").read_text()
    if seed % 3 == 0:
        place = int(rng.integers(len(text)))
        text = text[:place] + "".join(rng.permutation(list(text[place : place + 40]))) + text[place + 60 :]
    else:
        values = OmegaConf.to_container(OmegaConf.create(text))
        node = values
        while True:
            key = list(node)[int(rng.integers(len(node)))]
            if not isinstance(node[key], dict) or rng.random() < 0.2:
                break
            node = node[key]
        junk = JUNK[int(rng.integers(len(JUNK)))]
        if seed % 3 == 1:
            node[key] = junk
        else:
            node[f"{key}x"] = junk
        text = yaml.safe_dump(values, allow_unicode=True)
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    status, err = status_of(train_musicldm.main, ["--config", str(file), "--dry-run"], capsys)
    assert status == 2 and "Traceback" not in err  # at the latest, there is no music to train on
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.parametrize("seed", range(30))
def test_arguments_that_make_no_sense(
    seed: int, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(seed)
    command = list(OPTIONS)[seed % 3]
    option = OPTIONS[command][int(rng.integers(len(OPTIONS[command])))]
    word = WORDS[int(rng.integers(len(WORDS)))]
    soundfile.write("bass.wav", 0.1 * rng.standard_normal(4000), 16_000)
    first = {"separate": ["bass.wav"], "arrange": ["--given", "bass.wav"], "generate": []}[command]
    common = ["--model", str(weights), "--quiet", "--out", "out"]
    status, err = status_of(cli.main, [command, *first, *common, f"{option}={word}"], capsys)
    assert status in (0, 1, 2) and "Traceback" not in err
    assert status == 0 or len([line for line in err.splitlines() if "error" in line]) <= 1
