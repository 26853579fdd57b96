"""Finds stems in folders, whoever wrote them, and reads two sides of an item so that they can be compared.

Three layouts are understood, each with any audio format and rate:

* `<track>/<stem>.wav`, the tracks at any depth: the dataset's, `msgld separate`'s, and that of most separators;
* a result tree of this project, `val_<step>/<stem>/<item>.wav` or `target_<step>/...`, a run folder standing for its
  newest one; and the published tree, whose stems are called `stem_<i>`;
* for mixtures also one folder of files, `<track>.wav`.

A file called mix or mixture is the mixture, not a stem.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from latent_diffusion.errors import DataError

from ..audio import FileSource, is_readable, resample, stem_named, walk, why_unreadable

log = logging.getLogger(__name__)

MIXTURE = "mix"
LONGEST_DIFFERENCE = 1.0  # seconds that two sides of an item may differ in length
_MIXTURE_NAMES = ("mix", "mixture")
_SUM = re.compile(r"stem_\d+(_\d+)+")  # arrangement: the generated stems, summed
_PUBLISHED = re.compile(r"stem_\d+")

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


def newest_results(folder: Path) -> Path | None:
    """The newest `val_<step>` of a run folder; `None` where there is none."""
    steps = {int(tree.name[4:]): tree for tree in folder.glob("val_*") if tree.is_dir() and tree.name[4:].isdecimal()}
    return steps[max(steps)] if steps else None


def targets_of(tree: Path) -> Path | None:
    """The `target_<step>` beside a `val_<step>`, where there is one."""
    target = tree.with_name(tree.name.replace("val_", "target_", 1))
    return target if tree.name.startswith("val_") and target.is_dir() else None


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
    is_results = any((root / name).is_dir() and any(_audio(root / name)) for name in (MIXTURE, "stem_0"))
    tree = _result_tree(root) if is_results else _track_tree(root)
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
    """`<stem>/<item>.wav`; the published names are links or copies where the stems' own names are there, too."""
    tree = Tree(root)
    folders = [f for f in sorted(root.iterdir()) if f.is_dir() and any(_audio(f)) and not _SUM.fullmatch(f.name)]
    links = [f for f in folders if f.is_symlink()]
    tree.aliases = {link.name: Path(os.readlink(link)).name for link in links}
    real = [f for f in folders if not f.is_symlink()]
    if any(f.name != MIXTURE and not _PUBLISHED.fullmatch(f.name) for f in real):
        real = [f for f in real if not _PUBLISHED.fullmatch(f.name)]
    for folder in real:
        for file in _audio(folder):
            tree.items.setdefault(file.stem, {})[folder.name] = file
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
