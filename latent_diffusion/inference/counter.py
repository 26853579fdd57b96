"""Progress of a run: network calls, then windows of the vocoder and blocks of the masks, counted as one number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from latent_diffusion.diffusion.samplers import Progress


class Counter:
    """Counts what takes the time.

    A run has stages, each of so many steps. Some samplers take one call more than they have steps; it is not counted.

    Args:
        total: steps of all stages together.
        progress: called with (steps done, total) after each step; None for nobody.
    """

    def __init__(self, total: int = 0, progress: Progress | None = None):
        self.total, self.progress = total, progress
        self.done = self.limit = 0

    def stage(self, steps: int) -> None:
        """A stage of so many steps begins; the one before is done."""
        self.done = self.limit
        self.limit += steps

    def tick(self, steps: int = 1) -> None:
        """So many steps of this stage are done."""
        if self.done < self.limit:
            self.done = min(self.done + steps, self.limit)
            if self.progress:
                self.progress(self.done, self.total)

    def passing(self, pieces: Iterable[Tensor], samples: int, steps: int) -> Iterator[Tensor]:
        """Pieces (..., n), `samples` in all, counted as they pass as stages that have `steps` together."""
        passed = done = 0
        for piece in pieces:
            yield piece
            passed += piece.shape[-1]
            now = steps * passed // samples
            self.stage(now - done)
            self.tick(now - done)
            done = now
