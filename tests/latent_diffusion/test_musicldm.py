"""The LightningModule: objective, learning rate, averages, scale factor, validation."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from latent_diffusion.diffusion.loss import LossSettings
from latent_diffusion.ema import EMA
from latent_diffusion.inference import SamplingSettings
from latent_diffusion.musicldm import EvaluationSettings, MusicLDM, TrainingSettings
from latent_diffusion.tasks import Arrangement, Generation, Separation, Task
from tests.tiny import MEL, STEMS, batch, model

PLAIN = TrainingSettings(base_learning_rate=1e-3, warmup_steps=0)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


class Recorder(pl.Callback):
    """What happened at every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.scales: list[Tensor] = []
        self.losses: list[float] = []
        self.frozen: list[bool] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: MusicLDM, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        self.scales.append(module.scale_factor.clone())
        self.frozen.append(not any(m.training for m in module.first_stage_model.modules()) and module.model.training)

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: MusicLDM, optimiser: torch.optim.Optimizer) -> None:
        self.rates.append(optimiser.param_groups[0]["lr"])


def fit(module: MusicLDM, batches: list[dict[str, Any]], steps: int, **options: Any) -> Recorder:
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[recorder],
        **options,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return recorder


# ---- training


def test_learns_and_leaves_the_first_stage_alone() -> None:
    module = model(training=replace(PLAIN, base_learning_rate=3e-3, cond_drop_prob=0.0), parameterization="v")
    before = {name: value.clone() for name, value in module.first_stage_model.state_dict().items()}
    held_out = [batch(4, seed=9)]

    def loss() -> float:
        with torch.no_grad():
            return sum(
                float(module.losses(b, module.step_generator(2, i), 0.0)["loss"]) for i in range(8) for b in held_out
            )

    module._set_scale(*module.latent_statistics(module.pipeline.encode(held_out[0]["stems"])[0]))
    start = loss()
    recorder = fit(module, [batch(4, seed=i) for i in range(10)], 60)
    assert loss() < 0.7 * start
    assert all(recorder.frozen)
    after = module.first_stage_model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(p.requires_grad for p in module.first_stage_model.parameters())


def test_only_the_unet_is_optimised() -> None:
    for learn in (False, True):
        module = model(training=replace(PLAIN, learn_logvar=learn))
        optimised = {id(p) for g in module.configure_optimizers()["optimizer"].param_groups for p in g["params"]}
        expected = {id(p) for p in module.model.parameters()} | ({id(module.logvar)} if learn else set())
        assert optimised == expected


def test_warm_up() -> None:
    """From 0, linear, and constant from warmup_steps on."""
    module = model(training=replace(PLAIN, base_learning_rate=8e-4, warmup_steps=4))
    rates = fit(module, [batch()], 7, max_epochs=-1).rates
    assert rates == pytest.approx([0, 2e-4, 4e-4, 6e-4, 8e-4, 8e-4, 8e-4])
    assert fit(model(training=PLAIN), [batch()], 2, max_epochs=-1).rates == [1e-3, 1e-3]
    accumulated = fit(module, [batch()] * 6, 3, accumulate_grad_batches=2).rates
    assert len(accumulated) == 3


def test_rate_falls_after_the_warm_up() -> None:
    falling = replace(PLAIN, base_learning_rate=1e-3, warmup_steps=2, lr_schedule="cosine", lr_decay_steps=10)
    rates = fit(model(training=falling), [batch()], 13, max_epochs=-1).rates
    assert rates[0] == 0.0
    assert rates[5] == pytest.approx(0.55e-3)
    assert rates[10:] == pytest.approx([1e-4] * 3)


def test_share_of_late_timesteps() -> None:
    t = model(training=replace(PLAIN, high_noise_share=0.5)).draw_timesteps(4000, torch.Generator().manual_seed(0))
    assert float((t >= 900).float().mean()) == pytest.approx(0.55, abs=0.03)
    assert int(t.min()) < 20 and int(t.max()) == 999


def test_same_seed_same_training() -> None:
    def weights(seed: int) -> Tensor:
        module = model(training=replace(PLAIN, seed=seed))
        torch.manual_seed(int(torch.seed() % 1000))  # whatever the global generator holds
        fit(module, [batch(seed=i) for i in range(3)], 3)
        return module.model.diffusion_model.out[2].weight.detach()

    first = weights(0)
    assert torch.equal(first, weights(0)) and not torch.equal(first, weights(1))


def test_every_step_has_numbers_of_its_own() -> None:
    module = model(training=PLAIN)
    places = [(1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0), (0, 0)]
    drawn = {float(torch.rand((), generator=module.step_generator(*place))) for place in places}
    assert len(drawn) == len(places)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_condition_dropout_rate(probability: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """An item's condition is zeros as often as asked for, independently of the other items."""
    module = model(training=PLAIN)
    dropped: list[bool] = []

    def record(z0: Tensor, mixture: Tensor, t: Tensor, *_: Any) -> dict[str, Tensor]:
        dropped.extend(not bool(item.any()) for item in mixture)
        assert t.min() >= 0 and t.max() < 1000 and t.unique().numel() > 1
        return {}

    monkeypatch.setattr(module, "loss_at", record)
    items = batch(50)
    for step in range(8):
        module.losses(items, module.step_generator(1, 0, step), probability)
    assert sum(dropped) / 400 == pytest.approx(probability, abs=0.07)
    if 0 < probability < 1:
        assert len({tuple(dropped[i : i + 50]) for i in range(0, 400, 50)}) == 8
    # items whose stems do not belong together keep their condition, the others draw as before
    before, coherent = list(dropped), torch.arange(50) % 2 == 0
    dropped.clear()
    for step in range(8):
        module.losses({**items, "coherent": coherent}, module.step_generator(1, 0, step), probability)
    assert dropped == [was and bool(coherent[i % 50]) for i, was in enumerate(before)]


# ---- scale factor


@pytest.mark.parametrize("per_channel", [False, True])
def test_scale_factor_is_set_from_the_first_batch_only(per_channel: bool) -> None:
    module = model(training=replace(PLAIN, scale_per_channel=per_channel))
    assert bool((module.scale_factor == 1).all())
    z, _ = module.pipeline.encode(batch(seed=0)["stems"], module.step_generator(0, 0))
    recorder = fit(module, [batch(seed=i) for i in range(3)], 5, max_epochs=-1)
    scale = module.scale_factor
    assert scale.shape == ((4, 1, 1) if per_channel else ())
    assert all(torch.equal(found, scale) for found in recorder.scales)
    std = z.transpose(0, 2).flatten(1).std(1).reshape(4, 1, 1) if per_channel else z.std()
    torch.testing.assert_close(scale, 1 / std, rtol=1e-5, atol=0)
    assert module.state_dict()["scale_factor"].shape == scale.shape
    fit(module, [batch(seed=7)], 1)  # already set: kept
    assert torch.equal(module.scale_factor, scale)


def test_scale_factor_stays_without_scale_by_std() -> None:
    module = model(training=replace(PLAIN, scale_by_std=False))
    fit(module, [batch()], 1)
    assert float(module.scale_factor) == 1


def test_latents_are_scaled_and_unscaled() -> None:
    module = model()
    plain, _ = module.pipeline.encode(batch()["stems"], torch.Generator().manual_seed(0))
    module.scale_factor.fill_(0.25)
    scaled, _ = module.pipeline.encode(batch()["stems"], torch.Generator().manual_seed(0))
    torch.testing.assert_close(scaled, 0.25 * plain)
    log_mel, _ = module.pipeline.decode(scaled)
    torch.testing.assert_close(log_mel, module.first_stage_model.latents_to_log_mel(plain), rtol=1e-4, atol=1e-4)


# ---- averages


def test_averages_have_the_published_names_and_follow_the_weights() -> None:
    module = model(training=replace(PLAIN, ema_decay=0.9))
    start = {name: p.detach().clone() for name, p in module.model.named_parameters()}
    names = {f"model_ema.{name.replace('.', '')}" for name in start} | {"model_ema.decay", "model_ema.num_updates"}
    assert {key for key in module.state_dict() if key.startswith("model_ema.")} == names
    assert not any(isinstance(p, torch.nn.Parameter) for p in module.model_ema.parameters())
    fit(module, [batch()], 1)
    assert int(module.model_ema.num_updates) == 1
    decay = 2 / 11  # (1 + n) / (10 + n) at n = 1, below 0.9
    for name, parameter in module.model.named_parameters():
        shadow = getattr(module.model_ema, name.replace(".", ""))
        torch.testing.assert_close(shadow, decay * start[name] + (1 - decay) * parameter.detach())


def test_averages_are_lent_and_taken_back() -> None:
    module = model()
    with torch.no_grad():
        for parameter in module.model.parameters():
            parameter.add_(1.0)
    raw = {name: p.detach().clone() for name, p in module.model.named_parameters()}
    with pytest.raises(ZeroDivisionError), module.averaged:
        for name, parameter in module.model.named_parameters():
            assert torch.equal(parameter, getattr(module.model_ema, name.replace(".", "")))
        raise ZeroDivisionError
    assert all(torch.equal(p, raw[name]) for name, p in module.model.named_parameters())


def test_once_for_each_optimiser_step() -> None:
    module = model(training=PLAIN)
    fit(module, [batch()] * 4, 2, accumulate_grad_batches=2)
    assert int(module.model_ema.num_updates) == 2
    without = model(training=replace(PLAIN, ema_decay=None))
    fit(without, [batch()], 1)
    assert not any(key.startswith("model_ema") for key in without.state_dict())
    with without.averaged:
        pass


def test_names_that_would_collide_do_not() -> None:
    """Dots are left out of the names; no two parameters of the U-Net may become one."""
    module = model()
    names = [name for name, _ in module.model.named_parameters()]
    assert len({name.replace(".", "") for name in names}) == len(names)
    assert isinstance(module.model_ema, EMA)


# ---- options of the objective


@pytest.mark.parametrize(
    "options",
    [
        {"loss": LossSettings(snr_gamma=0.01)},
        {"loss": LossSettings(silence_tau=3.0)},
        {"loss": LossSettings(separate_stems=True)},
        {"loss": LossSettings(original_elbo_weight=0.1)},
        {"learn_logvar": True},
        {"logvar_init": 0.5},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
def test_options_train(options: dict[str, Any], parameterization: str) -> None:
    module = model(training=replace(PLAIN, **options), parameterization=parameterization)
    before = module.logvar.detach().clone()
    recorder = fit(module, [batch(seed=1), batch(seed=2)], 2)
    assert all(math.isfinite(loss) for loss in recorder.losses)
    assert all(bool(p.isfinite().all()) for p in module.parameters())
    assert torch.equal(before, module.logvar) != options.get("learn_logvar", False)
    plain = model(training=PLAIN, parameterization=parameterization)
    plain.scale_factor.copy_(module.scale_factor)
    module.load_state_dict(plain.state_dict())
    module.eval(), plain.eval()
    with torch.no_grad():
        drawn = [m.losses(batch(), m.step_generator(1, 0, 0), 0.0) for m in (plain, module)]
    assert torch.equal(drawn[0]["loss_simple"], drawn[1]["loss_simple"]), (
        "the plain error is logged whatever is minimised"
    )
    if not options.get("learn_logvar") and "logvar_init" not in options:
        assert not torch.equal(drawn[0]["loss"], drawn[1]["loss"])


# ---- validation


def validated(task: Task | None, parameterization: str = "v") -> tuple[MusicLDM, list[Any], dict[str, Tensor]]:
    """A model, what its validation step returned and what it logged."""
    outputs: list[Any] = []

    class Keep(pl.Callback):
        def on_validation_batch_end(self, trainer: pl.Trainer, module: MusicLDM, out: Any, *_: Any) -> None:
            outputs.append(out)

    evaluation = EvaluationSettings(task, SamplingSettings(steps=2), seed=5)
    module = model(training=PLAIN, evaluation=evaluation, parameterization=parameterization)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, callbacks=[Keep()]
    )
    logged = trainer.validate(module, DataLoader([batch(2, seed=1), batch(1, seed=2)], batch_size=None), verbose=False)[
        0
    ]
    return module, outputs, logged


TASKS = {
    "separation": (Separation(), STEMS),
    "generation": (Generation(), STEMS),
    "arrangement": (Arrangement(generate=("piano", "drums")), ("drums", "piano")),
}


@pytest.mark.parametrize("name", TASKS)
def test_validation_returns_what_the_result_writer_wants(name: str) -> None:
    task, generated = TASKS[name]
    _, outputs, logged = validated(task)
    assert set(logged) == {f"val/{k}{e}" for k in ("loss", "loss_simple", "loss_vlb") for e in ("", "_ema")}
    assert all(math.isfinite(value) for value in logged.values())
    for out, size in zip(outputs, (2, 1), strict=True):
        samples, frames, bins = MEL.window_samples, MEL.frames, MEL.n_mels
        given = batch(size)
        assert out["task"] == name and out["stems"] == STEMS and out["generated"] == generated
        assert out["name"] == given["name"] and out["sample_rate"] == 4000
        shapes = {
            "waveforms": (size, 4, samples),
            "mixture": (size, samples),
            "log_mels": (size, 4, frames, bins),
            "mixture_log_mel": (size, frames, bins),
        }
        for key, shape in shapes.items():
            assert out[key].shape == shape and bool(out[key].isfinite().all())
        assert out["target_log_mels"].shape == out["log_mels"].shape
        torch.testing.assert_close(out["mixture"], out["waveforms"].sum(1).clamp(-1, 1))
        kept = [i for i, stem in enumerate(STEMS) if stem not in generated]
        assert torch.equal(out["waveforms"][:, kept], out["target_waveforms"][:, kept])
        made = [i for i, stem in enumerate(STEMS) if stem in generated]
        assert not torch.allclose(out["waveforms"][:, made], out["target_waveforms"][:, made], atol=1e-2)


def test_validation_is_repeatable_and_an_item_does_not_depend_on_its_batch() -> None:
    module, outputs, logged = validated(Separation())
    _, again, logged_again = validated(Separation())
    assert logged == logged_again and torch.equal(outputs[0]["waveforms"], again[0]["waveforms"])
    both = batch(2, seed=1)
    second = {"stems": both["stems"][1:], "mixture": both["mixture"][1:], "name": both["name"][1:]}
    alone = module.test_step(second, 0)
    torch.testing.assert_close(alone["log_mels"][0], outputs[0]["log_mels"][1], atol=1e-3, rtol=1e-3)
    renamed = module.test_step(second | {"name": ["Another_from_0"]}, 0)
    assert not torch.allclose(renamed["log_mels"], alone["log_mels"], atol=1e-3)


def test_validation_without_a_task() -> None:
    _, outputs, logged = validated(None)
    assert outputs == [None, None] and len(logged) == 6


def test_conditions_are_dropped_in_the_losses_of_validation_and_not_in_what_it_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    for probability in (0.0, 1.0):
        evaluation = EvaluationSettings(Separation(), SamplingSettings(steps=2), seed=5)
        module = model(training=replace(PLAIN, validation_drop_prob=probability), evaluation=evaluation)
        conditions: list[Tensor] = []
        monkeypatch.setattr(module, "loss_at", lambda z0, mixture, *_, to=conditions: to.append(mixture) or {})
        monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
        made.append(module.validation_step(batch(2), 0)["waveforms"])
        assert [bool(condition.any()) for condition in conditions] == [probability == 0.0] * 2  # raw and averaged
    assert torch.equal(*made)


def test_validation_uses_the_averages() -> None:
    module, outputs, logged = validated(Separation())
    assert logged["val/loss"] == logged["val/loss_ema"]
    with torch.no_grad():
        for parameter in module.model.parameters():
            parameter.mul_(0.5)
    again = module.test_step(batch(2, seed=1), 0)
    torch.testing.assert_close(again["waveforms"], outputs[0]["waveforms"], atol=1e-4, rtol=0)
    module.model_ema = None
    raw = module.test_step(batch(2, seed=1), 0)
    assert not torch.allclose(raw["log_mels"], outputs[0]["log_mels"], atol=1e-3)


def test_one_stem_and_odd_stems() -> None:
    for stems in (("all",), ("vocals", "bass", "rest")):
        module = model(stems, training=replace(PLAIN, loss=LossSettings(separate_stems=True)))
        recorder = fit(module, [batch(2, len(stems))], 1)
        assert math.isfinite(recorder.losses[0])


@pytest.fixture(autouse=True)
def _deterministic_weights() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
