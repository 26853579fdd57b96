"""A vocoder that is cheap to train and to run: a small network draws the spectrum, a short search finds its phases.

A log-mel tells how much energy each band has; what is missing is how it lies within the band, and the phases. The
first is learnt, frame by frame, by the ConvNeXt stack that Vocos uses (Liu et al. 2022, arXiv 2201.03545; Siuzdak 2023,
arXiv 2306.00814). The phases start where a sinusoid at each spectral peak would have them (Beauregard, Harish and Wyse
2015, "Single pass spectrogram inversion") and are then made consistent by fast Griffin-Lim (Perraudin et al. 2013).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_diffusion.first_stage.mel import CLAMP, SILENCE, LogMel
from latent_diffusion.settings import MelSettings, VocoderSettings

KERNEL = 7  # frames that a block sees at once
EXPANSION = 3  # inner width of a block as a multiple of its width
FITS = 2  # corrections by which the drawn magnitudes come to have the log-mel that was asked for
LARGEST_FIT = 100.0  # factor of one correction, and the inverse of the smallest
QUIETEST = 1e-7  # of magnitudes, and of mel magnitudes divided by
MOMENTUM = 0.99  # of fast Griffin-Lim


class ConvNeXtBlock(nn.Module):
    """Mixing over time a channel, then over channels a frame, around a skip. (B, T, width) -> same."""

    def __init__(self, width: int):
        super().__init__()
        self.over_time = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, EXPANSION * width)
        self.narrow = nn.Linear(EXPANSION * width, width)
        with torch.no_grad():
            self.narrow.weight.mul_(0.3)  # blocks begin close to the identity
        nn.init.zeros_(self.narrow.bias)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.over_time(x.transpose(1, 2)).transpose(1, 2)
        return x + self.narrow(F.gelu(self.widen(self.norm(mixed))))


class SpectralVocoder(nn.Module):
    """Log-mel to waveform; takes the place of `HiFiGAN`. Deterministic.

    Args:
        settings: width, blocks, phase_iterations and band_iterations of the vocoder.
        mel: the front end to invert.
    """

    def __init__(self, settings: VocoderSettings, mel: MelSettings):
        super().__init__()
        self.settings = settings
        self.hop_length = mel.hop_length
        front_end = LogMel(mel)
        basis = front_end.mel_basis  # (F, M)
        with torch.device("cpu"):  # constants, not weights: real numbers even where a model is built on "meta"
            spread = basis / basis.sum(1, keepdim=True).clamp(min=QUIETEST)
            inside = basis.sum(1) > 0
            nearest = (torch.arange(len(basis))[:, None] - torch.where(inside)[0]).abs().argmin(1)
            spread = spread[torch.where(inside)[0][nearest]]  # bins of no band (0 Hz, Nyquist) go with their neighbour
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("spread", spread, persistent=False)  # (F, M), rows add up to 1
        self.register_buffer("window", front_end.window, persistent=False)
        bins, bands = basis.shape
        self.conv_pre = nn.Conv1d(bands, settings.width, 3, padding=1)
        self.blocks = nn.ModuleList(ConvNeXtBlock(settings.width) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(settings.width)
        self.conv_post = nn.Linear(settings.width, bins)
        with torch.no_grad():
            self.conv_post.weight.mul_(0.1)  # training begins at the log-mel's own smooth spectrum
        nn.init.zeros_(self.conv_post.bias)

    def magnitudes(self, log_mel: Tensor) -> Tensor:
        """Magnitudes (B, T, F) of the spectrum, F = n_fft / 2 + 1, for log-mels (B, T, M), natural log.

        Their log-mel is nearly the given one, whatever the network's weights.
        """
        x = self.conv_pre((log_mel - SILENCE / 2).transpose(1, 2) / 3.0).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        detail = self.conv_post(self.norm(x))
        with torch.autocast(log_mel.device.type, enabled=False):
            wanted = log_mel.float().exp()
            smooth = (log_mel.float() - self.basis.sum(0).log()) @ self.spread.T
            magnitude = (smooth + detail.float()).clamp(-14.0, 8.0).exp()
            for _ in range(FITS):
                ratio = wanted / (magnitude @ self.basis).clamp(min=QUIETEST)
                magnitude = magnitude * (ratio.clamp(1 / LARGEST_FIT, LARGEST_FIT) @ self.spread.T)
        return magnitude

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mels (B, M, T), natural log, to waveforms (B, 1, T * hop_length) in [-1, 1]."""
        magnitude = self.magnitudes(log_mel.transpose(1, 2)).transpose(1, 2)
        with torch.autocast(log_mel.device.type, enabled=False):
            # One more frame, as centring has: T frames alone span T - 1 hops.
            magnitude = F.pad(magnitude, (0, 1), mode="replicate")
            waveform = self.search_phases(magnitude, peak_phases(magnitude, self.hop_length))
            waveform = self.correct_bands(waveform, log_mel.float())
        return waveform[:, None].clamp(-1.0, 1.0)

    def search_phases(self, magnitude: Tensor, phases: Tensor) -> Tensor:
        """Fast Griffin-Lim from given phases: waveforms (B, (T - 1) * hop_length) of magnitudes (B, F, T)."""
        waveform = self._synthesise(torch.polar(magnitude, phases))
        previous = None
        for _ in range(self.settings.phase_iterations):
            spectrum = self._analyse(waveform)
            ahead = spectrum if previous is None else spectrum.sub(previous, alpha=MOMENTUM / (1.0 + MOMENTUM))
            previous = spectrum
            waveform = self._synthesise(magnitude * ahead.sgn())
        return waveform

    def correct_bands(self, waveform: Tensor, log_mel: Tensor) -> Tensor:
        """Bring the bands of waveforms (B, T * hop_length) closer to log-mels (B, M, T); phases stay.

        As a Griffin-Lim iteration, but only the energy of the bands is prescribed, not that of every bin: the spectrum
        keeps what detail of it a waveform can have.
        """
        wanted = F.pad(log_mel, (0, 1), mode="replicate").exp().transpose(1, 2)
        for _ in range(self.settings.band_iterations):
            spectrum = self._analyse(waveform)
            found = (spectrum.abs().transpose(1, 2) @ self.basis).clamp(min=CLAMP)
            ratio = (wanted / found).clamp(max=LARGEST_FIT)
            waveform = self._synthesise(spectrum * (ratio @ self.spread.T).transpose(1, 2))
        return waveform

    def _analyse(self, waveform: Tensor) -> Tensor:
        n_fft = 2 * (len(self.basis) - 1)
        return torch.stft(
            waveform, n_fft, self.hop_length, len(self.window), self.window, pad_mode="reflect", return_complex=True
        )

    def _synthesise(self, spectrum: Tensor) -> Tensor:
        n_fft, length = 2 * (len(self.basis) - 1), (spectrum.shape[-1] - 1) * self.hop_length
        return torch.istft(spectrum, n_fft, self.hop_length, len(self.window), self.window, length=length)


def peak_phases(magnitude: Tensor, hop_length: int) -> Tensor:
    """Phases in radians of magnitudes (B, F, T), as if every bin belonged to a sinusoid at the peak above it.

    The peak's frequency is that of the parabola through the log-magnitudes around it; its phase runs on from frame to
    frame, and all bins below it have it, too. Phases are relative to the start of a frame, as `torch.stft` has them:
    neighbouring bins of a sinusoid are half a turn apart.
    """
    bins = magnitude.shape[1]
    n_fft = 2 * (bins - 1)
    level = magnitude.clamp(min=QUIETEST).log()
    padded = F.pad(level.transpose(1, 2), (1, 1), value=math.log(QUIETEST) - 1.0)
    below, here, above = padded[..., :-2], padded[..., 1:-1], padded[..., 2:]
    bin_numbers = torch.arange(bins, device=magnitude.device).expand(here.shape)
    # Each bin points to the largest of itself and its two neighbours; following three times reaches 8 bins uphill.
    up = (above > here) & (above > below)
    peak = bin_numbers + up.long() - ((below >= here) & ~up).long()
    for _ in range(3):
        peak = peak.gather(-1, peak)
    offset = 0.5 * (below - above) / (below - 2.0 * here + above).clamp(max=-1e-6)
    frequency = (bin_numbers + offset.clamp(-0.5, 0.5)).gather(-1, peak)  # in bins
    turns = (frequency.double() * hop_length / n_fft).cumsum(1).gather(-1, peak) + bin_numbers / 2
    return (2.0 * math.pi * turns.frac()).float().transpose(1, 2)
