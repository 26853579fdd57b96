"""Sound files read piece by piece, so that hours fit into little memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import Tensor

from .containers import check_not_cut_off
from .decode import decode
from .read import audio_info, open_audio, read_stretch, readable_anywhere

_BLOCK = 2**20  # samples of all channels read at once


class FileSource:
    """A sound file as a `latent_diffusion.inference.AudioSource`: every stretch is read when it is asked for.

    What cannot be read from anywhere (mp3, ogg ...) is decoded into a temporary file first.

    Args:
        path: any file that libsndfile reads.

    Raises:
        DataError: it is missing, empty, cut off or not audio.
    """

    def __init__(self, path: str | Path):
        self.path = self._decoded = Path(path)
        with open_audio(self.path, in_order=True) as file:
            check_not_cut_off(self.path, file)
            anywhere = readable_anywhere(file)
        if not anywhere:
            self._folder = tempfile.TemporaryDirectory(prefix="msgld-")  # lives as long as this
            self._decoded = Path(self._folder.name) / "decoded.w64"
            decode(self.path, self._decoded)
        self.info = audio_info(self._decoded)
        self.sample_rate, self.samples, self.channels = self.info.sample_rate, self.info.samples, self.info.channels

    def read(self, start: int, count: int) -> Tensor:
        """Samples `start` to `start + count` as (channels, count), float32.

        Raises:
            DataError: they cannot be read, or are not finite.
        """
        return read_stretch(self._decoded, start, count)

    def check(self) -> None:
        """Read all of it once, before hours are spent on its beginning.

        Raises:
            DataError: as `read`.
        """
        block = max(1, _BLOCK // self.channels)
        for start in range(0, self.samples, block):
            self.read(start, min(block, self.samples - start))
