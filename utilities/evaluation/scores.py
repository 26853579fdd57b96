"""All numbers about a set of items: the same for validation, `mode: test` and folders of any system's results."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from latent_diffusion.errors import DataError

from ..files import whole_file
from .chunks import METRIC as CHUNK_METRIC
from .chunks import ChunkScores
from .embeddings import Embedding
from .frechet import FrechetScores
from .labels import LABELS, text_table
from .metrics import FLOOR_DB, SILENCE_DBFS, MetricTable, track_of
from .separation import SeparationScores, Side


class Scores:
    """Collects the numbers of items; keeps no audio.

    Args:
        embedding: of the Frechet audio distance; `None` leaves it out.
        chunks: how the chunks of `msdm_si_sdri` are cut.
    """

    def __init__(self, embedding: Embedding | None = None, chunks: ChunkScores | None = None) -> None:
        self.embedding = embedding
        self.separation = SeparationScores()
        self.chunks = chunks or ChunkScores()
        self.frechet = FrechetScores("log_mel_frechet")
        self.fad = FrechetScores("fad")

    def add_pair(self, item: str, result: Side, target: Side, sample_rate: int) -> None:
        """Compare separated stems with the truth: `target` holds every stem, and the mixture that was separated.

        Log-mels are compared if both sides have them. The sample rate, in hz, is that of all waveforms.
        """
        if target.mixture is None:
            raise ValueError(f"{item}: found no mixture, expected the one that was separated")
        for stem in result.stems:
            self.separation.add(item, stem, result, target)
        self.chunks.add(item, result.stems, target.stems, target.mixture, sample_rate)

    def add_kind(self, item: str, result: Side | None, reference: Side | None, sample_rate: int) -> None:
        """Take an item into the Frechet distances; the two sides need not belong together, and one may be `None`.

        Only stems that were made are compared; the intervals are over tracks.
        """
        sides, track = (result or Side(), reference or Side()), track_of(item)
        for stem in _either(*(side.log_mels for side in sides)):
            self.frechet.add(stem, track, *(side.log_mels.get(stem) for side in sides))
        if self.embedding is None:
            return
        for stem in _either(*(side.stems for side in sides)):
            self.fad.add(stem, track, *(self._embed(side.stems.get(stem), sample_rate) for side in sides))
        if any(side.mixture is not None for side in sides):
            self.fad.add("mixture", track, *(self._embed(side.mixture, sample_rate) for side in sides))

    def _embed(self, waveform: Tensor | None, sample_rate: int) -> Tensor | None:
        return None if waveform is None or self.embedding is None else self.embedding(waveform, sample_rate)

    def merge(self, other: Scores) -> None:
        """Take over the numbers of another process."""
        self.separation.merge(other.separation)
        self.chunks.merge(other.chunks)
        self.frechet.merge(other.frechet)
        self.fad.merge(other.fad)

    def summary(self, task: str, stems: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
        """Means, intervals and counts as plain values.

        Args:
            task: separation, generation or arrangement.
            stems: the stems' names in the order wanted.
            seed: of the bootstrap.

        Returns:
            For separation what `SeparationScores.summary` gives, and "msdm"; for the others "frechet"; and "fad" where
            an embedding was given: `{"embedding", "stems": {...}, "mixture": {...}}`, the mixture's being "sub_fad" in
            arrangement: the generated stems mixed with the given ones against the original mixture.
        """
        found: dict[str, Any] = {}
        if task == "separation":
            found = {"silence_dbfs": SILENCE_DBFS, "floor_db": FLOOR_DB}
            found |= self.separation.summary(stems, seed=seed)
            if self.chunks.counts:
                found["msdm"] = self.chunks.summary(stems, seed=seed)
        else:
            found["frechet"] = self.frechet.summary()
        if self.fad.results and self.embedding is not None:
            groups = self.fad.summary()
            mixture = groups.pop("mixture", None)
            found["fad"] = {"embedding": self.embedding.name, "stems": groups}
            found["fad"] |= {"sub_fad" if task == "arrangement" else "mixture": mixture} if mixture else {}
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One dict an (item, stem) of separation: track, item, stem, silent, the metrics, and the mixture's own."""
        chunk_means = self._chunk_means()
        baseline = {(row["item"], row["stem"]): row for row in self.separation.mixture.rows()}
        rows = []
        for row in self.separation.model.rows():
            key = row["item"], row["stem"]
            others = {f"mixture_{name}": value for name, value in baseline[key].items() if name not in _ABOUT}
            about = {name: row.pop(name) for name in _ABOUT} | {"silent": int(key in self.separation.silent)}
            rows.append(about | row | {CHUNK_METRIC: chunk_means.get(key)} | others)
        return rows

    def _chunk_means(self) -> dict[tuple[str, str], float | None]:
        """(item, stem) -> mean over the item's chunks."""
        by_item: dict[tuple[str, str], MetricTable] = {}
        names = {self.chunks.prefix(item): item for item in self.chunks.counts}
        for stem in self.chunks.table.stems:
            for chunk, value in self.chunks.table.values(CHUNK_METRIC, stem):
                item = names[chunk.rpartition("+")[0]]
                by_item.setdefault((item, stem), MetricTable()).add(chunk, stem, CHUNK_METRIC, value)
        return {key: table.mean(CHUNK_METRIC) for key, table in by_item.items()}


_ABOUT = ("track", "item", "stem")


@dataclass(frozen=True)
class Cell:
    """A number in the table of scores.

    Args:
        mean: over the items that count; `None` if none does.
        interval: 95 %, around the mean.
        baseline: the mean of the unprocessed mixture in place of the stem.
        silent: how many items do not count because their target is silent.
    """

    mean: float | None
    interval: Sequence[float] | None = None
    baseline: float | None = None
    silent: int = 0


def score_cells(metrics: Mapping[str, Any]) -> dict[str, dict[str, Cell]]:
    """The table of scores: group -> metric -> cell, from a metrics.json."""
    cells: dict[str, dict[str, Cell]] = {}
    baseline = metrics.get("mixture_as_every_stem", {})
    for group, found in metrics.get("model", {}).items():
        for metric in (name for name in LABELS if name in found):
            value, other = found[metric], baseline.get(group, {}).get(metric, {}).get("mean")
            cells.setdefault(group, {})[metric] = Cell(value["mean"], value["ci95"], other, value["silent"])
    for group, value in metrics.get("msdm", {}).items():
        if group != "about":
            cells.setdefault(group, {})[CHUNK_METRIC] = Cell(value["mean"], value["ci95"])
    for group, value in metrics.get("frechet", {}).items():
        cells.setdefault(group, {})["log_mel_frechet"] = Cell(value["log_mel_frechet"], value["ci95"])
    fad = metrics.get("fad", {})
    named = {"mixture": fad.get("mixture"), "mixture (sub_fad)": fad.get("sub_fad")}
    for group, value in (fad.get("stems", {}) | {name: cell for name, cell in named.items() if cell}).items():
        cells.setdefault(group, {})["fad"] = Cell(value["fad"], value["ci95"])
    order = [*metrics.get("stems", []), *cells]
    return {group: cells[group] for group in dict.fromkeys(order) if group in cells}


def score_table(metrics: Mapping[str, Any]) -> str:
    """The means of a `Scores.summary` as lines of text for a terminal."""
    cells, sets = score_cells(metrics), (CHUNK_METRIC, "log_mel_frechet", "fad")
    embedding = f"; Frechet audio distance: embedding {metrics['fad']['embedding']}" if "fad" in metrics else ""
    parts = []
    for note, chosen in (
        ("in brackets: the unprocessed mixture in place of each stem", [m for m in LABELS if m not in sets]),
        (f"in brackets: the 95 % interval{embedding}", sets),
    ):
        names = [name for name in chosen if any(name in row for row in cells.values())]
        groups = {group: row for group, row in cells.items() if any(name in row for name in names)}
        rows = [(group, *(_in_words(row.get(m), m in sets) for m in names)) for group, row in groups.items()]
        if names:
            parts.append(f"{note}\n{text_table([('stem', *names), *rows])}")
    return "\n\n".join(parts)


def _in_words(cell: Cell | None, with_interval: bool) -> str:
    if cell is None or cell.mean is None:
        return "-"
    ends = cell.interval if with_interval else None if cell.baseline is None else (cell.baseline,)
    return f"{cell.mean:z.3f}" + (f" ({' .. '.join(f'{end:z.3f}' for end in ends)})" if ends else "")


def write_rows(path: str | os.PathLike[str], rows: list[dict[str, Any]]) -> None:
    """Write rows as a CSV file, whole or not at all; an empty cell is a value that does not exist (silence).

    Args:
        path: the file, `metrics.csv`.
        rows: dicts; the columns are their keys, in the order in which they come.

    Raises:
        OSError: the file cannot be written.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    encoding = {"encoding": "utf-8", "errors": "backslashreplace"}  # names of files may be in any encoding
    with whole_file(path) as temporary, Path(temporary).open("w", newline="", **encoding) as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read what `write_rows` wrote: numbers as float, empty cells as `None`, names as text.

    Raises:
        OSError: the file cannot be read.
        ValueError: a column is missing, or a cell of a metric is no number.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in _ABOUT if name not in (reader.fieldnames or _ABOUT)]:
            raise ValueError(f"found no column {missing[0]}")
        return [
            {key: value if key in _ABOUT else float(value) if value else None for key, value in row.items()}
            for row in reader
        ]


def read_results(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What metrics.json and metrics.csv of a folder hold; empty for a file that is not there.

    Raises:
        DataError: a file is damaged.
    """
    json_file, csv_file = folder / "metrics.json", folder / "metrics.csv"
    try:
        metrics = json.loads(json_file.read_text(encoding="utf-8")) if json_file.is_file() else {}
        rows = read_rows(csv_file) if csv_file.is_file() else []
        score_cells(metrics)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise DataError(f"{folder}: metrics.json or metrics.csv is damaged ({error}); evaluate again") from error
    return metrics, rows


def _either(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names in the first, or, where it is empty (references alone), in the second."""
    return list(first or second)
