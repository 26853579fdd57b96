"""Compares two systems item by item: paired differences, with intervals over tracks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_diffusion.errors import DataError
from utilities.evaluation.folders import newest_results
from utilities.evaluation.labels import LABELS
from utilities.evaluation.metrics import MetricTable
from utilities.evaluation.scores import read_rows


@dataclass
class Scored:
    """A system's numbers, read back.

    Args:
        name: what it is called in the comparison.
        folder: where the numbers lie.
        table: item, stem, metric -> value.
        metrics: its metrics.json.
    """

    name: str
    folder: Path
    table: MetricTable
    metrics: dict[str, Any]


def read_scored(given: str) -> Scored:
    """The numbers of a run folder (its newest results), a `val_<step>`, or an evaluation's folder.

    Raises:
        DataError: there is no metrics.csv, or it cannot be read.
    """
    path = Path(given)
    folder = newest_results(path) or path
    if not (folder / "metrics.csv").is_file() and (folder / "evaluation" / "metrics.csv").is_file():
        folder = folder / "evaluation"
    file = folder / "metrics.csv"
    if not file.is_file():
        raise DataError(
            f"{given}: found no metrics.csv, expected a run of mode test with separation, or a folder that msgld "
            "evaluate wrote"
        )
    table = MetricTable()
    try:
        rows = read_rows(file)
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: not readable ({error}); evaluate again") from error
    for row in rows:
        for metric in LABELS.keys() & row.keys():
            table.add(row["item"], row["stem"], metric, row[metric])
    name = path.resolve().name
    return Scored(name if name not in ("evaluation", "") else path.resolve().parent.name, folder, table, metrics)


@dataclass
class Difference:
    """One metric of one stem (or "all") in both systems, over the items in which both have a value.

    Args:
        metric, stem: which.
        first, second: means of the systems.
        difference: mean of second - first.
        interval: 95 %, over tracks; `None` under two tracks.
        items, tracks: how many.
    """

    metric: str
    stem: str
    first: float
    second: float
    difference: float
    interval: tuple[float, float] | None
    items: int
    tracks: int

    @property
    def better(self) -> int:
        """1: the second system is better beyond the interval; -1: the first is; 0: neither can be said."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return 0
        return LABELS[self.metric].better * (1 if self.difference > 0 else -1)


def compare(first: Scored, second: Scored, seed: int = 0) -> list[Difference]:
    """Paired differences of all metrics and stems that both systems have.

    Raises:
        DataError: no item and stem is in both.
    """
    change = second.table.minus(first.table)
    both = {metric: {stem: dict(change.values(metric, stem)) for stem in change.stems} for metric in change.metrics}
    summary = change.summary(seed=seed)
    found = []
    for metric in (name for name in LABELS if name in both):
        for stem, cells in summary.items():
            cell = cells.get(metric)
            if not cell or cell["mean"] is None:
                continue
            means = []
            for system in (first, second):
                common = system.table.where(lambda item, name, m=metric: both[m].get(name, {}).get(item) is not None)
                means.append(common.mean(metric, None if stem == "all" else stem))
            interval = tuple(cell["ci95"]) if cell["ci95"] else None
            numbers = (cell["mean"], interval, cell["count"], cell["tracks"])
            found.append(Difference(metric, stem, *means, *numbers))
    if not found:
        raise DataError(f"{first.folder} and {second.folder}: have no item and stem in common, expected the same items")
    return found


def comparison_table(first: Scored, second: Scored, differences: list[Difference]) -> str:
    """The differences as lines of text."""
    rows = [f"A  {first.folder}", f"B  {second.folder}", ""]
    rows.append(f"{'metric':<26}{'stem':<10}{'A':>10}{'B':>10}{'B - A':>10}{'95 % interval':>22}{'items':>7}  better")
    for d in differences:
        span = "-" if d.interval is None else f"{d.interval[0]:+.3f} .. {d.interval[1]:+.3f}"
        verdict = {1: "B", -1: "A", 0: "-"}[d.better]
        numbers = f"{d.first:>10.3f}{d.second:>10.3f}{d.difference:>+10.3f}"
        rows.append(f"{d.metric:<26}{d.stem:<10}{numbers}{span:>22}{d.items:>7}  {verdict}")
    return "\n".join(rows)
