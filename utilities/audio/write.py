"""Sound files written whole or not at all: one waveform, or the stems of a song piece by piece."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from latent_diffusion.errors import DataError
from latent_diffusion.files import whole_file, whole_folder

from .read import AudioInfo, audio_info, name_for_sndfile

log = logging.getLogger(__name__)

SUBTYPES = {"wav": "FLOAT", "flac": "PCM_24"}  # float: stems may exceed 1 and must not be clipped to sum to the mixture
FLAC_CHANNELS = 8
WAV_BYTES = 2**32 - 2**16  # of audio that a wav can say it holds; what is longer is RF64, the same with longer numbers
_BLOCK = 65_536  # samples encoded at once: libsndfile's Vorbis encoder overflows its stack on long ones


def why_not_written(error: Exception) -> str:
    """What an error of writing says, as one line; soundfile asserts that all was written, or says "System error"."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return "the disk may be full" if not reason or "System error" in reason else reason


def write_wav(path: str | Path, waveform: Tensor | np.ndarray, sample_rate: int) -> None:
    """Write a 16-bit wav file, whole or not at all; missing folders are made.

    Args:
        path: the file.
        waveform: (samples,) or (channels, samples); samples beyond [-1, 1] are clipped.
        sample_rate: in hz.

    Raises:
        DataError: the waveform holds samples that are not finite, or the file cannot be written.
    """
    path = Path(path)
    data = waveform.detach().cpu().float().numpy() if isinstance(waveform, Tensor) else np.asarray(waveform)
    if not np.isfinite(data).all():
        raise DataError(f"{path}: not written, the waveform holds NaN or infinite samples")
    pcm = np.clip(np.floor(32768.0 * data.astype(np.float64)), -32768, 32767).astype(np.int16)
    try:
        with whole_file(path) as temporary:
            soundfile.write(name_for_sndfile(temporary), pcm.T, int(sample_rate), subtype="PCM_16", format="WAV")
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path}: cannot be written ({why_not_written(error)})") from error


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
    files: dict[str, soundfile.SoundFile] = {}
    loudest = 0.0
    try:
        _check_targets(folder, targets)
        with whole_folder(folder) as temporary:
            _check_room(temporary, shape.samples * shape.channels * len(names) if kind == "wav" else 0)
            for piece in pieces:
                loudest = max(loudest, float(piece.abs().max()))
                _write_piece(temporary, files, names, piece, shape, kind, mix)
            for file in files.values():
                file.close()
            for target in targets if kind == "wav" else []:
                _forget_when(temporary / target.name)
    except (soundfile.SoundFileError, OSError, AssertionError) as error:
        raise DataError(f"{folder}: cannot be written ({why_not_written(error)})") from error
    finally:
        for file in files.values():
            file.close()
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


def encode(samples: np.ndarray, sample_rate: int, lossless: bool) -> tuple[str, bytes]:
    """A sound as a file in memory that plays in current browsers.

    Args:
        samples: (n, channels), clipped to [-1, 1].
        sample_rate: hz.
        lossless: 16-bit FLAC; otherwise Ogg Vorbis.

    Returns:
        The MIME type and the file.
    """
    kind, subtype, mime = ("FLAC", "PCM_16", "audio/flac") if lossless else ("OGG", "VORBIS", "audio/ogg")
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", sample_rate, samples.shape[1], subtype, format=kind) as file:
        for begin in range(0, len(samples), _BLOCK):
            file.write(samples[begin : begin + _BLOCK].clip(-1, 1))
    return mime, buffer.getvalue()
