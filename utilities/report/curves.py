"""The curves of a training: `training.csv` in a run folder, and the charts that are drawn from it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from ..files import whole_file

CSV_NAME, PNG_NAME = "training.csv", "training.png"
Points = list[tuple[float, float]]  # (step, value)
_COLOURS = {"accent": "#3f51b5", "second": "#c4620a", "soft": "#6b6f7a", "line": "#e4e2dc"}  # as in page.css
_MOST_POINTS = 600  # that are drawn of a curve


@dataclass(frozen=True)
class Panel:
    """A chart of the training.

    Args:
        title: its heading.
        names: value in training.csv -> its name in the legend.
        smooth: draw a moving average over the raw curve.
        logarithmic: whether the axis of the values is logarithmic.
        tip: what it shows.
    """

    title: str
    names: Mapping[str, str]
    smooth: bool = False
    logarithmic: bool = False
    tip: str = ""


PANELS = (
    Panel("Training loss", {"train/loss_simple": "each step"}, True, True, "squared error of the prediction"),
    Panel(
        "Validation loss",
        {"val/loss_simple": "weights as they are", "val/loss_simple_ema": "averaged weights (EMA)"},
        tip="on the validation items",
    ),
    Panel("Training loss", {"train/loss": "each step"}, True, True, "the whole objective"),
    Panel("Validation distance", {"val/log_mel_l1": "log-mel L1"}, tip="on the validation items"),
    Panel("Learning rate", {"train/learning_rate": "learning rate"}),
    Panel("Gradient norm", {"train/grad_norm": "each step"}, True, True, "before clipping"),
    Panel("Throughput", {"train/items_per_second": "items per second"}, tip="all devices, without validation"),
)


def panels_of(curves: Mapping[str, Points]) -> list[Panel]:
    """The charts for which there are values; of two with the same title, the first."""
    found = {}
    for panel in PANELS:
        if any(name in curves for name in panel.names):
            found.setdefault(panel.title, panel)
    return list(found.values())


# ---- training.csv ------------------------------------------------------------------------------------------------


def read_training(folder: Path) -> dict[str, Points]:
    """Name -> (step, value) of a run folder's training.csv; empty if there is none."""
    curves: dict[str, Points] = {}
    for step, name, value in read_values(folder):
        curves.setdefault(name, []).append((step, value))
    return curves


def read_values(folder: Path) -> list[tuple[int, str, float]]:
    """The rows (step, name, value) of training.csv; a row that a kill cut off is left out."""
    rows = []
    if (folder / CSV_NAME).is_file():
        with (folder / CSV_NAME).open(newline="", encoding="utf-8") as file:
            for row in list(csv.reader(file))[1:]:
                try:
                    rows.append((int(row[0]), row[1], float(row[2])))
                except (ValueError, IndexError):
                    continue
    return rows


def append_values(path: Path, rows: Iterable[tuple[int, str, float]]) -> None:
    """Add rows (step, name, value) to a CSV file; a new file gets a line of headings first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if file.tell() == 0:
            writer.writerow(("step", "name", "value"))
        writer.writerows((step, name, f"{value:.9g}") for step, name, value in rows)


# ---- charts ------------------------------------------------------------------------------------------------------


def draw_training(folder: Path) -> None:
    """Draw training.png from training.csv; nothing if nothing was recorded.

    Raises:
        OSError: the file cannot be written.
    """
    curves = read_training(folder)
    panels = panels_of(curves)
    if not panels:
        return
    rows = -(-len(panels) // 2)
    height = 0.5 + 2.6 * rows  # inches
    figure = Figure(figsize=(11, height), dpi=90)
    canvas = FigureCanvasAgg(figure)
    # placed by hand: matplotlib's automatic layouts draw everything twice
    place = {"left": 0.07, "right": 0.98, "bottom": 0.35 / height, "top": 1 - 0.4 / height}
    axes = list(figure.subplots(rows, 2, squeeze=False, gridspec_kw=place | {"hspace": 0.38, "wspace": 0.16}).flat)
    for ax, panel in zip(axes, panels, strict=False):
        ax.set_title(panel.title, fontsize=10, loc="left")
        _plot(ax, panel, curves)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    with whole_file(folder / PNG_NAME) as temporary:
        canvas.print_png(temporary)


def panel_svg(panel: Panel, curves: Mapping[str, Points]) -> str:
    """One chart as an SVG element; its colours are the page's, and follow its light or dark theme."""
    figure = Figure(figsize=(5.6, 2.3))
    place = {"left": 0.1, "right": 0.98, "bottom": 0.12, "top": 0.97}
    _plot(figure.subplots(gridspec_kw=place), panel, curves)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": panel.title}):  # text as text, ids of its own
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg[svg.index("<svg") :]


def _plot(ax: Axes, panel: Panel, curves: Mapping[str, Points]) -> None:
    shown = {name: [p for p in curves.get(name, []) if math.isfinite(p[1])] for name in panel.names}
    values = [value for points in shown.values() for _, value in points]
    if panel.logarithmic and values and min(values) > 0:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.minorticks_off()
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for (name, legend), colour in zip(panel.names.items(), ("accent", "second"), strict=False):
        if not (points := shown[name]):
            continue
        ax.plot(
            *_columns(points),
            label=legend,
            color=_COLOURS[colour],
            alpha=0.35 if panel.smooth else 1,
            linewidth=1 if panel.smooth else 1.4,
            marker="." if len(points) == 1 else None,
        )
        if panel.smooth:
            ax.plot(*_columns(smoothed(points)), label="moving average", color=_COLOURS[colour], linewidth=1.6)
    _leave_out_wild_starts(ax, values)
    ax.tick_params(labelsize=8, color=_COLOURS["line"], labelcolor=_COLOURS["soft"])
    ax.grid(color=_COLOURS["line"])
    ax.spines[:].set_visible(False)
    if values:
        ax.legend(fontsize=8, frameon=False, labelcolor=_COLOURS["soft"])


def smoothed(points: Points, weight: float = 0.95) -> Points:
    """Exponential moving average of a curve, corrected for the bias of its start."""
    average, total, made = 0.0, 0.0, []
    for x, y in points:
        average, total = weight * average + (1 - weight) * y, weight * total + (1 - weight)
        made.append((x, average / total))
    return made


def _leave_out_wild_starts(ax: Axes, values: list[float]) -> None:
    """End the axis where the first wild steps of a training would flatten the rest."""
    scale = ax.yaxis.get_transform()
    places = scale.transform(np.array(values))
    if len(places):
        low, high, usual = places.min(), places.max(), np.quantile(places, 0.98)
        if high - low > 3 * (usual - low) > 0:
            ax.set_ylim(top=scale.inverted().transform(usual * 1.3 - low * 0.3))


def _columns(points: Points) -> tuple[list[float], list[float]]:
    """Steps and values, thinned to what a chart can show."""
    step = -(-len(points) // _MOST_POINTS)
    return tuple(map(list, zip(*points[:-1:step], points[-1], strict=True)))
