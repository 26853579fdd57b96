"""Masks at full resolution: tones and hits within one mel band taken apart.

A mel band is many bins wide and a frame is short, so masks from log-mels give a drum hit and the tone that it falls on
the same share. But tones are ridges along time in a spectrogram and hits are ridges along frequency: a median along
its own direction keeps one of them and drops the other (FitzGerald 2010). Here the model guides it, which is kernel
additive modelling (Liutkus et al. 2014) of two sources: the percussive stems together and the tonal ones together are
smoothed, each along their direction, and compared anew, again and again. How the percussive stems share what is
percussive, and the tonal ones what is tonal, stays as the model says. Which stems are percussive is heard in the
model's own log-mels, not told.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latent_diffusion.first_stage.mel import SILENCE

REACH = 4  # frames and bins on either side that a median spans, every second of them counted
PERCUSSION_SECONDS = 5.12  # on either side that tell whether a stem is percussive
PERCUSSIVE_RISE = 7.5  # nepers a second of a stem between both; of 20 songs the drums had 6 to 24, the others 3 to 7
RISE_SPREAD = 1.0  # nepers a second within which one goes over into the other
LOUDEST = 10.0  # log-mel that counts, nepers: what is above is no sound
FLOOR = 1e-4  # of a bin's magnitude is shared as before: where neither median finds anything
TINY = 1e-12  # keeps silence from dividing by 0


def percussiveness(log_mels: Tensor, frames_per_second: float) -> Tensor:
    """How percussive stems are: how steeply they rise where they are loud.

    Args:
        log_mels: (S, T, M), natural log.
        frames_per_second: of the log-mels.

    Returns:
        (S, T), 0 tonal to 1 percussive; each frame's surroundings decide.
    """
    levels = log_mels.float().nan_to_num(SILENCE).clamp(SILENCE, LOUDEST).transpose(1, 2)  # (S, M, T)
    magnitudes = levels.exp()
    rises = F.pad((levels[..., 1:] - levels[..., :-1]).clamp(min=0), (1, 0)) * frames_per_second
    reach = percussion_frames(frames_per_second)
    sums = torch.stack([(rises * magnitudes).sum(1), magnitudes.sum(1)]).double().cumsum(-1)  # (2, S, T)
    frames = torch.arange(sums.shape[-1], device=sums.device)
    until = sums[..., (frames + reach).clamp(max=len(frames) - 1)]
    rise, weight = until - F.pad(sums, (1, 0))[..., (frames - reach).clamp(min=0)]
    return ((rise / weight.clamp(min=TINY) - PERCUSSIVE_RISE) / RISE_SPREAD).sigmoid().float()


def percussion_frames(frames_per_second: float) -> int:
    """Frames on either side of one that decide how percussive it is."""
    return round(PERCUSSION_SECONDS * frames_per_second)


def sharpen(shares: Tensor, magnitude: Tensor, percussive: Tensor, rounds: int) -> Tensor:
    """Stems' shares of a spectrum, with tones and hits taken apart.

    Args:
        shares: (S, bins, frames), which sum to 1 over the stems.
        magnitude: (bins, frames) of the mixture; more than `REACH` of each.
        percussive: (S, frames), 0 to 1, of which 1e-3 to 0.999 count, so that no part is empty.
        rounds: how often hits and tones are smoothed and compared, by their energies in the end; 0 leaves the shares
            as they are.

    Returns:
        (S, bins, frames), which sum to 1. A frame depends on `rounds * REACH` frames on either side.
    """
    if rounds == 0:
        return shares
    percussive = percussive.clamp(1e-3, 1 - 1e-3)
    stems = torch.stack([percussive, 1 - percussive])[:, :, None] * shares  # (2, S, bins, frames): hits, tones
    parts = before = stems.sum(1)  # (2, bins, frames), which sum to 1
    for i in range(rounds):
        hits, tones = parts * magnitude
        smooth = torch.stack([median_along(hits, 0), median_along(tones, 1)]) + (FLOOR * magnitude + TINY) * parts
        smooth = smooth**2 if i == rounds - 1 else smooth
        parts = smooth / smooth.sum(0)
    return (stems * (parts / before)[:, None]).sum(0)


def median_along(x: Tensor, axis: int) -> Tensor:
    """Median of every second of 2 * `REACH` + 1 neighbours along an axis of (bins, frames), mirrored at the ends."""
    around = (REACH, REACH, 0, 0) if axis == 1 else (0, 0, REACH, REACH)
    padded, length = F.pad(x[None], around, mode="reflect")[0], x.shape[axis]
    a, b, c, d, e = (padded.narrow(axis, shift, length) for shift in range(0, 2 * REACH + 1, 2))
    # the median of five is that of the larger minimum and the smaller maximum of two pairs, and of the fifth
    low = torch.maximum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.minimum(torch.maximum(a, b), torch.maximum(c, d))
    return torch.maximum(torch.minimum(low, high), torch.minimum(torch.maximum(low, high), e))
