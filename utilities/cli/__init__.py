"""The `msgld` command, one module for each group of commands; `python -m utilities.cli` is the same in a clone."""

from .command import main

__all__ = ["main"]
