"""What there is to hear, see and read in a run; `python -m utilities.report.listing FOLDER`: in all runs below it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def what_to_open(run: Path) -> list[str]:
    """Lines that name the newest results of a run folder; none where nothing was made.

    Args:
        run: a run folder, with `val_<step>` and `target_<step>` in it.
    """
    trees = sorted(run.glob("val_*"), key=lambda tree: int(tree.name.partition("_")[2]))
    wavs = sorted((trees[-1] / "mix").glob("*.wav")) if trees else []
    if not wavs:
        return []
    tree, target = trees[-1], trees[-1].with_name(trees[-1].name.replace("val_", "target_"))
    stems = [f.name for f in sorted(tree.iterdir()) if f.is_dir() and not f.is_symlink() and any(f.glob("*.wav"))]
    pictures = sorted((tree / "spectrograms").glob("*.png"))
    item = pictures[0].with_suffix(".wav").name if pictures else wavs[0].name
    lines = [
        f"hear  {tree}/{{{','.join(stems)}}}/{item}" + (f" and {len(wavs) - 1} more" if len(wavs) > 1 else ""),
        f"      beside what it should be: {target}/",
    ]
    if pictures:
        lines.append(f"see   {pictures[0]}")
    numbers = tree / "metrics.json"
    if numbers.is_file():
        lines.append(f"read  {numbers}{_headline(json.loads(numbers.read_text(encoding='utf-8')))}")
    if (run / "report.html").is_file():
        lines.append(f"open  {run / 'report.html'}")
    return lines


def _headline(metrics: dict) -> str:
    """The number that says most about a run, in words."""
    model = metrics.get("model", {}).get("sounding", {}).get("log_mel_mse", {}).get("mean")
    mixture = metrics.get("mixture_as_every_stem", {}).get("sounding", {}).get("log_mel_mse", {}).get("mean")
    if model is None or mixture is None:
        return ""
    return f": log-mel error of sounding stems {model:.2f}, the bare mixture's {mixture:.2f}"


def main() -> int:
    """List every run below a folder, the oldest first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a run folder, or a folder with run folders below it")
    folder = parser.parse_args().folder
    if not folder.is_dir():
        print(f"error: {folder}: no such folder, expected one with runs", file=sys.stderr)
        return 2
    runs = sorted({tree.parent for tree in folder.rglob("val_*") if tree.is_dir()})
    for run in runs:
        lines = what_to_open(run)
        if lines:
            print("\n".join([run.name, *(f"  {line}" for line in lines)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
