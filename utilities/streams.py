"""Audio files read and written piece by piece, so that hours fit into little memory."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from latent_diffusion.errors import DataError
from utilities.audio import audio_info, check_whole_wav, read_stretch

SUBTYPES = {"wav": "FLOAT", "flac": "PCM_24"}  # float: stems may exceed 1 and must not be clipped to sum to the mixture
FLAC_CHANNELS = 8
_BLOCK = 2**20  # samples of all channels checked at once


class FileSource:
    """An audio file as a `latent_diffusion.pipeline.AudioSource`: every stretch is read when it is asked for.

    Args:
        path: any file that libsndfile reads.

    Raises:
        DataError: it is missing, empty or not audio.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        info = audio_info(path)
        self.sample_rate, self.samples, self.channels = info.sample_rate, info.samples, info.channels

    def read(self, start: int, count: int) -> Tensor:
        """Samples `start` to `start + count` as (channels, count), float32.

        Raises:
            DataError: they cannot be read, or are not finite.
        """
        return read_stretch(self.path, start, count)

    def check(self) -> None:
        """Read all of it once, before hours are spent on its beginning.

        Raises:
            DataError: as `read`; or a wav is cut off.
        """
        check_whole_wav(self.path)
        block = max(1, _BLOCK // self.channels)
        for start in range(0, self.samples, block):
            self.read(start, min(block, self.samples - start))


def write_stems(
    folder: Path, names: Iterable[str], pieces: Iterable[Tensor], sample_rate: int, kind: str = "wav", mix: bool = False
) -> list[Path]:
    """Write stems that arrive piece by piece, all of them or none.

    Args:
        folder: gets `<name>.<kind>`; made if need be. What lies there under these names is replaced at the end.
        names: of the stems.
        pieces: (S, channels, n) each, one after the other.
        sample_rate: hz.
        kind: wav (32-bit float, never clipped) or flac (24 bit, clipped to [-1, 1]).
        mix: write `mix.<kind>`, the stems' sum, too, clipped to [-1, 1].

    Returns:
        The files.

    Raises:
        DataError: the folder cannot be written, or samples are not finite; or what `pieces` raises. Nothing of it is
            left behind then.
    """
    names = [*names, *(["mix"] if mix else [])]
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a folder, or nothing, to write stems to")
    # beside the folder, on the same disk, hidden from whoever lists results; short, however long the folder's name is
    name_sum = zlib.crc32(os.fsencode(folder.name))
    temporary = folder.with_name(f".{name_sum:08x}.{os.getpid()}.tmp")
    files: dict[str, soundfile.SoundFile] = {}
    try:
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            for piece in pieces:
                _write_piece(temporary, files, names, piece, sample_rate, kind, mix)
            for file in files.values():
                file.close()
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                os.replace(temporary / f"{name}.{kind}", folder / f"{name}.{kind}")
        except (soundfile.SoundFileError, OSError, AssertionError) as error:  # soundfile asserts that all was written
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or "the disk may be full"
            raise DataError(f"{folder}: cannot be written ({reason})") from error
    finally:
        for file in files.values():
            file.close()
        shutil.rmtree(temporary, ignore_errors=True)
    return [folder / f"{name}.{kind}" for name in names]


def _write_piece(
    folder: Path,
    files: dict[str, soundfile.SoundFile],
    names: list[str],
    piece: Tensor,
    sample_rate: int,
    kind: str,
    mix: bool,
) -> None:
    """Append (S, channels, n) to the open files; the first piece opens them."""
    if not bool(piece.isfinite().all()):
        raise DataError("the result holds NaN or infinite samples, nothing is written; use other options")
    if mix:
        piece = torch.cat([piece, piece.sum(0, keepdim=True).clamp(-1, 1)])
    if kind == "flac" and piece.shape[1] > FLAC_CHANNELS:
        raise DataError(f"{piece.shape[1]} channels: flac holds {FLAC_CHANNELS} at most; write wav instead")
    for name, waveform in zip(names, piece, strict=True):
        if name not in files:
            files[name] = soundfile.SoundFile(
                folder / f"{name}.{kind}",
                "w",
                sample_rate,
                len(waveform),
                SUBTYPES[kind],
                format=kind.upper(),
            )
        data = waveform.T.numpy()
        files[name].write(data if kind == "wav" else data.clip(-1.0, 1.0))
