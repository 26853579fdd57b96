"""Agreement with the numbers measured from the published implementation.

`python -m tests.parity` prints the largest absolute difference of every quantity beside its tolerance;
`tests/test_parity.py` fails where one is exceeded. The fixtures and the tolerances are described in
`tests/fixtures/parity/README.md`.
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from latent_diffusion.checkpoints import read_weights, settings_of
from latent_diffusion.diffusion import NoiseSchedule, guided_denoiser, sample
from latent_diffusion.diffusion.guidance import Condition
from latent_diffusion.diffusion.loss import LossSettings
from latent_diffusion.ema import EMA
from latent_diffusion.first_stage import AutoencoderKL, DiagonalGaussian, HiFiGAN, LogMel
from latent_diffusion.inference import MultiTrackPipeline, mix
from latent_diffusion.musicldm import MusicLDM, TrainingSettings
from latent_diffusion.settings import AutoencoderSettings, ModelSettings, UNetSettings, VocoderSettings
from latent_diffusion.unet import UNet3d

FIXTURES = Path(__file__).parent / "fixtures" / "parity"
TINY = FIXTURES / "lightning_tiny.ckpt"
UNET_SMALL = UNetSettings(model_channels=32, num_res_blocks=1, channel_mult=(1, 2), attention_resolutions=(2,))
Row = tuple[str, float, float]  # quantity, largest difference, tolerance
UNET, VAE, WAV, MEL, TABLE, LOSS, GRADIENT, LATENT, DECODED, PCM = (
    5e-5,
    5e-5,
    2e-5,
    2e-4,
    1e-6,
    1e-5,
    1e-4,
    2e-3,
    5e-4,
    2,
)


def load(name: str) -> dict[str, Tensor]:
    """The arrays of a fixture as tensors."""
    with np.load(FIXTURES / name) as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference; the shapes must be equal."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a.double() - b.double()).abs().max())


def recipe_weights(shapes: Mapping[str, torch.Size], seed: int) -> dict[str, Tensor]:
    """Weights made from key, shape and seed, as the fixtures' README prescribes."""
    state = {}
    for key, shape in shapes.items():
        n = np.random.RandomState((zlib.crc32(key.encode("ascii")) ^ seed) & 0xFFFFFFFF).standard_normal(tuple(shape))
        if key.endswith("weight_g") or (len(shape) == 1 and key.endswith("weight")):
            n = 1 + 0.1 * n
        elif len(shape) >= 2:
            n = n / np.sqrt(np.prod(shape[1:]))
        else:
            n = 0.1 * n
        state[key] = torch.tensor(n, dtype=torch.float32)
    return state


def with_recipe(module: nn.Module, seed: int) -> nn.Module:
    """The module with recipe weights."""
    module.load_state_dict(recipe_weights({k: v.shape for k, v in module.state_dict().items()}, seed))
    return module.eval()


def small_unet() -> UNet3d:
    """The U-Net whose weights are stored."""
    unet = UNet3d(UNET_SMALL)
    unet.load_state_dict({k: v.float() for k, v in load_file(FIXTURES / "unet_small.safetensors").items()})
    return unet.eval()


def queue(noises: Tensor) -> Callable[[], Tensor]:
    """A noise source that hands out stored noises in order."""
    rest = iter(noises)
    return lambda: next(rest)


def check_mel() -> Iterator[Row]:
    """Log-mel front end, and its basis against librosa's."""
    f, log_mel = load("mel.npz"), LogMel()
    yield "mel.basis", difference(log_mel.mel_basis.T, f["mel_basis"]), 1e-6
    yield "mel.logmel", difference(log_mel(f["waveform"]), f["logmel"]), MEL
    yield "mel.silence", difference(log_mel(f["zeros"]), f["logmel_zeros"]), TABLE
    yield "mel.window", difference(log_mel(f["cut_waveform"])[:64], f["cut_logmel"]), MEL


def check_vae() -> Iterator[Row]:
    """Autoencoder with stored and with recipe weights, and its posterior."""
    vae = AutoencoderKL(AutoencoderSettings(ch=32, ch_mult=(1, 2, 1), num_res_blocks=1)).eval()
    vae.load_state_dict({k: v.float() for k, v in load_file(FIXTURES / "vae_small.safetensors").items()})
    topology = with_recipe(AutoencoderKL(AutoencoderSettings(ch=32, ch_mult=(1, 2, 4))), 1090)
    for name, module in (("vae_small", vae), ("vae_topology", topology)):
        f = load(f"{name}_io.npz")
        posterior = module.encode(f["x"])
        yield f"{name}.encoder", difference(module.encoder(f["x"]), f["encoder_out"]), VAE
        yield f"{name}.mean", difference(posterior.mean, f["mean"]), VAE
        yield f"{name}.logvar", difference(posterior.logvar, f["logvar"]), VAE
        yield f"{name}.dec_from_mean", difference(module.decode(posterior.mode()), f["dec_from_mean"]), VAE
        yield f"{name}.dec_z", difference(module.decode(f["z"]), f["dec_z"]), VAE
    f = load("posterior.npz")
    posterior = DiagonalGaussian.from_moments(f["moments"])
    pairs = {"std": posterior.std, "var": posterior.var, "sample": posterior.sample(f["noise"]), "kl": posterior.kl()}
    for name, value in pairs.items():  # values reach e^20: compared relatively
        yield f"posterior.{name} (relative)", difference(value / f[name], torch.ones_like(f[name])), 1e-5


def check_near_silence() -> Iterator[Row]:
    """The latents of a near-silent stem, as the pipeline encodes it on the CPU, against a computation in 64 bit.

    Group norm's hardest case: features with a large mean and a small spread. In units of the latents' deviation.
    """
    with_small_weights = MultiTrackPipeline.from_checkpoint(TINY).first_stage
    with_recipe_weights = with_recipe(AutoencoderKL(AutoencoderSettings(ch=32, ch_mult=(1, 2, 4))), 1090)
    with_recipe_weights.to(memory_format=torch.channels_last)
    generator, mel = torch.Generator().manual_seed(0), LogMel()
    for name, stage in (("tiny", with_small_weights), ("vae_topology", with_recipe_weights)):
        assert stage.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        exact = copy.deepcopy(stage).to(memory_format=torch.contiguous_format).double()
        waveform = torch.zeros(256 * mel.settings.hop_length)
        waveform[8000:8160] = 1e-3 * torch.randn(160, generator=generator)  # -60 dB for 10 ms
        log_mel = mel(waveform)[None, None, :256]
        expected = exact.encode(log_mel.double()).mean
        latents = stage.encode(log_mel).mean
        yield f"near_silence.{name}.mean (deviations)", difference(latents, expected) / float(expected.std()), VAE
        log_mel = exact.decode(expected)
        yield f"near_silence.{name}.dec", difference(stage.decode(expected.float()), log_mel), VAE


def check_vocoder() -> Iterator[Row]:
    """HiFi-GAN before and after its weight norm is folded away."""
    f, vocoder = load("hifigan_io.npz"), HiFiGAN(VocoderSettings(upsample_initial_channel=32))
    vocoder.load_state_dict(torch.load(FIXTURES / "hifigan_small.ckpt", weights_only=True)["generator"])
    yield "hifigan.wav", difference(vocoder(f["mel"]), f["wav"]), WAV
    yield "hifigan.wav_after_remove_wn", difference(vocoder.remove_weight_norm()(f["mel"]), f["wav"]), WAV


def check_unet() -> Iterator[Row]:
    """U-Net outputs and gradients, the latter relative to their largest entry."""
    topology = with_recipe(UNet3d(UNetSettings(model_channels=32)), 1040)
    for name, unet in (("unet_small", small_unet()), ("unet_topology", topology)):
        f = load(f"{name}_io.npz")
        output = unet(f["x_noisy"], f["t"], f["cond"][:, 0])
        yield f"{name}.out", difference(output, f["out"]), UNET
        with torch.enable_grad():
            loss = (unet(f["x_noisy"], f["t"], f["cond"][:, 0]) ** 2).mean()
            loss.backward()
        yield f"{name}.loss", difference(loss.detach(), f["loss_mean_out_sq"]), LOSS
        parameters = dict(unet.named_parameters())
        for key in (k for k in f if k.startswith("grad:")):
            largest = float(f[key].abs().max())
            yield f"{name}.{key} (relative)", difference(parameters[key[5:]].grad, f[key]) / largest, GRADIENT


def check_schedule() -> Iterator[Row]:
    """Schedule tables, DDIM timesteps, forward process and its inverse."""
    f, schedule = load("schedule.npz"), NoiseSchedule()
    for name, table in schedule.published_buffers().items():
        yield f"schedule.{name}", difference(table, f[name]), TABLE
    yield "schedule.lvlb_weights", difference(schedule.lvlb_weights, f["lvlb_weights"]), TABLE
    for steps in (200, 50, 20, 10):
        timesteps = torch.tensor(schedule.timesteps(steps))
        yield f"schedule.S{steps}.timesteps", difference(timesteps, f[f"S{steps}.timesteps"]), 0.0
    z_t = schedule.add_noise(f["q.x_start"], f["q.noise"], f["q.t"])
    yield "schedule.q.x_t", difference(z_t, f["q.x_t"]), 1e-6
    # Late timesteps divide by a small signal; times that signal, the difference is one of the inputs' size.
    signal, _ = schedule.signal_and_noise(f["q.t"], z_t)
    z0 = schedule.predict_z0(z_t, f["q.noise"], f["q.t"])
    yield "schedule.q.x0 (times signal)", difference(signal * z0, signal * f["q.x0_from_noise"]), 1e-6


def check_ddim() -> Iterator[Row]:
    """Whole DDIM runs: guidance 0, 1 and 2, eta 0 and 1, arrangement."""
    f, unet, schedule = load("ddim.npz"), small_unet(), NoiseSchedule()
    mixture, x_t = f["mix_latent"][:, 0], f["x_T"]
    for name, scale, eta in (("g1", 1, 0), ("g0", 0, 0), ("g2", 2, 0), ("eta1", 1, 1)):
        denoiser = guided_denoiser(unet, Condition(mixture), scale)
        noises = queue(f["eta1.step_noise"])
        z = sample(denoiser, x_t.shape, schedule, steps=5, eta=eta, z=x_t, step_noise=noises)
        yield f"ddim.{name}", difference(z, f[f"{name}.sample"]), LATENT
    known = {"known": f["x0"], "mask": f["mask"], "known_noise": queue(f["inpaint.q_noise"])}
    z = sample(guided_denoiser(unet, Condition(mixture), 1), x_t.shape, schedule, steps=5, eta=0.0, z=x_t, **known)
    yield "ddim.inpaint", difference(z, f["inpaint.sample"]), LATENT


def check_ema() -> Iterator[Row]:
    """Averaged weights over three updates."""
    f, module = load("ema.npz"), nn.Module()
    block = nn.Module()
    block.w = nn.Parameter(f["w_init"].clone())
    block.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    module.block = nn.ModuleList([block])
    module.bias = nn.Parameter(f["bias_init"].clone())
    ema = EMA(module)
    assert set(ema.state_dict()) == {"decay", "num_updates", "bias", "block0w"}
    steps = [i for i in range(4) if f"step{i}.w" in f]
    for step in steps:
        block.w.data, module.bias.data = f[f"step{step}.w"].clone(), f[f"step{step}.bias"].clone()
        ema.update(module)
        yield f"ema.step{step}.w", difference(ema.block0w, f[f"step{step}.ema_w"]), TABLE
        yield f"ema.step{step}.bias", difference(ema.bias, f[f"step{step}.ema_bias"]), TABLE
        yield f"ema.step{step}.num_updates", difference(ema.num_updates, f[f"step{step}.num_updates"]), 0.0
    with ema.averaged(module):
        yield "ema.copied", difference(block.w.detach(), f["copied_w"]), TABLE
    yield "ema.restored", difference(block.w.detach(), f[f"step{steps[-1]}.w"]), 0.0


def tiny_model() -> MusicLDM:
    """The small complete model from its published-format checkpoint."""
    model = MusicLDM(settings_of(read_weights(TINY)), TrainingSettings(warmup_steps=0))
    model.load_model(TINY)
    return model.eval()


def check_inputs() -> Iterator[Row]:
    """From waveforms to latents. Bins near silence amplify the rounding of any float32 transform, the reference's too:
    the log-mels are held to the reference where the signal is audible, the latents start from its own log-mels."""
    f, pipeline = load("lightning_tiny_io.npz"), MultiTrackPipeline.from_checkpoint(TINY)
    waveforms = f["waveform_stems_int16"] / 32768.0
    log_mels, reference = pipeline.first_stage.waveform_to_log_mel(waveforms), f["batch.fbank_stems"]
    yield "input.log_mel (above -5)", difference(log_mels[reference > -5], reference[reference > -5]), MEL
    mixture = pipeline.first_stage.waveform_to_log_mel(mix(waveforms))
    yield "input.mixture_log_mel", difference(mixture, f["batch.fbank"]), MEL
    posterior = pipeline.first_stage.log_mel_to_posterior(reference)
    z = posterior.sample(f["input.noise_stems"]) * pipeline.scale_factor
    yield "input.z", difference(z.reshape(f["input.z"].shape), f["input.z"]), VAE
    c, _ = pipeline.encode(mix(waveforms), f["input.noise_mix"])
    yield "input.c", difference(c, f["input.c"][:, 0]), VAE
    unscaled = posterior.sample(f["scale.noise"]).reshape(f["input.z"].shape)
    yield "input.scale_factor", difference(tiny_model().latent_statistics(unscaled)[0], f["scale.factor"]), LOSS


def check_training() -> Iterator[Row]:
    """Loss terms, and three training steps with averaging."""
    f, model = load("lightning_tiny_io.npz"), tiny_model()
    z, c = f["input.z"], f["input.c"][:, 0]
    losses = model.loss_at(z, c, f["loss.t"], f["loss.noise"])
    for name in ("loss", "loss_simple", "loss_vlb"):
        yield f"pl.{name}", difference(losses[name], f[f"loss.{name}"]), LOSS
    plain = model.training_settings
    model.training_settings = replace(plain, loss=LossSettings(separate_stems=True))
    total = model.loss_at(z, c, f["loss.t"], f["loss.noise"])["loss"]
    yield "pl.loss with seperate_stem_z", difference(total, f["loss.opt_separation_total"]), LOSS
    model.training_settings = plain
    optimiser = torch.optim.AdamW(model.model.parameters(), lr=float(f["train.lr"]), weight_decay=plain.weight_decay)
    with torch.enable_grad():
        for i in range(3):
            loss = model.loss_at(z, c, f["train.t"][i], f["train.noise"][i])["loss"]
            yield f"train.losses[{i}]", difference(loss.detach(), f["train.losses"][i]), LOSS
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            model.model_ema.update(model.model)
    yield "train.out_bias", difference(model.model.diffusion_model.out[2].bias, f["train.out_bias_after"]), LOSS
    yield (
        "train.ema_out_bias",
        difference(model.model_ema.diffusion_modelout2bias, f["train.ema_out_bias_after"]),
        TABLE,
    )
    yield "train.num_updates", difference(model.model_ema.num_updates, f["train.num_updates_after"]), 0.0


def check_generation() -> Iterator[Row]:
    """Latents, log-mels and waveforms of the complete model at guidance 1 and 2, averaged and raw weights."""
    f, pipeline = load("lightning_tiny_io.npz"), MultiTrackPipeline.from_checkpoint(TINY)
    x_t, mixture = f["gen.x_T"], f["input.c"][:1, 0]
    for scale in (1, 2):
        denoiser = guided_denoiser(pipeline.unet, Condition(mixture), scale)
        z = sample(denoiser, x_t.shape, pipeline.schedule, steps=5, eta=0.0, z=x_t)
        log_mel, waveform = pipeline.decode(z)
        samples = waveform.shape[-1]
        yield f"gen.g{scale}.latent", difference(z, f[f"gen.g{scale}.latent"]), LATENT
        yield f"gen.g{scale}.mel", difference(log_mel[0], f[f"gen.g{scale}.mel"][:, 0]), DECODED
        yield f"gen.g{scale}.wav", difference(waveform[0], f[f"gen.g{scale}.wav"][:, 0, :samples]), WAV
    model = tiny_model()
    denoiser = guided_denoiser(model.model.diffusion_model, Condition(mixture), 1)
    z = sample(denoiser, x_t.shape, model.noise_schedule, steps=5, eta=0.0, z=x_t)
    yield "gen.g1_raw_weights.latent", difference(z, f["gen.g1_raw_weights.latent"]), LATENT


def check_end_to_end() -> Iterator[Row]:
    """Audio in, wav files out: total runs of generation and inpainting, in PCM-16 steps."""
    pipeline = MultiTrackPipeline.from_checkpoint(TINY)
    for name in ("generate_g1", "inpaint_g1"):
        f = load(f"e2e_{name}.npz")
        waveforms = f["waveform_stems_int16"] / 32768.0
        condition, _ = pipeline.encode(mix(waveforms), f["noise.vae_mix"])
        made = tuple(pipeline.stems[i] for i in f["stems_to_inpaint"]) or pipeline.stems
        known = {}
        if made != pipeline.stems:
            mask = torch.tensor([float(stem not in made) for stem in pipeline.stems]).reshape(1, -1, 1, 1, 1)
            latents, _ = pipeline.encode(waveforms, f["noise.vae_stems"])
            known = {"known": latents, "mask": mask, "known_noise": queue(f["noise.q"])}
        steps, eta, x_t = int(f["steps"]), float(f["eta"]), f["noise.x_T"]
        denoiser = guided_denoiser(pipeline.unet, Condition(condition), float(f["guidance"]))
        noises = queue(f["noise.step"])
        z = sample(denoiser, x_t.shape, pipeline.schedule, steps=steps, eta=eta, z=x_t, step_noise=noises, **known)
        result = pipeline.finish(z, made, waveforms if known else None)
        pcm = {"mix": result.mixture} | {f"stem_{i}": result.waveforms[:, i] for i in range(len(pipeline.stems))}
        for key in (k for k in f if k.startswith("file:")):
            folder, item = key.split("/")[1], int(key.split("Track0000")[1][0]) - 1
            if folder.startswith("stem_mel_"):
                yield f"e2e.{name} {key[5:]}", difference(result.log_mels[item, int(folder[-1])], f[key]), DECODED
            else:
                ours = torch.floor(32768 * pcm[folder][item]).clamp(-32768, 32767)
                yield f"e2e.{name} {key[5:]} (PCM steps)", difference(ours, f[key][: len(ours)]), PCM


def check_keys() -> Iterator[Row]:
    """Names and shapes of all tensors at the published sizes: number of differences."""
    with torch.device("meta"):
        full = MusicLDM(ModelSettings())
        wide = UNet3d(UNetSettings(model_channels=192))
    state = {key: list(value.shape) for key, value in full.state_dict().items()}
    for table in full.noise_schedule.published_buffers():
        state[table] = [full.noise_schedule.num_timesteps]
    published = _manifest("lightning_full_keys_128.json")
    training_only = [key for key in published if key.startswith("first_stage_model.loss.")]
    expected = {key: shape for key, shape in published.items() if key not in training_only}
    yield "keys.lightning_full_128", float(len(_unlike(state, expected))), 0.0
    state = {key: list(value.shape) for key, value in wide.state_dict().items()}
    yield "keys.unet_full_192", float(len(_unlike(state, _manifest("unet_full_keys_192.json")))), 0.0


def _manifest(name: str) -> dict[str, list[int]]:
    return {key: shape for key, shape, _ in json.loads((FIXTURES / name).read_text())["state_dict"]}


def _unlike(a: Mapping[str, list[int]], b: Mapping[str, list[int]]) -> set[str]:
    return {key for key in set(a) | set(b) if a.get(key) != b.get(key)}


CHECKS = {name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")}


def run_check(check: Callable[[], Iterator[Row]]) -> list[Row]:
    """All rows of one check."""
    with torch.no_grad():
        return list(check())


def main() -> None:
    """Print every quantity."""
    print(f"{'quantity':<58} {'difference':>11} {'tolerance':>10}")
    for check in CHECKS.values():
        for name, value, tolerance in run_check(check):
            print(f"{name:<58} {value:>11.1e} {tolerance:>10.0e}{'' if value <= tolerance else '   EXCEEDED'}")


if __name__ == "__main__":
    main()
