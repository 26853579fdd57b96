"""What is made of a configuration: targets, tasks, accelerators, first-stage trainings, the keys' documentation."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from latent_diffusion.errors import ConfigError
from latent_diffusion.settings import AutoencoderSettings, MelSettings, VocoderSettings
from utilities import config as cfg
from utilities import config_schema, config_schema_model
from utilities.registry import OWN_TARGETS, PUBLISHED_TARGETS, lookup

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "tests" / "fixtures" / "published_train.yaml"
OURS = "config/MSG-LD/multichannel_musicldm_slakh_3d_{}.yaml"
EVAL = "model.params.evaluation_params"
CONDITION = "model.params.cond_stage_config.params.unconditional_prob"


def load(*overrides: str, path: str | Path = PUBLISHED) -> cfg.Config:
    return cfg.load_config(ROOT / path, overrides)


def error(*overrides: str, path: str | Path = PUBLISHED) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*overrides, path=path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edited(tmp_path: Path, change) -> Path:
    """The published file with `change(values)` made to it."""
    values = yaml.safe_load(PUBLISHED.read_text())
    change(values)
    path = tmp_path / "edited.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# ---- targets


@pytest.mark.parametrize("name", ["latent_diffusion.models.musicldm.MusicLMD", "os.system", "torch.nn.Linear"])
def test_unregistered_targets_are_refused_and_not_imported(name):
    message = error(f"model.target={name}")
    assert "model.target" in message and repr(name) in message and "not registered" in message
    assert any(target in message for target in OWN_TARGETS | PUBLISHED_TARGETS)


def test_unregistered_inner_targets_are_refused():
    for key in (
        "data.target",
        *(f"model.params.{part}_config.target" for part in ("unet", "first_stage", "cond_stage")),
    ):
        assert f"{key}: target 'my.Own'" in error(f"{key}=my.Own")
    assert "not registered" in error("model.params.first_stage_config.params.lossconfig.target=my.Own")


def test_nearest_target_is_named():
    assert "'latent_diffusion.models.musicldm.MusicLDM'" in error("model.target=latent_diffusion.models.musicldm.Music")


def test_targets_in_the_wrong_place_are_refused():
    message = error("model.target=latent_diffusion.unet.UNet3d")
    assert "of kind unet" in message and "MusicLDM" in message


def test_published_names_are_aliases():
    assert len(PUBLISHED_TARGETS) == 6
    for name, kind in PUBLISHED_TARGETS.items():
        assert kind in OWN_TARGETS.values() and lookup(name, [kind], "x") == kind


# ---- tasks


@pytest.mark.parametrize(
    ("overrides", "task", "scale"),
    [
        ([], "separation", 2.0),
        ([f"{EVAL}.unconditional_guidance_scale="], "separation", 1.0),
        ([f"{EVAL}.unconditional_guidance_scale=0"], "generation", 0.0),
        ([f"{EVAL}.unconditional_guidance_scale=[0,0,0,0]"], "generation", 0.0),
        ([f"{EVAL}.unconditional_guidance_scale=[0,0,0,1]"], "separation", (0.0, 0.0, 0.0, 1.0)),
        (["data.params.path.stems_to_inpaint=[drums]"], "arrangement", 2.0),
        (["data.params.path.stems_to_inpaint=[drums]", f"{EVAL}.unconditional_guidance_scale="], "arrangement", 0.0),
        (["data.params.path.stems_to_inpaint=[drums]", f"{EVAL}.unconditional_guidance_scale=0"], "arrangement", 0.0),
        (["data.params.path.stems_to_inpaint=[drums]", "task=separation"], "separation", 2.0),
        (["task=generation"], "generation", 0.0),
    ],
)
def test_task_follows_the_published_rules(overrides, task, scale):
    config = load(*overrides)
    assert cfg.task_name(config) == task and cfg.guidance_scale(config) == scale


def test_task_of_the_project_files():
    assert [cfg.task_name(load(path=OURS.format(name))) for name in ("train", "eval", "eval_inpaint")] == [
        "separation",
        "separation",
        "arrangement",
    ]


def test_task_that_contradicts_is_refused():
    assert "stems_to_inpaint" in error("task=arrangement")
    assert "ignores the mixture" in error("task=separation", f"{EVAL}.unconditional_guidance_scale=0")
    assert "expected one of separation" in error("task=mixing")


@pytest.mark.parametrize(
    ("overrides", "dropout"),
    [
        ([], (0.1, 0.0)),
        (["model.params.cond_drop_prob=0.3"], (0.3, 0.0)),
        (["model.params.cond_drop_prob="], (0.0, 0.0)),
        ([f"{CONDITION}=0.2"], (0.2, 0.2)),
        ([f"{CONDITION}=0.0"], (0.0, 0.0)),
        ([f"{CONDITION}="], (0.1, 0.0)),
        ([f"{CONDITION}=0.2", "model.params.cond_drop_prob=0.3"], (0.3, 0.2)),
    ],
)
def test_the_published_condition_dropout_counts_in_validation_too(overrides, dropout, tmp_path):
    config = load(*overrides)
    assert cfg.condition_dropout(config) == dropout
    (tmp_path / "saved.yaml").write_text(config.to_yaml())
    assert cfg.condition_dropout(load(path=tmp_path / "saved.yaml")) == dropout


def test_modes_need_their_data():
    for mode, key in (("train", "train"), ("validate_and_train", "train"), ("validate", "valid"), ("test", "valid")):
        config = load(f"mode={mode}", f"data.params.path.{key}_data=")
        with pytest.raises(ConfigError, match=f"data.params.path.{key}_data: found nothing.*mode is {mode}"):
            cfg.require_data(config)
        cfg.require_data(load(f"mode={mode}"))


# ---- accelerators


@pytest.fixture
def gpus(monkeypatch):
    import torch
    from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator

    def have(count: int) -> None:
        monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: count > 0))
        monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: False))
        monkeypatch.setattr(XLAAccelerator, "is_available", staticmethod(lambda: False))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return have


def test_a_missing_gpu_is_one_warning_or_with_strict_an_error(gpus, caplog):
    gpus(0)
    config = load("data.params.path.test_data=")
    caplog.clear()
    assert cfg.resolve_accelerator(config) == "cpu" and cfg.resolve_devices(config, "cpu") == 1
    assert len(caplog.records) == 1 and "trainer.accelerator is gpu" in caplog.text
    with pytest.raises(ConfigError, match="trainer.accelerator: found gpu"):
        cfg.resolve_accelerator(config, strict=True)
    with pytest.raises(ConfigError, match="trainer.accelerator"):
        cfg.resolve_accelerator(cfg.load_config(PUBLISHED, strict=True))


def test_accelerators_that_are_there_are_taken(gpus, caplog):
    gpus(0)
    assert cfg.resolve_accelerator(load("trainer.accelerator=auto"), strict=True) == "cpu"
    config = load("trainer.accelerator=cpu")
    assert cfg.resolve_accelerator(config, strict=True) == "cpu" and cfg.resolve_devices(config, "cpu") == 2
    gpus(2)
    caplog.clear()
    config = load()
    caplog.clear()
    assert cfg.resolve_accelerator(config, strict=True) == "gpu" and cfg.resolve_devices(config, "gpu") == [0, 1]
    assert cfg.resolve_accelerator(load("trainer.accelerator=auto")) == "auto"
    gpus(1)
    with pytest.raises(ConfigError, match=r"trainer.devices: found \[0, 1\], but this machine has 1"):
        cfg.resolve_devices(config, "gpu")


# ---- first stage


def options(arguments):
    """What the trainings' constructors take beside their networks."""
    return {key: value for key, value in arguments.items() if key not in ("settings", "mel", "loss")}


def test_first_stage_files_give_the_arguments_of_their_trainings():
    from latent_diffusion.first_stage.training import (
        AutoencoderLossSettings,
        FirstStageTrainingSettings,
        VocoderTrainingSettings,
    )

    vae, vocoder = (load(path=f"config/first_stage/{name}.yaml") for name in ("vae", "vocoder"))
    assert (cfg.kind(vae), cfg.kind(vocoder)) == ("autoencoder", "vocoder")
    arguments = cfg.first_stage_training_arguments(vae)
    assert arguments["settings"] == AutoencoderSettings() and arguments["loss"] == AutoencoderLossSettings()
    assert arguments["mel"] == MelSettings()
    assert FirstStageTrainingSettings(**options(arguments)).segment_frames == 0
    arguments = cfg.first_stage_training_arguments(vocoder)
    assert arguments["settings"] == VocoderSettings() and arguments["loss"].stft_ffts == (512, 1024, 2048)
    assert VocoderTrainingSettings(**options(arguments)).segment_frames == 64


def test_first_stage_defaults_are_those_of_the_modules(tmp_path):
    from latent_diffusion.first_stage import training

    for name, defaults in (
        ("AutoencoderTraining", training.FirstStageTrainingSettings()),
        ("VocoderTraining", training.VocoderTrainingSettings()),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"model:\n  target: latent_diffusion.first_stage.training.{name}\n")
        arguments = cfg.first_stage_training_arguments(load(path=path))
        assert options(arguments) == asdict(defaults)
        assert arguments["loss"] == type(arguments["loss"])()


def test_trainer_clips_the_gradient_of_the_first_stage_and_refuses_what_it_cannot_do():
    config = load("trainer.gradient_clip_val=2", path="config/first_stage/vae.yaml")
    assert cfg.first_stage_training_arguments(config)["gradient_clip"] == 2.0
    assert "trainer.precision" in error("trainer.precision=16", path="config/first_stage/vae.yaml")
    assert "accumulate" in error("trainer.accumulate_grad_batches=2", path="config/first_stage/vocoder.yaml")


def test_published_vae_training_names_are_understood(tmp_path):
    def change(values):
        values["model"] = values["model"]["params"]["first_stage_config"]
        del values["model"]["base_learning_rate"]

    config = load("model.params.base_learning_rate=4.5e-5", path=edited(tmp_path, change))
    assert cfg.kind(config) == "autoencoder" and config.model.params.monitor == "val/log_mel_l1"
    assert config.model.params.ckpt_path == "./ckpt/vae-ckpt.ckpt"
    loss = cfg.first_stage_training_arguments(config)["loss"]
    assert loss.kl_weight == pytest.approx(1000 / (1024 * 64)) and loss.disc_start == 50_001


def test_kinds_are_told_apart():
    vocoder = load(path="config/first_stage/vocoder.yaml")
    for function in (cfg.model_settings, cfg.task_name, cfg.autoencoder_settings):
        with pytest.raises(ConfigError, match="model.target: found a vocoder"):
            function(vocoder)
    with pytest.raises(ConfigError, match="found an MSG-LD"):
        cfg.first_stage_training_arguments(load())
    assert "unknown key" in error("model.params.timesteps=5", path="config/first_stage/vocoder.yaml")


# ---- documentation and import time


def test_every_key_is_documented():
    for module in (config_schema, config_schema_model):
        for cls in vars(module).values():
            if isinstance(cls, type) and hasattr(cls, "__dataclass_fields__"):
                undocumented = [
                    f.name for f in fields(cls) if f.name not in ("path", "strict") and not f.metadata["doc"]
                ]
                assert not undocumented and get_type_hints(cls)
    docs = {doc.key: doc for doc in cfg.key_docs()}
    assert docs["trainer.max_epochs"].expected == "a whole number" and not docs["trainer.max_epochs"].ours
    assert docs["seed"].ours and docs["data.params.path.tempo_map"].unused
    assert docs["mode"].expected == "train or validate_and_train or validate or test"
    assert "model.params.lossconfig.params.stft_weight" in {doc.key for doc in cfg.key_docs("vocoder")}


def test_every_key_of_the_published_file_is_a_published_key():
    ours = {doc.key for doc in cfg.key_docs() if doc.ours}
    values = yaml.safe_load(PUBLISHED.read_text())

    def walk(group, prefix=""):
        for name, value in group.items():
            yield prefix + name
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.")

    assert not ours & set(walk(values))


def test_importing_the_configuration_does_not_import_torch():
    code = "import sys, utilities.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
