"""`msgld evaluate` finds the files that `msgld separate` and training find."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utilities.cli import main
from utilities.evaluation.folders import read_tree
from utilities.evaluation.scores import read_rows

RATE = 8000


def write(path: Path, seed: int, kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(2 * RATE), RATE, format=kind)
    return path


def test_linked_tracks_and_other_endings(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    kinds = {"A": ("au", "AU"), "B": ("caf", "CAF"), "C": ("oga", "OGG"), "D": ("rf64", "RF64")}
    for number, (track, (ending, kind)) in enumerate(kinds.items()):
        write(elsewhere / track / f"bass.{ending}", number, kind)
        write(tmp_path / "est" / track / "Bass.WAV", number, "WAV")
        write(tmp_path / "est" / track / "drums.wav", 10 + number)
        (tmp_path / "ref").mkdir(exist_ok=True)
        (tmp_path / "ref" / track).symlink_to(elsewhere / track)
    (elsewhere / "A" / "loop").symlink_to(tmp_path / "ref")
    arguments = ["--est", tmp_path / "est", "--ref", tmp_path / "ref", "--out", tmp_path / "out"]
    assert main(["evaluate", *map(str, arguments), "--quiet"]) == 0
    rows = read_rows(tmp_path / "out" / "metrics.csv")
    assert [(row["track"], row["stem"]) for row in rows] == [(track, "bass") for track in kinds]
    assert all(row["si_sdr"] > 25 for row in rows if row["track"] != "C") and rows[2]["si_sdr"] > 5


def test_what_cannot_be_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "A" / "bass.wav", 0)
    (tmp_path / "A" / "drums.m4a").write_bytes(b"whatever")
    with caplog.at_level(logging.WARNING):
        tree = read_tree(tmp_path, "--est")
    assert tree.stems == ["bass"]
    assert "drums.m4a: left out: m4a files cannot be read; convert it to wav or flac" in caplog.text
