"""Audio files read and written piece by piece, so that hours fit into little memory."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from latent_diffusion.errors import DataError
from utilities.audio import AudioInfo, audio_info, check_not_cut_off, name_for_sndfile, read_stretch, why_not_written
from utilities.decoding import decode, must_be_decoded

log = logging.getLogger(__name__)

SUBTYPES = {"wav": "FLOAT", "flac": "PCM_24"}  # float: stems may exceed 1 and must not be clipped to sum to the mixture
FLAC_CHANNELS = 8
WAV_BYTES = 2**32 - 2**16  # of audio that a wav can say it holds; what is longer is RF64, the same with longer numbers
_BLOCK = 2**20  # samples of all channels read at once


class FileSource:
    """An audio file as a `latent_diffusion.pipeline.AudioSource`: every stretch is read when it is asked for.

    What cannot be read from anywhere (mp3, ogg ...) is decoded into a temporary file first.

    Args:
        path: any file that libsndfile reads.

    Raises:
        DataError: it is missing, empty or not audio.
    """

    def __init__(self, path: str | Path):
        self.path = self._decoded = Path(path)
        if must_be_decoded(self.path):
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
            DataError: as `read`; or a wav or ogg is cut off.
        """
        check_not_cut_off(self.path)
        block = max(1, _BLOCK // self.channels)
        for start in range(0, self.samples, block):
            self.read(start, min(block, self.samples - start))


def are_there(folder: Path, names: Iterable[str], shape: AudioInfo, kind: str) -> bool:
    """Whether a folder holds `<name>.<kind>` for all names, of the rate, length and channels that are expected."""
    try:
        return all(audio_info(folder / f"{name}.{kind}") == shape for name in names)
    except DataError:
        return False


def write_stems(
    folder: Path, names: Iterable[str], pieces: Iterable[Tensor], shape: AudioInfo, kind: str = "wav", mix: bool = False
) -> list[Path]:
    """Write stems that arrive piece by piece, all of them or none.

    Args:
        folder: gets `<name>.<kind>`; made if need be. What lies there under these names is replaced at the end.
        names: of the stems.
        pieces: (S, channels, n) each, one after the other.
        shape: what the pieces make together.
        kind: wav (32-bit float, never clipped; RF64 where wav is too small) or flac (24 bit, clipped to [-1, 1]).
        mix: write `mix.<kind>`, the stems' sum, too, clipped to [-1, 1].

    Returns:
        The files.

    Raises:
        DataError: the folder cannot be written, there is no room, or samples are not finite; or what `pieces` raises.
            Nothing of it is left behind then.
    """
    names = [*names, *(["mix"] if mix else [])]
    targets = [folder / f"{name}.{kind}" for name in names]
    # beside the folder, on the same disk, hidden from whoever lists results; short, however long the folder's name is
    name_sum = zlib.crc32(os.fsencode(folder.name))
    temporary = folder.with_name(f".{name_sum:08x}.{os.getpid()}.tmp")
    files: dict[str, soundfile.SoundFile] = {}
    loudest = 0.0
    try:
        try:
            _check_targets(folder, targets)
            temporary.mkdir(parents=True, exist_ok=True)
            _check_room(temporary, shape.samples * shape.channels * len(names) if kind == "wav" else 0)
            for piece in pieces:
                loudest = max(loudest, float(piece.abs().max()))
                _write_piece(temporary, files, names, piece, shape, kind, mix)
            for file in files.values():
                file.close()
            for target in targets if kind == "wav" else []:
                _forget_when(temporary / target.name)
            if folder.exists():
                for target in targets:
                    os.replace(temporary / target.name, target)
            else:
                os.rename(temporary, folder)
        except (soundfile.SoundFileError, OSError, AssertionError) as error:
            raise DataError(f"{folder}: cannot be written ({why_not_written(error)})") from error
    finally:
        for file in files.values():
            file.close()
        shutil.rmtree(temporary, ignore_errors=True)
    if kind == "flac" and loudest > 1:
        log.warning("%s: up to %.2f times full scale, which flac clips; wav keeps it", folder, loudest)
    return targets


def _check_targets(folder: Path, targets: Iterable[Path]) -> None:
    """Raises DataError where something else lies in the way."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; expected a folder, or nothing, to write stems to")
    for target in targets:
        if target.is_dir():
            raise DataError(f"{target}: is a folder; expected a file, or nothing, to write")


def _check_room(folder: Path, floats: int) -> None:
    """Raises DataError where so many numbers have no room."""
    needed, free = 4 * floats, shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder.parent}: the stems need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make room, or write "
            "them elsewhere"
        )


def _forget_when(path: Path) -> None:
    """libsndfile writes the time into a chunk of float wavs; the same stems shall be the same file."""
    with open(path, "r+b") as file:
        place = file.read(256).find(b"PEAK")
        if place >= 0:
            file.seek(place + 12)  # past the chunk's name, size and version
            file.write(bytes(4))


def _write_piece(
    folder: Path,
    files: dict[str, soundfile.SoundFile],
    names: list[str],
    piece: Tensor,
    shape: AudioInfo,
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
    big = kind == "wav" and 4 * shape.samples * shape.channels > WAV_BYTES
    for name, waveform in zip(names, piece, strict=True):
        if name not in files:
            files[name] = soundfile.SoundFile(
                name_for_sndfile(folder / f"{name}.{kind}"),
                "w",
                shape.sample_rate,
                shape.channels,
                SUBTYPES[kind],
                format="RF64" if big else kind.upper(),
            )
        data = waveform.T.numpy()
        files[name].write(data if kind == "wav" else data.clip(-1.0, 1.0))
