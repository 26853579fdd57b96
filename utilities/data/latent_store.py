"""Encoded tracks on disk: one memory-mapped file a track, and how to tell whether it still belongs to its audio.

    <cache folder>/<key>/about.json                       what the key stands for
    <cache folder>/<key>/<track>-<8 hex digits>.safetensors

A file holds one tensor "posterior", float16 (S + 1, 2, C, L, F): mean and log-variance of every stem and, last, of the
mixture, over all L whole latent frames of the track. Its header says which contents, sizes and times of change the
audio files had. The hex digits are a checksum of the track folder's path, so that tracks of one name in two folders do
not take turns in one file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from latent_diffusion.errors import DataError
from latent_diffusion.files import TEMPORARY

from ..files import safe_name, whole_file
from .stems import Track

log = logging.getLogger(__name__)

TENSOR = "posterior"
STALE_AFTER = 600.0  # seconds without a sign of life after which another machine's claim is no longer respected


class LatentStore:
    """The entries of one first stage in a folder. Cheap to make and to send to a loader process.

    Args:
        folder: `<cache folder>/<key>`.
        step: samples of a latent frame at the model's rate.
    """

    def __init__(self, folder: str | Path, step: int) -> None:
        self.folder = Path(folder)
        self.step = step

    def path(self, track: Track) -> Path:
        """The file of a track's entry."""
        where = hashlib.blake2b(os.fsencode(track.files[0].parent.resolve()), digest_size=4).hexdigest()
        return self.folder / f"{safe_name(track.name)}-{where}.safetensors"

    def frames(self, track: Track) -> int:
        """Whole latent frames of a track (L)."""
        return track.samples // self.step

    def is_fresh(self, track: Track) -> bool:
        """Whether there is an entry, undamaged, of the audio as it is now.

        Sizes and times of change decide where they are as they were; where not, the contents do, and the new times
        are noted.
        """
        path = self.path(track)
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                shape = file.get_slice(TENSOR).get_shape()
            if shape[0] != len(track.files) + 1 or shape[3] != self.frames(track):
                return False
            times = state_of(track)
            if about.get("state") == times:
                return True
            if about.get("contents") != contents_of(track):
                return False
            self.write(track, self.read(track, 0, self.frames(track)), about["contents"], times)
        except (OSError, SafetensorError, DataError):
            return False
        return True

    def read(self, track: Track, first: int, frames: int) -> Tensor:
        """A stretch of an entry; only that stretch is read from disk.

        Args:
            track: the track.
            first: the first latent frame.
            frames: how many (T/r).

        Returns:
            (S + 1, 2, C, T/r, F) float32; the mixture is last.

        Raises:
            DataError: there is no entry, or it is damaged or too short.
        """
        path = self.path(track)
        try:
            with safe_open(path, "pt") as file:
                posterior = file.get_slice(TENSOR)[:, :, :, first : first + frames]
        except FileNotFoundError:
            raise DataError(f"{path}: no such latent cache entry; start again, which builds it") from None
        except (OSError, SafetensorError) as error:
            text = " ".join(str(error).split())
            raise DataError(f"{path}: not readable as a latent cache entry ({text}); delete it") from None
        if posterior.shape[3] != frames:
            raise DataError(f"{path}: ends before frame {first + frames}; delete it")
        return posterior.float()

    def write(self, track: Track, posterior: Tensor, contents: str, state: str) -> None:
        """Put an entry in its place, whole or not at all.

        Args:
            track: the track.
            posterior: (S + 1, 2, C, L, F).
            contents: `contents_of` the audio that it was made from.
            state: `state_of` that audio.

        Raises:
            DataError: values that are not finite in half precision.
            OSError: the folder cannot be written.
        """
        half = posterior.half().contiguous()
        if not bool(half.isfinite().all()):
            raise DataError(f"{track.name}: its latents are not finite; check the VAE's weights")
        with whole_file(self.path(track)) as temporary:
            save_file({TENSOR: half}, temporary, {"track": track.name, "contents": contents, "state": state})

    def sweep(self) -> None:
        """Remove what processes that were killed while writing left half written."""
        for left_over in self.folder.glob(TEMPORARY):
            with suppress(OSError):
                if time.time() - left_over.stat().st_mtime > STALE_AFTER:
                    left_over.unlink()

    @contextmanager
    def claim(self, track: Track) -> Iterator[Claim | None]:
        """Claim a track for the time of the block, so that no two processes encode it at once.

        A claim saves work and no more: should two processes hold one after all, both write the same whole file.

        Yields:
            The claim, or None where another live process has it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        claim = Claim(self.path(track).with_suffix(".lock"))
        taken = claim.take()
        try:
            yield claim if taken else None
        finally:
            if taken:
                claim.release()


class Claim:
    """A lock file with the host and the process that hold it; its time of change is the last sign of life."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.owner = json.dumps([socket.gethostname(), os.getpid(), uuid.uuid4().hex])

    def take(self) -> bool:
        """Make the lock file; one whose process is gone is removed first."""
        for _ in range(2):
            try:
                descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                if not self._abandoned():
                    return False
                self.path.unlink(missing_ok=True)
                continue
            with os.fdopen(descriptor, "w") as file:
                file.write(self.owner)
            return True
        return False

    def renew(self) -> None:
        """Give a sign of life."""
        with suppress(OSError):
            os.utime(self.path)

    def release(self) -> None:
        """Remove the lock file, if it is still this claim's."""
        try:
            if self.path.read_text() == self.owner:
                self.path.unlink()
        except OSError:
            log.debug("%s: gone before it was released", self.path)

    def _abandoned(self) -> bool:
        try:
            age = time.time() - self.path.stat().st_mtime
            host, process, _ = json.loads(self.path.read_text())
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return age > 10  # made, but never written to
        if host == socket.gethostname():
            try:
                os.kill(process, 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                return age > STALE_AFTER
        return age > STALE_AFTER


def state_of(track: Track) -> str:
    """Sizes and times of change of a track's files, cheap to compare.

    Raises:
        OSError: a file is missing.
    """
    return json.dumps([[s.st_size, s.st_mtime_ns] for s in map(os.stat, track.files)])


def contents_of(track: Track) -> str:
    """Hash of the bytes of a track's files (BLAKE2b).

    Raises:
        OSError: a file cannot be read.
    """
    whole = hashlib.blake2b(digest_size=16)
    for path in track.files:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "blake2b").digest())
    return whole.hexdigest()


def describe_key(folder: Path, description: dict[str, Any]) -> None:
    """Write down what a key stands for; for people only."""
    path = folder / "about.json"
    if path.exists():
        return
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
