"""Multi-source latent diffusion: separate, generate and arrange stems with one model."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["MaskSettings", "MultiTrackPipeline", "SamplingSettings"]


def __getattr__(name: str) -> Any:
    """The names above, imported when they are asked for: `import latent_diffusion` alone stays quick."""
    if name in __all__:
        from latent_diffusion import inference

        return getattr(inference, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
