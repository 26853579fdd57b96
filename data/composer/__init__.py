"""Composes multi-track songs from a seed: see `form.compose` and `score.perform`."""

from data.composer.form import compose
from data.composer.score import STEMS, Song, perform

__all__ = ["STEMS", "Song", "compose", "perform"]
