"""The 3-D U-Net at any size: shapes, the condition, gradients, how it starts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from latent_diffusion.settings import UNetSettings
from latent_diffusion.unet import UNet3d

SMALL = UNetSettings(2, 2, 8, 1, (1, 2), (2,), num_head_channels=8, num_groups=4)


def unet(settings: UNetSettings = SMALL, random: bool = True) -> UNet3d:
    """A network; `random` also fills the layers that start at zero."""
    torch.manual_seed(0)
    network = UNet3d(settings)
    if random:
        with torch.no_grad():
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(0.0, 0.1)
    return network.eval()


def inputs(batch: int, stems: int, channels: int, frames: int, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, stems, channels, frames, bins, generator=generator)
    mixture = torch.randn(batch, channels, frames, bins, generator=generator)
    return x, torch.arange(batch) * 311 % 1000, mixture


@pytest.mark.parametrize("stems", [1, 3, 5])
@pytest.mark.parametrize("size", [(1, 4, 2), (8, 10, 6), (3, 2, 16)])
@pytest.mark.parametrize("scale_shift", [False, True])
def test_any_size(stems: int, size: tuple[int, int, int], scale_shift: bool) -> None:
    settings = replace(SMALL, in_channels=stems, out_channels=stems, use_scale_shift_norm=scale_shift)
    network = unet(settings)
    x, t, mixture = inputs(2, stems, *size)
    with torch.no_grad():
        output = network(x, t, mixture)
        assert output.shape == x.shape and bool(output.isfinite().all())
        assert not torch.allclose(output, network(x, t + 1, mixture))
        assert not torch.allclose(output, network(x, t, mixture + 1))
        assert torch.equal(network(x, t, None), network(x, t, torch.zeros_like(mixture)))


def test_one_network_takes_several_lengths() -> None:
    network = unet()
    with torch.no_grad():
        for frames in (2, 6, 64):
            assert network(*inputs(1, 2, 4, frames, 8)).shape == (1, 2, 4, frames, 8)


def test_published_topology_at_small_width() -> None:
    """Four levels, two blocks, attention on three of them: T and F need to be multiples of 8 only."""
    network = unet(UNetSettings(model_channels=8, num_head_channels=8, num_groups=4))
    with torch.no_grad():
        assert network(*inputs(1, 4, 2, 24, 8)).shape == (1, 4, 2, 24, 8)


def test_items_do_not_see_each_other() -> None:
    network, (x, t, mixture) = unet(), inputs(3, 2, 4, 8, 4)
    with torch.no_grad():
        together = network(x, t, mixture)
        for i in range(3):
            alone = network(x[i : i + 1], t[i : i + 1], mixture[i : i + 1])
            torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)


def test_starts_at_zero() -> None:
    """The last layer and the last layer of each block start at zero: the network's first output is nothing."""
    network = unet(random=False)
    with torch.no_grad():
        assert not network(*inputs(2, 2, 4, 8, 4)).any()


@pytest.mark.parametrize("scale_shift", [False, True])
def test_gradient_reaches_every_parameter(scale_shift: bool) -> None:
    network = unet(replace(SMALL, use_scale_shift_norm=scale_shift)).train()
    x, t, mixture = inputs(2, 2, 4, 8, 4)
    (network(x, t, mixture) * x).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_a_new_network_learns() -> None:
    """Zeros in the last layer do not keep the others from learning."""
    network, (x, t, mixture) = unet(random=False).train(), inputs(2, 2, 4, 8, 4)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimiser = torch.optim.AdamW(network.parameters(), 1e-2, weight_decay=0.0)
    losses = []
    for _ in range(30):
        loss = ((network(x, t, mixture) - mixture[:, None]) ** 2).mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]
    # a bias that a norm takes out again, or that softmax ignores, may stay
    unmoved = [n for n, p in network.named_parameters() if torch.equal(p, before[n]) and not n.endswith("bias")]
    assert not unmoved


def test_dropout() -> None:
    network, given = unet(replace(SMALL, dropout=0.5)), inputs(2, 2, 4, 8, 4)
    with torch.no_grad():
        assert torch.equal(network(*given), network(*given))
        network.train()
        torch.manual_seed(0)
        first = network(*given)
        assert not torch.allclose(first, network(*given))
        torch.manual_seed(0)
        assert torch.equal(first, network(*given))


@pytest.mark.parametrize("width", [8, 12])
def test_groups_that_do_not_divide_are_lowered(width: int) -> None:
    network = unet(replace(SMALL, model_channels=width, num_head_channels=width, num_groups=32))
    with torch.no_grad():
        assert bool(network(*inputs(1, 2, 4, 8, 4)).isfinite().all())
