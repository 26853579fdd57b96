"""Reading windows, resampling and writing."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from latent_diffusion.errors import DataError
from latent_diffusion.resampling import resample_sparse
from utilities import audio


def noise(channels: int, samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed)) * 0.2


def write_float(path: Path, waveform: torch.Tensor, rate: int) -> Path:
    soundfile.write(path, waveform.T.numpy(), rate, subtype="FLOAT")
    return path


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rates", [(22050, 16000), (44100, 16000), (48000, 16000), (8000, 16000), (16000, 44100)])
def test_window_is_a_cut_of_the_whole_resampled_file(tmp_path: Path, rates: tuple[int, int], channels: int) -> None:
    rate, target = rates
    waveform = noise(channels, rate * 3 + 17)
    path = write_float(tmp_path / "x.wav", waveform, rate)
    whole = torchaudio.transforms.Resample(rate, target)(waveform)
    length = whole.shape[1]
    for start in (0, 1, 12_345, length - 4000, length - 7):
        window = audio.read_window(path, start, 4000, target)
        expected = whole[:, start : start + 4000]
        assert window.shape == (channels, 4000) and window.dtype == torch.float32
        assert (window[:, : expected.shape[1]] - expected).abs().max() < 1e-5
        assert not window[:, expected.shape[1] :].any()
    assert not audio.read_window(path, length + 5, 100, target).any()
    mono = audio.read_window(path, 500, 4000, target, mono=True)
    assert (mono - whole.mean(0, keepdim=True)[:, 500:4500]).abs().max() < 1e-5


def test_window_reads_only_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_float(tmp_path / "x.wav", noise(1, 22050 * 20), 22050)
    read: list[int] = []
    original = soundfile.SoundFile.read

    def counting(self: soundfile.SoundFile, frames: int = -1, *args: object, **kwargs: object) -> np.ndarray:
        read.append(frames)
        return original(self, frames, *args, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    audio.read_window(path, 160_000, 16_000, 16_000)
    assert len(read) == 1 and 22050 <= read[0] <= 22050 + 1000


def test_same_rate_is_untouched(tmp_path: Path) -> None:
    waveform = noise(2, 5000)
    path = write_float(tmp_path / "x.wav", waveform, 16_000)
    assert torch.equal(audio.read_window(path, 123, 1000, 16_000), waveform[:, 123:1123])
    assert audio.resample(waveform, 16_000, 16_000) is waveform


def test_rates_without_common_factor_agree_with_torchaudio() -> None:
    waveform = noise(2, 3000)
    expected = torchaudio.functional.resample(waveform, 1601, 1009)  # small enough for the dense kernel
    assert (resample_sparse(waveform, 1601, 1009) - expected).abs().max() < 1e-4
    # a sine keeps its frequency and amplitude where the dense kernel would take gigabytes
    rate, target = 44_101, 16_000
    sine = torch.sin(2 * math.pi * 440 * torch.arange(rate) / rate)[None]
    resampled = audio.resample(sine, rate, target)
    assert resampled.shape == (1, audio.resampled_length(rate, rate, target))
    ideal = torch.sin(2 * math.pi * 440 * torch.arange(target) / target)
    assert (resampled[0] - ideal)[100:-100].abs().max() < 2e-3


def test_window_at_an_odd_rate(tmp_path: Path) -> None:
    waveform = noise(1, 44_101 * 4)
    path = write_float(tmp_path / "x.wav", waveform, 44_101)
    whole = audio.resample(waveform, 44_101, 16_000)
    assert (audio.read_window(path, 40_000, 3000, 16_000) - whole[:, 40_000:43_000]).abs().max() < 1e-5


@pytest.mark.parametrize("rates", [(22050, 16000), (16000, 44100), (48000, 16000), (44101, 16000)])
def test_resampled_length(rates: tuple[int, int]) -> None:
    for samples in (1, 2, 441, 1000):
        assert audio.resample(noise(1, samples), *rates).shape[1] == audio.resampled_length(samples, *rates)


def test_write_is_sixteen_bit_with_the_published_rounding(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.wav"
    values = torch.tensor([0.0, 0.5, -1.0, 1.0, 2.0, -2.0, 1.5 / 32768, -0.5 / 32768])
    audio.write_wav(path, values, 16_000)
    pcm, rate = soundfile.read(path, dtype="int16")
    assert rate == 16_000 and soundfile.info(path).subtype == "PCM_16"
    assert pcm.tolist() == [0, 16384, -32768, 32767, 32767, -32768, 1, -1]
    assert [p.name for p in path.parent.iterdir()] == ["x.wav"]


def test_write_then_read_stereo(tmp_path: Path) -> None:
    waveform = noise(2, 1000).clamp(-1, 1)
    audio.write_wav(tmp_path / "x.wav", waveform.numpy(), 22_050)
    back, rate = audio.read_audio(tmp_path / "x.wav")
    assert rate == 22_050 and back.shape == (2, 1000)
    assert (back - waveform).abs().max() <= 1 / 32768
    assert audio.audio_info(tmp_path / "x.wav") == audio.AudioInfo(22_050, 1000, 2)
    assert audio.to_mono(back).shape == (1, 1000)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.wav"
    audio.write_wav(path, torch.zeros(100), 16_000)
    before = path.read_bytes()

    def half_written(file: Path, *args: object, **kwargs: object) -> None:
        Path(os.fsdecode(file)).write_bytes(b"RIFF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", half_written)
    with pytest.raises(DataError, match="No space left"):
        audio.write_wav(path, torch.ones(100), 16_000)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_write_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="NaN"):
        audio.write_wav(tmp_path / "x.wav", torch.tensor([0.0, float("nan")]), 16_000)
    assert not list(tmp_path.iterdir())


def test_bad_files_are_one_clear_line(tmp_path: Path) -> None:
    good = tmp_path / "good.wav"
    audio.write_wav(good, noise(1, 4000), 16_000)
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "header.wav").write_bytes(good.read_bytes()[:30])
    (tmp_path / "random.raw").write_bytes(b"\x01\x02" * 50)
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 16_000)
    for name, words in {
        "missing.wav": "no such file",
        "text.wav": "not readable as audio",
        "zero.wav": "not readable as audio",
        "header.wav": "",
        "random.raw": "not readable as audio",
        "empty.wav": "holds no samples",
        ".": "is a folder",
    }.items():
        for function in (audio.audio_info, audio.read_audio, lambda p: audio.read_window(p, 0, 10, 16_000)):
            with pytest.raises(DataError) as caught:
                function(tmp_path / name)
            message = str(caught.value)
            assert words in message and "\n" not in message and str(tmp_path) in message, message


def test_bad_contents_are_noticed(tmp_path: Path) -> None:
    waveform = noise(1, 40_000)
    waveform[0, 30_000] = float("nan")
    path = write_float(tmp_path / "nan.wav", waveform, 16_000)
    with pytest.raises(DataError, match="NaN"):
        audio.read_audio(path)
    assert audio.read_window(path, 0, 1000, 16_000).isfinite().all()
    with pytest.raises(DataError, match="NaN"):
        audio.read_window(path, 29_500, 1000, 16_000)

    soundfile.write(tmp_path / "cut.flac", noise(1, 40_000)[0].numpy(), 16_000)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cut.flac"):
        audio.read_window(tmp_path / "cut.flac", 35_000, 1000, 16_000)
    with pytest.raises(DataError, match="cut.flac"):
        audio.read_audio(tmp_path / "cut.flac")
    with pytest.raises(DataError, match="had 50000 when it was indexed"):
        audio.read_window(path, 0, 1000, 16_000, expected_samples=50_000)
