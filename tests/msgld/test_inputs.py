"""What the msgld command makes of files that are strange or cannot be used, full disks and folders in its way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from latent_diffusion.errors import DataError
from tests.msgld.files import RATE, Run, names, read, write
from tests.tiny import tones
from utilities import songs
from utilities.audio import AudioInfo
from utilities.audio import write as writing


def test_bad_files_do_not_stop_good_ones(run: Run, tmp_path: Path) -> None:
    music, out = tmp_path / "music", tmp_path / "out"
    write(music / "a_good.wav", 0.1)
    write(music / "z_good.wav", 0.1)
    (music / "b_text.wav").write_text("this is no audio")
    (music / "c_nothing.wav").write_bytes(b"")
    soundfile.write(music / "d_no_samples.wav", np.zeros((0, 2)), RATE)
    broken = np.zeros(4000, np.float32)
    broken[3000] = np.nan
    soundfile.write(music / "e_nan.wav", broken, RATE, subtype="FLOAT")
    write(music / "f_cut_off.flac", 1.0)
    whole = (music / "f_cut_off.flac").read_bytes()
    (music / "f_cut_off.flac").write_bytes(whole[: len(whole) // 2])
    write(music / "g_cut_off.wav", 1.0)
    whole = (music / "g_cut_off.wav").read_bytes()
    (music / "g_cut_off.wav").write_bytes(whole[: len(whole) // 2])
    status, shown, err = run("separate", music, tmp_path / "not_there.wav", "--out", out)
    assert status == 1 and not err
    lines = shown.splitlines()
    assert lines[0] == "2 written, 0 skipped, 7 failed"
    failed = [line for line in lines if line.startswith("  failed  ")]
    for name, reason in {
        "b_text": "not readable as audio",
        "c_nothing": "not readable as audio",
        "d_no_samples": "holds no samples",
        "e_nan": "NaN",
        "f_cut_off": "cannot be decoded",
        "g_cut_off": "is cut off, its header promises",
        "not_there": "no such file",
    }.items():
        (line,) = [line for line in failed if name in line]
        assert reason in line or (name == "f_cut_off" and "promises" in line), line
    assert {path.name for path in out.iterdir()} == {"a_good", "z_good"}, "nothing half-written"


@pytest.mark.parametrize("kind", ["silence", "dc", "clipped", "8 bit", "one sample", "24 channels", "overloaded"])
def test_strange_but_usable(run: Run, kind: str, tmp_path: Path) -> None:
    path, subtype = tmp_path / "x.wav", "FLOAT"
    audio = {
        "silence": np.zeros((5000, 2)),
        "dc": np.full((5000, 2), 0.5),
        "clipped": np.clip(20 * tones(5000, 2, rate=RATE).T.numpy(), -1, 1),
        "8 bit": tones(5000, 1, rate=RATE).T.numpy(),
        "one sample": np.full((1, 1), 0.25),
        "24 channels": tones(5000, 24, rate=RATE).T.numpy(),
        "overloaded": 5 * tones(5000, 2, rate=RATE).T.numpy(),
    }[kind]
    soundfile.write(path, audio, RATE, subtype="PCM_U8" if kind == "8 bit" else subtype)
    mixture = soundfile.read(path, always_2d=True, dtype="float32")[0]
    assert run("separate", path, "--out", tmp_path / "out")[0] == 0
    stems = read(tmp_path / "out" / "x")
    total = sum(stems.values())
    assert total.shape == mixture.shape and np.abs(total - mixture).max() < 1e-5
    assert all(np.isfinite(stem).all() for stem in stems.values())
    if kind == "silence":
        assert not any(stem.any() for stem in stems.values())


def test_flac_cannot_hold_24_channels(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "wide.wav", 0.1, 24)
    status, shown, _ = run("separate", tmp_path / "wide.wav", "--out", tmp_path / "out", "--format", "flac")
    assert status == 1 and "flac holds 8 at most" in shown and names(tmp_path / "out") == set()


def test_unreadable_folders(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    music = tmp_path / "music"
    write(music / "good.wav", 0.1)
    write(music / "locked" / "song.wav", 0.1)
    scandir = os.scandir

    def refusing(path: str | Path = ".") -> object:
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    status, shown, _ = run("separate", music, "--out", tmp_path / "out")
    assert status == 1 and "1 written, 0 skipped, 1 failed" in shown
    assert f"{music / 'locked'}: cannot be read (Permission denied)" in shown


def test_unreadable_folder_of_stems(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(path: str | Path) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refusing)
    monkeypatch.setattr(Path, "iterdir", refusing)
    (tmp_path / "locked").mkdir()
    for arguments in (("arrange", "--given", tmp_path / "locked"), ("generate", "--continue", tmp_path / "locked")):
        status, _, err = run(*arguments, "--out", tmp_path / "out")
        assert status == 2 and f"{tmp_path / 'locked'}: cannot be read (Permission denied)" in err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_results_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    """Not even the pieces before: the model failed."""
    good, broken = torch.zeros(2, 1, 500), torch.zeros(2, 1, 500)
    broken[1, 0, 3] = value
    with pytest.raises(DataError, match="holds NaN or infinite samples"):
        writing.write_stems(tmp_path / "song", ("bass", "drums"), [good, broken], AudioInfo(RATE, 1000, 1), mix=True)
    assert not list(tmp_path.iterdir())


def test_full_disk(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.wav", 0.1)
    write(tmp_path / "b.wav", 0.1)
    whole, calls = writing._write_piece, []

    def full(*arguments: object) -> None:
        whole(*arguments)
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "_write_piece", full)
    out = tmp_path / "out"
    status, shown, _ = run("separate", tmp_path / "a.wav", tmp_path / "b.wav", "--out", out)
    assert status == 1 and "cannot be written (No space left on device)" in shown
    assert {path.name for path in out.iterdir()} == {"b"}


def test_output_folders(run: Run, tmp_path: Path) -> None:
    """One that exists keeps what is in it; a file in its place, or the input in its way, is said."""
    write(tmp_path / "song.wav", 0.1)
    kept = tmp_path / "out" / "song" / "mine.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept")
    assert run("separate", tmp_path / "song.wav", "--out", tmp_path / "out")[0] == 0
    assert kept.read_text() == "kept" and len(read(kept.parent)) == 4

    (tmp_path / "file").write_text("")
    status, _, err = run("separate", tmp_path / "song.wav", "--out", tmp_path / "file")
    assert status == 2 and "is a file" in err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "song").write_text("")
    status, shown, _ = run("separate", tmp_path / "song.wav", "--out", tmp_path / "other")
    assert status == 1 and "is a file; expected a folder" in shown

    own = write(tmp_path / "bass" / "bass.wav", 0.1)
    status, shown, _ = run("separate", tmp_path / "bass" / "bass.wav", "--out", tmp_path)
    assert status == 1 and "its stems would be written over" in shown
    assert np.array_equal(soundfile.read(tmp_path / "bass" / "bass.wav", always_2d=True, dtype="float32")[0], own)


def test_results_are_not_taken_for_songs(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "song.wav", 0.1)
    for _ in range(2):
        status, shown, _ = run("separate", tmp_path, "--out", tmp_path / "out")
        assert status == 0 and "1 written" in shown


def test_songs_of_one_name_do_not_share_a_folder(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac", "b/a.wav", "c/a.wav"):
        write(tmp_path / name, 0.01)
    inputs = [str(tmp_path / name) for name in ("a.wav", "a.flac", "b/a.wav", "c/a.wav", "a.wav")]
    found = songs.find_songs(inputs, tmp_path / "out", songs.Tally())
    assert [str(song.folder) for song in found] == ["a", "a.flac", "a.wav", "a.wav-2"]


def test_no_music_at_all(run: Run, tmp_path: Path) -> None:
    status, _, err = run("separate", tmp_path, "--out", tmp_path / "out")
    assert status == 2 and "expected audio files, found none" in err
