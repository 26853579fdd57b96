"""The dry run: what a configuration would do, without doing it."""

from __future__ import annotations

import torch

from .building import build_model
from .config import Config, kind, latent_cache, model_settings, resolve_accelerator, task_name
from .runs import TRAINING_MODES, checkpoint_of, parameter_count, run_folder, scan_data, take_weights


def describe(config: Config) -> str:
    """Check configuration and data and say what would happen; networks are built without memory.

    Raises:
        MSGLDError: whatever a real run would stumble over before its first step.
    """
    what, training = kind(config), config.mode in TRAINING_MODES
    data = scan_data(config)
    with torch.device("meta"):
        model = build_model(config)
    take_weights(config, model)
    lines = [f"config       {config.path}", f"mode         {config.mode}", f"model        {what}"]
    if what == "msgld":
        settings = model_settings(config)
        evaluation = config.model.params.evaluation_params
        lines += [
            f"task         {task_name(config)}, {evaluation.sampler} with {evaluation.ddim_sampling_steps} steps",
            f"stems        {', '.join(settings.stems)}",
            f"window       {settings.mel.window_seconds:g} s, latent {(len(settings.stems), *settings.latent_shape)}",
            f"parameters   U-Net {parameter_count(model.model):,}, first stage "
            f"{parameter_count(model.first_stage_model):,}",
            f"prediction   {settings.diffusion.parameterization}",
        ]
    else:
        lines.append(f"parameters   {parameter_count(model):,} with discriminators")
    for name, dataset in (("train", data.train_dataset), ("validation", data.valid_dataset)):
        if dataset is not None:
            lines.append(f"{name:<12} {len(dataset.tracks)} tracks, {len(dataset)} windows")
    if training and latent_cache(config):
        lines.append(f"latents      encoded once, kept in {latent_cache(config)}")
    if training:
        t = config.trainer
        batches = len(data.train_dataset) // config.data.params.batch_size
        limit = f"{t.max_steps} steps" if t.max_steps > 0 else f"{t.max_epochs} epochs"
        lines.append(
            f"training     batch {config.data.params.batch_size}, {batches} batches an epoch, until {limit}"
            + (f" or {t.max_time} (days:hours:minutes:seconds)" if t.max_time else "")
        )
    lines += [
        f"device       {resolve_accelerator(config)}, precision {config.trainer.precision}",
        f"goes on from {checkpoint_of(config) or 'nothing'}",
        f"run folder   {run_folder(config)}",
    ]
    return "\n".join(lines)
