"""The msgld command: its help, options that cannot be used, and separations of files of every kind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import latent_diffusion
from latent_diffusion.musicldm import MusicLDM
from latent_diffusion.settings import VocoderSettings
from tests.msgld.files import Run, names, read, save, write
from tests.tiny import MEL, STEMS, settings
from utilities import cli
from utilities.cli.arguments import argparse, guidance

REPOSITORY = Path(__file__).resolve().parents[2]


def test_help_is_quick() -> None:
    start = time.monotonic()
    shown = subprocess.run(
        [sys.executable, "-m", "utilities.cli", "--help"], capture_output=True, text=True, cwd=REPOSITORY, timeout=60
    )
    assert time.monotonic() - start < 3
    assert shown.returncode == 0 and not shown.stderr
    groups = ("separate", "generate", "arrange", "evaluate", "compare", "report", "inspect", "convert", "latents")
    assert all(f"\n    {command} " in shown.stdout for command in groups)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out == f"msgld {latent_diffusion.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("separate",),
        ("remix", "x"),
        ("arrange", "--model", "m"),
        ("generate", "--guidance=1"),
        ("separate", "x", "--guidance", "bass=1,bass=2"),
        ("separate", ""),
        ("generate", "--out", ""),
        ("report", ""),
        ("evaluate", "--est", "", "--ref", "x"),
    ],
)
def test_bad_use(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and len(err.splitlines()) == 1 and "error: " in err and "--help" in err


def test_guidance_as_typed() -> None:
    assert guidance("2.5") == 2.5 and guidance("bass=2, drums=0") == {"bass": 2.0, "drums": 0.0}
    for text in ("loud", "bass=", "bass=2,drums", "bass=1=2"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a number, or bass=2"):
            guidance(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sampler", "euler"), "--sampler: found 'euler', expected one of ddim"),
        (("--spacing", "even"), "--spacing: found 'even', expected one of uniform"),
        (("--precision", "half"), "precision: found 'half', expected one of float32, bfloat16"),
        (("--guidance-interval", "0.8", "0.2"), "guidance interval: found [0.8, 0.2]"),
        (("--overlap", "1.5"), "overlap: found 1.5"),
        (("--batch-size", "0"), "batch size: found 0"),
        (("--guidance", "flute=2"), "'flute' is not one of the model's stems"),
        (("--guidance", "0"), "separation: guidance scale 0"),
        (("--guidance", "bass=nan"), "guidance scale: found {'bass': nan}, expected finite numbers"),
        (("--eta", "nan"), "eta: found nan, expected 0 or more"),
        (("--steps", "0"), "--steps: found 0"),
        (("--steps", "8"), "steps: found 8, but the sampler mean takes its one call at the last timestep"),
        (("--eta", "1"), "eta: found 1.0, but the sampler mean takes its one call"),
        (("--spacing", "karras"), "spacing: found karras, but the sampler mean takes its one call"),
        (("--mask-exponent", "-1"), "mask exponent: found -1"),
        (("--mask-rounds", "-1"), "mask rounds: found -1"),
        (("--average", "0"), "average: found 0, expected at least 1"),
        (("--passes", "0"), "passes: found 0, expected at least 1"),
        (("--device", "abacus"), "--device: found 'abacus'"),
        (("--model", "nowhere.ckpt"), "--model: nowhere.ckpt: no such file"),
        (
            ("--model", "."),
            "--model: .: expected the folder of a run (checkpoints/last.ckpt), or one weights file in it, found none",
        ),
    ],
)
def test_unusable_options(
    run: Run, weights: Path, options: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "song.wav", 0.1)
    common = ("--model", weights, "--quiet", "--device", "cpu")
    status, out, err = run("separate", "song.wav", *common, *options, quick=False)
    assert status == 2 and not out
    (line,) = err.splitlines()
    assert line.startswith("error: ") and message in line
    assert names(tmp_path) == {"song.wav"}


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


def test_separation_options(run: Run, tmp_path: Path) -> None:
    """Posterior mean, averages, a second pass, the masks' exponent, guidance by stem: each changes the stems."""
    song = write(tmp_path / "song.wav", 0.5, 2)
    made = []
    for number, options in enumerate(
        [
            ("--sampler", "mean"),
            ("--sampler", "mean", "--average", 3),
            ("--sampler", "mean", "--passes", 1),
            ("--sampler", "mean", "--mask-power", 1),
            ("--sampler", "mean", "--guidance", "bass=2,drums=2,guitar=0,piano=1"),
        ]
    ):
        assert run("separate", tmp_path / "song.wav", "--out", tmp_path / str(number), *options)[0] == 0
        stems = read(tmp_path / str(number) / "song")
        assert np.abs(sum(stems.values()) - song).max() < 1e-5
        made.append(stems["bass"])
        assert number == 0 or np.abs(made[0] - made[-1]).max() > 1e-3, options
    status, _, err = run("generate", "--sampler", "mean", "--out", tmp_path / "bad")
    assert status == 2 and "--sampler: found 'mean', expected one of ddim" in err


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
