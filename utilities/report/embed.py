"""Sound and pictures small enough to live inside an HTML page."""

from __future__ import annotations

import base64
import hashlib
import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, features

from latent_diffusion.first_stage.mel import LogMel
from latent_diffusion.settings import MelSettings

from ..audio import FileSource, audio_info, encode
from ..evaluation.folders import LONGEST_DIFFERENCE

log = logging.getLogger(__name__)

LONGEST_SECONDS = 30.0  # heard of each item: an excerpt from the middle of longer ones
LOSSLESS_BYTES = 18e6  # up to this much audio is embedded as FLAC, more as Ogg Vorbis
LOSSY_BYTES = 27e6  # up to this much as Ogg Vorbis, more in shorter excerpts
_FLAC_RATIO = 0.6  # of PCM-16, about
_VORBIS_FIXED, _VORBIS_RATIO = 6000.0, 0.07  # bytes a second, and of PCM-16, about
_SHORTER = (LONGEST_SECONDS, 24.0, 18.0, 12.0, 8.0, 5.0)  # seconds of each file, tried in this order
_RANGE_DB = 80.0
_PICTURE_WIDTH, _PICTURE_MELS = 720, 80
_DB_PER_NEPER = 20 / np.log(10)


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a file.

    Args:
        samples: (n, channels) float32.
        sample_rate: hz.
        start: where it begins, in seconds.
    """

    samples: np.ndarray
    sample_rate: int
    start: float


def read_excerpt(*paths: Path, longest: float = LONGEST_SECONDS) -> Excerpt:
    """The whole file, or the middle of a longer one; several files are summed.

    Raises:
        DataError: a file cannot be read.
    """
    if len(paths) > 1:
        parts = [read_excerpt(path, longest=longest) for path in paths]
        length = min(len(part.samples) for part in parts)
        total = np.sum([part.samples[:length].mean(axis=1, keepdims=True) for part in parts], axis=0)
        return Excerpt(total.astype(np.float32), parts[0].sample_rate, parts[0].start)
    source = FileSource(paths[0])
    samples = source.samples
    if samples > (longest + LONGEST_DIFFERENCE) * source.sample_rate:
        samples = round(longest * source.sample_rate)
    # whole seconds: the sides of an item may differ by a few samples and must still begin together
    start = (source.samples - samples) // 2 // source.sample_rate * source.sample_rate
    data = source.read(start, samples).T.numpy()
    return Excerpt(data, source.sample_rate, start / source.sample_rate)


def choose_quality(paths: Iterable[Path]) -> tuple[bool, float]:
    """Whether these files fit as FLAC, and how many seconds of each at most: a page stays under 50 MB."""
    infos = [audio_info(path) for path in paths]

    def amounts(longest: float) -> tuple[float, float]:
        seconds = [min(info.seconds, longest) for info in infos]
        pcm = sum(s * info.sample_rate * info.channels * 2 for s, info in zip(seconds, infos, strict=True))
        return pcm * _FLAC_RATIO, sum(seconds) * _VORBIS_FIXED + pcm * _VORBIS_RATIO

    if amounts(LONGEST_SECONDS)[0] <= LOSSLESS_BYTES:
        return True, LONGEST_SECONDS
    fitting = (longest for longest in _SHORTER if amounts(longest)[1] <= LOSSY_BYTES)
    return False, next(fitting, _SHORTER[-1])


def encode_audio(excerpt: Excerpt, lossless: bool) -> tuple[str, bytes]:
    """MIME type and file: 16-bit FLAC, or Ogg Vorbis; both play in current browsers."""
    return encode(excerpt.samples, excerpt.sample_rate, lossless)


def spectrogram(excerpt: Excerpt, highest: float) -> np.ndarray:
    """Mel spectrogram up to `highest` hz in dB, (mels, frames), about `_PICTURE_WIDTH` frames."""
    mono = torch.from_numpy(excerpt.samples.mean(axis=1))
    n_fft = 2048 if excerpt.sample_rate >= 32_000 else 1024
    hop = max(32, min(n_fft, len(mono) // _PICTURE_WIDTH))
    rate = excerpt.sample_rate
    mel = LogMel(MelSettings(rate, n_fft, n_fft, hop, _PICTURE_MELS, 0.0, min(highest, rate / 2)))
    return mel(torch.nn.functional.pad(mono, (0, max(0, n_fft - len(mono))))).numpy().T * _DB_PER_NEPER


def picture(levels: np.ndarray, loudest: float) -> str:
    """A spectrogram (mels, frames) in dB as a data URI; `loudest` is the brightest level in dB."""
    shade = np.clip((levels - loudest) / _RANGE_DB + 1, 0, 1)
    pixels = (colormaps["magma"](shade[::-1], bytes=True))[..., :3]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    buffer = io.BytesIO()
    kind = "WEBP" if features.check("webp") else "PNG"
    image.save(buffer, kind, quality=70)
    return data_uri(f"image/{kind.lower()}", buffer.getvalue())


def data_uri(mime: str, content: bytes) -> str:
    """Bytes as a `data:` address."""
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def digest(content: bytes) -> str:
    """A short name of these bytes."""
    return hashlib.sha256(content).hexdigest()[:16]
