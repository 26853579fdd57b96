"""Compares two systems item by item: paired differences, with intervals over tracks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latent_diffusion.errors import DataError

from .folders import newest_results
from .labels import LABELS, text_table
from .metrics import MetricTable
from .scores import read_results


@dataclass
class Scored:
    """A system's numbers, read back.

    Args:
        name: what it is called in the comparison.
        folder: where the numbers lie.
        table: item, stem, metric -> value; empty for generation and arrangement.
        metrics: its metrics.json.
        silent: (item, stem) whose target is silent.
    """

    name: str
    folder: Path
    table: MetricTable
    metrics: dict[str, Any]
    silent: set[tuple[str, str]] = field(default_factory=set)


def read_scored(given: str) -> Scored:
    """The numbers of a run folder (its newest results), a `val_<step>`, or an evaluation's folder.

    Raises:
        DataError: there is no metrics.json, or it cannot be read.
    """
    path = Path(given)
    folder = newest_results(path) or path
    if not (folder / "metrics.json").is_file():
        folder = folder / "evaluation"
    if not (folder / "metrics.json").is_file():
        raise DataError(f"{given}: found no metrics.json, expected a run with results, or a folder of msgld evaluate")
    metrics, rows = read_results(folder)
    table = MetricTable()
    for row in rows:
        for metric in LABELS.keys() & row.keys():
            table.add(row["item"], row["stem"], metric, row[metric])
    name = path.resolve().name
    silent = {(row["item"], row["stem"]) for row in rows if row.get("silent")}
    return Scored(name if name != "evaluation" else path.resolve().parent.name, folder, table, metrics, silent)


@dataclass
class Difference:
    """One metric of one stem (or "all", "sounding") in both systems, over the items in which both have a value.

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
    """Paired differences of all metrics and stems that both systems have; group "sounding" leaves silent targets out.

    Raises:
        DataError: no item and stem is in both, and no Frechet distance either.
    """
    change = second.table.minus(first.table)
    both = {metric: {stem: dict(change.values(metric, stem)) for stem in change.stems} for metric in change.metrics}
    summary = change.summary(seed=seed)
    silent = first.silent | second.silent
    if silent:
        sounding = change.where(lambda item, stem: (item, stem) not in silent).summary(seed=seed)["all"]
        counts = {metric: cell["count"] for metric, cell in summary["all"].items()}
        summary["sounding"] = {m: cell for m, cell in sounding.items() if cell["count"] != counts[m]}
    found = []
    for metric in (name for name in LABELS if name in both):
        for stem, cells in summary.items():
            cell = cells.get(metric)
            if not cell or cell["mean"] is None:
                continue
            means = []
            for system in (first, second):
                common = system.table.where(lambda item, name, m=metric: both[m].get(name, {}).get(item) is not None)
                if stem == "sounding":
                    common = common.where(lambda item, name: (item, name) not in silent)
                means.append(common.mean(metric, None if stem in ("all", "sounding") else stem))
            interval = tuple(cell["ci95"]) if cell["ci95"] else None
            numbers = (cell["mean"], interval, cell["count"], cell["tracks"])
            found.append(Difference(metric, stem, *means, *numbers))
    if not found and not all("fad" in system.metrics for system in (first, second)):
        raise DataError(f"{first.folder} and {second.folder}: have no item and stem in common, expected the same items")
    return found


def comparison_table(first: Scored, second: Scored, differences: list[Difference]) -> str:
    """The differences as lines of text."""
    rows = [("metric", "stem", "A", "B", "B - A", "95 % interval", "items", "better")]
    for d in differences:
        span = "-" if d.interval is None else f"{d.interval[0]:+.3f} .. {d.interval[1]:+.3f}"
        numbers = f"{d.first:.3f}", f"{d.second:.3f}", f"{d.difference:+.3f}", span, str(d.items)
        rows.append((d.metric, d.stem, *numbers, {1: "B", -1: "A", 0: "-"}[d.better]))
    return f"A  {first.folder}\nB  {second.folder}\n\n{text_table(rows, 2)}"
