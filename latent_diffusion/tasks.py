"""The three tasks: which stems are made, which are known, and what guides them. Decided here and nowhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_diffusion.diffusion.guidance import Scale
from latent_diffusion.errors import ConfigError
from latent_diffusion.plan import Plan

REFINEMENTS = ("mask", "none")
MASK_EXPONENT = 2.0  # of the mel magnitudes: 2 compares energies
MEAN_MASK_EXPONENT = 1.2  # of expected stems, which hedge: their masks must be softer
PLAN_SCALE = 1.5  # of the guidance by a plan: more keeps stricter time and strays further from real songs
MASK_ROUNDS = 2  # in which masks are sharpened beyond the width of mel bands
MOST_MASK_ROUNDS = 20  # each looks further around; there is nothing to gain after the third


def _any_nonzero(scale: Scale) -> bool:
    return any(scale) if isinstance(scale, (list, tuple)) else bool(scale)


@dataclass(frozen=True)
class Task:
    """What a sampling run is to do.

    Args:
        guidance_scale: weight of the mixture's condition: one number, or one number a stem.
    """

    guidance_scale: Scale = 1.0

    name = "task"
    plan = None

    def generated(self, stems: tuple[str, ...]) -> tuple[str, ...]:
        """The stems that are made, in the model's order."""
        return stems

    @property
    def needs_mixture(self) -> bool:
        """Whether the mixture's latent takes part."""
        return _any_nonzero(self.guidance_scale)

    def known_mask(self, stems: tuple[str, ...]) -> Tensor | None:
        """1 for stems that are kept, 0 for those that are made, shaped (1, S, 1, 1, 1); None where all are made."""
        made = self.generated(stems)
        if len(made) == len(stems):
            return None
        return torch.tensor([float(stem not in made) for stem in stems]).reshape(1, -1, 1, 1, 1)


@dataclass(frozen=True)
class MaskSettings:
    """How stems are cut out of a mixture.

    Args:
        refine: "mask" for waveforms cut out of the mixture itself by the stems' log-mels, which sum to it; "none", as
            published, for what the vocoder makes of the log-mels.
        exponent: of the magnitudes that the masks compare; a higher one gives more of a place to its loudest stem.
            None: 2, and 1.2 for the sampler "mean".
        rounds: how often median filters sharpen the masks (see `inference.median_filters`); 0: masks as wide as mel
            bands. Each round costs time.

    Raises:
        ConfigError: another refinement, an exponent that is not above 0, or rounds out of range.
    """

    refine: str = "mask"
    exponent: float | None = None
    rounds: int = MASK_ROUNDS

    def __post_init__(self) -> None:
        if self.refine not in REFINEMENTS:
            raise ConfigError(f"refine: found {self.refine!r}, expected one of {', '.join(REFINEMENTS)}")
        if self.exponent is not None and not (math.isfinite(self.exponent) and self.exponent > 0):
            raise ConfigError(f"mask exponent: found {self.exponent}, expected a number above 0")
        if not 0 <= self.rounds <= MOST_MASK_ROUNDS:
            raise ConfigError(f"mask rounds: found {self.rounds}, expected 0 to {MOST_MASK_ROUNDS}")

    def exponent_or(self, suited: float) -> float:
        """The exponent that was asked for, else the one that suits the sampler."""
        return suited if self.exponent is None else self.exponent


@dataclass(frozen=True)
class Separation(Task):
    """All stems from their mixture.

    Args:
        guidance_scale: above 1 follows the mixture more closely.
        masks: how the stems' waveforms are made, and how further passes cut the mixture; by default, as published, the
            vocoder makes them.
    """

    masks: MaskSettings = MaskSettings(refine="none")

    name = "separation"

    def __post_init__(self) -> None:
        if not self.needs_mixture:
            raise ConfigError(
                "separation: guidance scale 0 leaves the mixture out; use a scale above 0 or task generation"
            )


@dataclass(frozen=True)
class Generation(Task):
    """All stems from nothing.

    Args:
        plan: beats and chords to follow, for networks that take a plan, or one for each item; None for none.
        plan_scale: how closely it is followed; 1 as in training, more at the cost of a second network call.
    """

    guidance_scale: Scale = 0.0
    plan: Plan | tuple[Plan, ...] | None = None
    plan_scale: float = PLAN_SCALE

    name = "generation"


@dataclass(frozen=True)
class Arrangement(Task):
    """Some stems for given others: the published inpainting.

    Args:
        guidance_scale: 0, the default, ignores the mixture; above it the mixture that the caller passes guides.
        generate: names of the stems to make; the others are kept.
        plan, plan_scale: as in `Generation`.
    """

    guidance_scale: Scale = 0.0
    generate: tuple[str, ...] = ()
    plan: Plan | tuple[Plan, ...] | None = None
    plan_scale: float = PLAN_SCALE

    name = "arrangement"

    def generated(self, stems: tuple[str, ...]) -> tuple[str, ...]:
        """The stems to make, in the model's order.

        Raises:
            ConfigError: none named, or one that the model does not have.
        """
        unknown = [stem for stem in self.generate if stem not in stems]
        if unknown or not self.generate:
            raise ConfigError(
                f"stems_to_inpaint: found {', '.join(self.generate) or 'nothing'}, expected some of {', '.join(stems)}"
            )
        return tuple(stem for stem in stems if stem in self.generate)


def make_task(name: str, guidance_scale: Scale | None = None, generate: tuple[str, ...] = ()) -> Task:
    """A task by name.

    Args:
        name: separation, generation or arrangement.
        guidance_scale: None for the task's own default (1, 0 and 0).
        generate: stems to make, for arrangement.

    Raises:
        ConfigError: another name.
    """
    kinds = {"separation": Separation, "generation": Generation, "arrangement": Arrangement}
    if name not in kinds:
        raise ConfigError(f"task: found {name!r}, expected one of {', '.join(kinds)}")
    kwargs = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    if name == "arrangement":
        kwargs["generate"] = tuple(generate)
    return kinds[name](**kwargs)
