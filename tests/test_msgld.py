"""The msgld command: files of every kind in, stems out, and what happens to files that cannot be used."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from latent_diffusion.musicldm import MusicLDM
from latent_diffusion.settings import VocoderSettings
from tests.tiny import MEL, STEMS, model, settings, tones
from utilities import cli, songs, streams

REPOSITORY = Path(__file__).resolve().parent.parent
RATE = 44_100
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model with random weights."""
    return save(tmp_path_factory.mktemp("model") / "last.ckpt", model(parameterization="v"))


def save(path: Path, made: MusicLDM) -> Path:
    """A checkpoint as training writes it, as far as inference reads it."""
    description = {"kind": "msgld", "settings": made.settings.to_dict(), "step": 0}
    torch.save({"state_dict": made.state_dict(), "global_step": 0, "epoch": 0, "msgld": description}, path)
    return path


@pytest.fixture
def run(weights: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: status, standard output, standard error."""

    def call(*arguments: object, quick: bool = True) -> tuple[int, str, str]:
        capsys.readouterr()
        common = ("--model", weights, "--steps", 2, "--quiet", "--device", "cpu") if quick else ()
        status = cli.main([str(argument) for argument in (*arguments, *common)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def write(path: Path, seconds: float = 0.5, channels: int = 1, rate: int = RATE, **options: object) -> np.ndarray:
    """A file of tones; returns what is in it, (samples, channels)."""
    audio = tones(max(1, round(seconds * rate)), channels, rate=rate).T.numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, **options)
    return soundfile.read(path, always_2d=True, dtype="float32")[0]


def read(folder: Path, kind: str = "wav") -> dict[str, np.ndarray]:
    """The stems in a folder, each (samples, channels)."""
    return {name: soundfile.read(folder / f"{name}.{kind}", always_2d=True, dtype="float32")[0] for name in STEMS}


def names(folder: Path) -> set[str]:
    """Everything below a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# ---- use


def test_help_is_quick() -> None:
    start = time.monotonic()
    shown = subprocess.run(
        [sys.executable, "-m", "utilities.cli", "--help"], capture_output=True, text=True, cwd=REPOSITORY, timeout=60
    )
    assert time.monotonic() - start < 3
    assert shown.returncode == 0 and not shown.stderr
    assert all(word in shown.stdout for word in ("separate", "generate", "arrange"))


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("separate",),
        ("remix", "x"),
        ("separate", "x.wav"),
        ("arrange", "--model", "m"),
        ("generate", "--guidance=1"),
    ],
)
def test_bad_use(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    assert stopped.value.code == 2 and "usage: msgld" in capsys.readouterr().err


def test_guidance_as_typed() -> None:
    assert cli.guidance("2.5") == 2.5 and cli.guidance("bass=2, drums=0") == {"bass": 2.0, "drums": 0.0}
    for text in ("loud", "bass=", "bass=2,drums", "bass=1=2"):
        with pytest.raises(cli.argparse.ArgumentTypeError, match="expected a number, or bass=2"):
            cli.guidance(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sampler", "euler"), "--sampler: found 'euler', expected one of ddim"),
        (("--overlap", "1.5"), "overlap: found 1.5"),
        (("--batch-size", "0"), "batch size: found 0"),
        (("--guidance", "flute=2"), "'flute' is not one of the model's stems"),
        (("--guidance", "0"), "separation: guidance scale 0"),
        (("--steps", "0"), "--steps: found 0"),
        (("--mask-exponent", "-1"), "mask exponent: found -1"),
        (("--device", "abacus"), "--device: found 'abacus'"),
        (("--model", "nowhere.ckpt"), "--model: nowhere.ckpt: no such file"),
        (("--model", "."), "--model: .: expected the folder of a run, or one weights file in it, found none"),
    ],
)
def test_unusable_options(
    run: Run, weights: Path, options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "song.wav", 0.1)
    common = ("--model", weights, "--steps", 2, "--quiet", "--device", "cpu")
    status, out, err = run("separate", "song.wav", *common, *options, quick=False)
    assert status == 2 and not out
    (line,) = err.splitlines()
    assert line.startswith("error: ") and message in line
    assert names(tmp_path) == {"song.wav"}


def test_the_models_folder_will_do(run: Run, weights: Path) -> None:
    assert songs.find_model(str(weights.parent)) == songs.find_model(str(weights)) == weights


# ---- separate


def test_separate(run: Run, tmp_path: Path) -> None:
    """Formats, rates, channels and lengths; a folder and a file at once; the stems of each sum to it."""
    music, out = tmp_path / "music", tmp_path / "out"
    audio = {
        "song": write(music / "song.wav", 0.7, 2),
        "album/second": write(music / "album" / "second.flac", 0.1, 1, 22_050),
        "album/third": write(music / "album" / "third.mp3", 0.6, 2),
        "album/deep/fourth": write(music / "album" / "deep" / "fourth.OGG", 0.6, 1, 48_000, format="OGG"),
        "one": write(tmp_path / "one.aiff", 0.1, 24, 8000),
    }
    (music / "notes.txt").write_text("no music")
    (music / ".hidden.wav").write_text("no music")
    status, shown, err = run("separate", music, tmp_path / "one.aiff", "--out", out)
    assert status == 0, shown + err
    assert shown.startswith("5 written, 0 skipped, 0 failed\n") and str(out) in shown
    for name, mixture in audio.items():
        stems = read(out / name)
        assert {path.name for path in (out / name).iterdir() if path.is_file()} == {f"{stem}.wav" for stem in STEMS}
        assert all(stem.shape == mixture.shape for stem in stems.values())
        assert np.abs(sum(stems.values()) - mixture).max() < 1e-5
    assert soundfile.info(out / "one" / "bass.wav").samplerate == 8000
    assert not [name for name in names(out) if name.split("/")[-1].startswith(".")]

    before = (out / "song" / "bass.wav").read_bytes()
    write(music / "new.wav", 0.1)
    os.remove(out / "one" / "bass.wav")
    status, shown, _ = run("separate", music, tmp_path / "one.aiff", "--out", out, "--skip-existing", "--seed", 1)
    assert status == 0 and shown.startswith("2 written, 4 skipped, 0 failed")
    assert (out / "song" / "bass.wav").read_bytes() == before and (out / "one" / "bass.wav").is_file()


def test_same_seed_same_output(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "song.wav", 1.3, 2)
    made = []
    for number, options in enumerate([(), ("--batch-size", 1), ("--seed", 1), ("--guidance", "bass=3")]):
        assert run("separate", tmp_path / "song.wav", "--out", tmp_path / str(number), *options)[0] == 0
        made.append(read(tmp_path / str(number) / "song")["bass"])
    assert np.abs(made[0] - made[1]).max() < 1e-4
    assert np.abs(made[0] - made[2]).max() > 1e-3 and np.abs(made[0] - made[3]).max() > 1e-3


def test_what_the_vocoder_makes_as_flac(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "song.wav", 0.5, 2)
    out = tmp_path / "out"
    status, _, _ = run("separate", tmp_path / "song.wav", "--out", out, "--refine", "none", "--format", "flac")
    assert status == 0
    stems = read(out / "song", "flac")
    assert all(stem.shape == (2000, 1) and np.abs(stem).max() > 0 for stem in stems.values())
    assert soundfile.info(out / "song" / "bass.flac").samplerate == MEL.sample_rate


def test_a_model_without_a_trained_vocoder(run: Run, tmp_path: Path) -> None:
    """Griffin-Lim's tables are no weights: they must be real numbers in a pipeline that was loaded, too."""
    plain = settings(parameterization="v")
    made = MusicLDM(replace(plain, vocoder=VocoderSettings("griffin_lim", num_mels=plain.mel.n_mels)))
    weights = save(tmp_path / "griffin.ckpt", made)
    write(tmp_path / "song.wav", 0.5)
    options = ("--out", tmp_path / "out", "--refine", "none", "--model", weights, "--steps", 2, "--quiet")
    status, shown, err = run("separate", tmp_path / "song.wav", *options, "--device", "cpu", quick=False)
    assert status == 0, shown + err
    assert all(stem.shape == (2000, 1) for stem in read(tmp_path / "out" / "song").values())


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
    status, shown, err = run("separate", music, tmp_path / "not_there.wav", "--out", out)
    assert status == 1 and not err
    lines = shown.splitlines()
    assert lines[0] == "2 written, 0 skipped, 6 failed"
    failed = [line for line in lines if line.startswith("  failed  ")]
    for name, reason in {
        "b_text": "not readable as audio",
        "c_nothing": "not readable as audio",
        "d_no_samples": "holds no samples",
        "e_nan": "NaN",
        "f_cut_off": "cannot be decoded",
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


def test_full_disk(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.wav", 0.1)
    write(tmp_path / "b.wav", 0.1)
    whole, calls = streams._write_piece, []

    def full(*arguments: object) -> None:
        whole(*arguments)
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(streams, "_write_piece", full)
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
    assert status == 1 and "would be written over it" in shown
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


# ---- generate and arrange


def test_generate(run: Run, tmp_path: Path) -> None:
    for out in ("one", "two"):
        status, shown, _ = run("generate", "--seconds", "1.5", "--out", tmp_path / out, "--seed", 3)
        assert status == 0 and f"5 files in {tmp_path / out / 'generated_3'}" in shown
    one, two = (read(tmp_path / out / "generated_3") for out in ("one", "two"))
    for name in STEMS:
        assert one[name].shape == (6000, 1) and np.array_equal(one[name], two[name])
    mixture = soundfile.read(tmp_path / "one" / "generated_3" / "mix.wav", always_2d=True, dtype="float32")[0]
    np.testing.assert_allclose(mixture, np.clip(sum(one.values()), -1, 1), atol=1e-5)
    assert "nothing to do" in run("generate", "--out", tmp_path / "one", "--seed", 3, "--skip-existing")[1]
    status, _, err = run("generate", "--seconds", "-1", "--out", tmp_path / "bad")
    assert status == 2 and "seconds: found -1" in err and not (tmp_path / "bad" / "generated_0").exists()


def test_arrange(run: Run, tmp_path: Path) -> None:
    given, out = tmp_path / "song", tmp_path / "out"
    piano = write(given / "piano.wav", 1.0, 1, MEL.sample_rate, subtype="FLOAT")
    write(given / "guitar.flac", 1.0, 2, RATE)
    (given / "cover.txt").write_text("no stem")
    status, shown, err = run("arrange", "--given", given, "--make", "drums,bass", "--out", out)
    assert status == 0 and f"5 files in {out / 'song'}" in shown, err
    made = read(out / "song")
    assert all(stem.shape == (MEL.sample_rate, 1) for stem in made.values()) and np.array_equal(made["piano"], piano)
    assert np.abs(made["drums"]).max() > 0

    for arguments, message in {
        ("--given", given / "piano.wav", "--make", "drums"): "'bass' is neither given nor to be made",
        ("--given", given, "--make", "flute"): "'flute' is not one of the model's",
        ("--given", given / "cover.txt"): "expected a file named after a stem",
        ("--given", tmp_path): "expected files named after stems",
        ("--given", given, given / "piano.wav"): "is piano, too",
        ("--given", tmp_path / "piano.wav"): "no such file",
    }.items():
        status, _, err = run("arrange", *arguments, "--out", tmp_path / "bad")
        assert status == 2 and message in err and len(err.splitlines()) == 1, err
    status, _, err = run("arrange", "--given", given, "--out", tmp_path)
    assert status == 2 and "lies where the result goes" in err
    assert not (tmp_path / "bad").exists()
