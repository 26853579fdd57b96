"""The spectral vocoder: what it draws, its phases, its bands, and its weights' way through files."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latent_diffusion.checkpoints import convert, has_vocoder, load_pipeline_parts, load_vocoder, read_weights
from latent_diffusion.errors import CheckpointError
from latent_diffusion.first_stage import GriffinLim, HiFiGAN, LogMel, SpectralVocoder, spectral
from latent_diffusion.first_stage.spectral import peak_phases
from latent_diffusion.inspection import summarise
from latent_diffusion.musicldm import MusicLDM
from latent_diffusion.settings import MelSettings, VocoderSettings
from tests import tiny
from utilities.building import build_model, load_initial_weights
from utilities.config import load_config

MEL = MelSettings(frames=128)
SETTINGS = VocoderSettings("spectral", width=16, blocks=1)
SMALL = VocoderSettings("spectral", tiny.MEL.n_mels, width=8, blocks=1)
LOG_MEL = LogMel(MEL)


def vocoder(**changes: Any) -> SpectralVocoder:
    """An untrained one, whose magnitudes are the log-mel's smooth spectrum and some noise."""
    torch.manual_seed(0)
    return SpectralVocoder(replace(SETTINGS, **changes), MEL).eval()


def plucked(seed: int = 0) -> Tensor:
    """Decaying harmonic tones, a new one every quarter second, and a little noise: (N,)."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(MEL.window_samples) / MEL.sample_rate
    wave = 0.002 * torch.randn(len(t), generator=g)
    for start in torch.arange(0.0, MEL.window_seconds, 0.25):
        hz, since = 100 + 500 * torch.rand((), generator=g), t - start
        tone = sum(torch.sin(2 * torch.pi * k * hz * since) / k for k in range(1, 6))
        wave += torch.where(since > 0, 0.2 * tone * torch.exp(-4 * since.clamp(min=0)), 0.0)
    return wave


def wanted(waveform: Tensor) -> Tensor:
    return LOG_MEL(waveform)[: MEL.frames]


def test_magnitudes_have_the_log_mel_whatever_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    log_mel = wanted(plucked())[None]
    model = vocoder()
    apart = {}
    with torch.no_grad():
        model.conv_post.weight.mul_(20.0)
        for fits in (2, 0):
            monkeypatch.setattr(spectral, "FITS", fits)
            apart[fits] = (LOG_MEL.from_magnitudes(model.magnitudes(log_mel)) - log_mel).abs().mean()
    assert apart[2] < 0.2 < 0.6 < apart[0]


def test_peak_phases_continue_a_sinusoid() -> None:
    """Any steady tone comes back from its magnitudes alone, without any search; from zero phases it does not."""
    t = torch.arange(MEL.window_samples) / MEL.sample_rate
    for hz in (437.3, 1000.0, 2345.6):
        magnitude = LOG_MEL.magnitudes(torch.sin(2 * torch.pi * hz * t)).T[None]
        model, apart = vocoder(phase_iterations=0), []
        for phases in (peak_phases(magnitude, MEL.hop_length), torch.zeros_like(magnitude)):
            found = LOG_MEL.magnitudes(model.search_phases(magnitude, phases)[0]).T[:, 10:-10]
            apart.append(float((found - magnitude[0, :, 10:-10]).norm() / magnitude.norm()))
        assert apart[0] < 0.05 < 0.5 < apart[1]


def test_phase_search_makes_the_spectrum_consistent() -> None:
    target = plucked()
    magnitude = LOG_MEL.magnitudes(target).T[None]
    apart = []
    for iterations in (0, 4, 16):
        made = vocoder(phase_iterations=iterations).search_phases(magnitude, peak_phases(magnitude, MEL.hop_length))
        apart.append(float((LOG_MEL.magnitudes(made[0]).T - magnitude[0]).norm() / magnitude.norm()))
    assert apart[0] > 1.5 * apart[1] > 1.5 * apart[2]


def test_bands_come_closer_with_every_iteration() -> None:
    log_mel = wanted(plucked()).T[None]
    apart = []
    with torch.no_grad():
        for iterations in (0, 2, 6):
            made = vocoder(band_iterations=iterations)(log_mel)[0, 0]
            apart.append(float((wanted(made) - log_mel[0].T).abs().mean()))
        plain = (wanted(GriffinLim(MEL)(log_mel)[0, 0]) - log_mel[0].T).abs().mean()
    assert apart[0] > apart[1] > apart[2] and apart[1] < plain


def test_silence_stays_silent_and_batches_agree() -> None:
    log_mels = torch.stack([wanted(x).T for x in (torch.zeros(MEL.window_samples), plucked(1), plucked(2))])
    model = vocoder()
    with torch.no_grad():
        made = model(log_mels)
        assert made.shape == (3, 1, MEL.window_samples)
        assert made[0].abs().max() < 1e-3 < 0.05 < made[1].abs().max() <= 1.0
        torch.testing.assert_close(model(log_mels[2:]), made[2:], atol=1e-4, rtol=1e-3)


# ---- files


def checkpoint(path: Path, settings: VocoderSettings = SMALL, seed: int = 3) -> SpectralVocoder:
    """A training's checkpoint of a vocoder with weights of its own; returns the vocoder."""
    torch.manual_seed(seed)
    made = SpectralVocoder(settings, tiny.MEL)
    state = {f"generator.{key}": value for key, value in made.state_dict().items()}
    settings_dict = {"vocoder": asdict(settings), "mel": asdict(tiny.MEL)}
    torch.save({"state_dict": state, "msgld": {"kind": "vocoder", "settings": settings_dict}}, path)
    return made


def model_file(path: Path, vocoder: VocoderSettings) -> MusicLDM:
    """An MSG-LD checkpoint with such a vocoder."""
    model = MusicLDM(replace(tiny.settings(), vocoder=vocoder))
    torch.save({"state_dict": model.state_dict(), "msgld": {"settings": model.settings.to_dict()}}, path)
    return model


def same(a: torch.nn.Module, b: torch.nn.Module, tolerance: float = 0.0) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.allclose(x, y, atol=tolerance, rtol=tolerance) for x, y in pairs)


def test_half_precision_file(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "v.ckpt")
    half = convert(tmp_path / "v.ckpt", tmp_path / "v.safetensors", half=True)
    assert summarise(half).settings == SMALL and summarise(half).mel == tiny.MEL
    loaded = SpectralVocoder(SMALL, tiny.MEL)
    load_vocoder(loaded, half)
    assert same(loaded, made, 1e-3) and not same(loaded, made)
    with pytest.raises(CheckpointError, match="width 8 in the file, vocoder_config.params.width is 12; set it to 8"):
        load_vocoder(SpectralVocoder(replace(SMALL, width=12), tiny.MEL), half)
    with pytest.raises(CheckpointError, match="a spectral vocoder in the file, a hifigan one in vocoder_config.target"):
        load_vocoder(HiFiGAN(tiny.VOCODER).remove_weight_norm(), half)
    load_vocoder(SpectralVocoder(replace(SMALL, phase_iterations=3), tiny.MEL), half)  # no weight depends on these


@pytest.mark.parametrize("own", [tiny.VOCODER, VocoderSettings("griffin_lim", 16), replace(SMALL, width=12)])
def test_a_trained_model_takes_another_vocoder(own: VocoderSettings, tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "v.ckpt")
    model = model_file(tmp_path / "model.ckpt", own)
    joined = convert(tmp_path / "model.ckpt", tmp_path / "joined.safetensors", vocoder=tmp_path / "v.ckpt")
    unet, first_stage, _, _, _, settings = load_pipeline_parts(joined)
    assert settings == replace(model.settings, vocoder=SMALL)
    assert same(first_stage.vocoder, made) and same(first_stage.decoder, model.first_stage_model.decoder)
    waveform = first_stage.log_mel_to_waveform(torch.full((2, 32, 16), -3.0))
    assert waveform.shape == (2, 32 * 40) and waveform.isfinite().all() and waveform.any()

    other = MusicLDM(replace(tiny.settings(), vocoder=SMALL))
    assert not has_vocoder(read_weights(tmp_path / "model.ckpt"), SMALL) and has_vocoder(read_weights(joined), SMALL)
    with pytest.raises(CheckpointError, match="vocoder_config"):
        other.load_model(tmp_path / "model.ckpt")
    other.load_model(tmp_path / "model.ckpt", vocoder=tmp_path / "v.ckpt")
    assert same(other.first_stage_model.vocoder, made)
    assert same(other.first_stage_model.encoder, model.first_stage_model.encoder)
    assert same(other.model.diffusion_model, model.model.diffusion_model)


def test_a_configuration_names_the_vocoder_of_a_trained_model(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "v.ckpt")
    model_file(tmp_path / "griffin.ckpt", VocoderSettings("griffin_lim", 16))
    own = model_file(tmp_path / "spectral.ckpt", SMALL).first_stage_model.vocoder
    values = tiny.config(tmp_path)
    target = "latent_diffusion.first_stage.SpectralVocoder"
    values["model"]["params"]["first_stage_config"]["params"]["vocoder_config"] = {
        "target": target,
        "ckpt_path": str(tmp_path / "v.ckpt"),
        "params": {"width": 8, "blocks": 1},
    }
    values["model"]["params"]["unet_config"]["params"]["dropout"] = 0.0
    for name, expected in (("griffin.ckpt", made), ("spectral.ckpt", own)):  # a model's own come first if they fit
        values["model"]["params"]["ckpt_path"] = str(tmp_path / name)
        config = load_config(tiny.write_config(tmp_path / "c.yaml", values))
        model = build_model(config)
        load_initial_weights(config, model)
        assert same(model.first_stage_model.vocoder, expected)


def test_a_vocoder_of_other_log_mels_is_refused(tmp_path: Path) -> None:
    settings = {"vocoder": asdict(SMALL), "mel": asdict(replace(tiny.MEL, hop_length=80))}
    state = {f"generator.{k}": v for k, v in SpectralVocoder(SMALL, tiny.MEL).state_dict().items()}
    torch.save({"state_dict": state, "msgld": {"kind": "vocoder", "settings": settings}}, tmp_path / "v.ckpt")
    model_file(tmp_path / "model.ckpt", tiny.VOCODER)
    with pytest.raises(CheckpointError, match="its vocoder is made for log-mels of .*hop_length=80"):
        convert(tmp_path / "model.ckpt", tmp_path / "out.safetensors", vocoder=tmp_path / "v.ckpt")
    assert not (tmp_path / "out.safetensors").exists()
