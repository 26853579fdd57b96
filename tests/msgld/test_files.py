"""Files that are unusual on disk, in or out: of unknown length, very large, in the way, there already."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.msgld.files import RATE, Run, names, read, write
from tests.msgld.test_use import REPOSITORY
from utilities import songs
from utilities.audio import stream
from utilities.audio import write as writing


def total(folder: Path) -> np.ndarray:
    """What the stems in a folder sum to."""
    return sum(read(folder).values())


# ---- in


def test_files_that_do_not_say_how_long_they_are(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of an mp3 without Xing header libsndfile guesses it, after a quiet beginning wrongly; of a flac it gives none."""
    loud = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE).astype(np.float32)
    audio = np.concatenate([np.zeros_like(loud), loud])
    soundfile.write(tmp_path / "guessed.mp3", audio, RATE, format="MP3", bitrate_mode="VARIABLE")
    data = (tmp_path / "guessed.mp3").read_bytes()
    assert data.count(b"Xing") == 1
    (tmp_path / "guessed.mp3").write_bytes(data.replace(b"Xing", bytes(4)))
    assert abs(soundfile.info(tmp_path / "guessed.mp3").frames - len(audio)) > RATE, "or there is nothing to test"
    assert run("separate", tmp_path / "guessed.mp3", "--out", tmp_path / "out")[0] == 0
    heard = total(tmp_path / "out" / "guessed")
    assert len(audio) <= len(heard) < len(audio) + 5000 and heard.std() > 0.5 * audio.std()

    size = 200_000  # of a picture: 7 bits a byte
    tag = b"ID3\x03\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + bytes(size)
    data = (tmp_path / "guessed.mp3").read_bytes()
    for name, content in (("picture", tag + data), ("tail", data + bytes(5000))):
        (tmp_path / f"{name}.mp3").write_bytes(content)
        assert run("separate", tmp_path / f"{name}.mp3", "--out", tmp_path / "out")[0] == 0
        found = total(tmp_path / "out" / name)
        np.testing.assert_allclose(found[: len(audio)], heard[: len(audio)], atol=1e-5)
    assert "tail.mp3: what comes after sample" in caplog.text and "picture.mp3" not in caplog.text
    (tmp_path / "broken.mp3").write_bytes(data + bytes(3000) + 5 * data)  # more than a pipe holds
    status, shown, _ = run("separate", tmp_path / "broken.mp3", "--out", tmp_path / "out")
    assert status == 1 and "broken.mp3: cannot be decoded after sample" in shown

    song = write(tmp_path / "streamed.flac", 0.5, 2)
    data = bytearray((tmp_path / "streamed.flac").read_bytes())
    data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])  # the number of samples in STREAMINFO: 36 bits
    (tmp_path / "streamed.flac").write_bytes(data)
    assert run("separate", tmp_path / "streamed.flac", "--out", tmp_path / "out")[0] == 0
    np.testing.assert_allclose(total(tmp_path / "out" / "streamed"), song, atol=1e-5)


@pytest.mark.parametrize("kind", ["mp3", "ogg"])
def test_files_that_cannot_be_read_from_anywhere(kind: str, tmp_path: Path) -> None:
    """After a seek libsndfile gives other samples; stretches must be those of the whole file, or stems do not sum."""
    t = np.arange(4 * RATE) / RATE
    sweep = 0.4 * np.sin(2 * np.pi * (100 + 500 * t) * t)
    soundfile.write(tmp_path / f"song.{kind}", np.stack([sweep, 0.5 * sweep], 1), RATE, format=kind.upper())
    whole, _ = soundfile.read(tmp_path / f"song.{kind}", dtype="float32")
    source = stream.FileSource(tmp_path / f"song.{kind}")
    source.check()
    assert source.samples == len(whole)
    starts = np.random.default_rng(1).integers(0, len(whole) - 500, 40)
    stretches = [(source.read(int(start), 500).T.numpy(), whole[start : start + 500]) for start in starts]
    assert max(np.abs(a - b).max() for a, b in stretches) < 1e-6


def test_an_ogg_that_is_cut_off(run: Run, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE)
    soundfile.write(tmp_path / "song.ogg", noise, RATE, format="OGG")  # some pages
    assert run("separate", tmp_path / "song.ogg", "--out", tmp_path / "whole")[0] == 0
    data = (tmp_path / "song.ogg").read_bytes()
    for part in (0.6, 0.9):
        (tmp_path / "song.ogg").write_bytes(data[: round(part * len(data))])
        status, shown, _ = run("separate", tmp_path / "song.ogg", "--out", tmp_path / "out")
        assert status == 1 and "song.ogg: is cut off, its last page is not whole" in shown


def test_names_that_cannot_be_looked_up(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "song.wav", 0.1)
    endless = tmp_path / ("x" * 300)
    status, shown, _ = run("separate", endless, tmp_path / "song.wav", "--out", tmp_path / "out")
    assert status == 1 and "1 written, 0 skipped, 1 failed" in shown
    assert f"{endless}: cannot be read (File name too long)" in shown
    for arguments in (
        ("arrange", "--given", endless),
        ("generate", "--continue", endless),
        ("separate", tmp_path / "song.wav", "--out", endless),
    ):
        status, _, err = run(*arguments)
        assert status == 2 and "File name too long" in err and len(err.splitlines()) == 1
    status, _, err = run("generate", "--model", endless, quick=False)
    assert status == 2 and "no such file" in err and len(err.splitlines()) == 1


def test_names_in_another_encoding(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "song.wav", 0.1)
    name = os.fsdecode(b"caf\xe9.wav")
    try:
        os.rename(tmp_path / "song.wav", tmp_path / name)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    status, shown, _ = run("separate", tmp_path, "--out", tmp_path / "out")
    assert status == 0 and "1 written" in shown
    assert len(list((tmp_path / "out" / os.fsdecode(b"caf\xe9")).iterdir())) == 4


def test_devices_and_pipes_are_not_waited_for(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    status, shown, _ = run("separate", tmp_path / "pipe.wav", "--out", tmp_path / "out")
    assert status == 1 and "pipe.wav: is no file but a device or a pipe" in shown


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "album" / "song.wav", 0.01)
    music = tmp_path / "music"
    music.mkdir()
    (music / "album").symlink_to(tmp_path / "elsewhere" / "album")
    (music / "same").symlink_to(tmp_path / "elsewhere" / "album")
    (tmp_path / "elsewhere" / "album" / "loop").symlink_to(music)
    found = songs.find_songs([str(music)], tmp_path / "out", songs.Tally())
    assert [str(song.folder) for song in found] == ["album/song"]


# ---- there already


def test_skipping_asks_whether_it_is_the_same_length(run: Run, tmp_path: Path) -> None:
    """A song that comes later may get another's folder; a piece may be wanted longer."""
    write(tmp_path / "a.wav", 0.2)
    skipping = ("separate", tmp_path, "--out", tmp_path / "out", "--skip-existing")
    assert "1 written" in run(*skipping)[1]
    flac = write(tmp_path / "a.flac", 0.1)
    assert "2 written, 0 skipped" in run(*skipping)[1]
    assert total(tmp_path / "out" / "a").shape == flac.shape and "0 written, 2 skipped" in run(*skipping)[1]

    making = ("generate", "--out", tmp_path / "out", "--skip-existing")
    for seconds, expected in ((0.5, "5 files"), (0.5, "nothing to do"), (0.7, "5 files"), (0.7, "nothing to do")):
        assert expected in run(*making, "--seconds", seconds)[1]


def test_songs_are_not_written_over(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the stems of another, nor are results beside the songs taken for songs by the next run."""
    monkeypatch.chdir(tmp_path)
    own = write(tmp_path / "song" / "bass.wav", 0.1)
    write(tmp_path / "song.wav", 0.1)
    status, shown, _ = run("separate", "song.wav", "song/bass.wav", "--out", ".")
    assert status == 1 and "1 written, 0 skipped, 1 failed" in shown
    assert "song.wav: its stems would be written over song/bass.wav; choose another --out" in shown
    assert np.array_equal(soundfile.read("song/bass.wav", always_2d=True, dtype="float32")[0], own)
    status, _, err = run("separate", ".", "--out", ".")
    assert status == 2 and "--out: .: is the folder that is searched; choose another" in err


def test_arranging_again_is_skipped(run: Run, tmp_path: Path) -> None:
    """What is kept decides how long it is, not what is made anew."""
    write(tmp_path / "song" / "bass.wav", 0.5)
    write(tmp_path / "song" / "drums.wav", 0.7)
    arranging = ("arrange", "--given", tmp_path / "song", "--make", "drums,guitar,piano", "--out", tmp_path / "out")
    for expected in ("5 files", "nothing to do"):
        assert expected in run(*arranging, "--skip-existing")[1]


# ---- out


def test_files_too_large_for_wav(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song = write(tmp_path / "song.wav", 0.2, 2)
    monkeypatch.setattr(writing, "WAV_BYTES", 4 * song.size - 1)
    assert run("separate", tmp_path / "song.wav", "--out", tmp_path / "out")[0] == 0
    assert soundfile.info(tmp_path / "out" / "song" / "bass.wav").format == "RF64"
    np.testing.assert_allclose(total(tmp_path / "out" / "song"), song, atol=1e-5)


def test_equal_stems_are_equal_files(run: Run, tmp_path: Path) -> None:
    """libsndfile would write the time into them."""
    assert run("generate", "--seconds", 0.2, "--out", tmp_path)[0] == 0
    header = (tmp_path / "generated_0" / "bass.wav").read_bytes()[:200]
    assert header[header.index(b"PEAK") + 12 :][:4] == bytes(4)


def test_flac_says_what_it_clips(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "loud.wav", np.full((4000, 1), 9.0, np.float32), RATE, subtype="FLOAT")
    with caplog.at_level(logging.WARNING):
        assert run("separate", tmp_path / "loud.wav", "--out", tmp_path / "out", "--format", "flac")[0] == 0
    assert "times full scale, which flac clips" in caplog.text
    caplog.clear()
    assert run("separate", tmp_path / "loud.wav", "--out", tmp_path / "out")[0] == 0 and not caplog.text


def test_a_folder_named_like_a_stem_is_in_the_way(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "song.wav", 0.1)
    (tmp_path / "out" / "song" / "piano.wav").mkdir(parents=True)
    status, shown, _ = run("separate", tmp_path / "song.wav", "--out", tmp_path / "out")
    assert status == 1 and "piano.wav: is a folder; expected a file, or nothing" in shown
    assert names(tmp_path / "out") == {"song", "song/piano.wav"}


def test_too_little_room_is_said_before_the_work(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(writing, "_write_piece", lambda *_: pytest.fail("work was done"))
    status, _, err = run("generate", "--seconds", 600_000, "--out", tmp_path)
    assert status == 2 and "the stems need 48.0 GB, 0.0 GB are free" in err
    assert not list(tmp_path.iterdir())
    status, _, err = run("generate", "--seconds", 1e30, "--out", tmp_path)
    assert status == 2 and "seconds: found 1e+30, expected at least one sample at 4000 hz, and 604800 at most" in err


# ---- stopped


def test_ctrl_c_tells_what_was_done(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.wav", 0.1)
    write(tmp_path / "b.wav", 0.1)
    whole = songs.write_stems

    def stopping(folder: Path, *arguments: object) -> object:
        if folder.name == "b":
            raise KeyboardInterrupt
        return whole(folder, *arguments)

    monkeypatch.setattr(songs, "write_stems", stopping)
    status, shown, err = run("separate", tmp_path, "--out", tmp_path / "out")
    assert status == 130 and shown.startswith("1 written") and "nothing half-written" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a"}


def test_being_ended_tidies_up(weights: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "utilities.cli", "generate", "--seconds", "5000", "--steps", "2", "--quiet"]
    arguments = ["--model", str(weights), "--device", "cpu", "--out", str(tmp_path / "out")]
    started = subprocess.Popen(command + arguments, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    try:
        while not list(tmp_path.glob("out/.*.tmp/bass.wav")) and time.monotonic() < deadline:
            assert started.poll() is None, "it has ended by itself"
            time.sleep(0.05)
        started.send_signal(signal.SIGTERM)
        _, err = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 130 and err == "stopped; nothing half-written is left behind\n"
    assert not list((tmp_path / "out").iterdir())
