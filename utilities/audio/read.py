"""Opening sound files and reading stretches of them, at their own rate or another.

Waveforms are float32 tensors (channels, samples), nominally in [-1, 1]. What libsndfile reads can be read.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from latent_diffusion.errors import DataError
from latent_diffusion.resampling import resample, source_range

from .containers import MendedFile, check_not_cut_off, promise_of

_EXACT = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # encodings, flac's among them, that can be read from anywhere
UNKNOWN_LENGTH = 2**62  # frames, or more, that libsndfile promises where a file does not say how many it has


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
        file = _opened(path, InOrder if in_order else soundfile.SoundFile)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        # TypeError: soundfile asks for the missing format of headerless (.raw) files
        if not os.access(path, os.R_OK):
            reason = "no permission"
        else:
            check_not_cut_off(path)
            reason = _reason(error) if status.st_size else "it is empty"
        raise DataError(f"{path}: not readable as audio ({reason}); expected wav, flac, mp3, ogg ...") from error
    unknown = file.frames >= UNKNOWN_LENGTH and not in_order
    if file.frames <= 0 or unknown:
        file.close()
        check_not_cut_off(path)
        what = "does not say how long it is; convert it to wav" if unknown else "holds no samples; expected audio"
        raise DataError(f"{path}: {what}")
    return file


def _opened(path: str | Path, kind: type[soundfile.SoundFile]) -> soundfile.SoundFile:
    """The file; where its recorder did not write how long it is, as if it had."""
    try:
        file, failure = kind(name_for_sndfile(path)), None
        if file.frames > 0:
            return file
    except soundfile.SoundFileError as error:
        file, failure = None, error
    promise = promise_of(path)
    if promise is not None and not promise.closed:
        return kind(MendedFile(path, promise))
    if file is None:
        raise failure
    return file


def _reason(error: Exception) -> str:
    """The last part of soundfile's message, which repeats the path before it, as one line."""
    reason = " ".join(str(error).split(": ")[-1].split()).rstrip(".")
    return "in no known format" if reason.startswith("File does not exist") else reason  # it does: seen before


def readable_anywhere(file: soundfile.SoundFile) -> bool:
    """Whether a file says how long it is and gives the same samples after a seek (see `decode`)."""
    return file.frames < UNKNOWN_LENGTH and file.subtype.startswith(_EXACT)


def audio_info(path: str | Path) -> AudioInfo:
    """Read the header of an audio file, and only that.

    Raises:
        DataError: the file is missing, empty or not audio.
    """
    with open_audio(path) as file:
        return AudioInfo(file.samplerate, file.frames, file.channels)


def inspect_for_windows(path: str | Path) -> tuple[AudioInfo, str]:
    """The header of a file that `read_window` is to read, and what keeps it from doing so ("" where nothing does).

    Raises:
        DataError: as `audio_info`.
    """
    with open_audio(path, in_order=True) as file:
        info, fault = AudioInfo(file.samplerate, file.frames, file.channels), ""
        if not readable_anywhere(file):
            fault = f"{path}: {file.format} ({file.subtype}) gives no exact windows; convert it to flac or wav"
        try:
            check_not_cut_off(path, file)
        except DataError as error:
            fault = str(error)
    return info, fault


def _read_frames(file: soundfile.SoundFile, path: str | Path, start: int, frames: int) -> Tensor:
    """Read (channels, frames) from an open file, checking that everything asked for arrived and is finite."""
    try:
        if start:
            file.seek(start)
        data = file.read(frames, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(
            f"{path}: cannot be decoded at sample {start} ({_reason(error)}): it is cut off or damaged; "
            "replace the file"
        ) from error
    if len(data) != frames:
        raise DataError(
            f"{path}: is cut off, it ends after {start + len(data)} samples, its header promises {file.frames}; "
            "replace the file"
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
        check_not_cut_off(path, file)
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
