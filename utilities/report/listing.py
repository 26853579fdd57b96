"""What there is to hear, see and read in a run; `python -m utilities.report.listing FOLDER`: in all runs below it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from latent_diffusion.errors import DataError

from ..evaluation.folders import newest_results, read_json, targets_of


def what_to_open(run: Path) -> list[str]:
    """Lines that name the newest results of a run folder; none if nothing was made.

    Args:
        run: a run folder, with `val_<step>` and `target_<step>` in it.

    Raises:
        DataError: it cannot be told whether a folder holds results.
    """
    tree = newest_results(run)
    wavs = sorted((tree / "mix").glob("*.wav")) if tree else []
    if tree is None or not wavs:
        return []
    stems = [f.name for f in sorted(tree.iterdir()) if f.is_dir() and not f.is_symlink() and any(f.glob("*.wav"))]
    pictures = sorted((tree / "spectrograms").glob("*.png"))
    item = pictures[0].with_suffix(".wav").name if pictures else wavs[0].name
    lines = [f"hear  {tree}/{{{','.join(stems)}}}/{item}" + (f" and {len(wavs) - 1} more" if len(wavs) > 1 else "")]
    if target := targets_of(tree):
        lines.append(f"      the targets: {target}/")
    lines += [f"see   {picture}" for picture in pictures[:1]]
    if metrics := read_json(tree / "metrics.json"):
        lines.append(f"read  {tree / 'metrics.json'}{_headline(metrics)}")
    if (run / "report.html").is_file():
        lines.append(f"open  {run / 'report.html'}")
    return lines


def _headline(metrics: dict) -> str:
    """The number that says most about a run, in words."""
    parts = (metrics.get(part, {}).get("sounding", {}) for part in ("model", "mixture_as_every_stem"))
    model, mixture = (part.get("log_mel_mse", {}).get("mean") for part in parts)
    if model is None or mixture is None:
        return ""
    return f": log-mel error of sounding stems {model:.2f}, the unprocessed mixture's {mixture:.2f}"


def main() -> int:
    """List every run below a folder, the oldest first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a run folder, or a folder with run folders below it")
    folder = parser.parse_args().folder
    if not folder.is_dir():
        print(f"error: {folder}: no such folder, expected one with runs", file=sys.stderr)
        return 2
    for run in sorted({tree.parent for tree in folder.rglob("val_*") if tree.is_dir()}):
        try:
            lines = what_to_open(run)
        except (DataError, OSError) as error:
            lines = [f"left out: {error}"]
        if lines:
            print("\n".join([run.name, *(f"  {line}" for line in lines)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
