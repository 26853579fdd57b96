"""The three published YAML files, rebuilt key by key: they are accepted and mean what they meant."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.accelerators import CUDAAccelerator
from torch import Tensor

import latent_diffusion.musicldm
import utilities.data.datamodule
from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.errors import MSGLDError
from tests import tiny
from tests.parity import FIXTURES
from train_musicldm import main
from utilities.building import build_data, build_model, first_stage_files
from utilities.config import config_from_dict, load_config
from utilities.config_published import WITHOUT_EFFECT
from utilities.registry import TARGETS
from utilities.runs import build_trainer, checkpoint_of, run_folder

ROOT = Path(__file__).parents[1]
PUBLISHED: dict[str, dict[str, Any]] = json.loads((FIXTURES.parent / "published_yaml.json").read_text())
TRAIN, EVAL, INPAINT = (f"multichannel_musicldm_slakh_3d_{name}.yaml" for name in ("train", "eval", "eval_inpaint"))
WEIGHTS = "lightning_logs/musicldm_checkpoints"  # where the published files look for VAE and vocoder
FIRST_STAGE = "model.params.first_stage_config.params"


def nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as the groups of a file."""
    tree: dict[str, Any] = {}
    for dotted, value in keys.items():
        *groups, last = dotted.split(".")
        group = tree
        for name in groups:
            group = group.setdefault(name, {})
        group[last] = value
    return tree


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The inverse of `nested`."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def rebuild(folder: Path, name: str) -> Path:
    """A published file."""
    path = folder / name
    path.write_text(yaml.safe_dump(nested(PUBLISHED[name]), sort_keys=False))
    return path


def has_effect(key: str) -> bool:
    """Whether a published key is in the list of those without effect, by itself or with its group."""
    return not any(f"{key}.".startswith(f"{listed}.") for listed in WITHOUT_EFFECT)


# ---- our three files


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_file_is_the_same_experiment(name: str, tmp_path: Path) -> None:
    path = ROOT / "config" / "MSG-LD" / name
    ours, theirs = (dict(flat(load_config(file).to_dict())) for file in (path, rebuild(tmp_path, name)))
    written = dict(flat(yaml.safe_load(path.read_text())))
    assert [key for key in PUBLISHED[name] if has_effect(key) and key not in written] == []
    for values in (ours, theirs):
        for key in [key for key in values if not has_effect(key)]:
            del values[key]
        for key in [key for key in values if key.endswith("target")]:
            values[key] = TARGETS[values[key]]
    # the two that are checked against others
    assert ours.pop(f"{FIRST_STAGE}.ddconfig.mel_bins") == 64 and theirs.pop(f"{FIRST_STAGE}.ddconfig.mel_bins") is None
    assert ours.pop(f"{FIRST_STAGE}.sampling_rate") == 16_000 and theirs.pop(f"{FIRST_STAGE}.sampling_rate") is None
    assert ours == theirs


# ---- every key: an effect, or in the list


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[Mapping[str, Any]], str]:
    """What the keys of a file make of everything: constructor arguments, folders, files, what is said; or the error."""

    def recorder(*arguments: Any, **keywords: Any) -> Any:
        return arguments, keywords

    monkeypatch.setattr(latent_diffusion.musicldm, "MusicLDM", recorder)
    monkeypatch.setattr(utilities.data.datamodule, "StemDataModule", recorder)
    monkeypatch.setattr(pl, "Trainer", recorder)
    monkeypatch.setattr(CUDAAccelerator, "is_available", staticmethod(lambda: True))
    for module in ("building", "runs"):
        monkeypatch.setattr(f"utilities.{module}.find_checkpoint", lambda path, key: Path(path))

    def made(keys: Mapping[str, Any]) -> str:
        caplog.clear()
        try:
            config = config_from_dict(nested(keys), "published.yaml")
            _, trainer = build_trainer(config, Path("folder"))
            callbacks = [vars(callback) for callback in trainer.pop("callbacks")]
            data, model = build_data(config), build_model(config)
            files = [first_stage_files(config), checkpoint_of(config), config.model.params.ckpt_path]
            parts: list[Any] = [model, data, trainer, callbacks, files, run_folder(config)]
        except MSGLDError as error:
            return str(error)
        parts += [record.getMessage() for record in caplog.records if "without effect" not in record.msg]
        return re.sub(r" at 0x\w+|\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d", "", repr(parts))

    return made


OTHER_VALUES = {  # where another value of the same kind would not do
    "mode": "test",
    "trainer.accelerator": "cpu",
    "trainer.precision": 16,
    "trainer.devices": [1],
    "data.params.path.stems": ["bass", "drums", "guitar", "voice"],
    "model.params.monitor": "val/loss",
    "model.params.channels": 5,
    f"{FIRST_STAGE}.ddconfig.attn_resolutions": [64],
    "data.params.path.stems_to_inpaint": ["bass"],
}


def another(key: str, value: Any) -> Any:
    """A value that a key does not have."""
    if key in OTHER_VALUES:
        return OTHER_VALUES[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 if value else 1
    if isinstance(value, list):
        return value[:1]
    if key.startswith("trainer.") and "resume" not in key:
        return 7
    return "another"


def test_every_published_key_has_an_effect_or_is_listed(outcome: Callable[[Mapping[str, Any]], str]) -> None:
    """Where a key has another value, something that is built, read or said is another, or it is refused."""
    keys = {key: value for name in (TRAIN, EVAL, INPAINT) for key, value in PUBLISHED[name].items()}
    keys |= {"mode": "train", "model.params.use_silence_weight": True}  # in which checkpoints and tau count
    before = outcome(keys)
    assert before.startswith("[")
    idle = [key for key, value in keys.items() if outcome(keys | {key: another(key, value)}) == before]
    assert [key for key in idle if has_effect(key)] == []
    refused = [key for key in keys if not has_effect(key) and key not in idle]
    assert all(".lossconfig." in key for key in refused)  # a group that is checked although it has no effect


def test_the_hifigan_key_names_the_vocoder_of_a_file_without_another(tmp_path: Path) -> None:
    path = rebuild(tmp_path, TRAIN)
    for file in ("vae.ckpt", "a.ckpt", "b.ckpt"):
        (tmp_path / file).touch()
    vae = f"{FIRST_STAGE}.reload_from_ckpt={tmp_path}/vae.ckpt"
    hifigan = f"{FIRST_STAGE}.ddconfig.hifigan_ckpt={tmp_path}/a.ckpt"
    ours = f"{FIRST_STAGE}.vocoder_config.ckpt_path={tmp_path}/b.ckpt"
    spectral = f"{FIRST_STAGE}.vocoder_config.target=latent_diffusion.first_stage.SpectralVocoder"
    assert first_stage_files(load_config(path, [vae, hifigan]))[1] == tmp_path / "a.ckpt"
    assert first_stage_files(load_config(path, [vae, hifigan, ours]))[1] == tmp_path / "b.ckpt"
    with pytest.raises(MSGLDError, match="ddconfig.hifigan_ckpt: lightning_logs.*no such file"):
        first_stage_files(load_config(path, [vae]))
    with pytest.raises(MSGLDError, match="vocoder_config.ckpt_path: found nothing"):
        first_stage_files(load_config(path, [vae, hifigan, spectral]))


# ---- --dry-run as they stand


def made_up(name: str, part: str = "state_dict") -> dict[str, Tensor]:
    """Tensors with the names and shapes of a published file; all lie in the memory of the largest, in a file too."""
    shapes = {key: shape for key, shape, _ in json.loads((FIXTURES / name).read_text())[part]}
    shared = torch.full((max(math.prod(shape) for shape in shapes.values()),), 0.01)
    return {key: shared[: math.prod(shape)].view(shape) for key, shape in shapes.items()}


def model_file(path: Path, width: int) -> None:
    """A published checkpoint of the published size, as far as names and shapes go."""
    state = made_up("lightning_full_keys_128.json")
    if width != 128:
        state = {key: value for key, value in state.items() if "diffusion_model" not in key}
        for key, value in made_up(f"unet_full_keys_{width}.json").items():
            state[f"model.diffusion_model.{key}"] = value
            state[f"model_ema.diffusion_model{key.replace('.', '')}"] = value
    state |= NoiseSchedule().published_buffers() | {"scale_factor": torch.tensor(0.7)}
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": state, "epoch": 3, "global_step": 1234, "pytorch-lightning_version": "1.9.4"}, path)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as a user of the published code has it: files, music and weights where the files say."""
    folder = tmp_path_factory.mktemp("published")
    for name, keys in PUBLISHED.items():
        rebuild(folder, name)
        if keys["trainer.resume_from_checkpoint"]:
            width = keys["model.params.unet_config.params.model_channels"]
            model_file(folder / keys["trainer.resume_from_checkpoint"], width)
    (folder / WEIGHTS).mkdir()
    torch.save({"state_dict": made_up("vae_keys.json")}, folder / WEIGHTS / "vae-ckpt.ckpt")
    generator = made_up("hifigan_keys.json", "generator_with_weight_norm")
    torch.save({"generator": generator}, folder / WEIGHTS / "hifigan-ckpt.ckpt")
    for seed, split in enumerate(("train", "validation", "test")):
        tiny.write_songs(folder / "data" / "slakh2100" / split, 2, 20.48, seed)
    yield folder
    shutil.rmtree(folder)  # a few hundred megabytes


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            TRAIN,
            {
                "mode": "train",
                "task": "separation, ddim with 200 steps",
                "parameters": "U-Net 305,165,444, first stage 110,641,770",
                "train": "4 tracks, 8 windows",
                "training": "batch 3, 2 batches an epoch, until 1200 epochs",
            },
        ),
        (EVAL, {"mode": "test", "task": "separation, ddim with 200 steps", "validation": "2 tracks, 4 windows"}),
        (INPAINT, {"mode": "test", "task": "arrangement, ddim with 200 steps"}),
    ],
)
def test_dry_run(name: str, lines: dict[str, str], full_size: Path) -> None:
    command = [sys.executable, str(ROOT / "train_musicldm.py"), "--config", name, "--dry-run"]
    result = subprocess.run(command, cwd=full_size, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    said = dict(line.split(None, 1) for line in result.stdout.splitlines())
    assert {key: said[key] for key in lines} == lines
    start = PUBLISHED[name]["trainer.resume_from_checkpoint"]
    assert result.stdout.splitlines()[-2] == f"goes on from {start or 'nothing'}"
    assert said["run"].startswith(f"folder   lightning_logs/{PUBLISHED[name]['project_name']}/")
    (warning,) = [line for line in result.stderr.splitlines() if "without effect" in line]
    assert "unet_config.params.no_condition" in warning and "first_stage_config.params.mel_num" in warning


# ---- through their modes, at a tiny size

SIZES = {
    **dict(flat({"data.params.preprocessing": tiny.config(Path())["data"]["params"]["preprocessing"]})),
    "model.params.latent_t_size": 16,
    "model.params.latent_f_size": 8,
    "model.params.unet_config.params.model_channels": 8,
    "model.params.unet_config.params.num_res_blocks": 1,
    "model.params.unet_config.params.channel_mult": [1, 2],
    "model.params.unet_config.params.attention_resolutions": [2],
    "model.params.unet_config.params.num_head_channels": 8,
    "model.params.unet_config.params.num_groups": 4,
    f"{FIRST_STAGE}.embed_dim": tiny.AUTOENCODER.embed_dim,
    **{f"{FIRST_STAGE}.ddconfig.{key}": getattr(tiny.AUTOENCODER, key) for key in ("ch", "num_res_blocks")},
    f"{FIRST_STAGE}.ddconfig.ch_mult": list(tiny.AUTOENCODER.ch_mult),
    f"{FIRST_STAGE}.ddconfig.z_channels": tiny.AUTOENCODER.z_channels,
    f"{FIRST_STAGE}.ddconfig.num_groups": tiny.AUTOENCODER.num_groups,
    **{
        f"{FIRST_STAGE}.vocoder_config.params.{key}": json.loads(json.dumps(value))
        for key, value in asdict(tiny.VOCODER).items()
        if key.startswith(("upsample", "resblock"))
    },
    "model.params.evaluation_params.ddim_sampling_steps": 2,
    "data.params.num_workers": 0,
    "trainer.logger": [],
}


@pytest.fixture(scope="module")
def tiny_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `full_size`, with networks of the tiny size, which the command line asks for."""
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny.model()
    for name, keys in PUBLISHED.items():
        rebuild(folder, name)
        if keys["trainer.resume_from_checkpoint"]:
            path = folder / keys["trainer.resume_from_checkpoint"]
            path.parent.mkdir(parents=True)
            saved = {"state_dict": model.state_dict(), "msgld": {"settings": model.settings.to_dict()}}
            torch.save(saved | {"global_step": 5}, path)
    tiny.write_first_stage(folder)
    (folder / WEIGHTS).mkdir()
    (folder / "vae.ckpt").rename(folder / WEIGHTS / "vae-ckpt.ckpt")
    (folder / "vocoder.ckpt").rename(folder / WEIGHTS / "hifigan-ckpt.ckpt")
    for seed, (split, tracks) in enumerate({"train": 2, "validation": 1, "test": 2}.items()):
        tiny.write_songs(folder / "data" / "slakh2100" / split, tracks, tiny.MEL.window_seconds, seed)
    return folder


def run(folder: Path, name: str, *overrides: str) -> Path:
    """Carry out what a published file says, and give the run's folder."""
    sizes = [f"{key}={json.dumps(value)}" for key, value in SIZES.items()]
    assert main(["--config", name, *sizes, *overrides]) == 0
    return max((folder / "lightning_logs" / PUBLISHED[name]["project_name"]).glob("*_3e-05_*"))


def items(folder: Path) -> int:
    return len(list(folder.glob("*.wav")))


def test_the_training_file_trains(tiny_size: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_size)
    folder = run(tiny_size, TRAIN, "trainer.max_epochs=1")
    assert folder.name.endswith("_3_D_4_stems_slakh_3e-05_zero_unconditional")
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 1  # a batch of the windows of train and of validation
    vocoder = torch.load(Path(WEIGHTS) / "hifigan-ckpt.ckpt", weights_only=True)["generator"]
    assert torch.equal(checkpoint["state_dict"]["first_stage_model.vocoder.conv_pre.bias"], vocoder["conv_pre.bias"])
    assert len(list((folder / "checkpoints").glob("best_*"))) == 1
    assert items(folder / "val_1" / "stem_0") == 2  # of the test tracks


def test_the_evaluation_file_separates(tiny_size: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_size)
    folder = run(tiny_size, EVAL)
    assert [items(folder / "val_5" / name) for name in ("mix", "stem_0", "stem_3")] == [2, 2, 2]
    assert json.loads((folder / "val_5" / "metrics.json").read_text())["task"] == "separation"


def test_the_inpainting_file_arranges(tiny_size: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_size)
    folder = run(tiny_size, INPAINT)
    assert folder.name.endswith("_3_D_4_stems_slakh_3e-05_zero_unconditional_D")
    made = folder / "val_5"
    assert items(made / "drums") == items(made / "mix") == 2 and not (made / "bass").exists()
