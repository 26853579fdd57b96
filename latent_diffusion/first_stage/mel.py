"""The log-mel front end."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

from latent_diffusion.errors import DataError
from latent_diffusion.settings import MelSettings

CLAMP = 1e-5  # magnitudes below this count as silence
SILENCE = -11.512925  # log(CLAMP): the log-mel of silence, in nepers


class LogMel(nn.Module):
    """Waveform to natural-log mel magnitudes.

    Reflect padding of half an FFT, periodic Hann window, magnitude (not power), Slaney mel scale with Slaney area
    normalisation, natural logarithm of the value clamped at 1e-5: the front end that the published VAE and vocoder
    were trained on. Always computed in float32, whatever the precision around it.
    """

    def __init__(self, settings: MelSettings | None = None):
        super().__init__()
        self.settings = s = settings or MelSettings()
        with torch.device("cpu"):  # constants, not weights: real numbers even where a model is built on "meta"
            mel_basis = torchaudio.functional.melscale_fbanks(
                s.n_fft // 2 + 1, s.f_min, s.f_max, s.n_mels, s.sample_rate, norm="slaney", mel_scale="slaney"
            )
            window = torch.hann_window(s.win_length)
        self.register_buffer("mel_basis", mel_basis, persistent=False)  # (n_fft // 2 + 1, M)
        self.register_buffer("window", window, persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute the log-mel of every frame.

        Args:
            waveform: (..., N) samples at `settings.sample_rate`, nominally in [-1, 1].

        Returns:
            (..., 1 + N // hop_length, M), natural log.

        Raises:
            DataError: fewer samples than the reflect padding needs (n_fft / 2 + 1).
        """
        return self.from_magnitudes(self.magnitudes(waveform))

    def from_magnitudes(self, magnitude: Tensor) -> Tensor:
        """Log-mels (..., T, M) of magnitudes (..., T, n_fft // 2 + 1)."""
        with torch.autocast(magnitude.device.type, enabled=False):
            return (magnitude @ self.mel_basis).clamp(min=CLAMP).log()

    def magnitudes(self, waveform: Tensor) -> Tensor:
        """Magnitudes (..., 1 + N // hop_length, n_fft // 2 + 1) of the spectrum; see `forward`."""
        s = self.settings
        *lead, samples = waveform.shape
        if samples <= s.n_fft // 2:
            raise DataError(
                f"waveform: found {samples} samples, expected at least {s.n_fft // 2 + 1}; pad it with silence"
            )
        with torch.autocast(waveform.device.type, enabled=False):
            spectrum = torch.stft(
                waveform.reshape(-1, samples).float(),
                s.n_fft,
                hop_length=s.hop_length,
                win_length=s.win_length,
                window=self.window,
                center=True,
                pad_mode="reflect",
                return_complex=True,
            )
            return spectrum.abs().transpose(1, 2).reshape(*lead, -1, s.n_fft // 2 + 1)
