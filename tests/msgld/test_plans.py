"""Tempo and chords from the command line: what is followed, what is drawn, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from latent_diffusion.errors import ConfigError
from latent_diffusion.inference import SamplingSettings
from latent_diffusion.musicldm import MusicLDM
from latent_diffusion.plan import Plan, drawn_plan
from latent_diffusion.settings import StemTransformerSettings
from tests.msgld.files import Run, save, write
from tests.tiny import STEMS, model, settings


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny transformer, its weights random everywhere."""
    tiny = settings(STEMS, parameterization="v")
    channels, _, bins = tiny.latent_shape
    network = StemTransformerSettings(len(STEMS), channels, bins, width=16, depth=1, heads=2)
    torch.manual_seed(0)
    made = MusicLDM(type(tiny)(tiny.stems, tiny.mel, tiny.autoencoder, tiny.vocoder, network, tiny.diffusion))
    made.first_stage_model.load_state_dict(model(parameterization="v").first_stage_model.state_dict())
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    made.model_ema = type(made.model_ema)(made.model)
    return save(tmp_path_factory.mktemp("planned") / "last.ckpt", made)


def mix(folder: Path) -> np.ndarray:
    return soundfile.read(folder / "mix.wav")[0]


def test_what_generation_follows(run: Run, planned: Path, tmp_path: Path) -> None:
    """Drawn from the seed, asked for, or free: the line says which, and the music differs."""

    def generate(name: str, *options: object) -> tuple[str, np.ndarray]:
        arguments = ("generate", "--model", planned, "--steps", 2, "--quiet", "--seed", 4, "--out", tmp_path / name)
        status, shown, err = run(*arguments, *options, quick=False)
        assert status == 0, err
        return shown, mix(tmp_path / name / "generated_4")

    drawn, asked, free = (
        generate("drawn"),
        generate("asked", "--tempo", 100, "--chords", "Am F"),
        generate("free", "--free"),
    )
    assert f"plan: {drawn_plan(4)}" in drawn[0]
    assert "plan: 100 beats a minute, Am F" in asked[0]
    assert "plan" not in free[0]
    again = generate("again", "--tempo", 100, "--chords", "Am F")
    assert np.array_equal(asked[1], again[1])
    assert not np.allclose(asked[1], drawn[1]) and not np.allclose(asked[1], free[1])


def test_arranging_with_a_tempo(run: Run, planned: Path, tmp_path: Path) -> None:
    write(tmp_path / "song" / "bass.wav", 0.4)
    made = []
    for options in ((), ("--tempo", 100, "--first-beat", 0.1)):
        out = tmp_path / str(len(made))
        arguments = ("arrange", "--given", tmp_path / "song", "--model", planned, "--steps", 2, "--quiet", "--out", out)
        status, _, err = run(*arguments, *options, quick=False)
        assert status == 0, err
        made.append(mix(out / "song"))
    assert not np.allclose(*made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--chords", "Am"), "--chords: found without --tempo"),
        (("--tempo", "100", "--chords", "Am H"), "chord: found 'H'"),
        (("--tempo", "10"), "tempo: found 10, expected 40 to 240"),
        (("--tempo", "100", "--free"), "--free: found beside --tempo"),
        (("--tempo", "100", "--beats-per-bar", "0"), "beats per bar: found 0"),
    ],
)
def test_refused(run: Run, planned: Path, options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    status, out, err = run("generate", "--model", planned, "--out", tmp_path / "out", *options, quick=False)
    assert status == 2 and not out
    (line,) = err.splitlines()
    assert line.startswith("error: ") and message in line


def test_a_network_that_takes_no_plan(run: Run, tmp_path: Path) -> None:
    status, _, err = run("generate", "--tempo", 100, "--out", tmp_path / "out")
    assert status == 2 and "plan: the model's network takes none" in err


def test_nothing_is_planned_where_a_recording_goes_on(planned: Path) -> None:
    from latent_diffusion import MultiTrackPipeline

    pipeline = MultiTrackPipeline.from_checkpoint(planned)
    with pytest.raises(ConfigError, match="plan: found beside continue_from"):
        pipeline.generate(
            0.1, sampling=SamplingSettings(steps=1), continue_from=np.zeros(9000), sample_rate=16_000, plan=Plan(90.0)
        )
