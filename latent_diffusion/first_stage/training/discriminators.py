"""The networks that judge reconstructions: PatchGAN for log-mels, HiFi-GAN's two kinds for waveforms.

They exist in training only and are dropped from every model that is put to use.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

LEAKY_SLOPE = 0.1

Judgement = list[tuple[Tensor, list[Tensor]]]  # one (logits (B, n), feature maps) a sub-discriminator


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv 1611.07004): a convolutional network whose every output sees one patch.

    Args:
        channels: channels of the first layer; doubled at each further strided layer, at most eightfold.
        layers: strided layers; the patch is 70 positions wide at 3.
        in_channels: channels of the log-mel.
    """

    def __init__(self, channels: int = 64, layers: int = 3, in_channels: int = 1):
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        width = channels
        for i in range(1, layers + 1):
            wider = channels * min(2**i, 8)
            stride = 2 if i < layers else 1
            parts += [
                nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        parts.append(nn.Conv2d(width, 1, 4, stride=1, padding=1))
        self.main = nn.Sequential(*parts)
        for module in self.main:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)  # pix2pix's initialisation
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    @staticmethod
    def smallest_input(layers: int) -> int:
        """Frames and mel bins that an input needs at least for one output patch."""
        return 3 * 2**layers

    def forward(self, log_mel: Tensor) -> Tensor:
        """Judge log-mels (B, 1, T, M): logits (B, 1, t, m), positive for real."""
        return self.main(log_mel)


class PeriodDiscriminator(nn.Module):
    """Sees the waveform folded into rows of `period` samples, each column on its own (Kong et al. 2020, section 2.3).

    Args:
        period: samples a row.
        channels: channels of the first layer, 32 as published; later ones are 4, 16 and 32 times as wide.
    """

    def __init__(self, period: int, channels: int = 32):
        super().__init__()
        self.period = period
        widths = [1, channels, 4 * channels, 16 * channels, 32 * channels, 32 * channels]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(widths[i], widths[i + 1], (5, 1), stride=(3 if i < 4 else 1, 1), padding=(2, 0)))
            for i in range(5)
        )
        self.conv_post = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge waveforms (B, 1, N): logits (B, n) and the feature map of every layer."""
        short = -waveform.shape[-1] % self.period
        x = F.pad(waveform, (0, short), mode="reflect").unflatten(-1, (-1, self.period))
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), LEAKY_SLOPE)
            features.append(x)
        x = self.conv_post(x)
        return x.flatten(1), [*features, x]


class ScaleDiscriminator(nn.Module):
    """Sees the waveform itself through strided, grouped convolutions (Kong et al. 2020, section 2.3, after MelGAN).

    Args:
        channels: channels of the first two layers, 128 as published; later ones are up to 8 times as wide.
        norm: weight or spectral normalisation of every convolution.
    """

    # (kernel, stride, groups at the published width, output width in multiples of `channels`)
    LAYERS = (
        (15, 1, 1, 1),
        (41, 2, 4, 1),
        (41, 2, 16, 2),
        (41, 4, 16, 4),
        (41, 4, 16, 8),
        (41, 1, 16, 8),
        (5, 1, 1, 8),
    )

    def __init__(self, channels: int = 128, norm=weight_norm):
        super().__init__()
        self.convs = nn.ModuleList()
        width = 1
        for kernel, stride, groups, multiple in self.LAYERS:
            wider = channels * multiple
            fitting = math.gcd(groups, math.gcd(width, wider))
            conv = nn.Conv1d(width, wider, kernel, stride=stride, padding=kernel // 2, groups=fitting)
            self.convs.append(norm(conv))
            width = wider
        self.conv_post = norm(nn.Conv1d(width, 1, 3, padding=1))

    def forward(self, waveform: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge waveforms (B, 1, N): logits (B, n) and the feature map of every layer."""
        x, features = waveform, []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), LEAKY_SLOPE)
            features.append(x)
        x = self.conv_post(x)
        return x.flatten(1), [*features, x]


class WaveformDiscriminator(nn.Module):
    """HiFi-GAN's multi-period and multi-scale discriminators as one.

    Args:
        periods: one period discriminator each; 2, 3, 5, 7, 11 as published, none to do without.
        period_channels: width of the period discriminators' first layer.
        scales: how many scale discriminators; each sees half the sample rate of the one before. 0 to do without.
        scale_channels: width of the scale discriminators' first layer.
    """

    def __init__(
        self,
        periods: tuple[int, ...] = (2, 3, 5, 7, 11),
        period_channels: int = 32,
        scales: int = 3,
        scale_channels: int = 128,
    ):
        super().__init__()
        self.periods = nn.ModuleList(PeriodDiscriminator(p, period_channels) for p in periods)
        # The first scale, raw audio, has spectral norm, as published: it is the one that tends to win too early.
        self.scales = nn.ModuleList(
            ScaleDiscriminator(scale_channels, spectral_norm if i == 0 else weight_norm) for i in range(scales)
        )

    def forward(self, waveform: Tensor) -> Judgement:
        """Judge waveforms (B, 1, N): one (logits (B, n), feature maps) a sub-discriminator."""
        judgements = [judge(waveform) for judge in self.periods]
        for i, judge in enumerate(self.scales):
            if i > 0:
                waveform = F.avg_pool1d(waveform, 4, stride=2, padding=2)
            judgements.append(judge(waveform))
        return judgements


def judge_pair(discriminator: WaveformDiscriminator, real: Tensor, fake: Tensor) -> tuple[Judgement, Judgement]:
    """Judge real and fake waveforms (B, 1, N) in one pass, which halves the overhead of many small layers."""
    both = discriminator(torch.cat([real, fake]))
    count = real.shape[0]
    judged_real = [(logits[:count], [f[:count] for f in features]) for logits, features in both]
    judged_fake = [(logits[count:], [f[count:] for f in features]) for logits, features in both]
    return judged_real, judged_fake
