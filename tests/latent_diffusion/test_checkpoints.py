"""Weights files: every published format in, every difference named, nothing run, and back again bit by bit."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from latent_diffusion import checkpoints
from latent_diffusion.checkpoints import contents, convert, read_weights, settings_of, writing
from latent_diffusion.diffusion import NoiseSchedule
from latent_diffusion.errors import CheckpointError
from latent_diffusion.first_stage import AutoencoderKL, HiFiGAN
from latent_diffusion.inference import MultiTrackPipeline
from latent_diffusion.inspection import summarise
from latent_diffusion.musicldm import MusicLDM, TrainingSettings
from latent_diffusion.settings import AutoencoderSettings, DiffusionSettings, ModelSettings, VocoderSettings
from tests import tiny

FIXTURES = Path(__file__).parents[1] / "fixtures" / "parity"
TINY, VOCODER = FIXTURES / "lightning_tiny.ckpt", FIXTURES / "hifigan_small.ckpt"
CONV = "model.diffusion_model.out.2.weight"


def published() -> dict[str, Any]:
    return torch.load(TINY, weights_only=True)


def edited(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The published checkpoint with `change(state_dict)` made to it."""
    content = published()
    change(content["state_dict"])
    path = tmp_path / "edited.ckpt"
    torch.save(content, path)
    return path


def vae_file(tmp_path: Path) -> Path:
    """A VAE checkpoint as published: under "state_dict", with losses and a vocoder that do not count."""
    state = {k: v.float() for k, v in load_file(FIXTURES / "vae_small.safetensors").items()}
    extra = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.3.num_batches_tracked": torch.tensor(7)}
    path = tmp_path / "vae-ckpt.ckpt"
    torch.save({"state_dict": state | extra | {"vocoder.conv_pre.bias": torch.zeros(32)}, "epoch": 3}, path)
    return path


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype and a[key].shape == b[key].shape, key
        assert torch.equal(a[key].reshape(-1).view(torch.uint8), b[key].reshape(-1).view(torch.uint8)), key


def error(function: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- reading: every tensor is used or named


def test_what_is_left_out_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        MultiTrackPipeline.from_checkpoint(TINY)
    (record,) = caplog.records
    for words in ("88 tensors of raw U-Net weights", "12 tensors of schedule tables", "6 tensors of training losses"):
        assert words in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tiny_model().load_model(TINY)
    (record,) = caplog.records
    assert "U-Net" not in record.getMessage() and "6 tensors of training losses" in record.getMessage()


def test_every_key_of_the_published_size_has_a_purpose() -> None:
    keys = [key for key, *_ in json.loads((FIXTURES / "lightning_full_keys_128.json").read_text())["state_dict"]]
    groups = {name: len(found) for name, found in contents.sort_keys("msgld", keys).items()}
    assert contents.OTHER not in groups and sum(groups.values()) == 1206
    assert groups[contents.LOSSES] == 56 and groups[contents.SCHEDULE] == 12
    keys = [key for key, *_ in json.loads((FIXTURES / "vae_keys.json").read_text())["state_dict"]]
    groups = {name: len(found) for name, found in contents.sort_keys("autoencoder", keys).items()}
    assert groups == {"VAE": 204, "training losses": 56, "vocoder": 194}


def test_tensors_of_unknown_use_are_named_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = edited(tmp_path, lambda s: s.update({"cond_stage_model.weight": torch.zeros(2)}))
    MultiTrackPipeline.from_checkpoint(path)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "cond_stage_model.weight" in record.getMessage()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop(CONV), "lacks 'out.2.weight'"),
        (lambda s: s.pop("model.diffusion_model.middle_block.0.in_layers.0.weight"), "middle_block"),
        (lambda s: s.update({CONV[:-6] + "extra": torch.zeros(1)}), "extra'"),
        (lambda s: s.pop("model_ema.diffusion_modelout2bias"), "averaged weights lack"),
        (lambda s: s.update({"model_ema.logvar": torch.zeros(1)}), "averaged weights have an unexpected"),
        (lambda s: s.pop("first_stage_model.vocoder.conv_post.bias"), "first stage lacks 'vocoder.conv_post.bias'"),
        (lambda s: s.pop("first_stage_model.encoder.conv_in.weight"), "lacks 'encoder.conv_in.weight'"),
        (lambda s: s.pop("scale_factor"), "lacks 'scale_factor'"),
        (lambda s: s.update(scale_factor=torch.tensor(-1.0)), "not positive"),
        (lambda s: s.update(scale_factor=torch.ones(3)), "has shape (3,)"),
        (lambda s: s["model_ema.diffusion_modelout2bias"].fill_(float("nan")), "NaN or infinite"),
        (lambda s: s["first_stage_model.quant_conv.bias"].fill_(float("inf")), "NaN or infinite"),
        (lambda s: s.update({"model_ema.diffusion_modelout2bias": torch.zeros(4, dtype=torch.int64)}), "is int64"),
        (lambda s: s.update({"model_ema.diffusion_modelout2bias": torch.zeros(4, dtype=torch.complex64)}), "complex64"),
        (lambda s: s.update({"model_ema.diffusion_modelout2bias": torch.zeros(5)}), "has shape (5,)"),
        (lambda s: s.update(huge=torch.zeros(1).expand(10**12)), "claims 1000000000000 values"),
        (lambda s: s.update(sparse=torch.zeros(3).to_sparse()), "expected a plain tensor"),
        (lambda s: s["alphas_cumprod"].mul_(0.5), "'alphas_cumprod' does not belong"),
        (lambda s: s["betas"].copy_(torch.linspace(0.0015, 0.0195, 1000)), "not square-root linear"),
        (lambda s: s.update(betas=torch.zeros(1000)), "no noise schedule"),
    ],
)
def test_a_damaged_model_is_one_line(tmp_path: Path, change: Callable[..., Any], words: str) -> None:
    path = edited(tmp_path, change)
    message = error(MultiTrackPipeline.from_checkpoint, path)
    assert words in message and "edited.ckpt" in message


def test_a_damaged_model_is_not_converted(tmp_path: Path) -> None:
    key = "model.diffusion_model.middle_block.0.in_layers.0.weight"  # raw: inference with averages never looks at it
    for change in (lambda s: s.pop(key), lambda s: s[key].fill_(float("nan"))):
        assert "middle_block.0.in_layers.0" in error(convert, edited(tmp_path, change), tmp_path / "out.safetensors")
        assert not (tmp_path / "out.safetensors").exists()


# ---- the architecture in the file against the one that is asked for


def tiny_model(**parts: dict[str, Any]) -> MusicLDM:
    """A model for the published tiny checkpoint, with some settings other than the file's."""
    found = settings_of(read_weights(TINY)).to_dict()
    for part, values in parts.items():
        found[part] = values if part == "stems" else found[part] | values
    return MusicLDM(ModelSettings.from_dict(found), TrainingSettings(warmup_steps=0))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"unet": {"model_channels": 64}}, "model_channels 32 in the file, unet_config.params.model_channels is 64"),
        ({"unet": {"channel_mult": (1, 2)}}, "channel_mult [1] in the file, unet_config.params.channel_mult is [1, 2]"),
        ({"unet": {"num_res_blocks": 2}}, "num_res_blocks 1 in the file, unet_config.params.num_res_blocks is 2"),
        ({"unet": {"attention_resolutions": ()}}, "attention_resolutions [1] in the file"),
        ({"autoencoder": {"ch": 64}}, "ch 32 in the file, ddconfig.ch is 64"),
        ({"autoencoder": {"embed_dim": 4}}, "embed_dim 8 in the file, first_stage_config.params.embed_dim is 4"),
        ({"vocoder": {"upsample_initial_channel": 64}}, "vocoder_config.params.upsample_initial_channel is 64"),
        ({"diffusion": {"linear_end": 0.02}}, "linear_start 0.0015, linear_end 0.0195; model.params says"),
        ({"diffusion": {"timesteps": 500}}, "timesteps 1000, linear_start 0.0015"),
        (
            {"stems": ("a", "b"), "unet": {"in_channels": 2, "out_channels": 2}},
            "4 stems in the file, data.params.path.stems names 2",
        ),
    ],
)
def test_another_architecture_is_one_line_with_the_value_that_fits(parts: dict[str, Any], words: str) -> None:
    model = tiny_model(**parts)
    assert words in error(model.load_model, TINY)
    message = error(model.on_load_checkpoint, published())  # as Lightning calls it
    assert words in message


def test_settings_that_only_our_files_tell_are_compared(tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    convert(TINY, own)
    message = error(tiny_model(diffusion={"parameterization": "v"}).load_model, own)
    assert "parameterization eps in the file, model.params.parameterization is v" in message
    message = error(tiny_model(mel={"f_max": 7000.0}).load_model, own)
    assert "data.params.preprocessing.mel.mel_fmax is 7000.0" in message
    tiny_model(mel={"frames": 512}, unet={"dropout": 0.1}).load_model(own)  # these may differ


def test_another_schedule_is_inferred(tmp_path: Path) -> None:
    other = DiffusionSettings(timesteps=400, linear_start=0.001, linear_end=0.012)
    path = edited(tmp_path, lambda s: s.update(NoiseSchedule(other).published_buffers()))
    assert settings_of(read_weights(path)).diffusion == other
    MultiTrackPipeline.from_checkpoint(path)
    assert "timesteps 400, linear_start 0.001, linear_end 0.012" in error(tiny_model().load_model, path)


def test_first_stage_files_are_held_against_the_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = vae_file(tmp_path)
    fitting = AutoencoderSettings(ch=32, ch_mult=(1, 2, 1), num_res_blocks=1)
    vae = AutoencoderKL(fitting)
    with caplog.at_level(logging.INFO):
        checkpoints.load_autoencoder(vae, path)
    assert "1 tensors of the vocoder, 2 tensors of training losses" in caplog.text
    stored = {k: v.float() for k, v in load_file(FIXTURES / "vae_small.safetensors").items()}
    same({key: vae.state_dict()[key] for key in stored}, stored)
    message = error(checkpoints.load_autoencoder, AutoencoderKL(AutoencoderSettings(ch=64)), path)
    assert "ch 32 in the file, ddconfig.ch is 64" in message
    message = error(checkpoints.load_vocoder, HiFiGAN(VocoderSettings(upsample_initial_channel=64)), VOCODER)
    assert "upsample_initial_channel 32 in the file, vocoder_config.params.upsample_initial_channel is 64" in message
    checkpoints.load_vocoder(HiFiGAN(VocoderSettings(upsample_initial_channel=32)).remove_weight_norm(), VOCODER)
    assert "found a vocoder, expected a VAE" in error(checkpoints.load_autoencoder, vae, VOCODER)


# ---- converting


def test_round_trip_of_an_msgld_is_exact(tmp_path: Path) -> None:
    own, back = tmp_path / "own.safetensors", tmp_path / "back.ckpt"
    convert(TINY, own)
    convert(own, back)
    before, after = published(), torch.load(back, weights_only=True)
    same(before["state_dict"], after["state_dict"])
    for key in ("epoch", "global_step", "pytorch-lightning_version"):
        assert before[key] == after[key]
    assert settings_of(read_weights(own)) == settings_of(read_weights(TINY)) == settings_of(read_weights(back))
    with open(own, "rb") as file:  # plain safetensors, readable without this project
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    description = json.loads(header["__metadata__"]["msgld"])
    assert description["kind"] == "msgld" and description["step"] == 10 and description["weights"] == "both"
    same(load_file(own), before["state_dict"])


@pytest.mark.parametrize("keep", ["ema", "raw"])
def test_one_set_of_weights_gives_the_same_model(tmp_path: Path, keep: str) -> None:
    own, back = tmp_path / "own.safetensors", tmp_path / "back.ckpt"
    convert(TINY, own, keep)
    weights = read_weights(own)
    assert not weights.has_ema and weights.step == 10
    groups = contents.sort_keys("msgld", weights.tensors)
    assert set(groups) == {"U-Net", "VAE", "vocoder", "scale factor", "log-variance"}
    same(checkpoints.unet_state(weights, ema=False), checkpoints.unet_state(read_weights(TINY), ema=keep == "ema"))
    convert(own, back)
    state, before = torch.load(back, weights_only=True)["state_dict"], published()["state_dict"]
    lost = {key for key in before if key.startswith("first_stage_model.loss.")}
    assert state.keys() == before.keys() - lost
    changed = contents.UNET if keep == "ema" else contents.AVERAGED
    for key in state:  # the published layout is complete; the set that was not kept is a copy of the other
        if contents.group_of("msgld", key) != changed:
            assert torch.equal(state[key], before[key]), key
    assert torch.equal(state[CONV], state["model_ema.diffusion_modelout2weight"])


def test_half_precision_comes_back_as_single(tmp_path: Path) -> None:
    own = tmp_path / "half.safetensors"
    convert(TINY, own, "ema", half=True)
    stored = load_file(own)
    assert stored[CONV].dtype == torch.float16 and stored["scale_factor"].dtype == torch.float32
    whole, halved = MultiTrackPipeline.from_checkpoint(TINY), MultiTrackPipeline.from_checkpoint(own)
    for key, value in halved.unet.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, whole.unet.state_dict()[key].half().float())
    assert torch.equal(whole.scale_factor, halved.scale_factor)
    path = edited(tmp_path, lambda s: s[CONV].fill_(1e6))
    assert "in half precision holds NaN or infinite" in error(convert, path, tmp_path / "x.safetensors", "raw", True)


def test_round_trip_of_first_stage_files_is_exact(tmp_path: Path) -> None:
    own, back = tmp_path / "own.safetensors", tmp_path / "back.ckpt"
    convert(VOCODER, own)
    convert(own, back)
    before = torch.load(VOCODER, weights_only=True)["generator"]
    same(torch.load(back, weights_only=True)["generator"], before)
    same(read_weights(own).tensors, before)
    vae = vae_file(tmp_path)
    convert(vae, own, force=True)
    convert(own, back, force=True)
    same(torch.load(back, weights_only=True)["state_dict"], torch.load(vae, weights_only=True)["state_dict"])
    convert(vae, own, "raw", force=True)
    assert set(read_weights(own).tensors) == set(load_file(FIXTURES / "vae_small.safetensors"))
    assert "no averaged weights" in error(convert, vae, tmp_path / "x.ckpt", "ema")


def test_our_own_training_checkpoint_converts_with_its_settings(tmp_path: Path) -> None:
    model = tiny.model(("left", "right"), TrainingSettings(scale_per_channel=True), parameterization="v")
    checkpoint = {
        "state_dict": model.state_dict(),
        "global_step": 5,
        "optimizer_states": [{"state": {}}],
        "loops": {"fit_loop": 1},
    }
    checkpoint["msgld"] = {"kind": "msgld", "settings": model.settings.to_dict(), "step": 5}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    assert read_weights(tmp_path / "last.ckpt").training_state
    for name in ("own.safetensors", "back.ckpt"):
        convert(tmp_path / "last.ckpt", tmp_path / name)
        weights = read_weights(tmp_path / name)
        assert settings_of(weights) == model.settings and weights.step == 5
        same({key: weights.tensors[key] for key in model.state_dict()}, dict(model.state_dict()))
    assert "betas" in read_weights(tmp_path / "back.ckpt").tensors


def test_targets_are_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.safetensors"
    convert(VOCODER, own)
    content = own.read_bytes()
    assert "--force" in error(convert, VOCODER, own)
    (tmp_path / "link.safetensors").symlink_to(own)
    assert "is the file that is to be converted" in error(
        convert, own, tmp_path / "link.safetensors", "both", False, True
    )
    assert "expected a name that ends in" in error(convert, VOCODER, tmp_path / "own.bin")
    assert "folder does not exist" in error(convert, VOCODER, tmp_path / "none" / "own.ckpt")

    def fail(path: Path, *_: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(writing, "write_safetensors", fail)
    assert "No space left" in error(convert, VOCODER, own, "both", False, True)
    assert own.read_bytes() == content and not list(tmp_path.glob(".*"))


# ---- inspecting


def test_inspection_says_what_a_file_is(tmp_path: Path) -> None:
    s = summarise(TINY)
    assert (s.kind, s.own, s.step, s.epoch, s.ema_updates, s.training_state) == ("msgld", False, 10, 0, 1, False)
    assert s.scale == [pytest.approx(float(published()["state_dict"]["scale_factor"]))]
    assert s.parameters == 402_564 + 295_721 + 68_467 and s.ema_decay == 0.9999
    assert not s.groups["training losses"].used and s.groups["U-Net"].dtypes == {"float32"}
    s = summarise(VOCODER)
    assert s.kind == "vocoder" and s.weight_norm and s.settings.upsample_initial_channel == 32
    s = summarise(vae_file(tmp_path))
    assert s.kind == "autoencoder" and s.settings == AutoencoderSettings(ch=32, ch_mult=(1, 2, 1), num_res_blocks=1)
    assert s.parameters == sum(v.numel() for v in load_file(FIXTURES / "vae_small.safetensors").values())
