"""The msgld command: generate, also from a recording on, and arrange."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from latent_diffusion.resampling import resample
from tests.msgld.files import RATE, Run, read, write
from tests.tiny import MEL, STEMS


def test_generate(run: Run, tmp_path: Path) -> None:
    for out in ("one", "two"):
        status, shown, _ = run("generate", "--seconds", "1.5", "--out", tmp_path / out, "--seed", 3)
        assert status == 0 and f"5 files in {tmp_path / out / 'generated_3'}" in shown
    one, two = (read(tmp_path / out / "generated_3") for out in ("one", "two"))
    for name in STEMS:
        assert one[name].shape == (6000, 1) and np.array_equal(one[name], two[name])
    mixture = soundfile.read(tmp_path / "one" / "generated_3" / "mix.wav", always_2d=True, dtype="float32")[0]
    np.testing.assert_allclose(mixture, np.clip(sum(one.values()), -1, 1), atol=1e-5)
    assert (
        "nothing to do"
        in run("generate", "--out", tmp_path / "one", "--seed", 3, "--seconds", 1.5, "--skip-existing")[1]
    )
    status, _, err = run("generate", "--seconds", "-1", "--out", tmp_path / "bad")
    assert status == 2 and "seconds: found -1" in err and not (tmp_path / "bad" / "generated_0").exists()


def test_continue(run: Run, tmp_path: Path) -> None:
    """A song is separated first; a folder holds all stems. The result begins with them; what is amiss is said."""
    song = write(tmp_path / "song.wav", 0.5, 2)
    status, shown, err = run(
        "generate", "--continue", tmp_path / "song.wav", "--seconds", 0.4, "--out", tmp_path / "out"
    )
    assert status == 0 and f"5 files in {tmp_path / 'out' / 'song_continued_0'}" in shown, err
    made = read(tmp_path / "out" / "song_continued_0")
    assert all(stem.shape == (round(0.9 * MEL.sample_rate), 1) for stem in made.values())
    heard = resample(torch.from_numpy(song).mean(1), RATE, MEL.sample_rate)[:1900]
    np.testing.assert_allclose(sum(made.values())[:1900, 0], heard, atol=1e-5)

    given = tmp_path / "stems"
    before = {name: write(given / f"{name}.flac", 0.5, 1, MEL.sample_rate) for name in STEMS}
    again = ("generate", "--continue", given, "--seconds", 0.2, "--out", tmp_path / "out", "--seed", 2)
    assert run(*again)[0] == 0
    made = read(tmp_path / "out" / "stems_continued_2")
    for name in STEMS:
        assert np.array_equal(made[name][:1900], before[name][:1900]) and np.abs(made[name][2000:]).max() > 0
    assert "nothing to do" in run(*again, "--skip-existing")[1]

    (given / "bass.flac").unlink()
    (tmp_path / "empty").mkdir()
    write(tmp_path / "short.wav", 0.001)
    for path, message in {
        given: "expected all of bass, drums, guitar, piano; arrange the missing ones first",
        tmp_path / "empty": "expected files named after stems",
        tmp_path / "short.wav": "recording to go on from: found 0.001 s, expected at least 0.040 s",
        tmp_path / "nowhere.wav": "no such file",
    }.items():
        status, _, err = run("generate", "--continue", path, "--out", tmp_path / "bad")
        assert status == 2 and message in err and len(err.splitlines()) == 1, err
    assert not list((tmp_path / "bad").glob("*"))


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
    guided = []
    for number, scale in enumerate(("1", "drums=2,bass=0")):  # the mixture of what is given takes part
        folder = tmp_path / str(number)
        assert run("arrange", "--given", given, "--make", "drums,bass", "--out", folder, "--guidance", scale)[0] == 0
        guided.append(read(folder / "song"))
        assert np.array_equal(guided[-1]["piano"], piano)
        assert np.abs(guided[-1]["drums"] - made["drums"]).max() > 1e-3
    assert np.abs(guided[0]["bass"] - guided[1]["bass"]).max() > 1e-3

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
