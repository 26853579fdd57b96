"""Plain descriptions of a model: everything needed to build its networks, and nothing else.

The dataclasses hold only numbers, strings and tuples, so that a description can be stored in a checkpoint or in the
metadata of a safetensors file and read back without running code. The defaults are the published sizes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_type_hints

from latent_diffusion.errors import ConfigError

DEFAULT_STEMS = ("bass", "drums", "guitar", "piano")


def _freeze(value: Any) -> Any:
    """Lists (from YAML or JSON) become tuples, so that settings are hashable and compare by value."""
    return tuple(_freeze(item) for item in value) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class MelSettings:
    """The log-mel front end and the length of a window."""

    sample_rate: int = 16_000  # hz
    n_fft: int = 1024  # samples
    win_length: int = 1024  # samples
    hop_length: int = 160  # samples
    n_mels: int = 64
    f_min: float = 0.0  # hz
    f_max: float = 8000.0  # hz
    frames: int = 1024  # mel frames of a window (T)

    @property
    def window_samples(self) -> int:
        """Samples of a window at `sample_rate` (N)."""
        return self.frames * self.hop_length

    @property
    def window_seconds(self) -> float:
        """Length of a window in seconds."""
        return self.window_samples / self.sample_rate


@dataclass(frozen=True)
class AutoencoderSettings:
    """The VAE over log-mels: convolutional, as published, or principal patches with a small convolutional decoder.

    Of the sizes below, patches use `ch` (width of the decoder), `num_res_blocks` (its blocks) and the number of entries
    in `ch_mult`, which gives the size of a patch.
    """

    kind: str = "conv"  # conv or patch
    ch: int = 128  # channels of the highest resolution
    ch_mult: tuple[int, ...] = (1, 2, 4)  # one entry a level; every level but the last halves time and frequency
    num_res_blocks: int = 2  # a level of the encoder; the decoder has one more
    attn_resolutions: tuple[int, ...] = ()  # frequency sizes with extra attention, counted from `resolution`
    resolution: int = 256  # nominal input size that `attn_resolutions` refers to
    z_channels: int = 8  # channels at the encoder's end
    embed_dim: int = 8  # latent channels (C)
    in_channels: int = 1
    out_ch: int = 1
    dropout: float = 0.0
    num_groups: int = 32  # of GroupNorm; lowered where it does not divide the channels

    def __post_init__(self) -> None:
        if self.kind not in ("conv", "patch"):
            raise ConfigError(f"autoencoder kind: found {self.kind!r}, expected conv or patch")
        if self.kind == "patch" and not self.embed_dim == self.z_channels <= self.reduction**2:
            raise ConfigError(
                f"autoencoder of patches: found embed_dim {self.embed_dim} and z_channels {self.z_channels}, expected "
                f"equal numbers of at most {self.reduction**2}, the values of a patch"
            )

    @property
    def reduction(self) -> int:
        """How many mel frames and mel bins go into one latent position (r)."""
        return 2 ** (len(self.ch_mult) - 1)


@dataclass(frozen=True)
class VocoderSettings:
    """The vocoder: a HiFi-GAN generator, a spectral vocoder, or Griffin-Lim, which has no sizes."""

    kind: str = "hifigan"  # hifigan, spectral or griffin_lim
    num_mels: int = 64
    # of a HiFi-GAN
    upsample_initial_channel: int = 1024
    upsample_rates: tuple[int, ...] = (5, 4, 2, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (16, 16, 8, 4, 4)
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    # of a spectral vocoder
    width: int = 256  # channels of its network
    blocks: int = 4  # of its network
    phase_iterations: int = 8  # of the search for phases; no weight depends on it
    band_iterations: int = 4  # of the correction of bands that follows; no weight depends on it

    def __post_init__(self) -> None:
        if self.kind not in ("hifigan", "spectral", "griffin_lim"):
            raise ConfigError(f"vocoder kind: found {self.kind!r}, expected hifigan, spectral or griffin_lim")


@dataclass(frozen=True)
class UNetSettings:
    """The U-Net: its channels are the stems, its volume is (latent channel, time, frequency)."""

    in_channels: int = 4  # stems in
    out_channels: int = 4  # stems out
    model_channels: int = 128
    num_res_blocks: int = 2
    channel_mult: tuple[int, ...] = (1, 2, 3, 5)
    attention_resolutions: tuple[int, ...] = (8, 4, 2)  # downsampling factors that have attention
    num_head_channels: int = 32
    dropout: float = 0.0
    use_scale_shift_norm: bool = False  # time embedding scales and shifts the second norm instead of being added
    num_groups: int = 32  # of GroupNorm; lowered where it does not divide the channels


@dataclass(frozen=True)
class StemTransformerSettings:
    """The transformer over latent frames. Its numbers of stems, channels and bins are those of the latents."""

    stems: int = 4
    latent_channels: int = 8  # C
    latent_bins: int = 8  # F
    width: int = 384  # of a token
    depth: int = 8  # blocks
    heads: int = 6  # of attention
    kernel_size: int = 5  # frames that a token sees of its neighbours before the first block
    level_features: int = 256  # sinusoids that describe a noise level
    plan_rows: int = 31  # inputs for beat, bar and chord (see `plan`)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            raise ConfigError(f"width {self.width}: expected a multiple of twice the heads, {2 * self.heads}")
        if self.kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size: found {self.kernel_size}, expected an odd number")


@dataclass(frozen=True)
class DiffusionSettings:
    """The noise schedule and what the network predicts."""

    timesteps: int = 1000
    linear_start: float = 0.0015
    linear_end: float = 0.0195
    parameterization: str = "eps"  # eps (published), x0 or v

    def __post_init__(self) -> None:
        if self.parameterization not in ("eps", "x0", "v"):
            raise ConfigError(f"parameterization: found {self.parameterization!r}, expected eps, x0 or v")


@dataclass(frozen=True)
class ModelSettings:
    """A whole model: stems in their order, and the settings of each part."""

    stems: tuple[str, ...] = DEFAULT_STEMS
    mel: MelSettings = field(default_factory=MelSettings)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    vocoder: VocoderSettings = field(default_factory=VocoderSettings)
    unet: UNetSettings | StemTransformerSettings = field(default_factory=UNetSettings)
    diffusion: DiffusionSettings = field(default_factory=DiffusionSettings)

    def __post_init__(self) -> None:
        self._check_network()
        if self.vocoder.num_mels != self.mel.n_mels:
            raise ConfigError(f"vocoder num_mels {self.vocoder.num_mels} must be the mel bins {self.mel.n_mels}")
        for name, size in (("mel bins", self.mel.n_mels), ("mel frames", self.mel.frames)):
            if size % self.autoencoder.reduction:
                raise ConfigError(
                    f"{name}: {size} is not a multiple of the autoencoder's reduction {self.autoencoder.reduction}"
                )

    def _check_network(self) -> None:
        """Raises ConfigError where the network does not fit stems or latents."""
        network = self.unet
        if isinstance(network, StemTransformerSettings):
            channels, _, bins = self.latent_shape
            found = (network.stems, network.latent_channels, network.latent_bins)
            if found != (len(self.stems), channels, bins):
                raise ConfigError(
                    f"transformer for (stems, channels, bins) {found}, expected those of the latents, "
                    f"{(len(self.stems), channels, bins)}"
                )
            return
        if network.in_channels != len(self.stems) or network.out_channels != len(self.stems):
            raise ConfigError(
                f"unet in_channels {network.in_channels} and out_channels {network.out_channels} "
                f"must both be the number of stems, {len(self.stems)} ({', '.join(self.stems)})"
            )
        halvings = 2 ** (len(network.channel_mult) - 1)
        for name, size in (("time", self.latent_shape[1]), ("frequency", self.latent_shape[2])):
            if size % halvings:
                raise ConfigError(
                    f"latent {name} size {size} is not a multiple of {halvings}, which the U-Net's "
                    f"{len(network.channel_mult)} levels need: use fewer levels or a longer window"
                )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latent of one stem of one window: (C, T/r, F)."""
        r = self.autoencoder.reduction
        return self.autoencoder.embed_dim, self.mel.frames // r, self.mel.n_mels // r

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelSettings:
        """Inverse of `to_dict`; accepts lists for tuples.

        Raises:
            ConfigError: an unknown key, named.
        """
        parts = get_type_hints(cls)
        kwargs: dict[str, Any] = {}
        for key, value in values.items():
            if key not in parts:
                raise ConfigError(f"model settings: unknown key {key!r}, expected one of {', '.join(parts)}")
            part = parts[key]
            if key == "unet":
                part = StemTransformerSettings if "depth" in value else UNetSettings
            kwargs[key] = settings_from_dict(part, value) if isinstance(value, dict) else _freeze(value)
        return cls(**kwargs)


def settings_from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Build one of the dataclasses above from a dict.

    Args:
        cls: the dataclass.
        values: its fields; lists become tuples, missing fields take their defaults.

    Raises:
        ConfigError: an unknown key, named.
    """
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{cls.__name__}: unknown key {unknown[0]!r}, expected one of {', '.join(sorted(known))}")
    return cls(**{key: _freeze(value) for key, value in values.items()})
