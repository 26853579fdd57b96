"""What a weights file is, from its header: tensors stay in the mapped file, but for a few numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latent_diffusion.checkpoints.contents import (
    AVERAGED,
    EMA_PREFIX,
    LOSSES,
    OTHER,
    SCHEDULE,
    UNET,
    VAE,
    VOCODER,
    sort_keys,
)
from latent_diffusion.checkpoints.fitting import first_stage_settings_of, mel_of, scale_of, settings_of
from latent_diffusion.checkpoints.reading import read_weights
from latent_diffusion.settings import AutoencoderSettings, MelSettings, ModelSettings, VocoderSettings


@dataclass
class Group:
    """Tensors of one purpose: their number, the numbers in them, their types; whether loading uses them."""

    tensors: int = 0
    values: int = 0
    dtypes: set[str] = field(default_factory=set)
    used: bool = True


@dataclass
class Summary:
    """What a weights file is.

    Args:
        path, size_bytes: the file.
        kind: "msgld", "autoencoder" or "vocoder".
        own: whether the settings are the file's own words; otherwise they follow from shapes and published values.
        settings: of the whole model, or of the one network.
        mel: the front end.
        step, epoch: of the training, where told.
        ema_updates, ema_decay: of the averaged weights; None without.
        scale: the scale factor, one number or one a latent channel; None where there is none.
        parameters: of all networks, without averages and training losses.
        groups: by name (see `checkpoints.contents`).
        weight_norm: of a vocoder.
        training_state: whether an optimiser's state is there.
    """

    path: Path
    size_bytes: int
    kind: str
    own: bool
    settings: ModelSettings | AutoencoderSettings | VocoderSettings
    mel: MelSettings
    step: int | None
    epoch: int | None
    ema_updates: int | None
    ema_decay: float | None
    scale: list[float] | None
    parameters: int
    groups: dict[str, Group]
    weight_norm: bool
    training_state: bool


def summarise(path: str | Path) -> Summary:
    """Describe a weights file of any known format without loading it whole.

    Raises:
        CheckpointError: it cannot be read, or is of no known kind.
    """
    weights = read_weights(path)
    groups: dict[str, Group] = {}
    for name, keys in sort_keys(weights.kind, weights.tensors).items():
        tensors = [weights.tensors[key] for key in keys]
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors}
        used = name not in (LOSSES, SCHEDULE, OTHER) and not (name == VOCODER and weights.kind == "autoencoder")
        groups[name] = Group(len(keys), sum(tensor.numel() for tensor in tensors), dtypes, used)
    if weights.rest:
        dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.rest.values()}
        values = sum(tensor.numel() for tensor in weights.rest.values())
        groups[LOSSES] = Group(len(weights.rest), values, dtypes, used=False)
    own = weights.description is not None
    settings: Any
    if weights.kind == "msgld":
        settings = settings_of(weights)
        mel = settings.mel
    else:
        settings, own = first_stage_settings_of(weights)
        mel = mel_of(weights)
    updates, decay = (weights.tensors.get(EMA_PREFIX + name) for name in ("num_updates", "decay"))
    networks = [group for name, group in groups.items() if name in (UNET, VAE, VOCODER) and group.used]
    return Summary(
        path=Path(path),
        size_bytes=Path(path).stat().st_size,
        kind=weights.kind,
        own=own,
        settings=settings,
        mel=mel,
        step=weights.step,
        epoch=weights.trainer.get("epoch"),
        ema_updates=(0 if updates is None else int(updates)) if AVERAGED in groups else None,
        ema_decay=None if decay is None else float(f"{float(decay):.7g}"),
        scale=scale_of(weights).flatten().tolist() if "scale_factor" in weights.tensors else None,
        parameters=sum(group.values for group in networks),
        groups=groups,
        weight_norm=any(key.endswith("weight_g") for key in weights.tensors),
        training_state=weights.training_state,
    )
