"""Finds stems in folders, whoever wrote them, and reads two sides of an item so that they can be compared.

Three layouts are understood, each with any audio format and rate:

* `<track>/<stem>.wav`, the tracks at any depth: the dataset's, `msgld separate`'s, and that of most separators;
* a result tree of this project, `val_<step>/<stem>/<item>.wav` or `target_<step>/...`, a run folder standing for its
  newest one; and the published tree, whose stems are called `stem_<i>`;
* for mixtures also one folder of files, `<track>.wav`.

A file called mix or mixture is the mixture, not a stem.

The first two differ in what the folders are, stems or tracks, and tracks may have any name: `stem_0`, `mix` or `val_1`,
too. What else lies there decides (`is_result_tree`); where nothing does, it is an error and not a guess.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latent_diffusion.errors import DataError

from ..audio import FileSource, is_readable, resample, stem_named, walk, why_unreadable
from ..files import safe_name

log = logging.getLogger(__name__)

MIXTURE = "mix"
LONGEST_DIFFERENCE = 1.0  # seconds that two sides of an item may differ in length
_MIXTURE_NAMES = ("mix", "mixture")
_PUBLISHED = re.compile(r"stem_\d+")
_SUM = re.compile(r"stem_\d+(_\d+)+")  # arrangement: the generated stems, summed
_STEP = re.compile(r"(val|target)_([0-9]+)")
_WINDOW = re.compile(r".*_from_\d[\d_]*(-[0-9a-f]{8})?")  # an item of a validation, as safe_name writes it
_TAKEN = re.compile(r"mel|spectrograms|evaluation|stem_.*")  # by other folders of a result tree
_RENAMED = " (stem)"

Item = dict[str, Path]  # stem, or MIXTURE -> file


@dataclass
class Tree:
    """What a folder holds.

    Args:
        root: the folder.
        items: item -> stem -> file.
        aliases: published name -> stem, where the tree has both.
    """

    root: Path
    items: dict[str, Item] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    @property
    def stems(self) -> list[str]:
        """The stems of any item, in the order in which they are found."""
        return list(dict.fromkeys(stem for item in self.items.values() for stem in item if stem != MIXTURE))


def stem_folder(stem: str) -> str:
    """The folder of a stem in a result tree: its name, unless another folder of the tree is called so."""
    return safe_name(stem + _RENAMED if stem == MIXTURE or _TAKEN.fullmatch(stem) else stem)


def _stem_of(folder: str) -> str:
    """The stem of which `stem_folder` gives this folder; it cannot give back a stem called mix."""
    name = folder.removesuffix(_RENAMED)
    return name if _TAKEN.fullmatch(name) else folder


def result_trees(run: Path) -> Iterator[Path]:
    """The result trees `val_<step>` of a run folder, the newest first; other folders may have such names, too.

    Raises:
        DataError: a folder could be a result tree or tracks.
    """
    steps = {f: int(f.name[4:]) for f in run.glob("val_*") if _STEP.fullmatch(f.name)}
    return (folder for folder in sorted(steps, key=steps.get, reverse=True) if is_result_tree(folder))


def newest_results(folder: Path) -> Path | None:
    """The newest result tree of a run folder; `None` if it has none."""
    return next(result_trees(folder), None)


def targets_of(tree: Path) -> Path | None:
    """The `target_<step>` beside a result tree `val_<step>`, if there is one."""
    step = _STEP.fullmatch(tree.absolute().name)
    target = tree.absolute().with_name(f"target_{step[2]}") if step and step[1] == "val" else None
    return target if target and target.is_dir() and is_result_tree(tree) else None


def is_result_tree(root: Path) -> bool:
    """Whether a folder is a result tree, `<stem>/<item>.wav`, rather than tracks, `<track>/<stem>.wav`.

    Only a validation writes metrics.json with a step, log-mels, and links `stem_<i>` beside `mix`. Without these, a
    tree has a folder `mix` or only folders `stem_<i>`, all with the same items, which are windows of tracks.

    Raises:
        DataError: it could be either.
    """
    if not root.is_dir() or any(_audio(root)):
        return False
    if "step" in read_json(root / "metrics.json") or (_links(root) and (root / MIXTURE).is_dir()):
        return True
    if any(root.glob("mel/*/*.npy")) or any(root.glob("stem_mel_*/*.npy")):
        return True
    special = [f.name for f in root.iterdir() if f.name == MIXTURE or _PUBLISHED.fullmatch(f.name)]
    special = [name for name in special if (root / name).is_dir() and any(_audio(root / name))]
    if not special:
        return False
    folders = {f.name: {file.stem for file in _audio(f)} for f in root.iterdir() if f.is_dir()}
    items = set.union(*folders.values())
    others = [name for name in folders if folders[name] and name not in special and not _SUM.fullmatch(name)]
    if items != folders[MIXTURE] if MIXTURE in special else others:
        return False
    if any(_stem(item) == MIXTURE for item in items) or any(_audio_below(root / name) for name in folders):
        return False
    if all(map(_WINDOW.fullmatch, items)):
        return True
    raise DataError(
        f"{root}: found folders called {', '.join(sorted(special))}, and nothing that tells whether they are tracks "
        "(<track>/<stem>.wav) or the results of a run (<stem>/<item>.wav); rename them if they are tracks, and if they "
        "are results, leave the run's metrics.json and links beside them"
    )


def _links(root: Path) -> dict[str, str]:
    """The published names in a result tree: links `stem_<i>` to another folder of it, and to which."""
    links = [f for f in root.iterdir() if _PUBLISHED.fullmatch(f.name) and f.is_symlink()]
    targets = {link.name: os.readlink(link) for link in links}
    return {name: target for name, target in targets.items() if "/" not in target and (root / target).is_dir()}


def _audio_below(folder: Path) -> bool:
    """Whether sub-folders of a folder hold audio."""
    return any(any(_audio(Path(place))) for place, _, _ in os.walk(folder) if Path(place) != folder)


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; empty if there is none, or if it is damaged or no table."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_tree(folder: str | os.PathLike[str], option: str) -> Tree:
    """Find the items of a folder.

    Args:
        folder: in one of the layouts of the module's notes.
        option: the name of the option that named it, for errors.

    Raises:
        DataError: no such folder, or no audio in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{option}: {root}: no such folder, expected one with <track>/<stem>.wav or a run's results")
    root = newest_results(root) or root
    tree = _result_tree(root) if is_result_tree(root) else _track_tree(root)
    if not tree.items:
        raise DataError(f"{option}: {root}: found no audio, expected <track>/<stem>.wav or a run's results")
    return tree


def _audio(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.iterdir()) if is_readable(file) and file.is_file())


def _stem(name: str) -> str:
    return MIXTURE if name.lower() in _MIXTURE_NAMES else name


def _track_tree(root: Path) -> Tree:
    """`<track>/<stem>.wav` at any depth; audio in the folder itself makes it a track."""
    tree = Tree(root)
    for here, files in walk(root):
        found = {_stem(file.stem): file for file in files if is_readable(file)}
        for file in files:
            if reason := why_unreadable(file):
                log.warning("%s: left out: %s", file, reason)
        if found:
            name = here.relative_to(root).as_posix()
            tree.items[root.resolve().name if name == "." else name] = found
    return tree


def _result_tree(root: Path) -> Tree:
    """`<stem>/<item>.wav`; published names that are links or copies of the stems' own folders are left out."""
    tree = Tree(root, aliases={link: _stem_of(target) for link, target in _links(root).items()})
    folders = [f for f in sorted(root.iterdir()) if f.is_dir() and f.name not in tree.aliases]
    folders = [f for f in folders if not _SUM.fullmatch(f.name) and any(_audio(f))]
    named = [f for f in folders if not _PUBLISHED.fullmatch(f.name)]
    for folder in named if any(f.name != MIXTURE for f in named) else folders:
        for file in _audio(folder):
            tree.items.setdefault(file.stem, {})[_stem_of(folder.name)] = file
    return tree


def read_mixtures(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Item -> mixture of a folder: `<track>/mix.wav`, `<track>.wav`, or a result tree's `mix/<item>.wav`.

    Raises:
        DataError: no such folder, or no mixture in it.
    """
    root = Path(folder)
    if root.is_dir() and any(_audio(root)):
        return {file.stem: file for file in _audio(root)}
    tree = read_tree(root, "--mixture")
    found = {name: item[MIXTURE] for name, item in tree.items.items() if MIXTURE in item}
    if not found:
        raise DataError(f"--mixture: {root}: found no mixture, expected <track>.wav, <track>/mix.wav or mix/<item>.wav")
    return found


def pair(estimates: Tree, references: Tree) -> dict[str, str]:
    """Estimated item -> reference item: of one name, or, where that is unambiguous, of one last part of the name."""
    short = {}
    for name in references.items:
        short.setdefault(name.rpartition("/")[2], []).append(name)
    pairs: dict[str, str] = {}
    for name in estimates.items:
        alike = short.get(name.rpartition("/")[2], [])
        if name in references.items:
            pairs[name] = name
        elif len(alike) == 1 and alike[0] not in estimates.items and alike[0] not in pairs.values():
            pairs[name] = alike[0]
    return pairs


def rename_published(estimates: Tree, references: Tree) -> None:
    """Give an estimate's stems the references' names: in their case, and what they call a `stem_<i>`."""
    for name, item in estimates.items.items():
        estimates.items[name] = {stem_named(stem, references.stems) or stem: file for stem, file in item.items()}
    if set(estimates.stems) & set(references.stems):
        return
    for name, item in estimates.items.items():
        estimates.items[name] = {references.aliases.get(stem, stem): file for stem, file in item.items()}


@dataclass
class Waveforms:
    """Files of an item, read at one rate, of one length and one number of channels.

    Args:
        estimates, references: stem -> (channels, N).
        mixture: (channels, N), or `None`.
        sample_rate: hz, the references' (the estimates' where there are none).
        notes: what had to be changed, in words.
    """

    estimates: dict[str, Tensor]
    references: dict[str, Tensor]
    mixture: Tensor | None
    sample_rate: int
    notes: list[str]


def _read_whole(file: Path) -> tuple[Tensor, int]:
    """(channels, samples) and the rate in hz, as `msgld separate` would hear the file."""
    source = FileSource(file)
    return source.read(0, source.samples), source.sample_rate


def read_item(estimates: Item, references: Item, mixture: Path | None = None) -> Waveforms:
    """Read an item's files: resampled to the references' rate, mixed to mono unless all have as many channels, cut.

    Args:
        estimates, references: stem -> file, either may be empty; MIXTURE is taken only where `mixture` is not given.
        mixture: the mixture's file; without one the references' own, else the sum of the references.

    Raises:
        DataError: a file cannot be read, or lengths differ by more than a second.
    """
    sides = {"estimate": estimates, "reference": references, "mixture": {}}
    mixture = mixture or references.get(MIXTURE)
    if mixture is not None:
        sides["mixture"] = {MIXTURE: mixture}
    read = {
        (side, stem): (*_read_whole(file), file)
        for side, files in sides.items()
        for stem, file in files.items()
        if stem != MIXTURE or side == "mixture"
    }
    if not read:
        raise DataError("found no stems")
    rate = next((r for (side, _), (_, r, _) in read.items() if side == "reference"), next(iter(read.values()))[1])
    notes = []
    if other := sorted({r for _, r, _ in read.values() if r != rate}):
        notes.append(f"resampled from {', '.join(map(str, other))} to {rate} Hz")
    waves = {key: resample(wave, r, rate) for key, (wave, r, _) in read.items()}
    lengths = {key: wave.shape[-1] for key, wave in waves.items()}
    shortest, longest = min(lengths, key=lengths.get), max(lengths, key=lengths.get)
    apart = lengths[longest] - lengths[shortest]
    if apart > LONGEST_DIFFERENCE * rate:
        raise DataError(
            f"{read[longest][2]} is {apart / rate:.2f} s longer than {read[shortest][2]}, expected less than "
            f"{LONGEST_DIFFERENCE:g} s"
        )
    if apart:
        notes.append(f"cut to {lengths[shortest]} samples, the longest had {apart} more")
    channels = {wave.shape[0] for wave in waves.values()}
    if len(channels) > 1:
        notes.append("compared in mono")
        waves = {key: wave.mean(dim=0, keepdim=True) for key, wave in waves.items()}
    waves = {key: wave[..., : lengths[shortest]] for key, wave in waves.items()}
    by_side = {side: {stem: wave for (s, stem), wave in waves.items() if s == side} for side in sides}
    mixed = by_side["mixture"].get(MIXTURE)
    if mixed is None and by_side["reference"]:
        mixed = torch.stack(list(by_side["reference"].values())).sum(dim=0)
    return Waveforms(by_side["estimate"], by_side["reference"], mixed, rate, notes)
