"""A vocoder without weights, for models whose vocoder is not trained yet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from latent_diffusion.first_stage.mel import LogMel
from latent_diffusion.settings import MelSettings


class GriffinLim(nn.Module):
    """Log-mel to waveform by least squares and iterated phase.

    Griffin and Lim 1984, with the momentum of Perraudin et al. 2013. Takes the place of `HiFiGAN`. Deterministic: the
    phase starts from zeros.

    Args:
        mel: the front end to invert.
        iterations: of the phase search.
    """

    def __init__(self, mel: MelSettings, iterations: int = 32):
        super().__init__()
        basis = LogMel(mel).mel_basis  # (n_fft // 2 + 1, M)
        with torch.device("cpu"):  # constants, not weights: real numbers even where a model is built on "meta"
            inverse = torch.linalg.pinv(basis.T.double()).float()
            search = torchaudio.transforms.GriffinLim(
                mel.n_fft, iterations, mel.win_length, mel.hop_length, power=1.0, rand_init=False
            )
        self.register_buffer("inverse", inverse, persistent=False)
        self.search = search
        window = self.search.window  # a constant: not part of a checkpoint
        del self.search.window
        self.search.register_buffer("window", window, persistent=False)
        self.hop_length = mel.hop_length

    def forward(self, log_mel: Tensor) -> Tensor:
        """Log-mels (B, M, T), natural log, to waveforms (B, 1, T * hop_length) in [-1, 1]."""
        with torch.autocast(log_mel.device.type, enabled=False):
            magnitude = (self.inverse @ log_mel.float().exp()).clamp(min=1e-8)
            # One more frame, as centring has: T frames alone span T - 1 hops.
            waveform = self.search(F.pad(magnitude, (0, 1), mode="replicate"))
        return waveform[:, None, : log_mel.shape[-1] * self.hop_length].clamp(-1.0, 1.0)
