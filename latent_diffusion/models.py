"""Which weights file a user means: a path, the folder of a run, or the name of a model that comes with the project."""

from __future__ import annotations

import os
from glob import glob
from pathlib import Path

from latent_diffusion.errors import CheckpointError

_INSTALLED = Path(__file__).resolve().parent / "weights"
# <name>/model.safetensors: a wheel has them inside this package, a clone has them beside it
WEIGHTS = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "weights"
DEFAULT_MODEL = "quickstart"
SUFFIXES = ("*.safetensors", "*.ckpt")


def model_names() -> list[str]:
    """Names of the models that lie here, sorted."""
    return sorted(file.parent.name for file in WEIGHTS.glob("*/model.safetensors"))


def names_here() -> str:
    """The names, for help and errors."""
    return ", ".join(model_names()) or f"none, for {WEIGHTS} holds no <name>/model.safetensors"


def find_checkpoint(given: str | Path, key: str) -> Path:
    """The weights file that an option or a configuration's value means.

    Args:
        given: a model's name (before a path of the same name: write ./name or a `Path` for that); a file; the folder
            of a run, meaning its `checkpoints/last.ckpt`; a folder with one weights file; or a pattern with `*` (newest
            match).
        key: the option or the configuration's key, for the error.

    Raises:
        CheckpointError: there is none, or more than one.
    """
    if str(given).startswith("~"):
        given = Path(given).expanduser()
    if given in model_names():
        return WEIGHTS / given / "model.safetensors"
    if "*" in str(given) and (matches := glob(str(given))):
        return find_checkpoint(Path(max(matches, key=lambda found: Path(found).stat().st_mtime)), key)
    path = Path(given)
    if os.path.isfile(path):
        return path
    if given == "" or not os.path.isdir(path):
        raise CheckpointError(
            f"{key}: {given}: no such file; check the path, or train or download the weights first "
            f"(models known by name: {names_here()})"
        )
    if (path / "checkpoints" / "last.ckpt").is_file():
        return path / "checkpoints" / "last.ckpt"
    found = sorted(file for suffix in SUFFIXES for file in path.glob(suffix))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise CheckpointError(
            f"{key}: {path}: expected the folder of a run (checkpoints/last.ckpt), or one weights file in it, "
            f"found {names} (models known by name: {names_here()})"
        )
    return found[0]
