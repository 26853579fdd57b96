"""Scores a folder of results, of whatever system, against a folder of references."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from latent_diffusion.errors import DataError
from latent_diffusion.first_stage.mel import LogMel
from latent_diffusion.settings import MelSettings

from ..audio import resample
from .chunks import CHUNK_SECONDS, OVERLAP_SECONDS, ChunkScores
from .embeddings import load_embedding
from .folders import (
    MIXTURE,
    Item,
    Tree,
    Waveforms,
    pair,
    read_item,
    read_json,
    read_mixtures,
    read_tree,
    rename_published,
    targets_of,
)
from .metrics import track_of
from .scores import Scores, Side

log = logging.getLogger(__name__)

TASKS = ("separation", "generation", "arrangement")
LOG_MELS = "of the waveforms, mono at 16 kHz (in a run's own metrics.json: of the model, before the vocoder)"


@dataclass(frozen=True)
class Options:
    """How to evaluate.

    Args:
        task: separation (pairs), generation (two sets, nothing pairs), arrangement (pairs, but judged as sets); `None`:
            what the results themselves say, else separation.
        embedding, download: of the Frechet audio distance, see `load_embedding`.
        chunk, overlap: of MSDM's protocol, in seconds.
        seed: of the bootstrap.
        quiet: no progress bar.
    """

    task: str | None = None
    embedding: str = "log_mel"
    download: bool = False
    chunk: float = CHUNK_SECONDS
    overlap: float = OVERLAP_SECONDS
    seed: int = 0
    quiet: bool = False


@dataclass
class Evaluation:
    """What came of it.

    Args:
        metrics: for metrics.json.
        rows: for metrics.csv, one an item and stem.
        items: name -> files of estimates, of references, and of the mixture, for a report.
        problems: lines about what was missing or could not be read.
    """

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    items: dict[str, tuple[Item, Item, Path | None]]
    problems: list[str] = field(default_factory=list)


def evaluate(estimates: Path, references: Path | None, mixtures: Path | None, options: Options) -> Evaluation:
    """Score every item that both folders have; what one of them lacks is listed.

    Args:
        estimates: a folder of results; see `utilities.evaluation.folders` for the layouts.
        references: the truth; `None` takes the `target_<step>` beside a run's `val_<step>`.
        mixtures: what was separated; `None` takes the references' own mixtures, or the sums of their stems.
        options: how.

    Raises:
        DataError: a folder cannot be used, or no item has a partner.
        ConfigError: the embedding is not at hand.
    """
    results = read_tree(estimates, "--est")
    target = references or targets_of(results.root)
    if target is None:
        raise DataError(f"--ref: not given, and {results.root} has no targets beside it; name the references' folder")
    truths = read_tree(target, "--ref")
    rename_published(results, truths)
    task = options.task or _task_of(results.root) or "separation"
    scores = Scores(load_embedding(options.embedding, options.download), ChunkScores(options.chunk, options.overlap))
    found = Evaluation({}, [], {})
    given = read_mixtures(mixtures) if mixtures else {}
    if task == "generation":
        _score_sets(results, truths, scores, found, options.quiet)
    else:
        _score_pairs(task, results, truths, given, scores, found, options.quiet)
    stems = tuple(stem for stem in truths.stems if stem in results.stems)
    found.metrics = {
        "task": task,
        "stems": list(stems),
        "items": len(found.items),
        "tracks": len({track_of(name) for name in found.items}),
        "estimates": str(results.root),
        "references": str(truths.root),
        "log_mels": LOG_MELS,
        "embedding": options.embedding,
        "seed": options.seed,
        **scores.summary(task, stems, options.seed),
        "problems": found.problems,
    }
    found.rows = scores.rows()
    return found


def _task_of(root: Path) -> str | None:
    """The task that a result tree's own metrics.json names."""
    task = read_json(root / "metrics.json").get("task")
    return task if task in TASKS else None


def _score_pairs(
    task: str, results: Tree, truths: Tree, mixtures: dict[str, Path], scores: Scores, found: Evaluation, quiet: bool
) -> None:
    pairs = pair(results, truths)
    if not pairs:
        raise DataError(
            f"{results.root}: no item has a partner in {truths.root} (found {_few(results.items)} and "
            f"{_few(truths.items)}); expected equal names, or --task generation for sets that do not pair"
        )
    _list(found, "without a reference, left out", [name for name in results.items if name not in pairs])
    _list(found, "without an estimate", [name for name in truths.items if name not in pairs.values()])
    for name, partner in tqdm(pairs.items(), desc="evaluating", unit="item", leave=False, disable=quiet):
        item, truth = results.items[name], truths.items[partner]
        missing = [stem for stem in truth if stem not in item and stem != MIXTURE]
        unknown = [stem for stem in item if stem not in truth and stem != MIXTURE]
        if missing and task == "separation":
            found.problems.append(f"{name}: no estimate of {', '.join(missing)}")
        if unknown:
            found.problems.append(f"{name}: no reference of {', '.join(unknown)}, not scored")
        item = {stem: file for stem, file in item.items() if stem not in unknown}
        mixture = mixtures.get(name) or mixtures.get(partner) or mixtures.get(name.rpartition("/")[2])
        if mixtures and mixture is None:
            found.problems.append(f"{name}: no mixture in --mixture; the references' is taken")
        try:
            if not any(stem != MIXTURE for stem in item):
                raise DataError("none of its stems is one of the references'")
            waves = read_item(item, truth, mixture)
            _score_pair(task, name, waves, scores)
        except DataError as error:
            found.problems.append(f"{name}: {error}; left out")
            continue
        found.problems.extend(f"{name}: {note}" for note in waves.notes)
        found.items[name] = (item, truth, mixture)
    if not found.items:
        raise DataError(f"{results.root}: nothing could be scored; {found.problems[-1]}")


def _score_pair(task: str, name: str, waves: Waveforms, scores: Scores) -> None:
    given = [wave for stem, wave in waves.references.items() if stem not in waves.estimates]
    mixed = torch.stack([*waves.estimates.values(), *(given if task == "arrangement" else [])]).sum(dim=0)
    result, target = Side(waves.estimates, mixed), Side(waves.references, waves.mixture)
    if task == "separation":
        result.log_mels, target.log_mels = (_log_mels(side.stems, waves.sample_rate) for side in (result, target))
        target.mixture_log_mel = _log_mel(target.mixture, waves.sample_rate)
        scores.add_pair(name, result, target, waves.sample_rate)
    scores.add_kind(name, Side(result.stems, mixed), Side(target.stems, target.mixture), waves.sample_rate)


def _score_sets(results: Tree, truths: Tree, scores: Scores, found: Evaluation, quiet: bool) -> None:
    sides = [(name, item, {}) for name, item in results.items.items()]
    sides += [(name, {}, item) for name, item in truths.items.items()]
    for name, item, truth in tqdm(sides, desc="evaluating", unit="item", leave=False, disable=quiet):
        try:
            waves = read_item(item, truth)
        except DataError as error:
            found.problems.append(f"{name}: {error}; left out")
            continue
        stems = waves.estimates or waves.references
        side = Side(stems, torch.stack(list(stems.values())).sum(dim=0))
        scores.add_kind(name, side if item else None, None if item else side, waves.sample_rate)
        if item:
            found.items[name] = (item, {}, None)


_FRONT_END = LogMel(MelSettings())


def _log_mels(stems: dict[str, Tensor], sample_rate: int) -> dict[str, Tensor]:
    return {stem: _log_mel(wave, sample_rate) for stem, wave in stems.items()}


def _log_mel(waveform: Tensor, sample_rate: int) -> Tensor:
    """Log-mel (T, 64) of a waveform (channels, N)."""
    settings = _FRONT_END.settings
    mono = resample(waveform.mean(dim=0, keepdim=True), sample_rate, settings.sample_rate)[0]
    return _FRONT_END(torch.nn.functional.pad(mono, (0, max(0, settings.n_fft - len(mono)))))


def _list(found: Evaluation, what: str, names: list[str]) -> None:
    if names:
        found.problems.append(f"{len(names)} items {what}: {', '.join(sorted(names))}")


def _few(names: dict[str, Any]) -> str:
    first = sorted(names)[:2]
    return ", ".join(first) + (" ..." if len(names) > 2 else "")
