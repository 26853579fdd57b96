"""Group norm in the memory layout that PyTorch's own kernel is inexact in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latent_diffusion.layers import group_norm


def inputs(layout: torch.memory_format) -> Tensor:
    """Features whose mean is 500 times their spread."""
    features = 5.0 + 0.01 * torch.randn(2, 12, 64, 16, generator=torch.Generator().manual_seed(0))
    return features.to(memory_format=layout)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_group_norm_is_exact_in_every_layout(layout: torch.memory_format) -> None:
    norm, x = group_norm(12, 4, 1e-6), inputs(layout)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(2))
    weight, bias = (parameter.detach().double() for parameter in (norm.weight, norm.bias))
    expected = torch.nn.functional.group_norm(x.double(), 4, weight, bias, 1e-6)
    before = x.clone()
    with torch.no_grad():
        result = norm(x)
    assert torch.equal(x, before) and result.is_contiguous(memory_format=layout)
    torch.testing.assert_close(result.double(), expected, atol=2e-4, rtol=0)


def test_group_norm_has_the_same_gradients_in_every_layout() -> None:
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        norm, x = group_norm(12, 4, 1e-6), inputs(layout).requires_grad_()
        (norm(x) ** 3).sum().backward()
        gradients.append((x.grad, norm.weight.grad, norm.bias.grad))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3 * float(theirs.abs().max()), rtol=0)
