"""The page of `msgld compare`."""

from __future__ import annotations

import os
from html import escape

from utilities.evaluation.compare import Difference, Scored
from utilities.evaluation.labels import label
from utilities.report.collect import score_cells
from utilities.report.curves import Bar, interval_chart
from utilities.report.html import about_card, card, interval, is_sum, number, table, write_document


def write_comparison(
    path: str | os.PathLike[str], first: Scored, second: Scored, differences: list[Difference]
) -> None:
    """Write the page of `msgld compare`.

    Raises:
        OSError: the file cannot be written.
    """
    verdicts = {1: "better", -1: "worse", 0: ""}
    cards = []
    for metric in dict.fromkeys(d.metric for d in differences):
        about = label(metric)
        bars = [Bar(d.stem, d.difference, d.interval, verdicts[d.better]) for d in differences if d.metric == metric]
        better = "right is better" if about.better > 0 else "left is better"
        cards.append(card(about.title, f"B − A, {about.unit}, {better}", interval_chart(bars, about.unit)))
    heads = [("metric", "", True), ("stem", "", True), ("A", first.name, False), ("B", second.name, False)]
    heads += [("B − A", "mean of the paired differences", False), ("95 % interval", "over tracks", False)]
    heads += [("items", "that have a value in both", False), ("tracks", "", False)]
    rows = []
    for d in differences:
        numbers = "".join(f'<td data-value="{v:.6g}">{number(v)}</td>' for v in (d.first, d.second))
        names = "".join(f'<td class="text">{escape(name)}</td>' for name in (label(d.metric).title, d.stem))
        change = f'class="{verdicts[d.better]}" data-value="{d.difference:.6g}"'
        rows.append(
            f"<tr{is_sum(d.stem)}>{names}{numbers}<td {change}><b>{number(d.difference)}</b></td>"
            f"<td>{interval(d.interval) or '–'}</td><td>{d.items}</td><td>{d.tracks}</td></tr>"
        )
    distances = _distances(first, second)
    about = {"A": str(first.folder), "B": str(second.folder)}
    lead = "Paired by item and stem: what both have. Green: B is better beyond the interval; red: A is."
    title = f"{first.name} → {second.name}"
    sections = {
        "Differences": (lead, [f'<div class="charts">{"".join(cards)}</div>' if cards else ""]),
        "Table": ("Click a heading to sort.", [f'<div class="card scroll">{table(heads, rows)}</div>' if rows else ""]),
        "Fréchet distances": ("Of whole sets, and so not paired; less is better.", [distances]),
        "About": ("", [about_card(about, {}, [])]),
    }
    write_document(path, title, f"A: {first.name}. B: {second.name}.", sections, {})


def _distances(first: Scored, second: Scored) -> str:
    """A table of the Frechet audio distances of both, where they have the same embedding."""
    names = [system.metrics.get("fad", {}).get("embedding") for system in (first, second)]
    if names[0] is None or names[0] != names[1]:
        return ""
    cells = [score_cells(system.metrics) for system in (first, second)]
    rows = []
    for group in cells[0]:
        pair = [system.get(group, {}).get("fad") for system in cells]
        if any(cell is None or cell.mean is None for cell in pair):
            continue
        numbers = "".join(f"<td>{number(cell.mean)}<small>{interval(cell.interval)}</small></td>" for cell in pair)
        rows.append(f'<tr{is_sum(group)}><td class="text">{escape(group)}</td>{numbers}</tr>')
    heads = [("stem", "", True), ("A", first.name, False), ("B", second.name, False)]
    return f'<div class="card scroll">{table(heads, rows)}</div><p class="legend">embedding {escape(names[0])}</p>'
