"""`benchmarks.separation`: recordings of which one stem is known, stems that are silent, another model beside ours."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks import separation
from benchmarks.separation import HTDemucs, Scores, level_above, read_tracks
from latent_diffusion.errors import ConfigError
from tests import tiny

RATE = 44_100


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """A guitar and the rest, the latter a little longer and in stereo; and a song of two stems that sound."""
    guitar, rest, bass = (tiny.tones(RATE, 1, seed, RATE)[0].numpy() for seed in (1, 2, 3))
    for track in ("known", "real"):
        (tmp_path / track).mkdir()
    soundfile.write(tmp_path / "real" / "guitar.ogg", guitar, RATE)
    soundfile.write(tmp_path / "real" / "rest.ogg", np.stack([np.pad(rest, (0, 99))] * 2, axis=1), RATE)
    soundfile.write(tmp_path / "known" / "guitar.wav", guitar, RATE)
    soundfile.write(tmp_path / "known" / "bass.wav", bass, RATE)
    return tmp_path


def test_rest_is_in_the_mixture_and_is_no_stem(song: Path) -> None:
    pipeline = tiny.pipeline()
    known, real = read_tracks(song, pipeline, [], 1e6)
    torch.testing.assert_close(known.mixture, known.stems.sum(0))
    assert real.partial and not known.partial
    rest = torch.from_numpy(soundfile.read(song / "real" / "rest.ogg", dtype="float32")[0]).mean(1)
    torch.testing.assert_close(real.mixture - real.stems.sum(0), rest)
    scores = Scores(pipeline, [1.0], [0], vocoder=True)
    _, truth = pipeline.encode(real.low, torch.Generator().manual_seed(0))
    for track in (known, real):
        scores.add(track, "x", truth, truth)
    everywhere = {(row["item"], row["stem"]) for one in scores.tables().values() for row in one.rows()}
    assert {stem for item, stem in everywhere if item == "real"} == {"guitar"}
    silent = {(row["item"], row["stem"]) for row in scores.masked_silent.rows()}
    assert (
        silent
        == {("known", "drums"), ("known", "piano")}
        == {(row["item"], row["stem"]) for row in scores.vocoded_silent.rows()}
    )


def test_silent_stems_are_told_below_the_mixture(song: Path) -> None:
    """Masks that give drums a hundredth of what the others have in all."""
    pipeline = tiny.pipeline()
    track = next(read_tracks(song, pipeline, ["known"], 1e6))
    _, truth = pipeline.encode(track.low, torch.Generator().manual_seed(0))
    equal = torch.zeros_like(truth)
    equal[pipeline.stems.index("drums")] = -np.log(100)
    scores = Scores(pipeline, [1.0], [0], vocoder=False)
    scores.add(track, "x", equal, truth)
    (value,) = (v for _, v in scores.masked_silent.values("x  p=1, 0 rounds", "drums"))
    assert value == pytest.approx(20 * np.log10(301), abs=0.1)
    assert level_above(torch.zeros(4), torch.ones(4)) == -120 and level_above(torch.ones(4), torch.ones(4) / 2) > 6.02


def demucs(calls: list[tuple[tuple[int, ...], ...]]) -> HTDemucs:
    """Stands in for the weights: drums are 0.6 times the spectrum, bass the waveform, the others are silent."""

    def network(waveforms: np.ndarray, spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append((waveforms.shape, spectra.shape))
        made, heard = (
            np.zeros((1, 4, *spectra.shape[1:]), np.float32),
            np.zeros((1, 4, 2, waveforms.shape[-1]), np.float32),
        )
        made[:, 0], heard[:, 1] = 0.6 * spectra, waveforms
        return made, heard

    return HTDemucs(network)


@pytest.mark.parametrize("seconds", [1.0, 9.3])
def test_htdemucs_gets_what_it_wants_and_is_put_together_again(seconds: float) -> None:
    calls: list[tuple[tuple[int, ...], ...]] = []
    mixture = tiny.tones(round(seconds * 22_050), 1, 0, 22_050)[0]
    made = demucs(calls)(mixture, 22_050)
    assert set(calls) == {((1, 2, 343_980), (1, 4, 2048, 336))} and len(calls) == (1 if seconds < 7.8 else 2)
    inner = slice(500, -500)  # resampling there and back has its ends
    torch.testing.assert_close(made["bass"][inner], mixture[inner], atol=2e-3, rtol=0)
    torch.testing.assert_close(made["drums"][inner], 0.6 * mixture[inner], atol=2e-3, rtol=0)
    assert len(made["bass"]) == len(mixture) and not made["vocals"].any() and not made["other"].any()


def test_another_model_has_a_table_of_its_own(
    song: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(separation, "load_model", lambda name, device: tiny.pipeline())
    monkeypatch.setattr(HTDemucs, "from_file", lambda path: demucs([]))
    options = ["--stems", str(song), "--variant", "steps=1", "--no-vocoder", "--htdemucs", "x", "--errors", "1"]
    assert separation.main(options) == 0
    blocks = {block.splitlines()[0].split(" | ")[0]: block for block in capsys.readouterr().out.split("\n\n")}
    (other,) = (block for title, block in blocks.items() if "SI-SDRi, another model" in title)
    head, _, row = other.strip().splitlines()
    assert "bass (1) | drums (0) | guitar (1) | piano (0)" in head  # of the real guitar its "other"
    assert row.startswith("| HTDemucs | ") and "| 0.00 |" in row  # the mixture as the bass
    assert any("dB below the mixture" in title for title in blocks)
    assert "true stems, wrong by 1 nepers" in "".join(blocks.values())


def test_htdemucs_without_its_runtime_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="needs onnxruntime"):
        HTDemucs.from_file(tmp_path / "htdemucs.onnx")
