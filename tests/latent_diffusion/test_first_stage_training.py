"""Training of the VAE and the vocoder: objectives by hand, two optimisers, checkpoints, resuming."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from latent_diffusion.errors import CheckpointError, ConfigError
from latent_diffusion.first_stage import AutoencoderKL, DiagonalGaussian, HiFiGAN
from latent_diffusion.first_stage.training import (
    AutoencoderLossSettings,
    AutoencoderTraining,
    PatchDiscriminator,
    VocoderLossSettings,
    VocoderTraining,
    WaveformDiscriminator,
)
from latent_diffusion.first_stage.training.losses import (
    AutoencoderLoss,
    MultiResolutionSTFTLoss,
    adaptive_weight,
    feature_matching_loss,
    hinge_discriminator_loss,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
)
from latent_diffusion.first_stage.training.segments import (
    cut,
    draw_segments,
    segment_weights,
    step_generator,
)
from latent_diffusion.rates import rate_factor
from latent_diffusion.settings import AutoencoderSettings, MelSettings, VocoderSettings

MEL = MelSettings(n_fft=256, win_length=256, hop_length=64, n_mels=16, frames=64)
VAE = AutoencoderSettings(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, embed_dim=4, num_groups=4)
VOCODER = VocoderSettings(
    num_mels=16,
    upsample_initial_channel=32,
    upsample_rates=(4, 4, 4),
    upsample_kernel_sizes=(8, 8, 8),
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 3),),
)
VAE_LOSS = AutoencoderLossSettings(disc_start=-1, disc_channels=4, disc_layers=2)
VOCODER_LOSS = VocoderLossSettings(
    disc_start=-1, disc_periods=(2, 3), disc_period_channels=2, disc_scales=2, disc_scale_channels=4
)

Training = AutoencoderTraining | VocoderTraining


def tones(seed: int, stems: int = 3) -> dict[str, Any]:
    """A batch of two windows: two harmonic tones a window and a silent last stem."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(MEL.window_samples) / MEL.sample_rate
    hz = 200 + 1000 * torch.rand(2, stems, 1, generator=g)
    waves = sum(torch.sin(2 * torch.pi * k * hz * t) / k for k in (1, 2, 3)) * 0.15
    waves[:, -1] = 0.0
    return {"stems": waves, "mixture": waves.sum(1).clamp(-1, 1), "name": ["Track1_from_0", "Track1_from_10"]}


def autoencoder(**options: Any) -> AutoencoderTraining:
    torch.manual_seed(options.pop("init", 0))
    loss = replace(VAE_LOSS, **options.pop("loss", {}))
    return AutoencoderTraining(VAE, MEL, loss, **({"base_learning_rate": 2e-3} | options))


def vocoder(**options: Any) -> VocoderTraining:
    torch.manual_seed(options.pop("init", 0))
    loss = replace(VOCODER_LOSS, **options.pop("loss", {}))
    return VocoderTraining(VOCODER, MEL, loss, **({"base_learning_rate": 2e-3, "segment_frames": 16} | options))


def spectral(**options: Any) -> VocoderTraining:
    torch.manual_seed(options.pop("init", 0))
    options.pop("loss", None)
    settings = VocoderSettings("spectral", num_mels=16, width=16, blocks=2, phase_iterations=2, band_iterations=1)
    return VocoderTraining(settings, MEL, **({"base_learning_rate": 1e-2, "segment_frames": 16} | options))


class Recorder(pl.Callback):
    """Keeps the logged numbers of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.steps.append({key: float(value) for key, value in trainer.callback_metrics.items()})


def loader(batches: list[dict[str, Any]]) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(batches, batch_size=None, shuffle=False)


def fit(model: Training, steps: int, folder: Path, ckpt: Path | None = None) -> tuple[pl.Trainer, Recorder]:
    """Train up to `steps`; the two batches take turns, and a resumed run is served the batch that is due."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    first = torch.load(ckpt, weights_only=True)["msgld"]["train_step"] if ckpt else 0
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        default_root_dir=folder,
        callbacks=[recorder],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, loader([tones(step % 2) for step in range(first, 50)]), ckpt_path=ckpt)
    return trainer, recorder


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# Objectives


def test_hinge_and_least_squares_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert hinge_discriminator_loss(real, fake) == pytest.approx(0.5 * ((0 + 1) / 2 + (0 + 2) / 2))
    # (1 - 2)^2 and (1 - 0)^2 average 1, (-3)^2 and 1^2 average 5; a second sub-discriminator adds 0.25 + 0.
    one, two = torch.tensor([0.5]), torch.tensor([0.0])
    assert least_squares_discriminator_loss([real, one], [fake, two]) == pytest.approx(1 + 5 + 0.25)
    assert least_squares_generator_loss([fake, two]) == pytest.approx((16 + 0) / 2 + 1)


def test_feature_matching_by_hand() -> None:
    real = [[torch.tensor([1.0, 2.0]), torch.tensor([0.0])], [torch.tensor([[4.0], [0.0]])]]
    fake = [[torch.tensor([2.0, 4.0]), torch.tensor([3.0])], [torch.tensor([[4.0], [1.0]])]]
    assert feature_matching_loss(real, fake) == pytest.approx(1.5 + 3.0 + 0.5)


def test_adaptive_weight_is_the_ratio_of_gradient_norms() -> None:
    w = torch.tensor([1.0, -2.0], requires_grad=True)
    reconstruction, adversary = 3.0 * w.sum(), w[0]
    assert adaptive_weight(reconstruction, adversary, w) == pytest.approx(3 * 2**0.5, rel=1e-5)
    assert adaptive_weight(reconstruction, 0.0 * w[0], w) == 1e4  # a silent discriminator: bounded, not infinite


def test_autoencoder_loss_is_reconstruction_plus_weighted_kl() -> None:
    g = torch.Generator().manual_seed(0)
    posterior = DiagonalGaussian.from_moments(torch.randn(3, 8, 4, 4, generator=g))
    x, y = torch.randn(2, 3, 1, 8, 8, generator=g)
    mean, var = posterior.mean, posterior.logvar.exp()
    kl = (0.5 * (mean**2 + var - 1 - posterior.logvar)).mean()  # the mean over everything, as published
    for name, distance in (("l1", (x - y).abs().mean()), ("l2", (x - y).square().mean())):
        loss = AutoencoderLoss(AutoencoderLossSettings(reconstruction=name, kl_weight=0.3))
        total, parts = loss.generator(x, y, posterior, torch.empty(0), adversarial=False)
        torch.testing.assert_close(parts["kl"], posterior.kl().mean())
        torch.testing.assert_close(total, distance + 0.3 * kl)


def test_stft_loss_is_zero_for_equals_grows_with_distance_and_bears_silence() -> None:
    loss = MultiResolutionSTFTLoss((128, 256))
    wave = tones(0)["stems"][:, 0]
    assert loss(wave, wave) == 0
    assert 0 < loss(0.9 * wave, wave) < loss(0.3 * wave, wave)
    estimate = torch.zeros_like(wave, requires_grad=True)
    value = loss(estimate, torch.zeros_like(wave)) + loss(estimate + 0.01 * wave, torch.zeros_like(wave))
    value.backward()
    assert value < 100 and estimate.grad.isfinite().all()


def test_settings_refuse_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="reconstruction: found 'l3'"):
        AutoencoderLossSettings(reconstruction="l3")
    with pytest.raises(ConfigError, match="no discriminator left"):
        VocoderLossSettings(disc_periods=(), disc_scales=0)
    with pytest.raises(ConfigError, match="lower disc_layers"):
        autoencoder(loss={"disc_start": 0, "disc_layers": 3})
    with pytest.raises(ConfigError, match="product is 64, expected the hop_length 80"):
        VocoderTraining(VOCODER, replace(MEL, hop_length=80), VOCODER_LOSS)
    with pytest.raises(ConfigError, match="lr_schedule: found 'linear'"):
        vocoder(lr_schedule="linear")
    with pytest.raises(ConfigError, match="at most the 64 frames"):
        vocoder(segment_frames=65)


# Discriminators


def test_patch_discriminator_has_the_published_keys_and_needs_its_smallest_input() -> None:
    full = PatchDiscriminator()
    assert {"main.0.weight", "main.2.weight", "main.3.running_mean", "main.11.bias"} <= full.state_dict().keys()
    assert sum(p.numel() for p in full.parameters()) == 2_763_585
    for layers in (1, 2, 3):
        size = PatchDiscriminator.smallest_input(layers)
        judge = PatchDiscriminator(4, layers)
        assert judge(torch.zeros(2, 1, size, size)).shape == (2, 1, 1, 1)
        with pytest.raises(RuntimeError):
            judge(torch.zeros(2, 1, size - 1, size - 1))


def test_waveform_discriminators() -> None:
    # Summed by hand from the paper's table of layers, weight-norm gains included.
    sizes = {"periods": 5 * 8_221_154, "scales": 9_870_209 + 2 * 9_874_306}
    full = WaveformDiscriminator()
    for name, size in sizes.items():
        assert sum(p.numel() for p in getattr(full, name).parameters()) == size
    judge = WaveformDiscriminator((2, 3), 2, 2, 4)
    judged = judge(torch.randn(3, 1, 1000))
    assert len(judged) == 4
    assert all(logits.shape[0] == 3 and features[-1].flatten(1).equal(logits) for logits, features in judged)
    assert [len(features) for _, features in judged] == [6, 6, 8, 8]


# Segments


def test_segments_prefer_sound_and_repeat_with_the_step() -> None:
    hop, length = 10, 4
    waves = torch.zeros(2, 400)
    waves[0, 200:300] = 0.1
    probabilities = segment_weights(waves, hop, length, -60.0, 0.0)
    assert probabilities.shape == (2, 37)
    assert probabilities[0].nonzero().flatten().tolist() == list(range(17, 30))  # touches frames 20 to 29
    assert not probabilities[1].any()
    items, starts = draw_segments(probabilities, 13, step_generator(3, 5))
    assert sorted(starts.tolist()) == list(range(17, 30)) and not items.any()
    again = draw_segments(probabilities, 13, step_generator(3, 5))
    other = draw_segments(probabilities, 13, step_generator(3, 6))
    assert torch.equal(starts, again[1]) and not torch.equal(starts, other[1])
    assert cut(waves, items, starts * hop, length * hop).abs().amax(1).min() > 0
    assert segment_weights(torch.zeros(2, 400), hop, length, -60.0, 0.0).eq(1).all()  # all silent: still a step
    rare = segment_weights(waves, hop, length, -60.0, 0.25)
    assert set(rare.unique().tolist()) == {0.25, 1.0}


def test_rate_factor() -> None:
    assert [rate_factor("constant", s, 4, 1, 0.1) for s in (0, 1, 3, 99)] == [0.25, 0.5, 1.0, 1.0]
    assert rate_factor("exponential", 200, 0, 100, 0.5) == pytest.approx(0.25)
    assert [rate_factor("cosine", s, 0, 100, 0.2) for s in (0, 50, 100, 999)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


# Training


@pytest.mark.parametrize(
    ("build", "key"), [(autoencoder, "train/reconstruction"), (vocoder, "train/mel"), (spectral, "train/convergence")]
)
def test_loss_falls(build: Any, key: str, tmp_path: Path) -> None:
    _, recorder = fit(build(gradient_clip=5.0), 60, tmp_path)
    values = [step[key] for step in recorder.steps]
    assert sum(values[-4:]) < 0.6 * sum(values[:4])


@pytest.mark.parametrize("build", [autoencoder, vocoder])
def test_discriminator_joins_at_its_step(build: Any, tmp_path: Path) -> None:
    model = build(loss={"disc_start": 2})
    before, network = weights(model.loss.discriminator), [p.clone() for p in model.trained_parameters()]
    trainer, recorder = fit(model, 2, tmp_path)
    assert same(before, model.loss.discriminator.state_dict())
    assert all("train/discriminator" not in step for step in recorder.steps)
    assert any(not torch.equal(a, b) for a, b in zip(network, model.trained_parameters(), strict=True))

    trainer.save_checkpoint(tmp_path / "two.ckpt")
    trainer, recorder = fit(model, 5, tmp_path, tmp_path / "two.ckpt")
    after = model.loss.discriminator.state_dict()
    trained = [name for name, _ in model.loss.discriminator.named_parameters()]
    assert all(not torch.equal(before[name], after[name]) for name in trained)
    assert len(recorder.steps) == 3  # batches 2, 3, 4: two optimisers, yet a batch is one step
    assert model.train_step == trainer.global_step == 5
    assert all(p.requires_grad for p in model.trained_parameters())
    for step in recorder.steps:
        assert all(torch.tensor(value).isfinite() for value in step.values())
        assert "train/discriminator" in step and "train/generator" in step
        if build is autoencoder:
            assert 0 < step["train/adaptive_weight"] <= 1e4


@pytest.mark.parametrize("build", [autoencoder, vocoder, spectral])
def test_resumed_equals_uninterrupted(build: Any, tmp_path: Path) -> None:
    options = {"loss": {"disc_start": 1}, "segment_frames": 16, "lr_schedule": "cosine", "lr_decay_steps": 4, "seed": 7}
    whole = build(**options)
    fit(whole, 4, tmp_path)
    trainer, _ = fit(build(**options), 2, tmp_path)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = build(init=99, **options)
    assert not same(whole.state_dict(), resumed.state_dict())
    torch.manual_seed(123)  # nothing may depend on the global generator
    fit(resumed, 4, tmp_path, tmp_path / "half.ckpt")
    assert same(whole.state_dict(), resumed.state_dict())

    other_seed = build(**(options | {"seed": 8}))
    fit(other_seed, 4, tmp_path)
    assert not same(whole.state_dict(), other_seed.state_dict())


def test_gradient_clipping_bounds_the_step(tmp_path: Path) -> None:
    """Clipped far below Adam's epsilon, the gradient moves nothing."""
    moved = {}
    for clip in (0.0, 1e-12):
        model = autoencoder(gradient_clip=clip)
        start = model.encoder.norm_out.bias.detach().clone()  # zeros: weight decay does not move them
        fit(model, 1, tmp_path)
        moved[clip] = float((model.encoder.norm_out.bias.detach() - start).abs().max())
    assert moved[0.0] > 1e-3 > 1e-5 > moved[1e-12]


# Checkpoints


def test_checkpoint_layout_and_refusals(tmp_path: Path) -> None:
    vae_trainer, _ = fit(autoencoder(), 1, tmp_path)
    vae_trainer.save_checkpoint(tmp_path / "vae.ckpt")
    checkpoint = torch.load(tmp_path / "vae.ckpt", weights_only=True)
    published = AutoencoderKL(VAE).state_dict().keys()
    rest = checkpoint["state_dict"].keys() - published
    assert published <= checkpoint["state_dict"].keys()
    assert rest and all(key.startswith("loss.discriminator.main.") for key in rest)
    assert checkpoint["msgld"]["kind"] == "autoencoder"
    assert AutoencoderSettings(**checkpoint["msgld"]["settings"]["autoencoder"]) == VAE
    assert MelSettings(**checkpoint["msgld"]["settings"]["mel"]) == MEL

    trainer, _ = fit(vocoder(), 1, tmp_path)
    trainer.save_checkpoint(tmp_path / "vocoder.ckpt")
    checkpoint = torch.load(tmp_path / "vocoder.ckpt", weights_only=True)
    generator = {f"generator.{key}" for key in HiFiGAN(VOCODER).state_dict()}
    rest = checkpoint["state_dict"].keys() - generator
    assert generator <= checkpoint["state_dict"].keys()
    assert rest and all(key.startswith("loss.discriminator.") for key in rest)
    assert checkpoint["msgld"]["kind"] == "vocoder"
    assert VocoderSettings(**checkpoint["msgld"]["settings"]["vocoder"]) == VOCODER

    with pytest.raises(CheckpointError, match="found vocoder, expected the training state of the autoencoder"):
        fit(autoencoder(), 2, tmp_path, tmp_path / "vocoder.ckpt")
    wider = AutoencoderTraining(replace(VAE, ch=16), MEL, VAE_LOSS)
    with pytest.raises(CheckpointError, match="autoencoder ch is 8, the configuration says 16"):
        fit(wider, 2, tmp_path, tmp_path / "vae.ckpt")


# Validation


@pytest.mark.parametrize("build", [autoencoder, vocoder, spectral])
def test_validation(build: Any, tmp_path: Path) -> None:
    model = build()
    outputs: list[dict[str, Any]] = []

    class Keep(pl.Callback):
        def on_validation_batch_end(self, trainer: Any, module: Any, out: dict[str, Any], *_: Any) -> None:
            outputs.append(out)

    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[Keep()])
    batches = [tones(0), tones(1)]
    (metrics,) = trainer.validate(model, loader(batches), verbose=False)
    (again,) = trainer.validate(model, loader(batches), verbose=False)
    assert metrics == again
    first = outputs[0]
    assert first["name"] == batches[0]["name"]
    target, estimate = first["log_mels"]["target"], first["log_mels"]["estimate"]
    rows = 4 if build is autoencoder else 3
    assert target.shape == estimate.shape == (2, rows, MEL.frames, MEL.n_mels)

    pairs = [(out["log_mels"]["target"], out["log_mels"]["estimate"]) for out in outputs[:2]]
    difference = torch.stack([t - e for t, e in pairs])
    sounding = torch.stack([t for t, _ in pairs]).amax(-1) > -10.5
    assert 0.5 < sounding.float().mean() < 1.0
    assert metrics["val/log_mel_mse"] == pytest.approx(float(difference.square().mean()), rel=1e-4)
    assert metrics["val/log_mel_l1"] == pytest.approx(float(difference.abs().mean()), rel=1e-4)
    assert metrics["val/log_mel_l1_audible"] == pytest.approx(float(difference[sounding].abs().mean()), rel=1e-4)
    if build is autoencoder:
        assert first["waveforms"] == {}
        assert metrics["val/kl"] > 0 and {f"val/latent_std_{c}" for c in range(4)} <= metrics.keys()
    else:
        torch.testing.assert_close(first["waveforms"]["target"], batches[0]["stems"])
        assert first["waveforms"]["estimate"].shape == batches[0]["stems"].shape
