"""`msgld evaluate` and `msgld compare` on folders of several layouts, rates and faults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from latent_diffusion.errors import DataError
from utilities.audio import read_audio, resample
from utilities.cli import main
from utilities.evaluation.compare import compare, read_scored
from utilities.evaluation.folders import MIXTURE, pair, read_item, read_mixtures, read_tree, rename_published
from utilities.evaluation.metrics import bootstrap_interval, sdr, si_sdr
from utilities.evaluation.scores import read_rows

RATE, SECONDS = 8000, 4.5
STEMS = ("bass", "drums")


def noise(seed: int, seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate))


def write(path: Path, waveform: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tracks `<track>/<stem>.wav`; the third's drums are silent."""
    root = tmp_path_factory.mktemp("ref")
    for number in range(3):
        write(root / f"T{number}/bass.wav", noise(number))
        write(root / f"T{number}/drums.wav", 0 * noise(0) if number == 2 else noise(10 + number))
    return root


def estimates_of(references: Path, folder: Path, error: float) -> Path:
    """Results as another system writes them: FLAC, in a folder of its own; one stem of one track is missing."""
    for number in range(3):
        for s, stem in enumerate(STEMS):
            target, _ = soundfile.read(references / f"T{number}/{stem}.wav")
            write(folder / f"model/T{number}/{stem}.flac", target + error * noise(20 + 2 * number + s))
    (folder / "model/T1/drums.flac").unlink()
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments] + ["--quiet"])


# Layouts


def test_layouts(tmp_path: Path) -> None:
    for side in ("val", "target"):
        for folder in ("mix", "bass", "drums", "stem_0_1"):
            write(tmp_path / f"run/{side}_20/{folder}/A_from_0.wav", noise(0, 0.1))
        (tmp_path / f"run/{side}_20/stem_0").symlink_to("bass")
    write(tmp_path / "run/val_3/mix/old.wav", noise(0, 0.1))
    tree = read_tree(tmp_path / "run", "--est")
    assert tree.root.name == "val_20" and set(tree.items) == {"A_from_0"}
    assert set(tree.items["A_from_0"]) == {MIXTURE, "bass", "drums"} and tree.aliases == {"stem_0": "bass"}
    for i in range(2):  # as the published code writes it
        write(tmp_path / f"published/stem_{i}/A_from_0.wav", noise(0, 0.1))
    published = read_tree(tmp_path / "published", "--est")
    assert published.stems == ["stem_0", "stem_1"]
    target = read_tree(tmp_path / "run/target_20", "--ref")
    target.aliases["stem_1"] = "drums"
    rename_published(published, target)
    assert published.stems == ["bass", "drums"] and pair(published, target) == {"A_from_0": "A_from_0"}

    one = write(tmp_path / "one/Song/bass.wav", noise(0, 0.1)).parent
    assert list(read_tree(one, "--est").items) == ["Song"]
    write(tmp_path / "one/Song/mixture.ogg", noise(0, 0.1))
    assert read_mixtures(tmp_path / "one") == {"Song": one / "mixture.ogg"}
    write(tmp_path / "flat/Song.wav", noise(0, 0.1))
    assert list(read_mixtures(tmp_path / "flat")) == ["Song"]
    with pytest.raises(DataError, match="found no mixture, expected"):
        read_mixtures(write(tmp_path / "none/Song/bass.wav", noise(0, 0.1)).parents[1])


def test_reading_makes_sides_alike(tmp_path: Path) -> None:
    reference = write(tmp_path / "bass.wav", noise(0))
    stereo = np.stack([noise(1, rate=16000), noise(2, rate=16000)], axis=1)[:-40]
    waves = read_item({"bass": write(tmp_path / "e.wav", stereo, 16000)}, {"bass": reference, "drums": reference})
    assert waves.sample_rate == RATE and waves.estimates["bass"].shape == (1, int(SECONDS * RATE) - 20)
    wanted = resample(torch.from_numpy(stereo.T).float(), 16000, RATE).mean(0)
    assert torch.allclose(waves.estimates["bass"][0], wanted, atol=1e-6)
    assert torch.allclose(waves.mixture, 2 * waves.references["bass"])
    assert waves.notes == [
        "resampled from 16000 to 8000 Hz",
        "cut to 35980 samples, the longest had 20 more",
        "compared in mono",
    ]
    short = write(tmp_path / "short.wav", noise(0, 3.0))
    with pytest.raises(DataError, match=r"bass.wav is 1.50 s longer than .*short.wav, expected less than 1 s"):
        read_item({"bass": short}, {"bass": reference})


# Evaluate


def test_other_systems_results(references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    estimates = estimates_of(references, tmp_path / "est", 0.1)
    write(estimates / "model/T0/vocals.flac", noise(0))
    write(estimates / "model/Other/bass.flac", noise(0))
    out = tmp_path / "out"
    assert run("evaluate", "--est", estimates, "--ref", references, "--out", out) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    rows = {(row["track"], row["stem"]): row for row in read_rows(out / "metrics.csv")}
    assert set(rows) == {(f"model/T{t}", stem) for t in range(3) for stem in STEMS} - {("model/T1", "drums")}
    target, mixture = read_audio(references / "T0/bass.wav")[0], 0
    for stem in STEMS:
        mixture = mixture + read_audio(references / f"T0/{stem}.wav")[0]
    made = read_audio(estimates / "model/T0/bass.flac")[0]
    row = rows["model/T0", "bass"]
    assert row["si_sdr"] == pytest.approx(si_sdr(made, target)) and row["sdr"] == pytest.approx(sdr(made, target))
    assert row["si_sdri"] == pytest.approx(si_sdr(made, target) - si_sdr(mixture, target))
    assert rows["model/T2", "drums"]["silent"] == 1 and rows["model/T2", "drums"]["si_sdr"] is None
    assert metrics["model"]["drums"]["si_sdr"]["silent"] == 1 and metrics["items"] == 3
    assert metrics["msdm"]["about"]["chunks"] == 3 and metrics["msdm"]["about"]["left_out_one_stem"] == 1
    assert metrics["fad"]["mixture"]["fad"] < metrics["fad"]["stems"]["bass"]["fad"] + 1e3
    said, problems = capsys.readouterr().out, "\n".join(metrics["problems"])
    assert "msdm_si_sdri" in said and str(out) in said and "nan" not in said
    assert "1 items without a reference, left out: model/Other" in problems
    assert "model/T1: no estimate of drums" in problems and "no reference of vocals, not scored" in problems


def test_mixtures_of_their_own(references: Path, tmp_path: Path) -> None:
    estimates = estimates_of(references, tmp_path / "est", 0.1)
    write(tmp_path / "mix/T0.wav", noise(50))
    out = tmp_path / "out"
    given = ["evaluate", "--est", estimates, "--ref", references, "--mixture", tmp_path / "mix", "--out", out]
    assert run(*given) == 0
    row = read_rows(out / "metrics.csv")[0]
    target = read_audio(references / "T0/bass.wav")[0]
    assert row["mixture_si_sdr"] == pytest.approx(si_sdr(read_audio(tmp_path / "mix/T0.wav")[0], target))
    assert "T1: no mixture in --mixture" in " ".join(json.loads((out / "metrics.json").read_text())["problems"])


def test_sets_and_arrangements(references: Path, tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"made/song{number}/bass.wav", noise(60 + number))
    out = tmp_path / "out"
    assert run("evaluate", "--est", tmp_path / "made", "--ref", references, "--task", "generation", "--out", out) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["fad"]["stems"]["bass"]["items"] == 2 and metrics["fad"]["stems"]["bass"]["reference_items"] == 3
    assert not (out / "metrics.csv").exists() and "model" not in metrics
    assert run("compare", out, out, "--out", tmp_path / "page.html") == 0  # nothing pairs; the distances are shown
    assert "Fréchet distances" in (tmp_path / "page.html").read_text(encoding="utf-8")

    # the given drums and a bass that is the original: nothing is wrong with the whole
    write(tmp_path / "arranged/T0/bass.wav", soundfile.read(references / "T0/bass.wav")[0])
    given = ["evaluate", "--est", tmp_path / "arranged", "--ref", references, "--task", "arrangement", "--out", out]
    assert run(*given) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["fad"]["sub_fad"]["fad"] == pytest.approx(0, abs=1e-6)


def test_bad_input_is_one_line(references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write(tmp_path / "est/Else/bass.wav", noise(0)).parents[1]
    write(tmp_path / "long/T0/bass.wav", noise(0, 7.0))
    cases = {
        ("evaluate", "--est", tmp_path / "none", "--ref", references): "--est: .*none: no such folder, expected",
        ("evaluate", "--est", references): "--ref: not given",
        ("evaluate", "--est", other, "--ref", references): "no item has a partner .*Else.* or --task generation",
        ("evaluate", "--est", tmp_path / "long", "--ref", references): "nothing could be scored; T0: .* s longer than",
        ("evaluate", "--est", other, "--ref", other, "--overlap", "5"): "--overlap: found 5, expected less than",
        ("evaluate", "--est", other, "--ref", other, "--embedding", "x"): "--embedding: found 'x', expected one of",
        ("compare", other, references): "found no metrics.json, expected a run",
        ("report", tmp_path / "none"): "no such folder",
    }
    for arguments, message in cases.items():
        assert run(*arguments) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "\n" not in error
        assert re.search(message, error), error


# Compare


def test_compare(references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, error in (("a", 0.5), ("b", 0.1)):
        given = ["--est", estimates_of(references, tmp_path / name, error), "--ref", references]
        assert run("evaluate", *given) == 0
    first, second = (read_scored(str(tmp_path / name)) for name in "ab")
    found = {(d.metric, d.stem): d for d in compare(first, second)}
    difference = found["si_sdr", "bass"]
    values = [
        {row["item"]: row["si_sdr"] for row in read_rows(s.folder / "metrics.csv") if row["stem"] == "bass"}
        for s in (first, second)
    ]
    by_hand = [values[1][item] - values[0][item] for item in sorted(values[0])]
    assert difference.difference == pytest.approx(np.mean(by_hand)) and difference.tracks == 3
    assert list(difference.interval) == pytest.approx(bootstrap_interval([[v] for v in by_hand]))
    assert difference.second - difference.first == pytest.approx(difference.difference)
    assert (difference.better, found["log_mel_mse", "all"].better) == (1, 1)
    sounding = found["log_mel_mse", "sounding"]  # without the third track's drums
    assert (found["log_mel_mse", "all"].items, sounding.items) == (5, 4) and ("si_sdr", "sounding") not in found
    assert sounding.second - sounding.first == pytest.approx(sounding.difference)
    drums = found["si_sdr", "drums"]  # one track lacks an estimate, one is silent
    assert (drums.items, drums.interval, drums.better) == (1, None, 0)
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert run("compare", tmp_path / "a", tmp_path / "b", "--out", page) == 0
    text = capsys.readouterr().out
    assert "B - A" in text and f"{difference.difference:+.3f}" in text
    html = page.read_text(encoding="utf-8")
    assert "<svg" in html and "SI-SDRi" in html and html.count('class="whisker better"') >= 4
    assert "embedding log_mel" in html
