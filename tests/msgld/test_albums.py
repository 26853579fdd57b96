"""Folders as people have them: files that can be read beside files that cannot, names in any case, links."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.msgld.files import RATE, Run, read, write
from utilities import songs

READ = {".aifc": "AIFF", ".snd": "AU", ".bwf": "WAV", ".rf64": "RF64", ".oga": "OGG", ".caf": "CAF", ".W64": "W64"}
NOT_READ = ("m4a", "aac", "webm", "wma", "MP4", "ape", "wv")


def test_an_album_with_files_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    for number, (ending, kind) in enumerate(READ.items()):
        write(album / f"{number}{ending}", 0.1, format=kind)
    frame = bytes([0xFF, 0xFD, 0x80, 0x00]) + bytes(413)  # of MPEG layer II, silent: 128 kbit/s at 44.1 kHz
    (album / "layer2.mp2").write_bytes(20 * frame)
    for ending in NOT_READ:
        (album / f"song.{ending}").write_bytes(b"whatever")
    for name in ("cover.jpg", "notes.txt", ".hidden.m4a"):
        (album / name).write_bytes(b"no music")
    status, shown, _ = run("separate", album, "--out", out)
    assert status == 1
    assert shown.startswith(f"{len(READ) + 1} written, 0 skipped, {len(NOT_READ)} failed\n"), shown
    for ending in NOT_READ:
        assert f"song.{ending}: {ending.lower()} files cannot be read; convert it to wav or flac" in shown
    assert "jpg" not in shown and "txt" not in shown and "hidden" not in shown
    assert {path.name for path in out.iterdir()} == {*map(str, range(len(READ))), "layer2"}


def test_an_album_of_nothing_that_can_be_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "song.m4a").write_bytes(b"whatever")
    status, shown, err = run("separate", tmp_path, "--out", tmp_path / "out")
    assert status == 1 and "0 written, 0 skipped, 1 failed" in shown and not err


def test_a_cut_off_file_is_named_in_every_command(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "song" / "bass.aiff", 1.0)
    os.truncate(tmp_path / "song" / "bass.aiff", 40_000)
    status, shown, _ = run("separate", tmp_path / "song", "--out", tmp_path / "out")
    assert status == 1 and "bass.aiff: is cut off, its header promises" in shown
    for arguments in (
        ("arrange", "--given", tmp_path / "song"),
        ("generate", "--continue", tmp_path / "song/bass.aiff"),
    ):
        status, _, err = run(*arguments, "--out", tmp_path / "out")
        assert status == 2 and "bass.aiff: is cut off, its header promises" in err
    write(tmp_path / "ref" / "song" / "bass.wav", 1.0)
    scoring = ("evaluate", "--est", tmp_path, "--ref", tmp_path / "ref", "--out", tmp_path / "scores", "--quiet")
    status, _, err = run(*scoring, quick=False)
    assert status == 2 and "bass.aiff: is cut off, its header promises" in err


def test_stems_in_any_case(run: Run, tmp_path: Path) -> None:
    given = tmp_path / "song"
    write(given / "Bass.wav", 0.3, 1, RATE)
    write(given / "PIANO.WAV", 0.3, 1, RATE, format="WAV")
    arranging = ("arrange", "--make", "drums,guitar", "--out", tmp_path / "out")
    assert run(*arranging, "--given", given)[0] == 0
    assert np.abs(read(tmp_path / "out" / "song")["bass"]).max() > 0.1
    assert run(*arranging, "--given", given / "Bass.wav", given / "PIANO.WAV")[0] == 0
    write(given / "bass.flac", 0.3, 1, RATE)
    status, _, err = run(*arranging, "--given", given)
    assert status == 2 and "is bass, too; give one of them" in err
    (given / "bass.flac").unlink()
    (given / "Drums.m4a").write_bytes(b"whatever")
    status, _, err = run(*arranging, "--given", given)
    assert status == 2 and "Drums.m4a: m4a files cannot be read; convert it to wav or flac" in err


def test_an_inverted_channel_is_said(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    song = write(tmp_path / "song.wav", 0.5)
    soundfile.write(tmp_path / "song.wav", np.concatenate([song, -song], axis=1), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", song, RATE, subtype="FLOAT")
    assert run("separate", tmp_path / "song.wav", tmp_path / "mono.wav", "--out", tmp_path / "out")[0] == 0
    assert "song.wav: channels cancel each other (one may be inverted, or late)" in caplog.text
    made, mono = (read(tmp_path / "out" / name) for name in ("song", "mono"))
    assert not np.allclose(mono["bass"], mono["drums"], atol=0.02), "silence would be shared alike"
    for name, stem in mono.items():
        np.testing.assert_allclose(made[name], np.concatenate([stem, -stem], axis=1), atol=5e-3)


def test_recordings_without_a_length(run: Run, tmp_path: Path) -> None:
    song = write(tmp_path / "song.wav", 0.2, 2, subtype="PCM_16")
    data = bytearray((tmp_path / "song.wav").read_bytes())
    data[4:8] = data[40:44] = bytes(4)
    (tmp_path / "song.wav").write_bytes(data)
    assert run("separate", tmp_path / "song.wav", "--out", tmp_path / "out")[0] == 0
    np.testing.assert_allclose(sum(read(tmp_path / "out" / "song").values()), song, atol=1e-5)


@pytest.mark.parametrize("order", ["a first", "z first"])
def test_real_folders_go_before_links(order: str, tmp_path: Path) -> None:
    link = "a" if order == "a first" else "z"
    write(tmp_path / "music" / "m" / "song.wav", 0.01)
    (tmp_path / "music" / link).symlink_to("m")
    found = songs.find_songs([str(tmp_path / "music")], tmp_path / "out", songs.Tally())
    assert [str(song.folder) for song in found] == ["m/song"]
