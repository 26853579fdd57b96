"""The transformer over latent frames: shapes, levels for each stem, conditions, and what training makes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.diffusion.guidance import Condition, guided_denoiser
from latent_diffusion.diffusion.loss import LossSettings, diffusion_loss
from latent_diffusion.diffusion.samplers import sample
from latent_diffusion.errors import ConfigError
from latent_diffusion.musicldm import MusicLDM, TrainingSettings
from latent_diffusion.networks import StemTransformer, UNet3d, build_network
from latent_diffusion.networks.stem_transformer import rotary_angles, rotate
from latent_diffusion.plan import ROWS
from latent_diffusion.settings import (
    AutoencoderSettings,
    DiffusionSettings,
    MelSettings,
    ModelSettings,
    StemTransformerSettings,
    UNetSettings,
    VocoderSettings,
)

SMALL = StemTransformerSettings(stems=3, latent_channels=5, latent_bins=2, width=16, depth=2, heads=2)
MODEL = ModelSettings(
    stems=("bass", "drums"),
    mel=MelSettings(frames=64),
    autoencoder=AutoencoderSettings(kind="patch", ch=4, ch_mult=(1, 1, 1, 1), num_res_blocks=1, num_groups=2),
    vocoder=VocoderSettings("griffin_lim"),
    unet=StemTransformerSettings(stems=2, width=16, depth=1, heads=2),
    diffusion=DiffusionSettings(parameterization="v"),
)


def network(settings: StemTransformerSettings = SMALL) -> StemTransformer:
    """With weights that are not zero anywhere, so that every input counts."""
    torch.manual_seed(0)
    net = StemTransformer(settings).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def inputs(batch: int = 2, frames: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, 5, frames, 2, generator=generator)
    mixture = torch.randn(batch, 5, frames, 2, generator=generator)
    plan = torch.randn(batch, ROWS, frames, generator=generator)
    return x, torch.tensor([3, 900][:batch]), mixture, plan


@torch.no_grad()
def test_shapes_and_absent_conditions() -> None:
    net = network()
    x, t, mixture, plan = inputs()
    out = net(x, t)
    assert out.shape == x.shape
    torch.testing.assert_close(out, net(x, t, torch.zeros_like(mixture), torch.zeros_like(plan)))
    assert not torch.allclose(out, net(x, t, mixture))
    assert not torch.allclose(out, net(x, t, None, plan))
    assert network()(inputs(frames=30)[0], t).shape == (2, 3, 5, 30, 2)


@torch.no_grad()
def test_every_stem_has_its_own_level() -> None:
    net = network()
    x, t, _, _ = inputs()
    same = net(x, t[:, None].expand(2, 3))
    torch.testing.assert_close(net(x, t), same)
    given = t[:, None].repeat(1, 3)
    given[:, 1] = -1
    assert not torch.allclose(net(x, given), same)


@torch.no_grad()
def test_positions_are_relative() -> None:
    """With one block, what the last frame takes from the others depends on how far away they are."""
    net = network(replace(SMALL, kernel_size=1, depth=1))
    x, t, _, _ = inputs(batch=1, frames=6)
    rotation = rotary_angles(6, SMALL, x.device)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(3)).expand(2, 1, 1, 6, 8).unbind(0)
    scores = rotate(q, rotation) @ rotate(k, rotation).transpose(-1, -2)
    for distance in range(-5, 6):
        along = torch.diagonal(scores[0, 0], distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-5, rtol=1e-4)
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    assert not torch.allclose(net(x[:, :, :, order], t)[..., 5, :], net(x, t)[..., 5, :])


def test_starts_as_nothing_and_learns() -> None:
    """Every output is 0 before training: the velocity's mean. A few steps on one batch lower the loss."""
    torch.manual_seed(0)
    net = StemTransformer(SMALL)
    x, t, mixture, _ = inputs()
    assert not bool(net(x, t, mixture).any())
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = ((net(x, t, mixture) - x) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_build_network() -> None:
    assert isinstance(build_network(SMALL), StemTransformer)
    assert isinstance(build_network(UNetSettings(model_channels=8, channel_mult=(1,), num_groups=2)), UNet3d)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"heads": 5}, "multiple of twice the heads"), ({"kernel_size": 4}, "odd")],
)
def test_bad_settings(change: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(SMALL, **change)


def test_settings_survive_being_stored() -> None:
    assert ModelSettings.from_dict(MODEL.to_dict()) == MODEL
    with pytest.raises(ConfigError, match="stems, channels, bins"):
        replace(MODEL, unet=replace(MODEL.unet, latent_bins=4))


def test_levels_of_stems_in_schedule_and_loss() -> None:
    schedule = NoiseSchedule(DiffusionSettings(parameterization="v"))
    torch.manual_seed(0)
    z0, noise, output = torch.randn(3, 2, 3, 4, 5, 2).unbind(0)
    t = torch.tensor([[5, 700, 5], [-1, 40, 40]])
    z_t = schedule.add_noise(z0, noise, t)
    torch.testing.assert_close(z_t[1, 0], z0[1, 0])  # given: without noise
    for item, stem in ((0, 1), (1, 2)):
        alone = schedule.add_noise(z0[item, stem][None], noise[item, stem][None], t[item, stem][None])
        torch.testing.assert_close(z_t[item, stem], alone[0])
    found = diffusion_loss(schedule, z0, z_t, noise, output, t, LossSettings())["loss"]
    error = ((output - schedule.target(z0, noise, t)) ** 2).mean((2, 3, 4))
    torch.testing.assert_close(found, (error[0].mean() + error[1, 1:].mean()) / 2)
    same = t[:1, :1].expand(1, 3)
    several = diffusion_loss(schedule, z0[:1], z_t[:1], noise[:1], output[:1], same, LossSettings(snr_gamma=5.0))
    one = diffusion_loss(schedule, z0[:1], z_t[:1], noise[:1], output[:1], same[:, 0], LossSettings(snr_gamma=5.0))
    torch.testing.assert_close(several["loss"], one["loss"])


@torch.no_grad()
def test_sampling_around_given_stems() -> None:
    """Given stems reach the network as they are, at level -1, and come back untouched."""
    schedule = NoiseSchedule(DiffusionSettings(parameterization="v"))
    known = torch.randn(1, 3, 5, 7, 2, generator=torch.Generator().manual_seed(2))
    given = torch.tensor([False, True, False])
    seen = []

    def spy(z: torch.Tensor, t: torch.Tensor, mixture: torch.Tensor | None) -> torch.Tensor:
        seen.append((z.clone(), t.clone()))
        return torch.zeros_like(z)

    denoiser = guided_denoiser(spy, Condition(given=given), 0.0)
    mask = given.float().reshape(1, 3, 1, 1, 1)
    z = sample(denoiser, known.shape, schedule, "ddim", 4, 0.0, known=known, mask=mask, given=given)
    torch.testing.assert_close(z[:, 1], known[:, 1])
    assert len(seen) == 4
    for z_t, t in seen:
        torch.testing.assert_close(z_t[:, 1], known[:, 1])
        assert t[0, 1] == -1
        assert t[0, 0] == t[0, 2] >= 0


@torch.no_grad()
def test_guidance_by_a_plan() -> None:
    """e_u + s (e_p - e_u), in one batch; scale 1 is the network with the plan, scale 0 without."""
    net = network()
    x, t, _, plan = inputs()
    with_plan, without = net(x, t, None, plan), net(x, t)
    told = Condition(plan=plan)
    for scale in (0.0, 1.0, 2.5):
        expected = without + scale * (with_plan - without)
        torch.testing.assert_close(guided_denoiser(net, told, scale)(x, t), expected, atol=1e-5, rtol=1e-4)


def test_draw_given() -> None:
    module = MusicLDM(MODEL, TrainingSettings(given_share=0.5))
    t = module.draw_given(torch.full((4000,), 7), torch.Generator().manual_seed(0))
    assert t.shape == (4000, 2)
    assert set(t.unique().tolist()) == {-1, 7}
    assert not bool((t == -1).all(1).any())  # something is always made
    assert 0.1 < float((t == -1).any(1).float().mean()) < 0.3
    with pytest.raises(ConfigError, match="given_share"):
        MusicLDM(
            replace(MODEL, unet=UNetSettings(2, 2, 8, 1, (1,), (), 4, num_groups=2)), TrainingSettings(given_share=0.5)
        )


def test_mean_and_scale_of_bands() -> None:
    module = MusicLDM(MODEL, TrainingSettings(scale_per_band=True))
    spread = torch.linspace(1, 4, 8).reshape(8, 1, 1) * torch.linspace(1, 2, 8)
    z = torch.randn(3, 2, 8, 400, 8, generator=torch.Generator().manual_seed(0)) * spread + 5 * spread
    scale, mean = module.latent_statistics(z)
    assert scale.shape == mean.shape == (8, 1, 8)
    torch.testing.assert_close(1 / scale, spread, rtol=0.1, atol=0)
    torch.testing.assert_close(mean, 5 * spread, rtol=0.1, atol=0)
    module._set_scale(scale, mean)
    pipeline = module.pipeline
    torch.testing.assert_close(pipeline.undo_scale((z - mean) * scale), z, rtol=1e-4, atol=1e-4)
    assert {"scale_factor", "latent_mean"} <= set(module.state_dict())
    plain = MusicLDM(MODEL)
    assert "latent_mean" not in plain.state_dict()  # published checkpoints have none


def test_a_training_step() -> None:
    module = MusicLDM(MODEL, TrainingSettings(scale_per_band=True, given_share=0.5, cond_drop_prob=0.5))
    waves = 0.1 * torch.randn(4, 2, 64 * 160, generator=torch.Generator().manual_seed(0))
    batch = {"stems": waves, "mixture": waves.sum(1), "name": list("abcd")}
    losses = module.losses(batch, torch.Generator().manual_seed(1), 0.5)
    losses["loss"].backward()
    assert bool(losses["loss"].isfinite())
    assert bool(module.model.diffusion_model.output.weight.grad.any())
