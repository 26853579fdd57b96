"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def shadow_name(parameter_name: str) -> str:
    """Name of a parameter's average in the published checkpoints: the dotted name without its dots."""
    return parameter_name.replace(".", "")


class EMA(nn.Module):
    """Averages of the trainable parameters of a model, stored as the published `model_ema.*` buffers.

    shadow -= (1 - d) (shadow - parameter) with d = min(decay, (1 + n) / (10 + n)) at the n-th update, n from 1.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999):
        super().__init__()
        self.register_buffer("decay", torch.tensor(decay, dtype=torch.float32))
        self.register_buffer("num_updates", torch.tensor(0, dtype=torch.int32))
        for name, parameter in self._trainable(model):
            self.register_buffer(shadow_name(name), parameter.detach().clone())

    @staticmethod
    def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in model.named_parameters() if p.requires_grad)

    def _pairs(self, model: nn.Module) -> Iterator[tuple[Tensor, nn.Parameter]]:
        return ((getattr(self, shadow_name(name)), p) for name, p in self._trainable(model))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the averages towards the model's present weights."""
        self.num_updates += 1
        n = int(self.num_updates)
        decay = min(float(self.decay), (1 + n) / (10 + n))
        shadows, parameters = zip(*self._pairs(model), strict=True)
        torch._foreach_lerp_(list(shadows), [p.detach() for p in parameters], 1.0 - decay)

    @contextmanager
    def averaged(self, model: nn.Module) -> Iterator[None]:
        """The model carries the averages inside the block, its own weights again after it. Nothing is copied."""
        pairs = list(self._pairs(model))
        own = [p.data for _, p in pairs]
        try:
            for shadow, p in pairs:
                p.data = shadow
            yield
        finally:
            for (_, p), data in zip(pairs, own, strict=True):
                p.data = data
