"""Tracks and folders that are called like parts of a result tree: what a folder holds decides, not its name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from latent_diffusion.errors import DataError
from utilities.cli import main
from utilities.evaluation.folders import is_result_tree, newest_results, read_tree, result_trees, stem_folder
from utilities.evaluation.metrics import track_of
from utilities.evaluation.scores import read_rows
from utilities.report.collect import report_page
from utilities.report.listing import what_to_open

RATE = 8000
STEMS = ("bass", "drums")


def write(path: Path, seed: int = 0, error: float = 0.0) -> Path:
    """Half a second of noise, and as much of other noise as `error` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ours, other = (np.random.default_rng(s).standard_normal(RATE // 2) for s in (seed, seed + 1000))
    soundfile.write(path, 0.1 * (ours + error * other), RATE, subtype="FLOAT")
    return path


def write_tracks(root: Path, names: list[str], error: float = 0.0) -> Path:
    for number, name in enumerate(names):
        for s, stem in enumerate((*STEMS, "guitar")[: 2 + number % 2]):  # every other track has a guitar
            write(root / name / f"{stem}.wav", 10 * number + s, error * (1 + number + s))
    return root


def write_results(tree: Path, *items: str, stems: tuple[str, ...] = STEMS, error: float = 0.0) -> Path:
    for number, item in enumerate(items):
        for s, stem in enumerate(("mix", *stems)):
            write(tree / stem_folder(stem) / f"{item}.wav" if s else tree / f"mix/{item}.wav", 10 * number + s, error)
    return tree


def scores(out: Path) -> dict[tuple[str, str], float | None]:
    return {(row["item"], row["stem"]): row["si_sdr"] for row in read_rows(out / "metrics.csv")}


@pytest.mark.parametrize(
    "names",
    [
        ["stem_0", "Song", "stem_1"],
        ["val_1", "val_6", "target_6"],
        ["mix", "A", "stem_0_1"],
        ["val_1_before", "mel", "mix"],
        ["set/stem_0", "val_2/stem_1", "val_2/mix"],
    ],
)
def test_evaluation_of_tracks_does_not_depend_on_their_names(names: list[str], tmp_path: Path) -> None:
    found = []
    for side, named in (("plain", [f"T{i}" for i in range(3)]), ("odd", names)):
        ref, est = write_tracks(tmp_path / side / "ref", named), write_tracks(tmp_path / side / "est", named, 0.2)
        out = tmp_path / side / "out"
        assert main(["evaluate", "--est", str(est), "--ref", str(ref), "--out", str(out), "--quiet", "--report"]) == 0
        assert json.loads((out / "metrics.json").read_text())["tracks"] == 3
        found.append({(named.index(item), stem): value for (item, stem), value in scores(out).items()})
        assert f"<h3>{named[0]}</h3>" in (out / "report.html").read_text(encoding="utf-8")
        page = report_page(est, ref, None)
        assert sorted(item.name for item in page.items) == sorted(named)
        assert {sound.stem for item in page.items for sound in item.sounds} == {"", *STEMS, "guitar"}
    assert len(found[0]) == 7 and found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("names", [["stem_0", "stem_1"], ["mix"], ["mix", "Song"]])
def test_what_could_be_either_is_an_error(names: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tracks, or the stems of two items called bass and drums?"""
    for name in names:
        for stem in STEMS:
            write(tmp_path / f"est/{name}/{stem}.wav")
    out = str(tmp_path / "out")
    for given in (
        ["evaluate", "--est", str(tmp_path / "est"), "--ref", str(tmp_path / "est")],
        ["report", str(tmp_path / "est")],
    ):
        assert main([*given, "--out", out]) == 2
        error = capsys.readouterr().err.strip()
        assert "\n" not in error and re.search(
            rf"est: found folders called .*{names[0]}.* tells whether they are", error
        )
    assert not Path(out).exists()
    for side in ("val_1", "target_1"):  # even there
        (tmp_path / side).symlink_to("est")
    assert main(["evaluate", "--est", str(tmp_path / "val_1"), "--quiet"]) == 2
    write(tmp_path / f"est/{names[0]}/mixture.wav")  # no item of a run is called so
    assert set(read_tree(tmp_path / "est", "--est").items) == set(names)


def test_signs_of_a_result_tree(tmp_path: Path) -> None:
    windows = write_results(tmp_path / "windows", "A_from_0", "A_from_0_320")
    assert is_result_tree(windows) and set(read_tree(windows, "").items) == {"A_from_0", "A_from_0_320"}
    with pytest.raises(DataError, match="windows_not: found folders called mix"):
        is_result_tree(write_results(tmp_path / "windows_not", "A", "B"))
    (tmp_path / "windows_not/metrics.json").write_text('{"task": "separation", "step": 5}')
    assert is_result_tree(tmp_path / "windows_not")
    published = [write(tmp_path / f"published/stem_{i}/Song.wav") for i in range(2)]
    with pytest.raises(DataError, match="found folders called stem_0, stem_1"):
        is_result_tree(tmp_path / "published")
    (tmp_path / "published/stem_mel_0").mkdir()
    np.save(tmp_path / "published/stem_mel_0/Song.npy", np.zeros(3))
    assert read_tree(tmp_path / "published", "").items == {"Song": {"stem_0": published[0], "stem_1": published[1]}}


def test_links_in_a_result_tree(tmp_path: Path) -> None:
    """Published names are links to other stems; a stem that lies elsewhere is a stem."""
    tree = write_results(tmp_path / "val_1", "A", stems=("bass",))
    write(tmp_path / "elsewhere/A.wav")
    (tree / "drums").symlink_to(tmp_path / "elsewhere")
    (tree / "stem_0").symlink_to("bass")
    (tree / "stem_1").symlink_to("drums")
    found = read_tree(tree, "")
    assert found.stems == ["bass", "drums"] and found.aliases == {"stem_0": "bass", "stem_1": "drums"}


def test_run_folder_with_other_things_in_it(tmp_path: Path) -> None:
    run = tmp_path / "runs/one"
    for step in (6, 20):
        write_results(run / f"val_{step}", "A_from_0", error=0.1)
        write_results(run / f"target_{step}", "A_from_0")
    (run / "config.yaml").write_text("mode: train\n")
    write_results(run / "val_6_before", "A_from_0")
    write_results(run / "val_best", "A_from_0")
    write_tracks(run / "val_99", ["Song", "Other"])
    (run / "val_100").mkdir()
    (run / "val_101").write_text("a note")
    assert [tree.name for tree in result_trees(run)] == ["val_20", "val_6"] and newest_results(run) == run / "val_20"
    lines = what_to_open(run)
    assert lines[0] == f"hear  {run}/val_20/{{bass,drums,mix}}/A_from_0.wav" and f"{run}/target_20/" in lines[1]
    write_tracks(tmp_path / "runs/music", ["val_1", "val_2"])
    for name in ("stem_0", "stem_1"):
        write(tmp_path / f"runs/unclear/val_1/{name}/bass.wav")
    said = subprocess.run(
        [sys.executable, "-m", "utilities.report.listing", tmp_path / "runs"], capture_output=True, text=True
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.splitlines()[:2] == ["one", f"  {lines[0]}"] and "music" not in said.stdout
    assert "unclear\n  left out: " in said.stdout

    (run / "val_20/metrics.json").write_text('{"task": "separation", "step": 20, "stems": ["bass", "drums"]}')
    page = report_page(run, None, None)
    assert [sound.stem for sound in page.history[0].sounds] == ["step 6", "step 20", "target"]
    (run / "val_6/metrics.json").write_text('{"task": "separation", "step": 6, "stems": ["bass", "drums"]}')
    assert report_page(run / "val_6", None, None).title == "val_6"
    assert main(["evaluate", "--est", str(run), "--quiet"]) == 0 and (run / "val_20/evaluation/metrics.json").is_file()


def test_a_run_may_be_called_like_its_results(tmp_path: Path) -> None:
    run = tmp_path / "val_3"
    write_results(run / "val_7", "A_from_0")
    write_results(tmp_path / "val_9", "B_from_0")
    assert [item.name for item in report_page(run, None, None).items] == ["A_from_0"]


def test_stems_that_are_called_like_folders_of_the_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("stem_1", "mel", "evaluation")
    run = tmp_path / "run"
    write_results(run / "val_1", "A_from_0", "B_from_0", stems=names, error=0.2)
    write_results(run / "target_1", "A_from_0", "B_from_0", stems=names)
    assert {f.name for f in (run / "val_1").iterdir()} == {"mix", "stem_1 (stem)", "mel (stem)", "evaluation (stem)"}
    assert main(["evaluate", "--est", str(run), "--quiet"]) == 0
    assert {stem for _, stem in scores(run / "val_1/evaluation")} == set(names)


def test_options_without_effect_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(tmp_path / "run/val_7", "A_from_0")
    assert main(["report", str(tmp_path / "run"), "--ref", str(tmp_path)]) == 2
    assert "--ref: has no effect on" in capsys.readouterr().err
    assert main(["evaluate", "--est", str(tmp_path / "run"), "--items", "3"]) == 2
    assert "--items: has no effect without --report" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run"), "--items", "-1"]) == 2
    assert "--items: found -1, expected 0 or more" in capsys.readouterr().err


def test_damaged_numbers_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = write_results(tmp_path / "run/val_7", "A_from_0")
    damages = [("metrics.json", text) for text in ('{"model": ', "[1]", '{"step": 7, "model": {"bass": {"sdr": 1}}}')]
    for name, content in [*damages, ("metrics.csv", "a,b\n1,2\n"), ("metrics.csv", "track,item,stem\nA,A,bass,1\n")]:
        (tree / "metrics.json").write_text('{"step": 7}')
        (tree / name).write_text(content)
        for given in (["report", str(tmp_path / "run")], ["compare", str(tmp_path / "run"), str(tmp_path / "run")]):
            assert main([*given, "--out", str(tmp_path / "page.html")]) == 2
            assert re.fullmatch(
                r"error: .*val_7: metrics.json or metrics.csv is damaged \(.*\n", capsys.readouterr().err
            )


def test_names_in_other_encodings(tmp_path: Path) -> None:
    name = os.fsdecode(b"T\xff<i>\n&")
    for side in ("est", "ref"):
        write(tmp_path / side / "T/bass.wav").parent.rename(tmp_path / side / name)
    given = ["--est", str(tmp_path / "est"), "--ref", str(tmp_path / "ref"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", *given, "--report", "--quiet"]) == 0
    assert list(scores(tmp_path / "out")) == [("T\\udcff<i>\n&", "bass")]
    assert "T\\udcff&lt;i&gt;\n&amp;" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "out"), "--out", str(tmp_path / "page.html")]) == 0


def test_tracks_of_items() -> None:
    assert [track_of(f"A{end}") for end in ("_from_0", "_from_0_320", "_from_12_2", "_from_3+2.5", "_from_+2")] == [
        "A"
    ] * 5
    assert track_of("Letter_from_Home") == "Letter_from_Home" and track_of("A_from_0_from_1") == "A_from_0"
