"""Audio files and weights to try the command with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from latent_diffusion.musicldm import MusicLDM
from tests.tiny import STEMS, tones

RATE = 44_100


def few_steps(arguments: tuple[object, ...]) -> tuple[str, ...]:
    """`--steps 2` where a sampler takes steps: everywhere but in separations by the expected stems."""
    given = [str(argument) for argument in arguments]
    samples = given[0] != "separate" or "none" in given or ("--sampler" in given and "mean" not in given)
    return ("--steps", "2") if samples else ()


Run = Callable[..., tuple[int, str, str]]


def save(path: Path, made: MusicLDM) -> Path:
    """A checkpoint as training writes it, as far as inference reads it."""
    description = {"kind": "msgld", "settings": made.settings.to_dict(), "step": 0}
    torch.save({"state_dict": made.state_dict(), "global_step": 0, "epoch": 0, "msgld": description}, path)
    return path


def write(path: Path, seconds: float = 0.5, channels: int = 1, rate: int = RATE, **options: object) -> np.ndarray:
    """A file of tones; returns what is in it, (samples, channels)."""
    audio = tones(max(1, round(seconds * rate)), channels, rate=rate).T.numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, **options)
    return soundfile.read(path, always_2d=True, dtype="float32")[0]


def read(folder: Path, kind: str = "wav") -> dict[str, np.ndarray]:
    """The stems in a folder, each (samples, channels)."""
    return {name: soundfile.read(folder / f"{name}.{kind}", always_2d=True, dtype="float32")[0] for name in STEMS}


def names(folder: Path) -> set[str]:
    """Everything below a folder, hidden files too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
