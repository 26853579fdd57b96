"""Collects what belongs on a report: of a run folder, of an evaluation, or of any folder of stems."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from latent_diffusion.errors import ConfigError, DataError

from ..evaluation.evaluate import Evaluation
from ..evaluation.folders import (
    MIXTURE,
    Item,
    is_result_tree,
    newest_results,
    read_mixtures,
    read_tree,
    result_trees,
    targets_of,
)
from ..evaluation.metrics import track_of
from ..evaluation.scores import Cell, read_results, score_cells
from .curves import CSV_NAME, Points, read_training

_PACKAGES = ("torch", "torchaudio", "pytorch-lightning", "torchmetrics", "numpy", "soundfile")
_HISTORY_STEPS = 6


@dataclass(frozen=True)
class Sound:
    """A file to hear, or the sum of several; its role, "target" or "result"; its stem, "" for the mixture."""

    paths: tuple[Path, ...]
    role: str
    stem: str


@dataclass
class PageItem:
    """One mixer.

    Args:
        name: its heading.
        sounds: its lanes.
        numbers: stem -> lines (text, number) under its name.
        heard: (role, stem) of the lanes that are not muted at first; `None`: the results' stems.
    """

    name: str
    sounds: list[Sound]
    numbers: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    heard: set[tuple[str, str]] | None = None


@dataclass
class Page:
    """Everything on a page.

    Args:
        title, lead: the heading, and the sentence below it.
        scores: group (a stem, "all" ...) -> metric -> cell.
        rows: of metrics.csv.
        items: mixers.
        history: mixers whose lanes are validations of one item.
        curves: values of the training, by name.
        about: name -> text.
        texts: name -> long text (configuration).
        notes: how to read the numbers, a line each.
        target_title: heading of the targets: "Reference" if they do not belong to the results.
    """

    title: str
    lead: str
    scores: dict[str, dict[str, Cell]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    items: list[PageItem] = field(default_factory=list)
    history: list[PageItem] = field(default_factory=list)
    curves: Mapping[str, Points] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    target_title: str = "Target"


def report_page(folder: Path, references: Path | None, mixtures: Path | None, most: int = 20) -> Page:
    """The report of a run, of one of its result trees, or of any folder of stems.

    Raises:
        ConfigError: references or mixtures for a run, which has its own.
        DataError: the folder cannot be used.
    """
    scored = (folder / "metrics.json").is_file() and is_result_tree(folder)
    if not (scored or newest_results(folder) or (folder / CSV_NAME).is_file()):
        return folder_page(folder, references, mixtures, most)
    if references or mixtures:
        option = "--ref" if references else "--mixture"
        raise ConfigError(f"{option}: has no effect on {folder}, a run whose own targets are shown; leave it out")
    return run_page(folder, most)


def run_page(folder: Path, most: int = 20) -> Page:
    """The report of a run: its newest results, its training, its configuration.

    Args:
        folder: the run's, or one of its result trees.
        most: how many items can be heard.

    Raises:
        DataError: there is nothing to report, or a file is damaged.
    """
    root, run = newest_results(folder), folder
    if root is None and is_result_tree(folder):
        root, run = folder, folder.absolute().parent
    curves = read_training(run)
    if root is None and not curves:
        raise DataError(f"{folder}: found neither results (val_<step>) nor a training, expected the folder of a run")
    config, texts = _configuration(run)
    page = Page(folder.resolve().name, "", texts=texts, curves=curves)
    metrics: dict[str, Any] = {}
    if root is not None:
        metrics, page.rows = read_results(root)
        page.scores, page.notes = score_cells(metrics), metrics.get("notes", [])
        page.target_title = "Reference" if metrics.get("task") == "generation" else "Target"
        page.items = _tree_items(root, metrics, page.rows, most)
        page.history = _history(run, metrics, [item.name for item in page.items])
    page.lead = _lead(metrics, page.curves)
    page.about = {"Run": str(run), "Results": str(root or ""), **_about_config(config), **versions()}
    return page


def evaluation_page(found: Evaluation, estimates: Path, most: int = 20) -> Page:
    """The report of `msgld evaluate`."""
    metrics, chosen = found.metrics, choose(found.items, most)
    return Page(
        estimates.resolve().name,
        _lead(metrics, {}),
        score_cells(metrics),
        found.rows,
        [_page_item(name, *found.items[name], found.rows, metrics["stems"]) for name in chosen],
        about={
            "Results": metrics["estimates"],
            "References": metrics["references"],
            "Embedding": metrics["embedding"],
            "Seed": str(metrics["seed"]),
            **versions(),
        },
        texts={f"Notes on {len(found.problems)} files": "\n".join(found.problems)} if found.problems else {},
        notes=metrics.get("notes", []),
    )


def folder_page(folder: Path, references: Path | None, mixtures: Path | None, most: int = 20) -> Page:
    """The report of any folder of stems: nothing is scored.

    Raises:
        DataError: a folder cannot be used.
    """
    tree = read_tree(folder, "DIR")
    target = references or targets_of(tree.root)
    truths = read_tree(target, "--ref").items if target else {}
    given = read_mixtures(mixtures) if mixtures else {}

    def partner(name: str, others: Mapping[str, Any]) -> Any:
        return others.get(name) or others.get(name.rpartition("/")[2])

    items = [
        _page_item(name, tree.items[name], partner(name, truths) or {}, partner(name, given), [], tree.stems)
        for name in choose(tree.items, most)
    ]
    lead = f"{len(tree.items)} items in {folder}" + (f", {len(items)} of them here." if most < len(tree.items) else ".")
    return Page(folder.resolve().name, lead, items=items, about={"Folder": str(folder), **versions()})


# ---- items ---------------------------------------------------------------------------------------------------------


def choose(names: Iterable[str], most: int) -> list[str]:
    """So many items, of as many tracks as there are: the first of each, then the second of each, and so on."""
    by_track: dict[str, list[str]] = {}
    for name in sorted(names):
        by_track.setdefault(track_of(name), []).append(name)
    turns = [(turn, track) for track, items in by_track.items() for turn in range(len(items))]
    return sorted(by_track[track][turn] for turn, track in sorted(turns)[:most])


def _tree_items(root: Path, metrics: Mapping[str, Any], rows: list[dict[str, Any]], most: int) -> list[PageItem]:
    tree, target = read_tree(root, "results"), targets_of(root)
    truths = read_tree(target, "targets").items if target else {}
    chosen = choose(tree.items, most)
    if not rows:
        chosen = sorted(chosen, key=lambda name: name not in truths)
    given = [s for s in metrics.get("stems", []) if s not in metrics.get("generated", metrics.get("stems", []))]
    items = []
    for name in chosen:
        result, truth = dict(tree.items[name]), truths.get(name, {})
        result |= {stem: truth[stem] for stem in given if stem in truth}
        item = _page_item(name, result, truth, None, rows, metrics.get("stems") or tree.stems)
        item.numbers |= {stem: [("given", "")] for stem in given}
        items.append(item)
    return items


def _page_item(
    name: str, result: Item, truth: Item, mixture: Path | None, rows: Sequence[Mapping[str, Any]], stems: Sequence[str]
) -> PageItem:
    """A mixer: the mixtures first, then the stems in their order, targets beside results."""
    stems = list(dict.fromkeys([*stems, *(stem for stem in (*result, *truth) if stem != MIXTURE)]))
    mixed, sounds = mixture or truth.get(MIXTURE), []
    for role, item, whole in (("target", truth, mixed), ("result", result, result.get(MIXTURE))):
        parts = (whole,) if whole else tuple(item[stem] for stem in stems if stem in item)
        if whole or len(parts) > (role == "result"):  # the sum of a single result is that result
            sounds.append(Sound(parts, role, ""))
    for stem in stems:
        sounds += [
            Sound((item[stem],), role, stem) for role, item in (("target", truth), ("result", result)) if stem in item
        ]
    return PageItem(name, sounds, {row["stem"]: _lines(row) for row in rows if row["item"] == name})


def _lines(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What stands under a stem's name."""
    lines = []
    mse, baseline, si_sdri = (row.get(key) for key in ("log_mel_mse", "mixture_log_mel_mse", "si_sdri"))
    if mse is not None:
        lines.append(("log-mel MSE", f"{mse:.1f}" + (f" / {baseline:.1f}" if baseline is not None else "")))
    if row.get("silent"):
        lines.append(("target is silent", ""))
    elif si_sdri is not None:
        lines.append(("SI-SDRi", f"{si_sdri:.1f} dB".replace("-", "−")))
    return lines


def _history(run: Path, metrics: Mapping[str, Any], names: Sequence[str]) -> list[PageItem]:
    """One item's stems at several validations: the first item that all of them have."""
    found = list(result_trees(run))[::-1]
    spread = sorted({round(i * (len(found) - 1) / (_HISTORY_STEPS - 1)) for i in range(_HISTORY_STEPS)})
    trees = {f"step {int(found[i].name[4:]):,}": read_tree(found[i], "results").items for i in spread if len(found) > 1}
    name = next((name for name in names if all(name in items for items in trees.values())), None)
    if name is None or not trees:
        return []
    target = targets_of(found[-1]) if metrics.get("task") != "generation" else None
    truth = read_tree(target, "targets").items.get(name, {}) if target else {}
    items = []
    for stem in metrics.get("stems", []):
        sounds = [Sound((items[name][stem],), "result", at) for at, items in trees.items() if stem in items[name]]
        if sounds:
            sounds += [Sound((truth[stem],), "result", "target")] if stem in truth else []
            items.append(PageItem(f"{name}: {stem}", sounds, heard={("result", list(trees)[-1])}))
    return items


# ---- numbers and words ---------------------------------------------------------------------------------------------


def _lead(metrics: Mapping[str, Any], curves: Mapping[str, Points]) -> str:
    """The sentence under the title."""
    if not metrics:
        return "A training without results yet." if curves else ""
    step = f" at step {metrics['step']:,}" if metrics.get("step") is not None else ""
    counts = f"{metrics.get('items', 0):,} items of {metrics.get('tracks', 0):,} tracks"
    fad = metrics.get("fad", {}).get("embedding")
    return f"{metrics.get('task', 'results').capitalize()}{step}: {counts}." + (
        f" FAD embedding: {fad}." if fad else ""
    )


def _configuration(run: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration of the newest work in a run folder, and the text of all of them."""
    found = sorted(run.glob("config*.yaml"), key=lambda file: file.stat().st_mtime)
    texts = {file.name: file.read_text(encoding="utf-8") for file in found}
    config = yaml.safe_load(texts[found[-1].name]) if found else {}
    return config if isinstance(config, dict) else {}, texts


def _about_config(config: Mapping[str, Any]) -> dict[str, str]:
    def value(*keys: str) -> Any:
        place: Any = config
        for key in keys:
            place = place.get(key) if isinstance(place, Mapping) else None
        return place

    weights = value("trainer", "resume_from_checkpoint") or value("trainer", "resume")
    sampling = value("model", "params", "evaluation_params") or {}
    found = {
        "Mode": value("mode"),
        "Seed": value("seed"),
        "Weights": weights or value("model", "params", "ckpt_path"),
        "Data": value("data", "params", "path", "valid_data"),
        "Sampling": ", ".join(f"{name} {text}" for name, text in sampling.items() if text is not None),
    }
    return {name: str(text) for name, text in found.items() if text not in (None, "")}


def versions() -> dict[str, str]:
    """Versions of what this project runs on, and its commit if it runs from a clone."""
    packages = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    about = {"Versions": ", ".join([f"Python {platform.python_version()}", *packages])}
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return about
    asked = subprocess.run(["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return about | ({"Commit": asked.stdout.strip()} if asked.returncode == 0 else {})
