"""Spectrogram pictures: target beside result, one row a stem."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..files import whole_file

_DB_PER_NEPER = 20 / np.log(10)
_RANGE_DB = 90.0  # shown below the loudest value


@dataclass(frozen=True)
class PictureRow:
    """One row: a name, and the natural log-mels (T, M) of target and result; `None` leaves the place empty."""

    title: str
    target: np.ndarray | None
    result: np.ndarray | None


def draw_log_mels(
    path: str | os.PathLike[str],
    rows: Sequence[PictureRow],
    title: str = "",
    columns: tuple[str, str] = ("target", "result"),
    seconds: float | None = None,
) -> None:
    """Draw log-mels as a PNG, all in one colour scale.

    A column without any log-mel is left out.

    Args:
        path: the PNG file.
        rows: at least one, with at least one log-mel.
        title: above the picture.
        columns: headings of targets and results.
        seconds: length of the log-mels, for the time axis; `None` counts frames.

    Raises:
        ValueError: nothing to draw.
        OSError: the file cannot be written.
    """
    pairs = [(row.target, row.result) for row in rows]
    shown = [side for side in (0, 1) if any(pair[side] is not None for pair in pairs)]
    log_mels = [part for pair in pairs for part in pair if part is not None]
    if not shown:
        raise ValueError("draw_log_mels: no log-mel in any row")
    loudest = max(float(np.nan_to_num(part, nan=-np.inf, posinf=-np.inf).max()) for part in log_mels) * _DB_PER_NEPER
    loudest = loudest if np.isfinite(loudest) else 0.0

    width, height = 1.5 + 5.0 * len(shown), 1.0 + 1.35 * len(rows)  # inches
    figure = Figure(figsize=(width, height), dpi=90)
    canvas = FigureCanvasAgg(figure)
    # placed by hand: matplotlib's automatic layouts draw everything twice
    place = {"left": 0.75 / width, "right": 1 - 0.9 / width, "bottom": 0.45 / height, "top": 1 - 0.55 / height}
    gaps = {"hspace": 0.12, "wspace": 0.06}
    axes = figure.subplots(len(rows), len(shown), squeeze=False, sharex=True, sharey=True, gridspec_kw=place | gaps)
    image = None
    for r, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
        for c, side in enumerate(shown):
            ax, log_mel = axes[r][c], pair[side]
            if r == 0:
                ax.set_title(_plain(columns[side]), fontsize=10)
            if c == 0:
                ax.set_ylabel(f"{_plain(row.title)}\nmel bin", fontsize=9)
            if r == len(rows) - 1:
                ax.set_xlabel("seconds" if seconds else "frames", fontsize=8)
            ax.tick_params(labelsize=7)
            if log_mel is None:
                ax.set_facecolor("0.92")
                continue
            frames, bins = log_mel.shape
            image = ax.imshow(
                log_mel.T * _DB_PER_NEPER,
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                cmap="magma",
                vmin=loudest - _RANGE_DB,
                vmax=loudest,
                extent=(0, seconds or frames, 0, bins),
            )
    strip = (1 - 0.75 / width, place["bottom"], 0.12 / width, place["top"] - place["bottom"])
    bar = figure.colorbar(image, cax=figure.add_axes(strip))
    bar.set_label("dB", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(_plain(title), fontsize=10, y=1 - 0.1 / height, va="top")
    with whole_file(path) as temporary:
        canvas.print_png(temporary)


def _plain(text: str) -> str:
    """Keep `$` and `\\` in names from being read as formulas, and unprintable characters from being drawn."""
    return "".join(c if c.isprintable() else "_" for c in text).replace("\\", "/").replace("$", r"\$")
