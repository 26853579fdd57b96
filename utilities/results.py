"""Writes what a validation makes, so that it can be heard, seen and counted.

Under the run folder, at every validation (`<step>` is the global step; names of items and stems stand for themselves):

    val_<step>/mix/<item>.wav              the sum of the resulting stems, clipped
    val_<step>/<stem>/<item>.wav           each stem made by the model
    val_<step>/mel/<stem>/<item>.npy       its log-mel, float32, (T, M)
    val_<step>/stem_<i> -> <stem>          the published names, as relative links (copies where links cannot be made)
    val_<step>/stem_mel_<i> -> mel/<stem>
    val_<step>/stem_<i>_<j>/<item>.wav     arrangement of several stems: their sum, under the published name
    val_<step>/spectrograms/<item>.png     target beside result, for the first `max_pictures` items
    val_<step>/metrics.json                what was counted; separation: metrics.csv, a row an item and stem
    target_<step>/...                      the same for the targets

Real folders carry the stem's name; a script made for the published tree finds its folders by following the links. In
arrangement the stems that were given are not written again under `val_<step>`, where they would be copies of the
originals; `target_<step>` has them by name. wav files are mono PCM-16 at the model's sample rate.

A first stage in training writes the reconstructions of its first items under `stem_<i>/`, `mix/`, `mel/` and
`spectrograms/`.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from .audio import write_wav
from .evaluation.embeddings import load_embedding
from .evaluation.folders import stem_folder
from .evaluation.metrics import MetricTable, log_mel_mse, track_of, write_metrics
from .evaluation.scores import Scores, Side, score_table, write_rows
from .files import safe_name, whole_file
from .report.pictures import PictureRow, draw_log_mels

log = logging.getLogger(__name__)


class ResultTree:
    """The files of one side, `val_<step>` or `target_<step>`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._to_copy: dict[str, str] = {}  # published name -> real folder, where links cannot be made

    def wav(self, folder: str, item: str, waveform: Tensor, sample_rate: int) -> None:
        """Write `<folder>/<item>.wav` from samples (N,)."""
        path = self.root / folder / f"{safe_name(item)}.wav"
        if not bool(waveform.isfinite().all()):
            log.warning("%s: the model made samples that are NaN or infinite; written as silence", path)
            waveform = waveform.nan_to_num(0.0, 0.0, 0.0)
        write_wav(path, waveform, sample_rate)

    def mel(self, folder: str, item: str, log_mel: Tensor) -> None:
        """Write `mel/<folder>/<item>.npy` from a log-mel (T, M)."""
        with whole_file(self.root / "mel" / folder / f"{safe_name(item)}.npy") as temporary:
            np.save(temporary, log_mel.numpy().astype(np.float32))

    def link(self, published: str, folder: str) -> None:
        """Let the published name point at a real folder of this tree, or note that it has to be copied."""
        link = self.root / published
        if published == folder or (link.is_symlink() and os.readlink(link) == folder):
            return
        try:
            link.symlink_to(folder, target_is_directory=True)
        except OSError:  # no links on this file system, or a copy made by an earlier run
            if not link.is_symlink():  # else another process has just made it
                self._to_copy[published] = folder

    def finish(self) -> None:
        """Make the copies that stand in for links."""
        for published, folder in self._to_copy.items():
            shutil.copytree(self.root / folder, self.root / published, dirs_exist_ok=True)


class ResultWriter(pl.Callback):
    """Writes the results of every validation under the run folder; see the module's notes for the tree.

    It writes what the model's `validation_step` returns: `None` (nothing was made), or a dict with

    * `task`: separation, generation or arrangement; `name`: list of B item names; `sample_rate`: hz
    * `stems`, `generated`: tuples of stem names, all of them and those that the model made
    * `waveforms` (B, S, N), `mixture` (B, N), `log_mels` (B, S, T, M) or `None`
    * `target_waveforms`, `target_mixture`, `target_log_mels`: the same of the dataset's own items, or `None`
    * `mixture_log_mel` (B, T, M) or `None`: of the true mixture

    or, from a first stage in training (P: the stems, then the mixture where it takes part), a dict with

    * `name`: list of B item names
    * `log_mels`: `{"target": (B, P, T, M), "estimate": (B, P, T, M)}`
    * `waveforms`: the same with (B, P, N), or empty

    The two sides need not have one length: a published vocoder gives 32 samples more than its target.

    Args:
        folder: where the trees go; `None`: the trainer's `default_root_dir`.
        max_pictures: of how many items a spectrogram is drawn at a validation.
        max_reconstructions: how many items of a first stage are written at a validation.
        step: number in the folders' names; `None`: the trainer's global step (give the checkpoint's step where a
            checkpoint is only validated).
        seed: of the bootstrap.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        max_pictures: int = 16,
        max_reconstructions: int = 8,
        step: int | None = None,
        seed: int = 0,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.max_pictures = max_pictures
        self.max_reconstructions = max_reconstructions
        self.step = step
        self.seed = seed
        self._start()

    def _start(self) -> None:
        self._about: dict[str, Any] = {}
        self._items: set[str] = set()
        self._pictures = 0
        self._scores = Scores(load_embedding())
        self._reconstruction = MetricTable()
        self._trees: dict[str, ResultTree] = {}

    # ---- Lightning's hooks -----------------------------------------------------------------------------------------

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or not isinstance(outputs, Mapping):
            return
        if "task" in outputs:
            self._write_batch(trainer, pl_module, _on_cpu(outputs))
        elif isinstance(outputs.get("log_mels"), Mapping):
            self._write_reconstructions(trainer, pl_module, batch, _on_cpu(outputs))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._gather()
        if not self._about:
            return
        metrics = self._metrics(trainer)
        if trainer.is_global_zero:
            for tree in self._trees.values():
                tree.finish()
            root = self._tree(trainer, "val").root
            write_metrics(root / "metrics.json", metrics)
            if rows := self._scores.rows():
                write_rows(root / "metrics.csv", rows)
        numbers = self._logged(metrics)
        if numbers:
            pl_module.log_dict(numbers, sync_dist=trainer.world_size > 1, batch_size=1)
        self._start()

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end

    # ---- files -----------------------------------------------------------------------------------------------------

    def _tree(self, trainer: pl.Trainer, side: str) -> ResultTree:
        if side not in self._trees:
            folder = self.folder or Path(trainer.default_root_dir)
            step = trainer.global_step if self.step is None else self.step
            self._trees[side] = ResultTree(folder / f"{side}_{step}")
        return self._trees[side]

    def _unique(self, name: str) -> str:
        """A name not yet used in this validation: two folders of data can have tracks of one name."""
        unique = name
        for number in itertools.count(2):
            if unique not in self._items:
                break
            unique = f"{name}_{number}"
        self._items.add(unique)
        return unique

    def _write_batch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, out: dict[str, Any]) -> None:
        self._about = {
            "task": out["task"],
            "stems": tuple(out["stems"]),
            "generated": tuple(out["generated"]),
            "sample_rate": int(out["sample_rate"]),
        }
        names = [self._unique(name) for name in out["name"]]
        for b, name in enumerate(names):
            self._write_item(self._tree(trainer, "val"), name, out, b, "", out["generated"])
            if out.get("target_waveforms") is not None:
                self._write_item(self._tree(trainer, "target"), name, out, b, "target_", out["stems"])
                self._score(name, out, b)
        self._draw_batch(trainer, pl_module, names, out)

    def _write_item(
        self, tree: ResultTree, name: str, out: dict[str, Any], b: int, prefix: str, written: tuple[str, ...]
    ) -> None:
        """Write one item of one side; `prefix` is "" or "target_", `written` the stems that are written."""
        rate, waveforms = int(out["sample_rate"]), out[f"{prefix}waveforms"][b]
        log_mels = _item(out, f"{prefix}log_mels", b)
        tree.wav("mix", name, out[f"{prefix}mixture"][b], rate)
        for i, stem in enumerate(out["stems"]):
            if stem in written:
                tree.wav(stem_folder(stem), name, waveforms[i], rate)
            if stem not in out["generated"]:
                continue
            tree.link(f"stem_{i}", stem_folder(stem))
            if log_mels is not None:
                tree.mel(stem_folder(stem), name, log_mels[i])
                tree.link(f"stem_mel_{i}", f"mel/{stem_folder(stem)}")
        made = [i for i, stem in enumerate(out["stems"]) if stem in out["generated"]]
        if out["task"] == "arrangement" and len(made) > 1:
            tree.wav("stem_" + "_".join(map(str, made)), name, waveforms[made].sum(dim=0), rate)

    def _draw_batch(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, names: list[str], out: dict[str, Any]
    ) -> None:
        budget = -(-self.max_pictures // trainer.world_size)  # this process's share
        chosen = range(min(len(names), budget - self._pictures))
        if out.get("log_mels") is None or not chosen:
            return
        self._pictures += len(chosen)
        mixtures = _mixture_log_mel(pl_module, out.get("mixture"), chosen)
        targets = out.get("mixture_log_mel")
        if targets is None:
            targets = _mixture_log_mel(pl_module, out.get("target_mixture"), chosen)
        for b in chosen:
            log_mels, target_log_mels = out["log_mels"][b], _item(out, "target_log_mels", b)
            rows = [_row("mixture", None if targets is None else targets[b], None if mixtures is None else mixtures[b])]
            for i, stem in enumerate(out["stems"]):
                title = stem if stem in out["generated"] else f"{stem} (given)"
                rows.append(_row(title, None if target_log_mels is None else target_log_mels[i], log_mels[i]))
            rows = [row for row in rows if row.target is not None or row.result is not None]
            tree = self._tree(trainer, "val")
            draw_log_mels(
                tree.root / "spectrograms" / f"{safe_name(names[b])}.png",
                rows,
                title=f"{names[b]}, {out['task']}",
                columns=("reference" if out["task"] == "generation" else "target", "result"),
                seconds=out["waveforms"].shape[-1] / out["sample_rate"],
            )

    def _write_reconstructions(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Mapping[str, Any], out: dict[str, Any]
    ) -> None:
        rate = int(out.get("sample_rate") or pl_module.mel_settings.sample_rate)
        self._about = {"task": "reconstruction", "sample_rate": rate}
        log_mels, waveforms = out["log_mels"], out.get("waveforms") or {}
        stems = batch["stems"].shape[1]
        folders = [f"stem_{p}" if p < stems else "mix" for p in range(log_mels["estimate"].shape[1])]
        for b, name in enumerate(out["name"]):
            written = len(self._items) < -(-self.max_reconstructions // trainer.world_size)
            name = self._unique(name)
            estimates, targets = log_mels["estimate"][b], log_mels["target"][b]
            for p, folder in enumerate(folders):
                self._reconstruction.add(name, folder, "log_mel_mse", log_mel_mse(estimates[p], targets[p]))
                if not written:
                    continue
                for side, key in (("val", "estimate"), ("target", "target")):
                    tree = self._tree(trainer, side)
                    tree.mel(folder, name, log_mels[key][b, p])
                    if key in waveforms:
                        tree.wav(folder, name, waveforms[key][b, p], rate)
            if written:
                rows = [_row(*row) for row in zip(folders, targets, estimates, strict=True)]
                path = self._tree(trainer, "val").root / "spectrograms" / f"{safe_name(name)}.png"
                draw_log_mels(path, rows, title=f"{name}, reconstruction")

    # ---- numbers ---------------------------------------------------------------------------------------------------

    def _score(self, name: str, out: dict[str, Any], b: int) -> None:
        chosen = [i for i, stem in enumerate(out["stems"]) if stem in out["generated"]]
        result, target = _side(out, b, "", chosen), _side(out, b, "target_", range(len(out["stems"])))
        target.mixture_log_mel = _item(out, "mixture_log_mel", b)
        if out["task"] == "separation":
            self._scores.add_pair(name, result, target, int(out["sample_rate"]))
        else:
            self._scores.add_kind(name, result, target, int(out["sample_rate"]))

    def _gather(self) -> None:
        """Bring the numbers of all processes together, in every one of them."""
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return
        mine = (self._about, self._items, self._scores, self._reconstruction)
        everyone: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(everyone, mine)
        self._scores, self._reconstruction, self._items = Scores(load_embedding()), MetricTable(), set()
        for about, items, scores, reconstruction in everyone:
            self._about = self._about or about
            self._items |= items
            self._scores.merge(scores)
            self._reconstruction.merge(reconstruction)

    def _metrics(self, trainer: pl.Trainer) -> dict[str, Any]:
        step = trainer.global_step if self.step is None else self.step
        tracks = len({track_of(item) for item in self._items})
        metrics = self._about | {"step": step, "items": len(self._items), "tracks": tracks}
        head = f"{self._about['task']} at step {step}: {len(self._items)} items of {tracks} tracks"
        if self._about["task"] == "reconstruction":
            metrics["model"] = self._reconstruction.summary(seed=self.seed)
            text = f"log_mel_mse {self._reconstruction.mean('log_mel_mse')}"
        else:
            found = self._scores.summary(self._about["task"], self._about["stems"], seed=self.seed)
            metrics |= found
            text = score_table(found)
        if trainer.is_global_zero:
            log.info("%s; %s", head, text)
        return metrics

    @staticmethod
    def _logged(metrics: dict[str, Any]) -> dict[str, float]:
        """The numbers worth a curve: `val/<task>/<metric>` over sounding stems, or over all where that is all."""
        if "model" in metrics:
            group = metrics["model"].get("sounding", metrics["model"]["all"])
            found = {name: cell["mean"] for name, cell in group.items()}
        else:
            found = {"log_mel_frechet": metrics["frechet"].get("all", {}).get("log_mel_frechet")}
        return {f"val/{metrics['task']}/{name}": value for name, value in found.items() if value is not None}


def _on_cpu(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors as float32 on the CPU; values that are not finite stay, so that they are counted."""
    moved: dict[str, Any] = {}
    for key, value in outputs.items():
        if isinstance(value, Mapping):
            moved[key] = _on_cpu(value)
        else:
            moved[key] = value.detach().to("cpu", torch.float32) if isinstance(value, Tensor) else value
    return moved


def _item(out: dict[str, Any], key: str, b: int) -> Tensor | None:
    value = out.get(key)
    return None if value is None else value[b]


def _side(out: dict[str, Any], b: int, prefix: str, chosen: Iterable[int]) -> Side:
    """One side of an item, with the chosen stems; `prefix` is "" or "target_"."""
    names, log_mels = out["stems"], _item(out, f"{prefix}log_mels", b)
    return Side(
        {names[i]: out[f"{prefix}waveforms"][b, i] for i in chosen},
        out[f"{prefix}mixture"][b],
        {} if log_mels is None else {names[i]: log_mels[i] for i in chosen},
    )


def _row(title: str, target: Tensor | None, result: Tensor | None) -> PictureRow:
    return PictureRow(title, None if target is None else target.numpy(), None if result is None else result.numpy())


def _mixture_log_mel(pl_module: pl.LightningModule, mixture: Tensor | None, chosen: range) -> Tensor | None:
    """Log-mels (b, T, M) of mixtures (B, N) by the model's own front end, where it has one."""
    front_end = getattr(getattr(pl_module, "first_stage_model", None), "waveform_to_log_mel", None)
    if front_end is None or mixture is None:
        return None
    with torch.no_grad():
        return front_end(mixture[: len(chosen)].to(pl_module.device)).float().cpu()
