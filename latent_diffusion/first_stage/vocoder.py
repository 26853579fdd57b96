"""The HiFi-GAN generator: log-mels to waveforms.

Kong, Kim and Bae 2020 (arXiv 2010.05646), in the 16 kHz, 64-band variant of AudioLDM and MusicLDM. Attribute names
are the checkpoint's key names.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_diffusion.first_stage.mel import SILENCE
from latent_diffusion.settings import VocoderSettings

LEAKY_SLOPE = 0.1
LAST_LEAKY_SLOPE = 0.01


class WeightNormMixin:
    """A convolution whose weight is g * v / |v|, the norm over all axes but the first (Salimans and Kingma 2016).

    Keys are `weight_g` and `weight_v`; after `fuse()` the module is an ordinary convolution with key `weight`.
    """

    weight: nn.Parameter | None
    weight_g: nn.Parameter
    weight_v: nn.Parameter

    def split(self) -> None:
        """Replace `weight` by `weight_g` and `weight_v` of the same value."""
        weight = self.weight.detach()
        del self.weight
        norm = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
        self.weight_g, self.weight_v = nn.Parameter(norm), nn.Parameter(weight.clone())
        self.weight = None

    def fuse(self) -> None:
        """Replace `weight_g` and `weight_v` by the `weight` that they mean; does nothing the second time."""
        if self.weight is None:
            weight = self.effective_weight().detach()
            del self.weight_g, self.weight_v, self.weight
            self.weight = nn.Parameter(weight)

    def effective_weight(self) -> Tensor:
        """The weight in use."""
        if self.weight is not None:
            return self.weight
        norm = torch.linalg.vector_norm(self.weight_v, dim=tuple(range(1, self.weight_v.dim())), keepdim=True)
        return self.weight_g * (self.weight_v / norm)


class NormedConv1d(WeightNormMixin, nn.Conv1d):
    """Weight-normed 1-d convolution."""

    def __init__(self, *args: int, **kwargs: int):
        super().__init__(*args, **kwargs)
        self.split()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.effective_weight(), self.bias, self.stride, self.padding, self.dilation)


class NormedConvTranspose1d(WeightNormMixin, nn.ConvTranspose1d):
    """Weight-normed 1-d transposed convolution."""

    def __init__(self, *args: int, **kwargs: int):
        super().__init__(*args, **kwargs)
        self.split()

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose1d(x, self.effective_weight(), self.bias, self.stride, self.padding)


class ResBlock(nn.Module):
    """Dilated and plain convolution pairs, each pair around a skip. (B, c, L) -> same."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]):
        super().__init__()
        self.convs1 = nn.ModuleList(
            NormedConv1d(channels, channels, kernel, dilation=d, padding=d * (kernel - 1) // 2) for d in dilations
        )
        self.convs2 = nn.ModuleList(
            NormedConv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            x = x + plain(F.leaky_relu(dilated(F.leaky_relu(x, LEAKY_SLOPE)), LEAKY_SLOPE))
        return x


class HiFiGAN(nn.Module):
    """Log-mel to waveform generator; built with weight norm, which `remove_weight_norm` folds away for inference."""

    def __init__(self, settings: VocoderSettings | None = None):
        super().__init__()
        self.settings = s = settings or VocoderSettings()
        width = s.upsample_initial_channel
        self.conv_pre = NormedConv1d(s.num_mels, width, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(s.upsample_rates, s.upsample_kernel_sizes, strict=True):
            self.ups.append(NormedConvTranspose1d(width, width // 2, kernel, stride=rate, padding=(kernel - rate) // 2))
            width //= 2
            for size, dilations in zip(s.resblock_kernel_sizes, s.resblock_dilation_sizes, strict=True):
                self.resblocks.append(ResBlock(width, size, dilations))
        self.conv_post = NormedConv1d(width, 1, 7, padding=3)
        self._initialise()

    def _initialise(self) -> None:
        """Weights that pass the input's variation on through all layers, at any width.

        The paper's fixed standard deviation of 0.01 suits its widths; in a narrow generator it lets the input fade
        against the biases, and training first finds a hum that ignores the log-mel.
        """
        for name, module in self.named_modules():
            if not isinstance(module, WeightNormMixin):
                continue
            v, stride = module.weight_v, module.stride[0]
            fan_in = v[:, 0].numel() / stride if isinstance(module, nn.ConvTranspose1d) else v[0].numel()
            small = "convs2" in name or name == "conv_post"  # residual branches and the output
            gain = 0.3 if small else 2**0.5
            nn.init.normal_(v, 0.0, gain / fan_in**0.5)
            module.weight_g.data = torch.linalg.vector_norm(v.detach(), dim=tuple(range(1, v.dim())), keepdim=True)
            nn.init.zeros_(module.bias)
        with torch.no_grad():  # log-mels lie around half the log-mel of silence and some nepers about it
            self.conv_pre.weight_g /= 3.0
            self.conv_pre.bias.copy_(-SILENCE / 2 * self.conv_pre.effective_weight().sum((1, 2)))

    def forward(self, log_mel: Tensor) -> Tensor:
        """Synthesise.

        Args:
            log_mel: (B, M, T), natural log.

        Returns:
            (B, 1, n) with n = 160 T + 32 at the published rates, in (-1, 1).
        """
        kernels = len(self.settings.resblock_kernel_sizes)
        x = self.conv_pre(log_mel)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, LEAKY_SLOPE))
            x = sum(self.resblocks[i * kernels + j](x) for j in range(kernels)) / kernels
        return torch.tanh(self.conv_post(F.leaky_relu(x, LAST_LEAKY_SLOPE)))

    def remove_weight_norm(self) -> HiFiGAN:
        """Fold the weight norm into plain weights (faster, same output); returns self."""
        for module in self.modules():
            if isinstance(module, WeightNormMixin):
                module.fuse()
        return self
