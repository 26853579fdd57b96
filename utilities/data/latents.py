"""Latents that are encoded once: training reads posteriors of whole tracks instead of encoding at every step.

    msgld latents --config FILE [key=value ...] [--workers N] [--check]

makes what is missing in the folder `data.params.latent_cache`; a training does the same by itself. It may be stopped at
any time and run by several processes or machines at once. What is kept is the posterior, mean and log-variance: every
draw of an item still samples it anew, as published.

A track is encoded in overlapping windows of the training length, of which only the middles are kept, so that every
latent frame has at least an eighth of a window of music on either side, except at the track's ends. The first stage's
normalisation and attention look at the whole window, so a crop is close to that window encoded alone, but not equal;
`--check` measures how close.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from latent_diffusion.errors import ConfigError, DataError
from latent_diffusion.first_stage import FirstStage
from latent_diffusion.inference import mix

from .latent_store import LatentStore, contents_of, describe_key, state_of
from .stems import StemDataset, Track, read_stems

log = logging.getLogger(__name__)

FORMAT = 1  # of the entries and of the way they are computed; part of the key
MARGIN = 8  # one part in so many of a window is dropped at either side
_REASONS_SHOWN = 10
_POLL_SECONDS = 1.0


class LatentDataset(StemDataset):
    """The training windows of a `StemDataset` as posteriors from the cache.

    An item is {"latents": (S, 2, C, T/r, F) float32 mean and log-variance, "mixture_latent": (2, C, T/r, F), "name"}.
    Windows, seeds, shifts, names and what replaces an unusable track are those of `dataset`, but a window begins at
    the latent frame at or before its start.

    Args:
        dataset: training windows, without masking and augmentation.
        store: the cache; what it lacks counts as unreadable.

    Raises:
        ConfigError: the dataset masks or changes stems, or does not shift.
    """

    def __init__(self, dataset: StemDataset, store: LatentStore) -> None:
        if dataset.masking or dataset.augmentation or not dataset.shift:
            raise ConfigError(
                "latent cache: found windows with masking or augmentation, or without shift, expected training windows "
                "as the files hold them"
            )
        self._scanned = dataset.tracks, dataset.left_out
        self.store = store
        super().__init__(dataset.folders, dataset.stems, dataset.mel, shift=True)

    def _scan(self) -> tuple[list[Track], dict[str, str]]:
        return self._scanned

    def _item(self, track: Track, start: int, seed: int | None) -> dict[str, Any]:
        start = self._start(track, start, None if seed is None else np.random.default_rng(seed))
        step = self.store.step
        posterior = self.store.read(track, start // step, self.mel.window_samples // step)
        name = f"{track.name}_from_{self._second(start)}"
        return {"latents": posterior[:-1], "mixture_latent": posterior[-1], "name": name}


class TrackEncoder:
    """Encodes whole tracks with the frozen first stage.

    Args:
        first_stage: with its weights; a copy of its encoder is made.
        device: where to encode.
        windows_at_once: windows of all stems that are encoded in one batch; None: 1 on a CPU, else 8.
    """

    def __init__(self, first_stage: FirstStage, device: str = "cpu", windows_at_once: int | None = None) -> None:
        stage = copy.deepcopy(first_stage)
        stage.decoder = stage.post_quant_conv = stage.vocoder = None
        self.stage = stage.eval().requires_grad_(False).float()
        self.mel = stage.mel_settings
        self.step = self.mel.hop_length * stage.settings.reduction  # samples of a latent frame
        self.length = self.mel.window_samples // self.step  # latent frames of a window (T/r)
        self.device = device
        self.windows_at_once = windows_at_once or (1 if device == "cpu" else 8)

    def key(self, stems: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """What latents depend on beside the audio: as a checksum, and in words."""
        weights = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.stage.state_dict().items()):
            weights.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
        description = {
            "format": FORMAT,
            "stems": list(stems),
            "mel": asdict(self.mel),
            "autoencoder": asdict(self.stage.settings),
            "encoder weights": weights.hexdigest(),
            "window": [self.length, self.length // MARGIN],
        }
        text = json.dumps(description, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest(), description

    def encode(self, track: Track, progress: Callable[[], None] = lambda: None) -> Tensor:
        """Posteriors of all whole latent frames of a track.

        Args:
            track: at least one window long.
            progress: called after every batch.

        Returns:
            (S + 1, 2, C, L, F) float32 on the CPU, the mixture last.

        Raises:
            DataError: the audio cannot be read.
        """
        cuts = cut(track.samples // self.step, self.length, self.length // MARGIN)
        parts: list[Tensor] = []
        for i in range(0, len(cuts), self.windows_at_once):
            batch = cuts[i : i + self.windows_at_once]
            for (start, keep, end), posterior in zip(batch, self.windows(track, [c[0] for c in batch]), strict=True):
                parts.append(posterior[:, :, :, keep - start : end - start])
            progress()
        return torch.cat(parts, dim=3)

    @torch.no_grad()
    def windows(self, track: Track, starts: Sequence[int]) -> Tensor:
        """Posteriors (W, S + 1, 2, C, T/r, F) of windows that begin at given latent frames, each encoded alone."""
        audio = []
        for start in starts:
            stems = read_stems(track, start * self.step, self.length * self.step, self.mel.sample_rate)
            audio.append(torch.cat([stems, mix(stems)[None]]))
        waveforms = torch.stack(audio).to(self.device)
        posterior = self.stage.to(self.device).log_mel_to_posterior(self.stage.waveform_to_log_mel(waveforms))
        moments = torch.stack([posterior.mean, posterior.logvar], dim=1).float().cpu()
        return moments.reshape(*waveforms.shape[:2], *moments.shape[1:])


def cut(frames: int, length: int, margin: int) -> list[tuple[int, int, int]]:
    """Overlapping windows over a track, and which part of each is kept.

    Args:
        frames: latent frames of the track, at least `length`.
        length: latent frames of a window.
        margin: frames dropped at either side of a window, except at the track's ends.

    Returns:
        (start, first kept, end of kept) a window; the kept parts cover the track once, in order.
    """
    starts = [*range(0, frames - length, length - 2 * margin), frames - length]
    ends = [start + length - margin for start in starts[:-1]] + [frames]
    return [(start, begin, end) for start, begin, end in zip(starts, [0, *ends[:-1]], ends, strict=True)]


# ---- making the cache


def latent_store(encoder: TrackEncoder, stems: Sequence[str], folder: str | Path) -> LatentStore:
    """The part of a cache folder that belongs to an encoder and a list of stems.

    Raises:
        ConfigError: the folder cannot be written.
    """
    key, description = encoder.key(stems)
    store = LatentStore(Path(folder) / key, encoder.step)
    with _writing(store):
        describe_key(store.folder, description)
    return store


def latent_dataset(
    dataset: StemDataset, first_stage: FirstStage, folder: str | Path, device: str = "cpu", workers: int = 1
) -> LatentDataset:
    """The windows of `dataset` as cached posteriors; what the cache lacks is made first.

    Args:
        dataset: training windows.
        first_stage: with its weights.
        folder: the cache folder.
        device: where to encode; with several workers on GPUs they share all of them.
        workers: processes that encode.

    Raises:
        ConfigError: the folder cannot be written.
        DataError: no track can be encoded.
    """
    encoder = TrackEncoder(first_stage, device)
    store = latent_store(encoder, dataset.stems, folder)
    build(store, encoder, dataset.tracks, workers)
    return LatentDataset(dataset, store)


def build(store: LatentStore, encoder: TrackEncoder, tracks: Sequence[Track], workers: int = 1) -> dict[str, str]:
    """Encode the tracks whose entries are missing or stale.

    Args:
        store: where entries are kept.
        encoder: makes them.
        tracks: the tracks.
        workers: processes.

    Returns:
        Name of each track that cannot be encoded -> the reason; also logged, in one line.

    Raises:
        ConfigError: the folder cannot be written.
        DataError: none can be encoded.
    """
    waiting = [track for track in tracks if not store.is_fresh(track)]
    if not waiting:
        log.info("latent cache %s: complete, %d tracks", store.folder, len(tracks))
        return {}
    log.info("latent cache %s: encoding %d of %d tracks, once", store.folder, len(waiting), len(tracks))
    store.sweep()
    failed: dict[str, str] = {}
    bar = tqdm(total=len(waiting), desc="encoding", unit="track", dynamic_ncols=True)
    with bar, _writing(store), _workers(store, encoder, min(workers, len(waiting))) as work:
        while waiting:
            claimed = []
            for track, (done, reason) in zip(waiting, work(waiting), strict=True):
                if not done:
                    claimed.append(track)
                    continue
                if reason:
                    failed[track.name] = reason
                bar.update()
            if len(claimed) == len(waiting):  # all in the hands of other processes
                time.sleep(_POLL_SECONDS)
            waiting = claimed
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(failed.items())[:_REASONS_SHOWN])
        if len(failed) == len(tracks):
            raise DataError(f"latent cache: none of {len(tracks)} tracks can be encoded ({reasons})")
        log.warning("latent cache: %d of %d tracks cannot be encoded (%s)", len(failed), len(tracks), reasons)
    return failed


Result = tuple[bool, str]  # whether the track is done with, and why it cannot be encoded, if so


def _encode_track(store: LatentStore, encoder: TrackEncoder, track: Track) -> Result:
    with store.claim(track) as claim:
        if claim is None:
            return False, ""
        if store.is_fresh(track):  # another process was faster
            return True, ""
        try:
            state = state_of(track)
            contents = contents_of(track)
            posterior = encoder.encode(track, claim.renew)
            if state_of(track) != state:
                return True, "changed while it was encoded"
        except (DataError, OSError) as error:
            return True, str(error)
        try:
            store.write(track, posterior, contents, state)
        except DataError as error:
            return True, str(error)
    return True, ""


@contextmanager
def _writing(store: LatentStore) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"data.params.latent_cache: {store.folder} cannot be written ({error.strerror or error}); make room, or "
            "name another folder"
        ) from None


@contextmanager
def _workers(
    store: LatentStore, encoder: TrackEncoder, workers: int
) -> Iterator[Callable[[Sequence[Track]], Iterator[Result]]]:
    """A function that encodes tracks, results in order: in this process, or in several."""
    if workers <= 1:
        yield lambda tracks: (_encode_track(store, encoder, track) for track in tracks)
        return
    context = multiprocessing.get_context("spawn")
    devices = context.SimpleQueue()
    for i in range(workers):
        on_gpu = encoder.device.startswith("cuda")
        devices.put(f"cuda:{i % torch.cuda.device_count()}" if on_gpu else encoder.device)
    encoder.stage.cpu()
    payload = pickle.dumps((store, encoder))  # as bytes: tensors sent one by one need shared memory, which may be small
    with ProcessPoolExecutor(workers, context, _start_worker, (payload, devices, workers)) as pool:
        yield lambda tracks: pool.map(_encode_in_worker, tracks)


_worker: dict[str, Any] = {}


def _start_worker(payload: bytes, devices: Any, workers: int) -> None:
    store, encoder = pickle.loads(payload)
    encoder.device = devices.get()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    _worker.update(store=store, encoder=encoder)


def _encode_in_worker(track: Track) -> Result:
    return _encode_track(_worker["store"], _worker["encoder"], track)


if __name__ == "__main__":
    raise SystemExit("error: this command is now `msgld latents --config FILE [key=value ...] [--workers N] [--check]`")
