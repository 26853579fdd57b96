"""What the commands of `msgld` share in reading their arguments."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; argparse would print the usage before it."""

    def error(self, message: str) -> None:
        """Exit with status 2."""
        self.exit(2, f"error: {message} ({self.prog} --help shows what is expected)\n")


def given_name(text: str) -> str:
    """A path or name as typed, `~` being the home folder.

    An empty one, from an unset variable of the shell, would mean the current folder.

    Raises:
        argparse.ArgumentTypeError: it is empty.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("found an empty name, expected a path")
    return os.path.expanduser(text)


def given_path(text: str) -> Path:
    """As `given_name`, as a path."""
    return Path(given_name(text))


def guidance(text: str) -> float | dict[str, float]:
    """A guidance scale as typed: `2`, or `bass=2,drums=0.5`."""
    try:
        if "=" not in text:
            return float(text)
        pairs = [(name.strip(), float(value)) for name, value in (part.split("=") for part in text.split(","))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number, or bass=2,drums=0.5") from None
    if len(dict(pairs)) < len(pairs):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected each stem once")
    return dict(pairs)


def names(text: str) -> list[str]:
    """Names separated by commas."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected names, for example drums,bass")
    return found
