"""Reading, resampling and writing audio files.

Waveforms are float32 tensors (channels, samples) in [-1, 1]. Whatever libsndfile reads can be read (wav, flac, ...).
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from latent_diffusion.errors import DataError
from latent_diffusion.resampling import resample, resampled_length, source_range

__all__ = [
    "AudioInfo",
    "InOrder",
    "audio_info",
    "check_not_cut_off",
    "name_for_sndfile",
    "open_audio",
    "read_audio",
    "read_stretch",
    "read_window",
    "resample",
    "resampled_length",
    "to_mono",
    "why_not_written",
    "write_wav",
]

STREAMED = 0x7FFFFFFF  # bytes, or more, that a wav's header promises where its length was not known in advance
UNKNOWN_LENGTH = 2**62  # frames, or more, that libsndfile promises where a file does not say how many it has
OGG_PAGE = 65_307  # bytes of the largest


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says."""

    sample_rate: int  # hz
    samples: int  # of one channel
    channels: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate


def name_for_sndfile(path: str | Path) -> str | bytes:
    """A path as soundfile takes it, also where the name is not in the file system's encoding."""
    return os.fspath(path) if os.name == "nt" else os.fsencode(path)


class InOrder(soundfile.SoundFile):
    """A file that is read from its beginning to its end; soundfile would seek after every read."""

    def seekable(self) -> bool:
        """False, whatever the file is."""
        return False


def open_audio(path: str | Path, in_order: bool = False) -> soundfile.SoundFile:
    """Open a file that libsndfile reads.

    Args:
        path: the file.
        in_order: to be read from its beginning to its end. Then it need not say how long it is: `frames` is
            `UNKNOWN_LENGTH` or more where it does not.

    Raises:
        DataError: it is missing, empty, not audio, or does not say how long it is.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: no such file; expected an audio file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no file but a device or a pipe"
        raise DataError(f"{path}: is {kind}; expected an audio file")
    try:
        file = (InOrder if in_order else soundfile.SoundFile)(name_for_sndfile(path))
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        # TypeError: soundfile asks for the missing format of headerless (.raw) files
        reason = _reason(error) if status.st_size else "it is empty"
        reason = reason if os.access(path, os.R_OK) else "no permission"
        raise DataError(f"{path}: not readable as audio ({reason}); expected wav, flac, mp3, ogg ...") from error
    unknown = file.frames >= UNKNOWN_LENGTH and not in_order
    if file.frames <= 0 or unknown:
        file.close()
        what = "does not say how long it is; convert it to wav" if unknown else "holds no samples; expected audio"
        raise DataError(f"{path}: {what}")
    return file


def _reason(error: Exception) -> str:
    """The last part of soundfile's message, which repeats the path before it, as one line."""
    reason = " ".join(str(error).split(": ")[-1].split()).rstrip(".")
    return "in no known format" if reason.startswith("File does not exist") else reason  # it does: seen before


def why_not_written(error: Exception) -> str:
    """What an error of writing says, as one line; soundfile asserts that all was written, or says "System error"."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return "the disk may be full" if not reason or "System error" in reason else reason


def audio_info(path: str | Path) -> AudioInfo:
    """Read the header of an audio file, and only that.

    Raises:
        DataError: the file is missing, empty or not audio.
    """
    with open_audio(path) as file:
        return AudioInfo(file.samplerate, file.frames, file.channels)


def check_not_cut_off(path: str | Path) -> None:
    """Of a wav that is cut off, or an ogg, libsndfile reads what is there, without a word; other files pass.

    An ogg that ends between two of its pages passes, too: that is how a recorded stream ends.

    Raises:
        DataError: there should be more of it.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        start, size = file.read(12), os.fstat(file.fileno()).st_size
        place = 12
        while start[:4] == b"RIFF" and start[8:] == b"WAVE" and place + 8 <= size:
            file.seek(place)
            name, length = struct.unpack("<4sI", file.read(8))
            place += 8
            if name == b"data":
                if length < STREAMED and place + length > size:
                    raise DataError(
                        f"{path}: is cut off, its header promises {length} bytes of audio, {size - place} are there; "
                        "replace the file"
                    )
                return
            place += length + length % 2
        if start[:4] == b"OggS":
            file.seek(max(0, size - OGG_PAGE))
            _, mark, page = file.read().rpartition(b"OggS")
            # after the mark: 22 bytes, the number of parts, a byte with the size of each, the parts
            if mark and (len(page) < 23 or len(page) < 23 + page[22] + sum(page[23 : 23 + page[22]])):
                raise DataError(f"{path}: is cut off, its last page is not whole; replace the file")


def _read_frames(file: soundfile.SoundFile, path: str | Path, start: int, frames: int) -> Tensor:
    """Read (channels, frames) from an open file, checking that everything asked for arrived and is finite."""
    try:
        if start:
            file.seek(start)
        data = file.read(frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path}: cannot be decoded at sample {start} ({_reason(error)}); replace the file") from error
    if len(data) != frames:
        raise DataError(
            f"{path}: ends after {start + len(data)} samples, its header promises {file.frames}; replace the file"
        )
    if not np.isfinite(data).all():
        raise DataError(f"{path}: holds NaN or infinite samples between {start} and {start + frames}; replace the file")
    return torch.from_numpy(np.ascontiguousarray(data.T))


def read_audio(path: str | Path) -> tuple[Tensor, int]:
    """Read a whole file.

    Returns:
        The waveform (channels, samples) and its sample rate in hz.

    Raises:
        DataError: the file is missing, empty, not audio, cut off, or holds samples that are not finite.
    """
    with open_audio(path) as file:
        return _read_frames(file, path, 0, file.frames), file.samplerate


def read_stretch(path: str | Path, start: int, samples: int) -> Tensor:
    """Read samples `start` to `start + samples` of a file at its own rate: (channels, samples).

    Raises:
        DataError: as `read_audio`.
    """
    with open_audio(path) as file:
        return _read_frames(file, path, start, samples)


def read_window(
    path: str | Path,
    start_sample: int,
    samples: int,
    target_rate: int,
    mono: bool = False,
    expected_samples: int | None = None,
) -> Tensor:
    """Read one stretch of a file at another sample rate: a cut from the whole resampled file, without reading it all.

    Args:
        path: the file.
        start_sample: where the stretch begins, in samples at `target_rate`, >= 0.
        samples: its length in samples at `target_rate`; what lies beyond the end of the file is zero.
        target_rate: in hz.
        mono: average the channels.
        expected_samples: the length the file had when it was indexed, in samples at its own rate.

    Returns:
        (channels, samples), or (1, samples) if `mono`.

    Raises:
        DataError: as `read_audio`, or the file's length is not `expected_samples`.
    """
    with open_audio(path) as file:
        if expected_samples is not None and file.frames != expected_samples:
            raise DataError(
                f"{path}: has {file.frames} samples, had {expected_samples} when it was indexed; restore it"
            )
        first, last, before = source_range(start_sample, samples, file.frames, file.samplerate, target_rate)
        if last <= first:
            return torch.zeros(1 if mono else file.channels, samples)
        waveform = _read_frames(file, path, first, last - first)
        rate = file.samplerate
    if mono:
        waveform = to_mono(waveform)
    waveform = resample(waveform, rate, target_rate)
    waveform = waveform[:, before:][:, :samples]
    return torch.nn.functional.pad(waveform, (0, samples - waveform.shape[1]))


def to_mono(waveform: Tensor) -> Tensor:
    """Average the channels: (..., channels, samples) -> (..., 1, samples)."""
    return waveform.mean(dim=-2, keepdim=True)


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(temporary, pcm.T, int(sample_rate), subtype="PCM_16", format="WAV")
        os.replace(temporary, path)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path}: cannot be written ({why_not_written(error)})") from error
    finally:
        temporary.unlink(missing_ok=True)
