"""Weights files through the command line: --inspect, --convert, and a published configuration with its checkpoint."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train_musicldm
from latent_diffusion.checkpoints import convert, read_weights, settings_of
from latent_diffusion.inspection import summarise
from latent_diffusion.musicldm import MusicLDM
from latent_diffusion.settings import UNetSettings, VocoderSettings
from tests import tiny
from tests.latent_diffusion.test_bad_weights import BAD, Payload
from tests.latent_diffusion.test_checkpoints import TINY, VOCODER, published, vae_file
from tests.latent_diffusion.test_spectral import checkpoint as spectral_checkpoint
from utilities import cli
from utilities.config import autoencoder_settings, kind, load_config, model_settings, vocoder_settings
from utilities.weights import snippet

PUBLISHED_YAML = Path(__file__).parent / "fixtures" / "published_train.yaml"


def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Standard output of a run that must succeed."""
    assert train_musicldm.main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a run that must end with status 2."""
    capsys.readouterr()
    assert train_musicldm.main([str(argument) for argument in arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


# ---- inspect


def test_inspect_prints_facts_and_a_configuration_that_loads(capsys, tmp_path: Path) -> None:
    text = command(capsys, "--inspect", TINY)
    facts, _, yaml_text = text.partition("\n\n")
    lines = dict(line.split(None, 1) for line in facts.splitlines() if not line.startswith(" "))
    assert lines["width"] == "32" and lines["stems"].startswith("4: bass, drums, guitar, piano")
    assert lines["EMA"] == "yes, 1 updates, decay 0.9999" and lines["step"] == "10 (epoch 0)"
    assert lines["latent"].startswith("8 x 256 x 16") and lines["parameters"].startswith("766,752 ")
    assert "6 tensors" in facts and "left out in loading" in facts
    path = tmp_path / "fits.yaml"
    path.write_text(yaml_text)
    config = load_config(path)
    assert model_settings(config) == settings_of(read_weights(TINY))
    assert config.model.params.ckpt_path == str(TINY) and config.model.params.ema_decay == 0.9999


def test_the_configuration_fits_every_kind_of_file(tmp_path: Path) -> None:
    model = tiny.model(("left", "right"), parameterization="v", linear_end=0.01)
    torch.save(
        {"state_dict": model.state_dict(), "msgld": {"settings": model.settings.to_dict()}}, tmp_path / "own.ckpt"
    )
    spectral, griffin = VocoderSettings("spectral", 16, width=8, band_iterations=2), VocoderSettings("griffin_lim", 16)
    for name, vocoder in (("spectral", spectral), ("griffin", griffin)):
        other = MusicLDM(replace(model.settings, vocoder=vocoder))
        msgld = {"settings": other.settings.to_dict()}
        torch.save({"state_dict": other.state_dict(), "msgld": msgld}, tmp_path / f"{name}.ckpt")
    spectral_checkpoint(tmp_path / "vocoder.ckpt", spectral)
    files = [
        (TINY, model_settings),
        *((tmp_path / f"{n}.ckpt", model_settings) for n in ("own", "spectral", "griffin")),
    ]
    files.append((tmp_path / "vocoder.ckpt", vocoder_settings))
    files += [(VOCODER, vocoder_settings), (vae_file(tmp_path), autoencoder_settings)]
    for weights, of in files:
        summary = summarise(weights)
        path = tmp_path / "fits.yaml"
        path.write_text(snippet(summary))
        config = load_config(path)
        assert kind(config) == summary.kind and of(config) == summary.settings


# ---- convert


def test_convert_there_and_back(capsys, tmp_path: Path) -> None:
    own, back = tmp_path / "own.safetensors", tmp_path / "back.ckpt"
    assert "own.safetensors" in command(capsys, "--convert", TINY, "--to", own)
    command(capsys, "--convert", own, "--to", back)
    state, before = torch.load(back, weights_only=True)["state_dict"], published()["state_dict"]
    assert state.keys() == before.keys() and all(torch.equal(state[key], before[key]) for key in before)
    assert "--force" in refusal(capsys, "--convert", own, "--to", back)
    command(capsys, "--convert", TINY, "--to", own, "--weights", "ema", "--half", "--force")
    assert own.stat().st_size < TINY.stat().st_size
    assert "EMA                no" in command(capsys, "--inspect", own)


@pytest.mark.parametrize(
    "arguments", [["--convert", "a"], ["--inspect", "a", "--to", "b"], ["--inspect", "a", "seed=1"], []]
)
def test_bad_use_ends_with_status_2(capsys, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train_musicldm.main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("name", ["text.ckpt", "truncated.ckpt", "folder.ckpt", "missing.ckpt", "broken.safetensors"])
def test_what_is_no_weights_file_ends_with_one_line(capsys, tmp_path: Path, name: str) -> None:
    BAD[name][0](tmp_path / name)
    assert BAD[name][1] in refusal(capsys, "--inspect", tmp_path / name)
    assert BAD[name][1] in refusal(capsys, "--convert", tmp_path / name, "--to", tmp_path / "x.ckpt")


def test_a_payload_ends_with_one_line(capsys, tmp_path: Path) -> None:
    path, marker = tmp_path / "payload.ckpt", tmp_path / "marker"
    torch.save(published() | {"hyper_parameters": Payload(marker)}, path)
    assert "run code when read" in refusal(capsys, "--inspect", path)
    assert not marker.exists()


def test_the_old_options_and_the_new_commands_do_the_same(capsys, tmp_path: Path) -> None:
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    assert cli.main(["inspect", str(TINY)]) == 0
    shown = capsys.readouterr()
    assert train_musicldm.main(["--inspect", str(TINY)]) == 0
    before = capsys.readouterr()
    assert before.out == shown.out and not shown.err
    assert before.err == "note: --inspect FILE is now the command `msgld inspect FILE`\n"
    choice = ["--weights", "ema", "--half"]
    assert cli.main(["convert", str(TINY), "--to", str(new), *choice]) == 0
    assert train_musicldm.main(["--convert", str(TINY), "--to", str(old), *choice]) == 0
    assert "`msgld convert FILE --to FILE`" in capsys.readouterr().err
    assert old.read_bytes() == new.read_bytes()
    assert cli.main(["convert", str(TINY), "--to", str(new)]) == 2
    assert "--force" in capsys.readouterr().err


# ---- a published configuration with a published checkpoint


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits of one short song each."""
    root = tmp_path_factory.mktemp("songs")
    tiny.write_songs(root / "train", 2, 1.0)
    tiny.write_songs(root / "valid", 1, 0.4, seed=1)
    return root


def published_config(root: Path, folder: Path, **trainer: Any) -> Path:
    """The published YAML, made to fit the small checkpoint: sizes, paths, and little to do."""
    values = yaml.safe_load(PUBLISHED_YAML.read_text())
    values["log_directory"] = str(folder / "runs")
    values["trainer"] |= {"resume_from_checkpoint": str(TINY), "devices": [0], **trainer}
    params = values["data"]["params"]
    params["path"] |= {"train_data": [str(root / "train")], "valid_data": str(root / "valid"), "test_data": ""}
    params |= {"batch_size": 2, "num_workers": 0}
    params["preprocessing"]["mel"]["target_length"] = 32
    model = values["model"]["params"]
    model |= {"latent_t_size": 8}
    unet = {"model_channels": 32, "num_res_blocks": 1, "channel_mult": [1], "attention_resolutions": [1]}
    model["unet_config"]["params"] |= unet
    stage = model["first_stage_config"]["params"]
    stage["ddconfig"] |= {"ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1}
    stage["vocoder_config"] = {"params": {"upsample_initial_channel": 32}}
    model["evaluation_params"]["ddim_sampling_steps"] = 2
    path = folder / "published.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator

    for accelerator in (CUDAAccelerator, MPSAccelerator):
        monkeypatch.setattr(accelerator, "is_available", staticmethod(lambda: False))


def test_published_yaml_from_dry_run_to_validation(capsys, caplog, songs: Path, tmp_path: Path, no_gpu: None) -> None:
    config = published_config(songs, tmp_path)
    text = command(capsys, "--config", config, "--dry-run", "mode=validate")
    assert "separation, ddim with 2 steps" in text and str(TINY) in text and "device       cpu" in text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        command(capsys, "--config", config, "mode=validate")
    (ignored, accelerator) = [
        r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name.startswith("utilities.config")
    ]
    assert "without effect here, ignored: " in ignored and "trainer.accelerator is gpu" in accelerator
    assert caplog.text.count("left out: ") == 1
    (run,) = (tmp_path / "runs" / "multichannel_musicldm_slakh").iterdir()
    results = run / "val_10"  # the checkpoint's step
    for folder in ("mix", "stem_0", "stem_1", "stem_2", "stem_3"):
        assert len(list((results / folder).glob("*.wav"))) == 2  # of 0.32 s each, the tail included
    assert "trainer.accelerator" in refusal(capsys, "--config", config, "mode=validate", "--strict")


def test_published_checkpoint_that_does_not_fit_is_one_line_before_a_folder_is_made(
    capsys, songs: Path, tmp_path: Path, no_gpu: None
) -> None:
    config = published_config(songs, tmp_path)
    for mode in ("train", "validate"):
        line = refusal(capsys, "--config", config, f"mode={mode}", "model.params.unet_config.params.model_channels=64")
        assert "model_channels 32 in the file, unet_config.params.model_channels is 64" in line
        assert "linear_end 0.0195" in refusal(
            capsys, "--config", config, f"mode={mode}", "model.params.linear_end=0.02"
        )
    assert not (tmp_path / "runs").exists()


def test_training_goes_on_from_published_weights_without_an_optimiser(
    capsys, caplog, songs: Path, tmp_path: Path, no_gpu: None
) -> None:
    config = published_config(songs, tmp_path)
    with caplog.at_level(logging.INFO):
        command(
            capsys,
            "--config",
            config,
            "trainer.max_steps=1",
            "model.params.warmup_steps=0",
            "trainer.limit_val_batches=0",
        )
    assert caplog.text.count("the training state starts new") == 1
    (last,) = tmp_path.rglob("last.ckpt")
    weights, before = read_weights(last), published()["state_dict"]
    assert weights.step == 1 and weights.training_state
    key = "model.diffusion_model.input_blocks.0.0.weight"
    moved = (weights.tensors[key] - before[key]).abs().max()
    assert 0 < moved < 1e-3  # one step of AdamW away from the published weights
    same_stage = "first_stage_model.encoder.conv_in.weight"
    assert torch.equal(weights.tensors[same_stage], before[same_stage])


def loops_of_lightning_1_9(step: int, epoch: int) -> dict[str, Any]:
    """Progress at the end of an epoch, under the names of that version."""

    def progress(count: int, *names: str) -> dict[str, Any]:
        return {part: dict.fromkeys(names, count if part == "total" else 0) for part in ("total", "current")}

    names, epochs = ("ready", "started", "processed", "completed"), {"total": {}, "current": {}}
    for part in epochs:
        epochs[part] = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch + 1, "completed": epoch}
    optimiser = {
        "step": progress(step, "ready", "completed"),
        "zero_grad": progress(step, "ready", "started", "completed"),
    }
    inner = "epoch_loop.batch_loop"
    return {
        "state_dict": {},
        "epoch_progress": epochs,
        "epoch_loop.state_dict": {"_batches_that_stepped": step},
        "epoch_loop.batch_progress": progress(step, *names) | {"is_last_batch": True},
        "epoch_loop.scheduler_progress": progress(step, "ready", "completed"),
        f"{inner}.state_dict": {},
        f"{inner}.manual_loop.state_dict": {},
        f"{inner}.manual_loop.optim_step_progress": progress(0, "ready", "completed"),
        f"{inner}.optimizer_loop.state_dict": {},
        f"{inner}.optimizer_loop.optim_progress": {"optimizer_position": 0, "optimizer": optimiser},
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.dataloader_progress": progress(0, "ready", "completed"),
        "epoch_loop.val_loop.epoch_loop.state_dict": {},
        "epoch_loop.val_loop.epoch_loop.batch_progress": progress(0, *names) | {"is_last_batch": False},
    }


def with_optimiser(path: Path, step: int) -> Path:
    """The published checkpoint as Lightning 1.9 writes it in a training: AdamW's state, schedule, loops."""
    content = published()
    names = [key for key in content["state_dict"] if key.startswith("model.diffusion_model.")]
    tensors = [content["state_dict"][name] for name in names]
    state = {
        i: {"step": torch.tensor(float(step)), "exp_avg": torch.zeros_like(t), "exp_avg_sq": torch.full_like(t, 1e-4)}
        for i, t in enumerate(tensors)
    }
    group = {"lr": 3e-5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False}
    group |= {"initial_lr": 3e-5, "params": list(range(len(tensors)))}
    schedule = {
        "base_lrs": [3e-5],
        "last_epoch": step,
        "_step_count": step + 1,
        "_last_lr": [3e-5],
        "lr_lambdas": [None],
    }
    content |= {"global_step": step, "epoch": 2, "callbacks": {}, "lr_schedulers": [schedule]}
    content["loops"] = {"fit_loop": loops_of_lightning_1_9(step, epoch=2)}
    content["optimizer_states"] = [{"state": state, "param_groups": [group]}]
    torch.save(content, path)
    return path


def test_training_goes_on_from_published_weights_with_their_optimiser(
    capsys, caplog, songs: Path, tmp_path: Path, no_gpu: None
) -> None:
    checkpoint = with_optimiser(tmp_path / "training.ckpt", 10)
    config = published_config(songs, tmp_path, resume_from_checkpoint=str(checkpoint), limit_val_batches=0)
    with caplog.at_level(logging.INFO):
        command(capsys, "--config", config, "trainer.max_steps=12")
    assert "the training state starts new" not in caplog.text
    (last,) = tmp_path.rglob("last.ckpt")
    content = torch.load(last, weights_only=True)
    assert content["global_step"] == 12
    moments = content["optimizer_states"][0]["state"]
    assert {int(m["step"]) for m in moments.values()} == {12}
    assert float(moments[0]["exp_avg_sq"].max()) > 5e-5  # the file's second moment, two steps on, not a new one
    line = refusal(capsys, "--config", config, "trainer.max_steps=12", "model.params.learn_logvar=true")
    assert "optimiser trained 88 tensors that are not the 89" in line


def test_converted_weights_validate_like_the_published_ones(capsys, songs: Path, tmp_path: Path, no_gpu: None) -> None:
    own = tmp_path / "own.safetensors"
    convert(TINY, own, "ema")
    found = []
    for name, checkpoint in (("a", TINY), ("b", own)):
        (tmp_path / name).mkdir()
        config = published_config(songs, tmp_path / name, resume_from_checkpoint=str(checkpoint))
        command(capsys, "--config", config, "mode=test")
        found.append({p.name: p.read_bytes() for p in (tmp_path / name).rglob("val_10/stem_0/*.wav")})
    assert found[0] and found[0] == found[1]


def test_width_192_is_understood_from_its_keys() -> None:
    from latent_diffusion.architecture import infer_unet

    manifest = json.loads((TINY.parent / "unet_full_keys_192.json").read_text())["state_dict"]
    state = {key: torch.empty(shape, device="meta") for key, shape, _ in manifest}
    assert infer_unet(state) == UNetSettings(model_channels=192)
