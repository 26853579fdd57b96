"""Pages that anybody can open: one HTML file with sound, pictures, numbers and nothing to install.

`gather.py` collects what is on a page; here it becomes HTML. Style and behaviour lie in `page/`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from utilities.evaluation.labels import LABELS, label
from utilities.evaluation.metrics import MetricTable
from utilities.report.curves import Curve, Strip, line_chart, strip_chart
from utilities.report.html import about_card, card, interval, is_sum, number, table, write_document
from utilities.report.mixers import PageItem, Studio

_DISTRIBUTIONS = ("log_mel_mse", "si_sdri", "msdm_si_sdri", "sdr")
_MOST_ROWS = 2000  # of the table of all items


@dataclass(frozen=True)
class Cell:
    """A number in the table of scores: mean, interval, the mixture's, and how many items have none for silence."""

    mean: float | None
    interval: Sequence[float] | None = None
    baseline: float | None = None
    silent: int = 0


@dataclass
class Page:
    """Everything on a page.

    Args:
        title, lead: heading and the sentence under it.
        scores: group (a stem, "all" ...) -> metric -> cell.
        rows: of metrics.csv.
        items: mixers.
        history: mixers whose lanes are validations of one item.
        curves: (title, explanation, curves, logarithmic) of the training.
        about: name -> text.
        texts: name -> long text (configuration).
        notes: lines.
        target_title: heading of the targets: "Reference" where they do not belong to the results.
    """

    title: str
    lead: str
    scores: dict[str, dict[str, Cell]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    items: list[PageItem] = field(default_factory=list)
    history: list[PageItem] = field(default_factory=list)
    curves: list[tuple[str, str, list[Curve], bool]] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    target_title: str = "Target"


def write_page(path: str | os.PathLike[str], page: Page) -> None:
    """Write a report as one file, whole or not at all.

    Raises:
        DataError: a sound cannot be read.
        OSError: the file cannot be written.
    """
    studio = Studio([*page.items, *page.history])
    sections = {
        "Listen": (
            _LISTEN + _LISTEN_NUMBERS * bool(page.rows),
            [studio.mixer(item, page.target_title, f"item-{i}") for i, item in enumerate(page.items)],
        ),
        "Scores": (_SCORES, [_score_table(page.scores)]),
        "Distributions": (_DOTS, _distributions(page.rows)),
        "All items": ("Every item and stem. Click a heading to sort.", [_row_table(page)]),
        "Training": ("", [_training(page.curves)]),
        "Over training": (
            "The same item at each validation.",
            [studio.mixer(item, page.target_title, f"history-{i}") for i, item in enumerate(page.history)],
        ),
        "About": ("", [about_card(page.about, page.texts, page.notes)]),
    }
    write_document(path, page.title, page.lead, sections, studio.scripts, _tiles(page.scores))


_LISTEN = (
    "Press play: every lane of an item starts at the same moment. M mutes a lane, S plays it alone; click into a "
    "picture to move there. Pictures are mel spectrograms, of one brightness within an item."
)
_LISTEN_NUMBERS = " Log-mel MSE: the result's / the mixture's, had it been taken as the stem."
_SCORES = (
    "Means over items; in brackets the 95 % interval from resampling tracks; below, the mixture taken as every stem. "
    "What is not better than the mixture is not separated."
)
_DOTS = "Each dot is an item. Line and band: the mean and its 95 % interval. Diamond: the mixture taken as that stem."


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _tiles(scores: Mapping[str, Mapping[str, Cell]]) -> str:
    """The few numbers that say most."""
    group = next((name for name in ("sounding", "all") if name in scores), None)
    chosen = [("msdm_si_sdri", "all"), ("fad", "mixture"), ("fad", "mixture (sub-FAD)"), ("fad", "all")]
    chosen = [("log_mel_mse", group), ("si_sdri", group), ("sdr", group), *chosen, ("log_mel_frechet", "all")]
    tiles = []
    for metric, name in chosen:
        cell = scores.get(name or "", {}).get(metric)
        if cell is None or cell.mean is None:
            continue
        about = label(metric)
        more = [interval(cell.interval)] + [f"mixture {number(cell.baseline)}"] * (cell.baseline is not None)
        what = about.title if name in ("sounding", "all", None) else f"{about.title}, {name}"
        tiles.append(
            f'<div class="tile" title="{escape(about.meaning)}"><div class="what">{escape(what)}</div>'
            f'<div class="value">{number(cell.mean)}<small>{escape(about.unit)}</small></div>'
            f'<div class="more">{" · ".join(part for part in more if part) or "&nbsp;"}</div></div>'
        )
    return f'<div class="tiles">{"".join(tiles[:5])}</div>' if tiles else ""


def _score_table(scores: Mapping[str, Mapping[str, Cell]]) -> str:
    metrics = [m for m in dict.fromkeys(metric for cells in scores.values() for metric in cells)]
    if not metrics:
        return ""
    heads = [("stem", "", True)] + [(label(m).title, _direction(m), False) for m in metrics]
    rows = []
    for group, cells in scores.items():
        parts = [f'<td class="text"><b>{escape(group)}</b></td>']
        for metric in metrics:
            cell = cells.get(metric, Cell(None))
            more = [interval(cell.interval), f"mixture {number(cell.baseline)}" if cell.baseline is not None else ""]
            if cell.silent and cell.mean is None:
                more = [f"{cell.silent} silent"]
            small = "".join(f"<small>{part}</small>" for part in more if part)
            value = "" if cell.mean is None else f"{cell.mean:.6g}"
            parts.append(f'<td data-value="{value}">{number(cell.mean)}{small}</td>')
        rows.append(f"<tr{is_sum(group)}>{''.join(parts)}</tr>")
    return f'<div class="card scroll">{table(heads, rows)}</div>'


def _distributions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cards = []
    for metric in _DISTRIBUTIONS:
        strips = []
        for stem in dict.fromkeys(row["stem"] for row in rows):
            mine = [row for row in rows if row["stem"] == stem and not row.get("silent")]
            points = [(row["item"], row[metric]) for row in mine if row.get(metric) is not None]
            if not points:
                continue
            baseline = [row[f"mixture_{metric}"] for row in mine if row.get(f"mixture_{metric}") is not None]
            mean, interval = _mean_of(points)
            strips.append(Strip(stem, points, mean, interval, sum(baseline) / len(baseline) if baseline else None))
        if strips:
            about = label(metric)
            cards.append(card(about.title, about.unit, strip_chart(strips, about.unit)))
    return [f'<div class="charts">{"".join(cards)}</div>'] if cards else []


def _mean_of(points: Sequence[tuple[str, float]]) -> tuple[float, tuple[float, float] | None]:
    table = MetricTable()
    for item, value in points:
        table.add(item, "stem", "value", value)
    cell = table.summary()["all"]["value"]
    return cell["mean"], tuple(cell["ci95"]) if cell["ci95"] else None


def _row_table(page: Page) -> str:
    rows = page.rows[:_MOST_ROWS]
    if not rows:
        return ""
    places = {item.name: f"#item-{i}" for i, item in enumerate(page.items)}
    metrics = [name for name in LABELS if name in rows[0]]
    heads = [("item", "", True), ("stem", "", True)] + [(label(m).title, _direction(m), False) for m in metrics]
    lines = []
    for row in rows:
        name = escape(row["item"])
        name = f'<a href="{places[row["item"]]}">{name}</a>' if row["item"] in places else name
        cells = [f'<td class="text">{name}</td><td class="text">{escape(row["stem"])}</td>']
        for metric in metrics:
            value = row.get(metric)
            empty = "<small>silent</small>" if row.get("silent") else ""
            shown = empty if value is None else number(value)
            cells.append(f'<td data-value="{"" if value is None else f"{value:.6g}"}">{shown}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    more = len(page.rows) - len(rows)
    rest = f'<p class="legend">and {more} more rows in metrics.csv</p>' if more else ""
    return f'<div class="card scroll tall">{table(heads, lines)}</div>{rest}'


def _direction(metric: str) -> str:
    about = label(metric)
    return f"{about.meaning} ({'more' if about.better > 0 else 'less'} is better)".strip()


def _training(curves: Sequence[tuple[str, str, list[Curve], bool]]) -> str:
    cards = []
    for title, tip, lines, logarithmic in curves:
        drawn = line_chart(lines, logarithmic)
        if drawn:
            names = "".join(f'<i class="{line.style}"></i>{escape(line.name)}' for line in lines if line.points)
            cards.append(card(title, tip, drawn + f'<p class="legend">{names}</p>'))
    return f'<div class="charts">{"".join(cards)}</div>' if cards else ""
