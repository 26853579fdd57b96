"""The learning rate as a function of the step: nothing to keep, nothing to lose when a run is killed."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "exponential", "cosine")


def rate_factor(schedule: str, step: int, warmup_steps: int, decay_steps: int, final: float) -> float:
    """Learning rate of a step as a share of the base learning rate.

    Args:
        schedule: constant; exponential (`final` after every `decay_steps`, so final squared after twice as many);
            cosine (falls to `final` at `decay_steps` and stays).
        step: from 0.
        warmup_steps: of a linear rise from 0.
        decay_steps: as above.
        final: as above.
    """
    rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0
    if schedule == "exponential":
        return rise * final ** (step / decay_steps)
    if schedule == "cosine":
        return rise * (final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / decay_steps))))
    return rise
