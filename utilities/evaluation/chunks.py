"""SI-SDR improvement on short chunks: the protocol with which separators of four stems are compared on Slakh2100.

As Mariani et al., "Multi-Source Diffusion Models for Simultaneous Music Generation and Separation" (MSDM, ICLR 2024)
describe it: chunks of 4 s that overlap by 2 s; silent chunks, and chunks in which only one stem sounds, are left out.
What counts as silent is this project's rule (`SILENCE_DBFS`), not theirs, so that figures near theirs are comparable
and not identical. Chunks start at 0, 2, 4 ... s; what is left at the end and does not fill a chunk is not scored, but
an item shorter than one chunk is one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .metrics import MetricTable, is_silent, si_sdr, track_of

CHUNK_SECONDS = 4.0
OVERLAP_SECONDS = 2.0
METRIC = "msdm_si_sdri"


class ChunkScores:
    """Collects the improvement of every stem in every chunk that counts.

    Args:
        seconds: length of a chunk.
        overlap: of two neighbouring chunks, in seconds; less than `seconds`.
    """

    def __init__(self, seconds: float = CHUNK_SECONDS, overlap: float = OVERLAP_SECONDS) -> None:
        if not 0 <= overlap < seconds:
            raise ValueError(f"found chunks of {seconds:g} s that overlap by {overlap:g} s, expected less overlap")
        self.seconds, self.overlap = seconds, overlap
        self.table = MetricTable()
        self.counts: dict[str, tuple[int, int, int]] = {}  # item -> chunks: all, without a sound, with one stem only

    def add(
        self,
        item: str,
        estimates: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        mixture: Tensor,
        sample_rate: int,
    ) -> None:
        """Score an item.

        Args:
            item: its name, `<track>_from_<second>` or a track's.
            estimates: stem -> waveform (..., N); stems that lack one are not scored.
            targets: stem -> waveform (..., N), every stem of the mixture: how many sound decides which chunks count.
            mixture: waveform (..., N).
            sample_rate: hz.
        """
        samples = min(part.shape[-1] for part in (*estimates.values(), *targets.values(), mixture))
        length = min(round(self.seconds * sample_rate), samples)
        step = max(1, round((self.seconds - self.overlap) * sample_rate))
        starts = range(0, samples - length + 1, step)
        silent = alone = 0
        for start in starts:
            cut = slice(start, start + length)
            sounding = [s for s, target in targets.items() if not _silent(target[..., cut])]
            silent += not sounding
            alone += len(sounding) == 1
            if len(sounding) < 2:
                continue
            for stem in set(sounding) & estimates.keys():
                target = targets[stem][..., cut]
                ours, baseline = si_sdr(estimates[stem][..., cut], target), si_sdr(mixture[..., cut], target)
                value = None if ours is None or baseline is None else ours - baseline
                self.table.add(f"{self.prefix(item)}+{start / sample_rate:g}", stem, METRIC, value)
        self.counts[item] = (len(starts), silent, alone)

    @staticmethod
    def prefix(item: str) -> str:
        """What the names of an item's chunks begin with; their track is the item's."""
        track = track_of(item)
        return f"{track}_from_{item.removeprefix(f'{track}_from_') if item != track else ''}"

    def merge(self, other: ChunkScores) -> None:
        """Take over the scores of another process."""
        self.table.merge(other.table)
        self.counts |= other.counts

    def summary(self, stems: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
        """`{stem: {"mean", "ci95", "count", ...}, "all": ...}` as in `MetricTable.summary`, and in "about" the chunks.

        Args:
            stems: the stems' names in the order wanted.
            seed: of the bootstrap.
        """
        found = {stem: cell[METRIC] for stem, cell in self.table.summary(stems, seed=seed).items() if cell}
        chunks, silent, alone = (sum(numbers) for numbers in zip((0, 0, 0), *self.counts.values(), strict=True))
        about = {"seconds": self.seconds, "overlap": self.overlap, "chunks": chunks}
        return found | {"about": about | {"left_out_silent": silent, "left_out_one_stem": alone}}


def _silent(waveform: Tensor) -> bool:
    return is_silent(waveform - waveform.mean())
