"""MP3 files that do not say how long they are: libsndfile guesses it from their first frames and reads no further.

A Xing (or Info, or VBRI) header in the first frame says how many there are. Rips of streams and files of old encoders
have none. Where libsndfile cannot see a file's size, it cannot guess: from a pipe it reads all that comes.
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
from utilities.audio import UNKNOWN_LENGTH, open_audio, why_not_written

log = logging.getLogger(__name__)

BLOCK = 4 * 1152  # samples read at once: some frames


def is_guessed_mp3(path: Path) -> bool:
    """Whether a file is an mp3 that does not say how long it is.

    Raises:
        DataError: it is missing, empty or not audio.
    """
    with open_audio(path) as file:
        if file.format != "MP3":
            return False
    try:
        with _piped(path) as (file, _):
            return file.frames >= UNKNOWN_LENGTH
    except soundfile.SoundFileError:
        return False  # broken: reading it will say how


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
            with soundfile.SoundFile(out, closefd=False) as file:
                yield file, near_its_end
        finally:
            os.close(out)
            feeder.join()
    if failed:
        raise failed[0]


def decode_mp3(path: Path, decoded: Path) -> None:
    """Decode all of an mp3 whose length is not known: (samples, channels) into a file.

    Raises:
        DataError: it cannot be decoded, or there is no room for it.
    """
    samples = 0
    try:
        with _piped(path) as (file, near_its_end):
            shape = file.samplerate, file.channels, "FLOAT"
            with soundfile.SoundFile(decoded, "w", *shape, format="W64") as copy:
                try:
                    while len(data := _next_block(file)):
                        samples += len(data)
                        copy.write(data)
                except _BrokenMP3 as error:
                    if not near_its_end():
                        raise DataError(
                            f"{path}: cannot be decoded after sample {samples} ({error}); replace the file"
                        ) from error
                    log.warning("%s: what comes after sample %d cannot be decoded and is left out", path, samples)
    except (soundfile.SoundFileError, OSError, AssertionError) as error:
        raise DataError(f"{path}: cannot be decoded into a temporary file ({why_not_written(error)})") from error


class _BrokenMP3(Exception):
    """What libmpg123 said."""


def _next_block(file: soundfile.SoundFile) -> np.ndarray:
    """(samples, channels) of an open file; few, for those before an error are lost with it."""
    try:
        return file.read(BLOCK, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise _BrokenMP3(" ".join(str(error).split()).rstrip(".")) from error
