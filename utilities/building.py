"""From a checked configuration to the objects it describes: model, data, and the weights they start from."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from latent_diffusion.errors import ConfigError
from latent_diffusion.models import find_checkpoint

from .config import (
    Config,
    augmentation,
    condition_dropout,
    first_stage_training_arguments,
    guidance_scale,
    kind,
    mel_settings,
    model_settings,
    resolve_accelerator,
    resolve_devices,
    task_name,
    vocoder_settings,
    vocoder_weights,
)

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from latent_diffusion.first_stage import FirstStage
    from latent_diffusion.musicldm import MusicLDM
    from latent_diffusion.tasks import Task

    from .data.datamodule import StemDataModule

log = logging.getLogger(__name__)

PUBLISHED_VOCODER = "hifigan-ckpt.ckpt"  # lies beside the VAE's file where the published instructions put it


def build_data(config: Config) -> StemDataModule:
    """The data module; folders are scanned when it is set up."""
    from .data.augmentation import Augmentation
    from .data.datamodule import StemDataModule

    p, changes = config.data.params, augmentation(config)
    training = config.mode in ("train", "validate_and_train")
    evaluation = getattr(config.model.params, "evaluation_params", None)
    return StemDataModule(
        train_data=p.path.train_data if training else None,
        valid_data=p.path.valid_data or None,
        stems=p.path.stems,
        mel=mel_settings(config),
        batch_size=p.batch_size,
        num_workers=p.num_workers,
        seed=config.seed,
        masking=changes.pop("masking", False),
        shuffle_validation=p.path.shuffle_val_test,
        valid_batch_size=evaluation.batch_size if evaluation else None,
        augmentation=Augmentation(**changes),
    )


def build_model(config: Config) -> pl.LightningModule:
    """The module that `model.target` names, with new weights."""
    import pytorch_lightning as pl

    pl.seed_everything(config.seed, verbose=False)
    if kind(config) == "msgld":
        return _build_msgld(config)
    from latent_diffusion.first_stage.training import AutoencoderTraining, VocoderTraining

    target = AutoencoderTraining if kind(config) == "autoencoder" else VocoderTraining
    return target(**first_stage_training_arguments(config))


def _build_msgld(config: Config) -> MusicLDM:
    from latent_diffusion.diffusion.loss import LossSettings
    from latent_diffusion.inference import SamplingSettings
    from latent_diffusion.musicldm import EvaluationSettings, MusicLDM, TrainingSettings

    p, e = config.model.params, config.model.params.evaluation_params
    if e.n_candidates_per_samples > 1:
        log.warning("n_candidates_per_samples: the first candidate is kept, as published, so only it is made")
    in_training, in_validation = condition_dropout(config)
    training = TrainingSettings(
        base_learning_rate=p.base_learning_rate,
        weight_decay=p.weight_decay,
        warmup_steps=p.warmup_steps,
        lr_schedule=p.lr_schedule,
        lr_decay_steps=p.lr_decay_steps,
        lr_final=p.lr_final,
        high_noise_share=p.high_noise_share,
        cond_drop_prob=in_training,
        validation_drop_prob=in_validation,
        ema_decay=p.ema_decay,
        scale_by_std=p.scale_by_std,
        scale_per_channel=p.scale_per_channel,
        scale_per_band=p.scale_per_band,
        given_share=p.given_share,
        learn_logvar=p.learn_logvar,
        logvar_init=p.logvar_init,
        seed=config.seed,
        loss=LossSettings(
            snr_gamma=p.snr_gamma,
            channel_power=p.channel_power,
            original_elbo_weight=p.original_elbo_weight,
            separate_stems=p.seperate_stem_z,
            silence_tau=p.tau if p.use_silence_weight else None,
        ),
    )
    evaluation = EvaluationSettings(
        task=_build_task(config),
        sampling=SamplingSettings(
            e.sampler,
            e.ddim_sampling_steps,
            e.eta,
            average=e.average,
            passes=e.passes,
            spacing=e.spacing,
            guidance_interval=tuple(e.guidance_interval),
            precision=e.precision,
        ),
        seed=config.seed if e.seed is None else e.seed,
        draw_plans=e.draw_plans,
    )
    return MusicLDM(model_settings(config), training, evaluation)


def _build_task(config: Config) -> Task:
    """The task that is validated and tested.

    Raises:
        ConfigError: options of a separation for another task.
    """
    from latent_diffusion.tasks import Generation, MaskSettings, Separation, make_task

    e = config.model.params.evaluation_params
    task = make_task(task_name(config), guidance_scale(config), tuple(config.data.params.path.stems_to_inpaint))
    if e.draw_plans and not isinstance(task, Generation):
        where = f"{config.path}: model.params.evaluation_params.draw_plans"
        raise ConfigError(f"{where}: found true, expected false: the task is {task.name}")
    if isinstance(task, Separation):
        return replace(task, masks=MaskSettings(e.refine, e.mask_exponent, e.mask_rounds))
    for name, plain in {"refine": "none", "average": 1, "passes": 1}.items():
        if getattr(e, name) != plain:
            where = f"{config.path}: model.params.evaluation_params.{name}"
            raise ConfigError(f"{where}: found {getattr(e, name)}, expected {plain}: the task is {task.name}")
    return task


def load_initial_weights(config: Config, model: pl.LightningModule) -> None:
    """Weights that a new run starts from, as the configuration names them.

    Raises:
        ConfigError: an MSG-LD without first-stage weights.
        CheckpointError: a file cannot be used.
    """
    p = config.model.params
    if kind(config) == "autoencoder":
        from latent_diffusion.checkpoints import load_autoencoder

        if p.ckpt_path or p.reload_from_ckpt:
            load_autoencoder(model, find_checkpoint(p.ckpt_path or p.reload_from_ckpt, "model.params.ckpt_path"))
    elif kind(config) == "vocoder":
        from latent_diffusion.checkpoints import load_normed_vocoder

        path = p.ckpt_path or p.vocoder_config.ckpt_path
        if path:
            load_normed_vocoder(model.generator, find_checkpoint(path, "model.params.ckpt_path"))
    elif p.ckpt_path:
        model.load_model(find_checkpoint(p.ckpt_path, "model.params.ckpt_path"), other_vocoder(config, p.ckpt_path))
    else:
        model.load_first_stage(*first_stage_files(config))


def load_first_stage_encoder(config: Config, first_stage: FirstStage) -> None:
    """The VAE's weights that a run of this configuration would start with: those of its checkpoint, or the VAE's file.

    Raises:
        ConfigError: no weights are named.
        CheckpointError: a file cannot be used.
    """
    from latent_diffusion.checkpoints import load_autoencoder

    trainer = config.trainer
    for key, path in (
        ("trainer.resume", trainer.resume),
        ("trainer.resume_from_checkpoint", trainer.resume_from_checkpoint),
        ("model.params.ckpt_path", config.model.params.ckpt_path),
    ):
        if path:
            return load_autoencoder(first_stage, find_checkpoint(path, key))
    return load_autoencoder(first_stage, vae_file(config))


def vae_file(config: Config) -> Path:
    """VAE weights of an MSG-LD configuration.

    Raises:
        ConfigError: they are not named.
        CheckpointError: the file does not exist.
    """
    where = "model.params.first_stage_config.params"
    path = config.model.params.first_stage_config.params.reload_from_ckpt
    if not path:
        raise ConfigError(
            f"{config.path}: {where}.reload_from_ckpt: found nothing, expected the weights of a trained VAE "
            "(or model.params.ckpt_path, or trainer.resume_from_checkpoint)"
        )
    return find_checkpoint(path, f"{where}.reload_from_ckpt")


def other_vocoder(config: Config, model: str | Path) -> Path | None:
    """The configuration's vocoder weights where an MSG-LD file has a vocoder of another kind or size; None: its own.

    Raises:
        CheckpointError: one of the files cannot be used.
    """
    from latent_diffusion.checkpoints import has_vocoder, read_weights

    named, where = vocoder_weights(config)
    weights = read_weights(find_checkpoint(str(model), "model.params.ckpt_path"))
    if not named or weights.kind != "msgld" or has_vocoder(weights, vocoder_settings(config)):
        return None
    return find_checkpoint(named, where)


def first_stage_files(config: Config) -> tuple[Path, Path | None]:
    """VAE and vocoder weights of an MSG-LD configuration; None for a vocoder that has none.

    Raises:
        ConfigError: one of them is not named (the vocoder may be, where the published file lies beside the VAE's).
        CheckpointError: one of them does not exist.
    """
    vae = vae_file(config)
    if vocoder_settings(config).kind == "griffin_lim":
        return vae, None
    named, where = vocoder_weights(config)
    if named:
        return vae, find_checkpoint(named, where)
    beside = vae.with_name(PUBLISHED_VOCODER)
    if not beside.is_file():
        raise ConfigError(
            f"{config.path}: {where}: found nothing, and no {PUBLISHED_VOCODER} beside "
            "the VAE's file, expected the weights of a trained vocoder"
        )
    return vae, beside


def encoding_device(config: Config) -> str:
    """The device of this process of the run that `config` describes: "cpu", "mps" or "cuda:<number>"."""
    import torch

    accelerator = resolve_accelerator(config)
    if accelerator == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        return "mps"
    devices, rank = resolve_devices(config, accelerator), int(os.environ.get("LOCAL_RANK", 0))
    return f"cuda:{devices[rank] if isinstance(devices, list) else rank}"
