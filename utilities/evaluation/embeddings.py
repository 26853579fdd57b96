"""What the Frechet audio distance compares: functions from a waveform to feature vectors, by name.

`log_mel` needs nothing and is the default; its distances carry its name and are not comparable with published ones.
`clap` is LAION-CLAP through the `transformers` package, which is no dependency of this project: its weights have to be
at hand, or downloading them has to be allowed. Other embeddings: `register_embedding`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latent_diffusion.errors import ConfigError
from latent_diffusion.first_stage.mel import LogMel
from latent_diffusion.settings import MelSettings

from ..audio import resample

CLAP_MODEL = "laion/clap-htsat-unfused"  # on the Hugging Face hub
_CLAP_WINDOW, _CLAP_HOP = 10.0, 5.0  # seconds


@dataclass(frozen=True)
class Embedding:
    """A way to turn sound into vectors.

    Args:
        name: the registry's; stands beside every distance.
        sample_rate: that `extract` wants, in hz.
        extract: mono waveform (N,) to vectors (T, D).
        least_samples: what `extract` needs at least; shorter sounds are padded with silence.
    """

    name: str
    sample_rate: int
    extract: Callable[[Tensor], Tensor]
    least_samples: int = 1

    def __call__(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """Vectors (T, D) of a waveform (N,) or (channels, N) at any rate, in hz."""
        mono = waveform if waveform.dim() == 1 else waveform.mean(dim=0)
        mono = resample(mono[None].float(), sample_rate, self.sample_rate)[0]
        missing = self.least_samples - mono.shape[-1]
        with torch.no_grad():
            return self.extract(torch.nn.functional.pad(mono, (0, max(0, missing))))


Factory = Callable[[str, bool], Embedding]  # (what stands after "name:", may download) -> Embedding
_FACTORIES: dict[str, Factory] = {}


def register_embedding(name: str, factory: Factory) -> None:
    """Add an embedding; `factory` gets what stands after `name:`, and whether it may download."""
    _FACTORIES[name] = factory


def load_embedding(given: str = "log_mel", download: bool = False) -> Embedding:
    """The embedding that `NAME` or `NAME:ARGUMENT` means.

    Args:
        given: `log_mel`, `clap`, `clap:FOLDER` with the weights' folder, or what was registered.
        download: weights that are not at hand may be fetched.

    Raises:
        ConfigError: no such embedding, or its package or weights are not at hand.
    """
    name, _, argument = given.partition(":")
    if name not in _FACTORIES:
        raise ConfigError(f"--embedding: found {name!r}, expected one of {', '.join(sorted(_FACTORIES))}")
    return _FACTORIES[name](argument, download)


def _log_mel(argument: str, download: bool) -> Embedding:
    """Frames of the published log-mel front end, (T, 64): 100 a second."""
    settings = MelSettings()
    return Embedding("log_mel", settings.sample_rate, LogMel(settings), settings.n_fft)


def _clap(argument: str, download: bool) -> Embedding:
    """LAION-CLAP's audio embedding, (T, 512): windows of 10 s, one every 5 s."""
    try:
        from transformers import ClapFeatureExtractor, ClapModel
    except ImportError:
        raise ConfigError(
            "--embedding clap: the package transformers is not installed; pip install transformers, or use log_mel"
        ) from None
    source = argument or CLAP_MODEL
    if argument and not Path(argument).is_dir():
        raise ConfigError(f"--embedding clap: {argument}: no such folder, expected one with CLAP's weights")
    local = bool(argument) or not download
    try:
        extractor = ClapFeatureExtractor.from_pretrained(source, local_files_only=local)
        model = ClapModel.from_pretrained(source, local_files_only=local, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"--embedding clap: the weights of {source} are not at hand ({reason}); give their folder as clap:FOLDER, "
            "or allow fetching them with --download"
        ) from None
    rate = extractor.sampling_rate
    window, hop = round(_CLAP_WINDOW * rate), round(_CLAP_HOP * rate)
    truncation = "fusion" if model.config.audio_config.enable_fusion else "rand_trunc"  # windows fit: nothing is cut

    def extract(waveform: Tensor) -> Tensor:
        starts = range(0, max(1, len(waveform) - window + 1), hop)
        pieces = [waveform[start : start + window].numpy() for start in starts]
        inputs = extractor(pieces, sampling_rate=rate, truncation=truncation, return_tensors="pt")
        features = model.get_audio_features(**inputs)
        return getattr(features, "pooler_output", features)  # a tensor itself before transformers 5

    return Embedding("clap", rate, extract)


register_embedding("log_mel", _log_mel)
register_embedding("clap", _clap)
