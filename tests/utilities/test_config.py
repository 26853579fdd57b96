"""Configuration files: the published schema, its errors, and what is made of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import yaml

from latent_diffusion.errors import ConfigError
from latent_diffusion.settings import AutoencoderSettings, MelSettings, ModelSettings, VocoderSettings
from utilities import config as cfg
from utilities.building import build_model

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "tests" / "fixtures" / "published_train.yaml"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "config").glob("*/*.yaml"))
OURS = "config/MSG-LD/multichannel_musicldm_slakh_3d_{}.yaml"
EVAL = "model.params.evaluation_params"


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


# ---- the published schema


def test_published_file_is_understood():
    config = load()
    assert cfg.kind(config) == "msgld"
    assert config.id.version == 3 and config.mode == "train" and config.dev is False
    assert config.trainer.precision == "32-true" and config.trainer.devices == [0, 1]
    assert config.trainer.resume is None and config.trainer.resume_from_checkpoint is None
    assert config.trainer.limit_train_batches is None and config.trainer.limit_val_batches == 5
    assert config.data.params.augmentation.masking is False
    assert config.data.params.path.train_data == ["/data/slakh2100/train", "/data/more/train"]
    assert config.data.params.path.valid_data == ["/data/slakh2100/validation"]
    assert config.data.params.path.stems_to_inpaint == []
    assert config.model.params.base_learning_rate == pytest.approx(3e-5)
    assert config.model.params.ema_decay == 0.9999
    assert config.model.params.first_stage_config.params.reload_from_ckpt == "./ckpt/vae-ckpt.ckpt"
    assert cfg.model_settings(config) == ModelSettings()
    assert cfg.guidance_scale(config) == 2.0


def test_keys_without_effect_give_one_warning_that_lists_them(caplog):
    with caplog.at_level(logging.WARNING):
        load()
    (record,) = caplog.records
    listed = record.getMessage().split("ignored: ")[1].split(", ")
    assert sorted(listed) == sorted(
        [
            "data.params.path.dataset_type",
            "data.params.path.test_data",
            "data.params.preprocessing.label",
            "data.params.preprocessing.mel.mean",
            "data.params.preprocessing.mel.std",
            "model.params.batchsize",
            "model.params.log_every_t",
            "model.params.unet_config.params.image_size",
            "model.params.first_stage_config.base_learning_rate",
            "model.params.first_stage_config.params.batchsize",
            "model.params.first_stage_config.params.monitor",
            "model.params.first_stage_config.params.lossconfig",
        ]
    )
    assert "published_train.yaml" in record.getMessage()


@pytest.mark.parametrize("path", FILES)
def test_every_file_of_the_project_loads_without_a_warning(path, caplog):
    with caplog.at_level(logging.WARNING):
        config = load(path=path)
    assert not caplog.records
    cfg.require_data(config)
    if config.model.target.endswith("MusicLDM"):
        with torch.device("meta"):
            build_model(config)  # no option of another task
    if path.startswith("config/quickstart/"):  # these point to the full files for what they do not explain
        return
    text = (ROOT / path).read_text()
    bare = [line for line in text.splitlines() if line.strip() and "#" not in line and line.strip() != "params:"]
    assert not bare, "every key has a comment"


def test_the_files_of_the_issue_exist():
    wanted = {OURS.format(name) for name in ("train", "eval", "eval_inpaint")}
    assert wanted | {"config/first_stage/vae.yaml", "config/first_stage/vocoder.yaml"} <= set(FILES)


@pytest.mark.parametrize(("name", "width"), [("train", 128), ("eval", 128), ("eval_inpaint", 192)])
def test_project_files_have_the_published_sizes(name, width):
    config = load(path=OURS.format(name))
    settings = cfg.model_settings(config)
    assert settings.unet.model_channels == width
    assert settings.unet.channel_mult == (1, 2, 3, 5) and settings.unet.attention_resolutions == (8, 4, 2)
    assert settings.latent_shape == (8, 256, 16)
    assert (settings.autoencoder, settings.vocoder, settings.mel) == (
        AutoencoderSettings(),
        VocoderSettings(),
        MelSettings(),
    )
    assert config.model.params.evaluation_params.ddim_sampling_steps == 200
    assert config.model.params.evaluation_params.eta == 1.0


def test_schema_defaults_are_the_published_sizes(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("mode: train\n")
    config = load(path=path)
    assert cfg.model_settings(config) == ModelSettings()
    assert config.model.params.base_learning_rate == 3e-5 and config.model.params.warmup_steps == 1000


# ---- empty values, types, overrides


def test_empty_groups_and_values_mean_off_or_default(tmp_path):
    def change(values):
        values["data"]["params"]["augmentation"] = None
        values["data"]["params"]["preprocessing"]["mel"] = None
        values["trainer"]["logger"] = None
        values["model"]["params"] |= {
            "ema_decay": None,
            "scale_by_std": None,
            "cond_drop_prob": None,
            "timesteps": None,
        }
        values["model"]["params"]["evaluation_params"]["unconditional_guidance_scale"] = None

    config = load(path=edited(tmp_path, change))
    assert config.data.params.augmentation.masking is False
    assert config.data.params.preprocessing.mel.n_mel_channels == 64
    assert config.trainer.logger == []
    params = config.model.params
    assert params.ema_decay is None and params.scale_by_std is False and params.cond_drop_prob == 0.0
    assert params.timesteps == 1000 and cfg.guidance_scale(config) == 1.0


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("model.params.base_learning_rate=3e-4", 3e-4),
        ("model.params.base_learning_rate='3e-4'", 3e-4),
        ("model.params.base_learning_rate=1", 1.0),
        ("trainer.max_epochs='7'", 7),
        ("trainer.max_epochs=7.0", 7),
        ("trainer.limit_train_batches=0.5", 0.5),
        ("trainer.limit_train_batches=1.0", 1.0),
        ("trainer.limit_train_batches=1", 1),
        ("trainer.limit_train_batches=12.0", 12),
        ("trainer.precision=16", "16-mixed"),
        ("trainer.precision=bf16-mixed", "bf16-mixed"),
        ("trainer.precision=32-true", "32-true"),
        ("trainer.devices=auto", "auto"),
        ("trainer.devices=2", 2),
        ("trainer.devices='0,1'", [0, 1]),
        ("trainer.devices=[1]", [1]),
        ("trainer.logger=csv", ["csv"]),
        ("trainer.logger=[csv,wandb]", ["csv", "wandb"]),
        ("trainer.logger=", []),
        ("trainer.max_time=90", "00:00:01:30"),
        ("trainer.max_time='01:02:03:04'", "01:02:03:04"),
        ("trainer.max_time=12:00:00", "00:12:00:00"),
        ("trainer.resume=runs/x/last", "runs/x/last"),
        ("trainer.resume=false", None),
        ("data.params.path.train_data=data/a", ["data/a"]),
        ("data.params.path.train_data=[data/a,data/b]", ["data/a", "data/b"]),
        ("data.params.path.stems_to_inpaint=drums", ["drums"]),
        ("data.params.path.stems_to_inpaint=[0,piano]", ["bass", "piano"]),
        ("data.params.augmentation.masking=true", True),
        ("data.params.augmentation.masking=1", True),
        ("model.params.ema_decay=", None),
        (f"{EVAL}.unconditional_guidance_scale=[1,2,3,4]", [1.0, 2.0, 3.0, 4.0]),
        (f"{EVAL}.sampler=dpm++", "dpm++"),
        (f"{EVAL}.spacing=karras", "karras"),
        (f"{EVAL}.guidance_interval=[0.2,0.8]", [0.2, 0.8]),
    ],
)
def test_overrides_and_conversions(override, value):
    result = load(override)
    for name in override.split("=")[0].split("."):
        result = getattr(result, name)
    assert result == value and type(result) is type(value)


def test_later_overrides_win_and_reach_into_empty_groups(tmp_path):
    path = edited(tmp_path, lambda values: values["data"]["params"].update(augmentation=None))
    config = load("seed=1", "seed=2", "data.params.augmentation.masking=true", path=path)
    assert config.seed == 2 and config.data.params.augmentation.masking is True


def test_interpolations_are_resolved(tmp_path):
    path = edited(tmp_path, lambda values: values["id"].update(name="${project_name}_x"))
    assert load(path=path).id.name == "multichannel_musicldm_slakh_x"
    assert "no_such" in error("id.name=${no_such}")


@pytest.mark.parametrize("path", [PUBLISHED.relative_to(ROOT).as_posix(), *FILES])
def test_to_yaml_round_trip(path, tmp_path):
    config = load(path=path)
    saved = tmp_path / "saved.yaml"
    saved.write_text(config.to_yaml())
    again = load(path=saved)
    assert again == config and again.to_yaml() == config.to_yaml()
    assert again.path == str(saved)


# ---- errors


def test_unknown_keys_name_file_key_and_nearest(tmp_path):
    message = error("trainer.max_epoch=3")
    assert "trainer.max_epoch:" in message and "trainer.max_epochs" in message and "command line" in message
    path = edited(tmp_path, lambda values: values["model"]["params"].update(batch_size=3))
    message = error(path=path)
    assert str(path) in message and "model.params.batch_size" in message
    path = edited(tmp_path, lambda values: values.update(num_workers=3))
    assert "nearest known key: data.params.num_workers" in error(path=path)
    path = edited(tmp_path, lambda values: values["model"]["params"]["unet_config"]["params"].update(chanel_mult=[1]))
    assert "model.params.unet_config.params.channel_mult" in error(path=path)
    path = edited(tmp_path, lambda values: values.update({7: "x"}))
    assert "7: unknown key" in error(path=path)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("trainer.max_epochs=many", ["trainer.max_epochs", "'many'", "a whole number"]),
        ("trainer.max_epochs=1.5", ["1.5", "a whole number"]),
        ("trainer.max_epochs=true", ["True", "a whole number"]),
        ("trainer.max_epochs=[1]", ["[1]", "a whole number"]),
        ("data.params.batch_size=0", ["found 0", "at least 1"]),
        ("model.params.base_learning_rate=fast", ["'fast'", "a number"]),
        ("model.params.base_learning_rate=.nan", ["nan", "a number"]),
        ("model.params.cond_drop_prob=1.5", ["1.5", "at most 1"]),
        ("model.params.scale_by_std=maybe", ["'maybe'", "true or false"]),
        ("model.params.unet_config.params.channel_mult=3", ["found 3", "a list of whole numbers"]),
        ("model.params.unet_config.params.dims=2", ["found 2", "expected 3"]),
        ("model.params.unet_config=3", ["found 3", "a group of keys"]),
        ("trainer=fast", ["'fast'", "a group of keys"]),
        ("project_name=[a]", ["['a']", "text"]),
        ("data.params.path.train_data=[{a: 1}]", ["a list of names"]),
        ("mode=training", ["'training'", "validate_and_train", "did you mean train?"]),
        (f"{EVAL}.sampler=dmp++", ["ddim", "did you mean dpm++?"]),
        ("trainer.precision=33", ["trainer.precision", "33", "16-mixed"]),
        ("trainer.devices=gpu", ["trainer.devices", "'gpu'"]),
        ("trainer.devices=0", ["trainer.devices", "found 0"]),
        ("trainer.max_time='soon'", ["trainer.max_time", "'soon'"]),
        ("trainer.limit_val_batches=2.5", ["trainer.limit_val_batches", "2.5"]),
        ("data.params.path.stems_to_inpaint=drum", ["'drum'", "did you mean drums?"]),
        ("data.params.path.stems_to_inpaint=4", ["stem number 4", "0 to 3"]),
        ("data.params.path.stems=[bass,bass]", ["no name twice"]),
        ("data.params.path.stems=[../a]", ["'../a'", "plain file names"]),
        (f"{EVAL}.ddim_sampling_steps=1001", ["1001", "1000 timesteps"]),
        (f"{EVAL}.unconditional_guidance_scale=[1,2]", ["2 numbers", "4 stems"]),
        ("model.params.linear_start=0.5", ["linear_start", "linear_end"]),
        ("data.params.preprocessing.mel.mel_fmax=9000", ["mel_fmax", "8000"]),
    ],
)
def test_wrong_values_name_key_found_and_expected(override, parts):
    message = error(override)
    assert all(part in message for part in [override.split("=")[0].split("[")[0], *parts]), message


def test_wrong_type_in_the_file_names_the_file(tmp_path):
    path = edited(tmp_path, lambda values: values["data"]["params"].update(batch_size="three"))
    assert error(path=path) == f"{path}: data.params.batch_size: found 'three', expected a whole number"


def test_resume_and_resume_from_checkpoint_exclude_each_other():
    message = error("trainer.resume=a", "trainer.resume_from_checkpoint=b")
    assert "trainer.resume" in message and "found both" in message


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["model.params.num_stems=3"], ["model.params.num_stems", "found 3", "data.params.path.stems"]),
        (["data.params.path.stems=[a,b]"], ["num_stems", "found 4", "expected 2"]),
        (
            ["data.params.path.stems=[a,b]", "model.params.num_stems=2"],
            ["unet_config.params.in_channels", "found 4", "expected 2"],
        ),
        (["model.params.latent_t_size=128"], ["latent_t_size", "found 128", "expected 256", "target_length"]),
        (["model.params.latent_f_size=32"], ["latent_f_size", "expected 16", "n_mel_channels"]),
        (["model.params.channels=5"], ["model.params.channels", "found 5", "expected 4", "data.params.path.stems"]),
        (["model.params.first_stage_config.params.ddconfig.mel_bins=80"], ["ddconfig.mel_bins", "n_mel_channels"]),
        (["model.params.first_stage_config.params.sampling_rate=44100"], ["sampling_rate", "16000"]),
        (["model.params.first_stage_config.params.ddconfig.double_z=false"], ["double_z"]),
        (["data.params.preprocessing.mel.target_length=1022"], ["mel.target_length", "1022", "ch_mult"]),
        (["data.params.preprocessing.stft.hop_length=128"], ["upsample_rates", "160", "hop_length 128"]),
        (["model.params.unet_config.params.num_head_channels=48"], ["num_head_channels", "divisor of 256"]),
        (
            ["model.params.unet_config.params.channel_mult=[1,1,1,1,1,1]"],
            ["channel_mult", "6 levels", "multiples of 32", "there are 16"],
        ),
        (
            ["model.params.first_stage_config.params.vocoder_config.params.upsample_kernel_sizes=[4]"],
            ["upsample_kernel_sizes", "1 entries"],
        ),
    ],
)
def test_contradictions_name_both_keys(overrides, parts):
    message = error(*overrides)
    assert all(part in message for part in ["published_train.yaml", *parts]), message


def test_channels_may_be_the_latents_as_in_the_first_files_of_this_project():
    assert cfg.model_settings(load("model.params.channels=8")) == ModelSettings()


def test_sizes_that_are_left_empty_follow_from_the_others():
    sizes = ["num_stems", "latent_t_size", "latent_f_size", "channels"]
    unet = ["unet_config.params.in_channels", "unet_config.params.out_channels"]
    config = load(
        *(f"model.params.{name}=" for name in sizes + unet),
        "data.params.path.stems=[vocals,rest]",
        "data.params.preprocessing.mel.target_length=512",
        "model.params.parameterization=v",
    )
    settings = cfg.model_settings(config)
    assert settings.stems == ("vocals", "rest") and settings.unet.in_channels == 2
    assert settings.latent_shape == (8, 128, 16) and settings.diffusion.parameterization == "v"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "no such configuration file"),
        (b"- a\n- b\n", "keys and values at the top level"),
        (b"hello", "hello: unknown key"),
        (b"a: [1\nb: 2\n", "cannot be read as YAML"),
        (b"mode: train\nmode: test\n", "cannot be read as YAML"),
        (b"\xff\xfe\x00\x01", "YAML"),
        (b"mode: ???\n", "mode"),
        (b"!!python/object/apply:os.system ['touch /tmp/never']", "cannot be read as YAML"),
    ],
)
def test_unreadable_files_give_one_line(tmp_path, content, part):
    path = tmp_path / "broken.yaml"
    if content is not None:
        path.write_bytes(content)
    message = error(path=path)
    assert message.startswith(str(path)) and part in message


def test_a_folder_is_not_a_configuration(tmp_path):
    assert "is a folder" in error(path=tmp_path)


@pytest.mark.parametrize("override", ["mode", "=3", "a b=3", "mode=[", "--mode=train", "data.params.path.stems={a: 1}"])
def test_malformed_overrides(override):
    assert repr(override) in error(override)


def test_base_puts_a_file_over_another(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 3\ntrainer: {max_steps: 5, max_epochs: 2}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\ntrainer: {max_steps: 9}\n")
    config = cfg.load_config(tmp_path / "b.yaml", ["trainer.max_epochs=7"])
    assert (config.seed, config.trainer.max_steps, config.trainer.max_epochs) == (3, 9, 7)
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    with pytest.raises(ConfigError, match="base: found 'b.yaml', expected another configuration file"):
        cfg.load_config(tmp_path / "b.yaml")


def test_the_table_of_keys_is_up_to_date():
    from utilities.config_docs import configuration_markdown

    assert (ROOT / "docs/configuration.md").read_text() == configuration_markdown()
