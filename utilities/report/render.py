"""Turns what was collected into pages: one HTML file with sound, pictures and numbers, and nothing to install."""

from __future__ import annotations

import logging
import os
import zlib
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from latent_diffusion.errors import DataError

from ..evaluation.compare import Difference, Scored
from ..evaluation.labels import LABELS, Label, label
from ..evaluation.metrics import MetricTable
from ..evaluation.scores import Cell, score_cells
from ..files import whole_file
from .collect import Page, PageItem, run_page
from .curves import panel_svg, panels_of
from .embed import choose_quality, digest, encode_audio, picture, read_excerpt, spectrogram

log = logging.getLogger(__name__)

_DISTRIBUTIONS = ("log_mel_mse", "si_sdri", "msdm_si_sdri", "sdr")
_MOST_ROWS = 2000  # of the table of all items
_LEFT, _WIDTH, _RIGHT = 76, 560, 12  # of a chart: where its axis begins, its width, and the room after the axis


def write_page(path: str | os.PathLike[str], page: Page) -> None:
    """Write a report as one file, whole or not at all.

    Raises:
        DataError: a sound cannot be read.
        OSError: the file cannot be written.
    """
    studio = Studio([*page.items, *page.history], page.target_title)
    rows = page.rows[:_MOST_ROWS]
    _write(
        path,
        "report.j2",
        page=page,
        tiles=_tiles(page.scores),
        items=[studio.mixer(item, f"item-{i}") for i, item in enumerate(page.items)],
        history=[studio.mixer(item, f"history-{i}") for i, item in enumerate(page.history)],
        score_metrics=list(dict.fromkeys(metric for cells in page.scores.values() for metric in cells)),
        distributions=_distributions(page.rows),
        rows=rows,
        row_metrics=[name for name in LABELS if rows and name in rows[0]],
        places={item.name: f"#item-{i}" for i, item in enumerate(page.items)},
        curves=[(panel, Markup(panel_svg(panel, page.curves))) for panel in panels_of(page.curves)],
        sounds=studio.sounds,
    )


def write_run_report(folder: Path) -> None:
    """Write a run's report.html; a run whose report cannot be written is complete without it."""
    try:
        write_page(folder / "report.html", run_page(folder))
    except (OSError, ValueError, DataError) as error:
        log.warning("no report: %s", error)
        log.debug("%s", folder, exc_info=True)


def write_comparison(
    path: str | os.PathLike[str], first: Scored, second: Scored, differences: list[Difference]
) -> None:
    """Write the page of `msgld compare`.

    Raises:
        OSError: the file cannot be written.
    """
    charts = []
    for metric in dict.fromkeys(d.metric for d in differences):
        rows = [d for d in differences if d.metric == metric]
        values = [value for d in rows for value in (d.difference, *(d.interval or ()))]
        charts.append((label(metric), rows, Axis.around([0.0, *values])))
    embedding, distances = _distances(first, second)
    _write(
        path,
        "compare.j2",
        first=first,
        second=second,
        charts=charts,
        differences=differences,
        embedding=embedding,
        distances=distances,
        sounds={},
    )


def _write(path: str | os.PathLike[str], template: str, **values: Any) -> None:
    style, code = (Markup((files(__package__) / f"page.{kind}").read_text("utf-8")) for kind in ("css", "js"))
    with whole_file(path) as temporary, Path(temporary).open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(_PAGES.get_template(template).generate(style=style, code=code, **values))


# ---- mixers ----------------------------------------------------------------------------------------------------------


class Studio:
    """Makes mixers, and keeps each different sound once.

    Args:
        items: all mixers of the page: together they decide how well the sounds are kept.
        target_title: heading of the targets.
    """

    def __init__(self, items: list[PageItem], target_title: str) -> None:
        self.lossless, self.longest = choose_quality({path for item in items for s in item.sounds for path in s.paths})
        self.titles = {"target": target_title, "result": "Result"}
        self.sounds: dict[str, tuple[str, Markup]] = {}  # id -> MIME type, base64

    def mixer(self, item: PageItem, identifier: str) -> dict[str, Any]:
        """What the template shows of an item.

        Raises:
            DataError: a sound cannot be read.
        """
        excerpts = {(s.role, s.stem): read_excerpt(*s.paths, longest=self.longest) for s in item.sounds}
        highest = min(excerpt.sample_rate for excerpt in excerpts.values()) / 2
        levels = {lane: spectrogram(excerpt, highest) for lane, excerpt in excerpts.items()}
        loudest = max(float(level.max()) for level in levels.values())
        stems = list(dict.fromkeys(stem for _, stem in excerpts))
        roles = [role for role in self.titles if any(role == of for of, _ in excerpts)]
        heard = item.heard if item.heard is not None else {lane for lane in excerpts if lane[0] == "result" and lane[1]}
        lanes = {
            lane: {
                "audio": self._keep(*encode_audio(excerpt, self.lossless)),
                "picture": picture(levels[lane], loudest),
                "muted": lane not in heard,
            }
            for lane, excerpt in excerpts.items()
        }
        presets = {"mixture": "Mixture"} if "" in stems else {}
        presets |= {role: f"{self.titles[role]}s" for role in roles if any(of == role and stem for of, stem in lanes)}
        return {
            "id": identifier,
            "name": item.name,
            "seconds": min(len(excerpt.samples) / excerpt.sample_rate for excerpt in excerpts.values()),
            "start": next(iter(excerpts.values())).start,
            "presets": presets,
            "roles": {role: self.titles[role] for role in roles},
            "stems": [(s, item.numbers.get(s, []), {role: lanes.get((role, s)) for role in roles}) for s in stems],
        }

    def _keep(self, mime: str, content: bytes) -> str:
        name = f"a-{digest(content)}"
        self.sounds.setdefault(name, (mime, Markup(b64encode(content).decode("ascii"))))
        return name


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _tiles(scores: Mapping[str, Mapping[str, Cell]]) -> list[tuple[Label, str, Cell]]:
    """The few numbers that say most: label, group (empty for a mean over stems), cell."""
    group = next((name for name in ("sounding", "all") if name in scores), "")
    chosen = [("log_mel_mse", group), ("si_sdri", group), ("sdr", group), ("msdm_si_sdri", "all")]
    chosen += [("fad", "mixture"), ("fad", "mixture (sub_fad)"), ("fad", "all"), ("log_mel_frechet", "all")]
    cells = [(label(m), "" if g in ("sounding", "all") else g, scores.get(g, {}).get(m)) for m, g in chosen]
    return [(about, name, cell) for about, name, cell in cells if cell is not None and cell.mean is not None][:5]


@dataclass(frozen=True)
class Axis:
    """The axis of a chart: turns values into places in the drawing."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float]) -> Axis:
        """An axis with a little room beyond these values."""
        low, high = min(values := list(values)), max(values)
        room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        return cls(low - room, high + room)

    def __call__(self, value: float) -> float:
        return round(_LEFT + (value - self.low) / (self.high - self.low) * (_WIDTH - _LEFT - _RIGHT), 1)

    @property
    def ticks(self) -> list[float]:
        """A few round numbers."""
        found = MaxNLocator(6, steps=(1, 2, 5, 10)).tick_values(self.low, self.high)
        return [float(tick) for tick in found if self.low <= tick <= self.high]


@dataclass(frozen=True)
class Strip:
    """One row of a distribution: a stem, its items' values, their mean and its interval, the mixture's mean."""

    stem: str
    points: list[tuple[str, float]]
    mean: float
    interval: Sequence[float] | None
    baseline: float | None


def _distributions(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Label, list[Strip], Axis]]:
    """A chart for each metric that has values, of all items whose target is not silent."""
    charts = []
    for metric in _DISTRIBUTIONS:
        table, baseline = MetricTable(), MetricTable()
        for row in rows:
            if not row.get("silent"):
                for part, name in ((table, metric), (baseline, f"mixture_{metric}")):
                    if row.get(name) is not None:
                        part.add(row["item"], row["stem"], metric, row[name])
        cells = table.summary()
        strips = []
        for stem in table.stems:
            cell = cells[stem][metric]
            values = table.values(metric, stem), cell["mean"], cell["ci95"], baseline.mean(metric, stem)
            strips.append(Strip(stem, *values))
        if strips:
            values = [value for _, value in table.values(metric)]
            values += [strip.baseline for strip in strips if strip.baseline is not None]
            charts.append((label(metric), strips, Axis.around(values)))
    return charts


def _distances(first: Scored, second: Scored) -> tuple[str, list[tuple[str, list[Cell]]]]:
    """The embedding of the Frechet audio distances of both, and their cells; nothing if the embeddings differ."""
    names = [system.metrics.get("fad", {}).get("embedding") for system in (first, second)]
    if names[0] is None or names[0] != names[1]:
        return "", []
    cells = [score_cells(system.metrics) for system in (first, second)]
    pairs = {group: [system.get(group, {}).get("fad", Cell(None)) for system in cells] for group in cells[0]}
    return names[0], [(group, pair) for group, pair in pairs.items() if all(cell.mean is not None for cell in pair)]


# ---- templates -------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """A number for people; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:z.2f}".replace("-", "−")


def interval(ends: Sequence[float] | None) -> str:
    """An interval for people; nothing for none."""
    return f"[{number(ends[0])}, {number(ends[1])}]" if ends else ""


_PAGES = Environment(
    loader=PackageLoader(__package__),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
_PAGES.filters |= {
    "number": number,
    "interval": interval,
    "label": label,
    "plain": lambda value: "" if value is None else f"{value:.6g}",  # for sorting and axes
    # a height from -0.5 to 0.5 that depends on the name alone
    "scattered": lambda text: zlib.crc32(text.encode(errors="replace")) / 2**32 - 0.5,
    "is_sum": lambda group: group in ("all", "sounding") or group.startswith("mixture"),
    "verdict": lambda difference: {1: "better", -1: "worse", 0: ""}[difference.better],
}
