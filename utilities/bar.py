"""A progress bar for what takes long: a whole song, or a validation that samples."""

from __future__ import annotations

from tqdm import tqdm

SHOWN = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"


class Bar:
    """A progress bar with the time left: called with (done, total); a context that takes it away in the end.

    It does not appear before there is something to show: what is refused first stays one line.
    """

    def __init__(self, label: str, quiet: bool = False):
        self.label, self.quiet = label, quiet
        self._bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            how = {"bar_format": SHOWN, "leave": False, "dynamic_ncols": True}
            self._bar = tqdm(desc=self.label, total=total, disable=self.quiet, **how)
        self._bar.update(done - self._bar.n)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
