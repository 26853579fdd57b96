"""How far crops from the latent cache are from the same windows encoded alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .latent_store import LatentStore
from .latents import TrackEncoder
from .stems import Track

CROPS = 32


def compare(
    store: LatentStore, encoder: TrackEncoder, tracks: Sequence[Track], crops: int = CROPS, seed: int = 0
) -> dict[str, float]:
    """Compare crops at random places with what `encoder` makes of these windows alone, in float32.

    Args:
        store: the cache.
        encoder: the first stage it was made with.
        tracks: tracks with entries.
        crops: how many windows, over tracks drawn at random.
        seed: of tracks and places.

    Returns:
        Root mean squares over all stems and mixtures, each relative to the standard deviation of all latents (means):
        "difference" between the means; "inside", "edges": the same without, and in, the outer eighth at either side;
        "sampling": of the posterior's own noise, for comparison; "half precision": of what rounding alone costs. And
        "logvar" (nepers), the root mean square difference of log-variances, and "logvar half precision".

    Raises:
        DataError: an entry or a file cannot be read.
    """
    rng = np.random.default_rng(seed)
    cached, alone = [], []
    for _ in range(crops):
        track = tracks[int(rng.integers(len(tracks)))]
        start = int(rng.integers(0, store.frames(track) - encoder.length, endpoint=True))
        cached.append(store.read(track, start, encoder.length))
        alone.append(encoder.windows(track, [start])[0])
    (mean, logvar), (mean_alone, logvar_alone) = (torch.stack(parts).unbind(2) for parts in (cached, alone))
    edge = max(1, encoder.length // 8)
    difference = (mean - mean_alone) / mean_alone.std()
    return {
        "difference": _rms(difference),
        "inside": _rms(difference[..., edge:-edge, :]),
        "edges": _rms(torch.cat([difference[..., :edge, :], difference[..., -edge:, :]], dim=-2)),
        "sampling": _rms((0.5 * logvar_alone).exp() / mean_alone.std()),
        "half precision": _rms((mean_alone.half().float() - mean_alone) / mean_alone.std()),
        "logvar": _rms(logvar - logvar_alone),
        "logvar half precision": _rms(logvar_alone.half().float() - logvar_alone),
    }


def report(figures: dict[str, float]) -> str:
    """The result of `compare` as text."""
    f = {name: f"{value:.2g}" for name, value in figures.items()}
    return "\n".join(
        [
            "crops from the cache against the same windows encoded alone (rms, relative to the latents' deviation):",
            f"  means            {f['difference']} (inside {f['inside']}, outer eighths {f['edges']})",
            f"  half precision   {f['half precision']} of it",
            f"  sampling         {f['sampling']} is the posterior's own noise, for comparison",
            f"  log-variances    {f['logvar']} nepers, of it half precision {f['logvar half precision']}",
        ]
    )


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())
