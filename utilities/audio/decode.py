"""Files that must be read from their beginning to their end: decoded once into a temporary file that need not be.

After a seek, libsndfile gives other samples of an mp3 or ogg than without one, for they are decoded from what came
before (libsndfile 1.2.2, a sine sweep of 4 s: up to 0.8 of full scale apart, at nearly all places of an mp3 and a
quarter of an ogg's). And of an mp3 without a Xing (or Info, or VBRI) header, as rips of streams are, it guesses the
length from the first frames and reads no further; from a pipe, where it cannot see the file's size, it reads all that
comes.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from latent_diffusion.errors import DataError

from .read import UNKNOWN_LENGTH, InOrder, open_audio
from .write import why_not_written

log = logging.getLogger(__name__)

BLOCK = 4 * 1152  # samples read at once: some frames of an mp3


def decode(path: Path, decoded: Path) -> None:
    """Decode all of a file from its beginning to its end into another, as float.

    Args:
        path: the file.
        decoded: gets its samples; Wave64.

    Raises:
        DataError: it cannot be decoded, or is shorter than it says, or there is no room for it.
    """
    samples, promised = 0, 0
    try:
        with _opened(path) as (file, near_its_end):
            promised = file.frames if file.frames < UNKNOWN_LENGTH else 0
            shape = file.samplerate, file.channels, "FLOAT"
            with soundfile.SoundFile(decoded, "w", *shape, format="W64") as copy:
                try:
                    while len(data := _next_block(file)):
                        samples += len(data)
                        copy.write(data)
                except _BrokenOff as error:
                    if not near_its_end():
                        raise DataError(
                            f"{path}: cannot be decoded after sample {samples} ({error}): it is cut off or damaged; "
                            "replace the file"
                        ) from error
                    log.warning(
                        "%s: what comes after sample %d cannot be decoded and is left out: it may be cut off",
                        path,
                        samples,
                    )
    except (soundfile.SoundFileError, OSError, AssertionError) as error:
        raise DataError(f"{path}: cannot be decoded into a temporary file ({why_not_written(error)})") from error
    if samples < promised:
        raise DataError(
            f"{path}: is cut off, it ends after {samples} samples, its header promises {promised}; replace the file"
        )
    if not samples:
        raise DataError(f"{path}: holds no samples; expected audio")


class _BrokenOff(Exception):
    """What libsndfile said."""


def _next_block(file: soundfile.SoundFile) -> np.ndarray:
    """(samples, channels) of an open file; few, for those before an error are lost with it."""
    try:
        return file.read(BLOCK, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise _BrokenOff(" ".join(str(error).split()).rstrip(".")) from error


@contextmanager
def _opened(path: Path) -> Iterator[tuple[soundfile.SoundFile, Callable[[], bool]]]:
    """A file to read in order, and a function that says whether what cannot be decoded of it is only its very end."""
    with open_audio(path, in_order=True) as file:
        if file.format != "MP3" or _has_xing_header(path):
            yield file, lambda: False
            return
    with _piped(path) as opened:
        yield opened


def _has_xing_header(path: Path) -> bool:
    """Whether an mp3 says how many frames it has: only then libsndfile knows, where it cannot see the file's size."""
    try:
        with _piped(path) as (file, _):
            return file.frames < UNKNOWN_LENGTH
    except soundfile.SoundFileError:
        return True  # broken: reading it will say how


@contextmanager
def _piped(path: Path) -> Iterator[tuple[soundfile.SoundFile, Callable[[], bool]]]:
    """An mp3 for libsndfile to read from its beginning to its end, without knowing where that is.

    Yields:
        The open file, and a function that says whether all but what a pipe holds (64 KB) has been read of it.

    Raises:
        soundfile.SoundFileError: it is no mp3.
        OSError: it cannot be read.
    """
    failed: list[OSError] = []

    def feed(source: BinaryIO, into: int) -> None:
        try:
            with os.fdopen(into, "wb") as pipe:
                shutil.copyfileobj(source, pipe)
        except BrokenPipeError:
            pass  # no more is wanted
        except OSError as error:
            failed.append(error)

    with open(path, "rb") as source:
        start = source.read(10)  # of an ID3v2 tag: its size at the end, 7 bits a byte; a picture is too long for a pipe
        size = start[6] << 21 | start[7] << 14 | start[8] << 7 | start[9] if start[:3] == b"ID3" else -len(start)
        source.seek(len(start) + size)
        out, into = os.pipe()
        feeder = threading.Thread(target=feed, args=(source, into), daemon=True)

        def near_its_end() -> bool:
            feeder.join(0.5)  # which a full pipe stops
            return not feeder.is_alive()

        feeder.start()
        try:
            with InOrder(out, closefd=False) as file:
                yield file, near_its_end
        finally:
            os.close(out)
            feeder.join()
    if failed:
        raise failed[0]
