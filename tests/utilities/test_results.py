"""The tree of results, written by a real Trainer around a model that returns what it was told to."""

import json
import logging
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import soundfile
import torch
from PIL import Image
from torch.utils.data import DataLoader

from utilities import results
from utilities.cli import main
from utilities.evaluation.metrics import log_mel_mse, si_sdr
from utilities.evaluation.scores import read_rows
from utilities.files import safe_name, whole_file, whole_folder
from utilities.report.pictures import PictureRow, draw_log_mels
from utilities.results import ResultWriter, stem_folder

STEMS = ("bass", "drums", "guitar")
RATE, SAMPLES, FRAMES, BINS = 16000, 3200, 20, 8


def make_output(names: list[str], task: str = "separation", generated: tuple[str, ...] = STEMS, seed: int = 0) -> dict:
    """What MusicLDM returns, of noise; the results have a vocoder's 32 samples more than the targets."""
    g = torch.Generator().manual_seed(seed)
    b, s, extra = len(names), len(STEMS), 0 if task == "arrangement" else 32
    targets = 0.1 * torch.randn(b, s, SAMPLES, generator=g)
    waveforms = torch.nn.functional.pad(targets, (0, extra)) + 0.02 * torch.randn(b, s, SAMPLES + extra, generator=g)
    log_mels = torch.randn(b, s, FRAMES, BINS, generator=g) - 5
    return {
        "task": task,
        "name": names,
        "stems": STEMS,
        "generated": generated,
        "sample_rate": RATE,
        "waveforms": waveforms,
        "mixture": waveforms.sum(1).clamp(-1, 1),
        "log_mels": log_mels,
        "target_waveforms": targets,
        "target_mixture": targets.sum(1).clamp(-1, 1),
        "target_log_mels": log_mels + 0.1 * torch.randn(log_mels.shape, generator=g),
        "mixture_log_mel": torch.randn(b, FRAMES, BINS, generator=g) - 3,
    }


class Model(pl.LightningModule):
    """Returns the prepared outputs, one a batch."""

    def __init__(self, outputs: list):
        super().__init__()
        self.outputs = outputs
        self.mel_settings = SimpleNamespace(sample_rate=RATE)

    def validation_step(self, batch, batch_idx):
        return self.outputs[batch_idx]

    def test_step(self, batch, batch_idx):
        return self.outputs[batch_idx]

    def training_step(self, batch, batch_idx):
        raise AssertionError("not trained here")

    def configure_optimizers(self):
        return None


def validate(folder: Path, *outputs, writer: ResultWriter | None = None, run: str = "validate") -> dict:
    trainer = pl.Trainer(
        default_root_dir=folder,
        callbacks=[writer or ResultWriter(max_pictures=0)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        accelerator="cpu",
    )
    batch = {"stems": torch.zeros(len(STEMS), SAMPLES)}
    getattr(trainer, run)(Model(list(outputs)), DataLoader([batch] * len(outputs)), verbose=False)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def files(folder: Path) -> set[str]:
    """Real files under a folder, without following links."""
    return {
        os.path.relpath(os.path.join(root, name), folder)
        for root, _, names in os.walk(folder, followlinks=False)
        for name in names
    }


def read_pcm(path: Path) -> np.ndarray:
    data, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE and soundfile.info(path).subtype == "PCM_16" and data.ndim == 1
    return data


def pcm(waveform: torch.Tensor) -> np.ndarray:
    """The published rule: floor(32768 x), clipped."""
    return np.clip(np.floor(32768 * waveform.double().numpy()), -32768, 32767).astype(np.int16)


def test_separation_tree(tmp_path):
    first, second = make_output(["A_from_0", "A_from_10"]), make_output(["B_from_0"], seed=1)
    first["waveforms"][0, 0, :3] = torch.tensor([1.5, -1.5, 0.5])
    validate(
        tmp_path, first, None, second, writer=ResultWriter(max_pictures=1)
    )  # None: a batch for which nothing was made
    names = ("A_from_0", "A_from_10", "B_from_0")
    wavs = {f"{folder}/{name}.wav" for folder in (*STEMS, "mix") for name in names}
    mels = {f"mel/{stem}/{name}.npy" for stem in STEMS for name in names}
    pictures = {"spectrograms/A_from_0.png"}
    val, target = tmp_path / "val_0", tmp_path / "target_0"
    assert files(val) == wavs | mels | pictures | {"metrics.json", "metrics.csv"}
    assert files(target) == wavs | mels

    assert (read_pcm(val / "bass/A_from_0.wav") == pcm(first["waveforms"][0, 0])).all()
    assert list(read_pcm(val / "bass/A_from_0.wav")[:3]) == [32767, -32768, 16384]
    assert (read_pcm(val / "guitar/B_from_0.wav") == pcm(second["waveforms"][0, 2])).all()
    assert (read_pcm(val / "mix/A_from_10.wav") == pcm(first["mixture"][1])).all()
    assert (read_pcm(target / "mix/A_from_10.wav") == pcm(first["target_mixture"][1])).all()
    assert (read_pcm(target / "drums/A_from_0.wav") == pcm(first["target_waveforms"][0, 1])).all()
    mel = np.load(val / "mel/drums/A_from_10.npy")
    assert mel.dtype == np.float32 and (mel == first["log_mels"][1, 1].numpy()).all()

    for side in (val, target):  # the published names
        for i, stem in enumerate(STEMS):
            assert os.readlink(side / f"stem_{i}") == stem and os.readlink(side / f"stem_mel_{i}") == f"mel/{stem}"
            assert len(list((side / f"stem_{i}").glob("*.wav"))) == len(list((side / f"stem_mel_{i}").iterdir())) == 3


def test_separation_metrics(tmp_path, caplog):
    output = make_output(["A_from_0", "B_from_0"])
    output["target_waveforms"][1, 2] = 0
    with caplog.at_level(logging.INFO, logger="utilities.results"):
        logged = validate(tmp_path, output)
    metrics = json.loads((tmp_path / "val_0/metrics.json").read_text())
    assert (metrics["task"], metrics["step"], metrics["items"], metrics["tracks"]) == ("separation", 0, 2, 2)
    expected = [si_sdr(output["waveforms"][b, 0, :SAMPLES], output["target_waveforms"][b, 0]) for b in (0, 1)]
    bass = metrics["model"]["bass"]["si_sdr"]
    assert bass["mean"] == pytest.approx(sum(expected) / 2) and bass["count"] == 2
    assert bass["ci95"][0] <= bass["mean"] <= bass["ci95"][1]
    baseline = [log_mel_mse(output["mixture_log_mel"][b], output["target_log_mels"][b, 1]) for b in (0, 1)]
    assert metrics["mixture_as_every_stem"]["drums"]["log_mel_mse"]["mean"] == pytest.approx(sum(baseline) / 2)
    assert metrics["model"]["guitar"]["si_sdri"]["silent"] == 1
    assert metrics["model"]["sounding"]["log_mel_mse"]["count"] == 5
    assert logged["val/separation/si_sdr"] == pytest.approx(metrics["model"]["sounding"]["si_sdr"]["mean"])
    assert "separation at step 0: 2 items of 2 tracks" in caplog.text and f"({sum(baseline) / 2:.3f})" in caplog.text


def test_evaluating_the_tree_gives_the_same_numbers(tmp_path):
    """`mode: test` and `msgld evaluate` are one code; the wav files' 16 bits are between them."""
    validate(tmp_path, make_output(["A_from_0", "A_from_10", "B_from_0"]))
    own = json.loads((tmp_path / "val_0/metrics.json").read_text())
    assert main(["evaluate", "--est", str(tmp_path), "--quiet"]) == 0
    again = json.loads((tmp_path / "val_0/evaluation/metrics.json").read_text())
    assert (again["items"], again["tracks"], again["stems"]) == (3, 2, list(STEMS))
    for part, metric in (("model", "si_sdri"), ("model", "sdr"), ("mixture_as_every_stem", "si_sdr")):
        for stem in STEMS:
            assert again[part][stem][metric]["mean"] == pytest.approx(own[part][stem][metric]["mean"], abs=0.02)
    assert again["msdm"]["all"]["mean"] == pytest.approx(own["msdm"]["all"]["mean"], abs=0.02)
    assert len(read_rows(tmp_path / "val_0/metrics.csv")) == len(read_rows(tmp_path / "val_0/evaluation/metrics.csv"))


def test_generation_without_and_with_targets(tmp_path):
    output = make_output(["A_from_0"], "generation")
    validate(tmp_path, output)
    metrics = json.loads((tmp_path / "val_0/metrics.json").read_text())
    assert set(metrics["frechet"]) == {*STEMS, "all"} and metrics["frechet"]["all"]["frames"] == 3 * FRAMES
    assert metrics["frechet"]["bass"]["log_mel_frechet"] > 0 and "model" not in metrics
    assert metrics["fad"]["embedding"] == "log_mel" and metrics["fad"]["mixture"]["fad"] > 0
    bare = output | {key: None for key in output if key.startswith("target_")} | {"mixture_log_mel": None}
    validate(tmp_path / "bare", bare, writer=ResultWriter(step=700, max_pictures=1))
    assert not (tmp_path / "bare/target_700").exists()
    assert (tmp_path / "bare/val_700/spectrograms/A_from_0.png").exists()
    assert json.loads((tmp_path / "bare/val_700/metrics.json").read_text())["frechet"] == {}


def test_arrangement_tree(tmp_path):
    output = make_output(["A_from_0"], "arrangement", generated=("bass", "guitar"))
    validate(tmp_path, output)
    val, target = tmp_path / "val_0", tmp_path / "target_0"
    made = {f"{f}/A_from_0.wav" for f in ("mix", "bass", "guitar", "stem_0_2")}
    mels = {f"mel/{f}/A_from_0.npy" for f in ("bass", "guitar")}
    assert files(val) == made | mels | {"metrics.json"}
    assert files(target) == made | mels | {"drums/A_from_0.wav"}
    assert (read_pcm(val / "stem_0_2/A_from_0.wav") == pcm(output["waveforms"][0, [0, 2]].sum(0))).all()
    assert {p.name for p in val.iterdir() if p.is_symlink()} == {"stem_0", "stem_2", "stem_mel_0", "stem_mel_2"}
    metrics = json.loads((val / "metrics.json").read_text())
    assert set(metrics["frechet"]) == {"bass", "guitar", "all"} and metrics["generated"] == ["bass", "guitar"]
    assert set(metrics["fad"]["stems"]) == {"bass", "guitar", "all"} and metrics["fad"]["sub_fad"]["fad"] > 0


def test_arrangement_of_one_stem_has_its_published_folder(tmp_path):
    validate(tmp_path, make_output(["A_from_0"], "arrangement", generated=("drums",)))
    assert os.readlink(tmp_path / "val_0/stem_1") == "drums"
    assert (tmp_path / "val_0/stem_1/A_from_0.wav").exists()


def test_copies_where_links_cannot_be_made(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    for _ in range(2):  # the second time the copies are there already
        validate(tmp_path, make_output(["A_from_0"]))
    val = tmp_path / "val_0"
    assert not (val / "stem_1").is_symlink()
    assert (val / "stem_1/A_from_0.wav").read_bytes() == (val / "drums/A_from_0.wav").read_bytes()
    assert (val / "stem_mel_1/A_from_0.npy").read_bytes() == (val / "mel/drums/A_from_0.npy").read_bytes()


def test_second_validation_of_a_step_overwrites(tmp_path):
    validate(tmp_path, make_output(["A_from_0"]))
    other = make_output(["A_from_0"], seed=5)
    validate(tmp_path, other, run="test")
    assert (read_pcm(tmp_path / "val_0/bass/A_from_0.wav") == pcm(other["waveforms"][0, 0])).all()


def test_odd_and_repeated_names(tmp_path):
    names = ["../../etc/passwd", "AC/DC $x_1^", "Für Elise_from_0", "same", "same", "x" * 500, "", ".hidden\n"]
    validate(tmp_path, make_output(names), writer=ResultWriter(max_pictures=2))
    found = sorted(p.name for p in (tmp_path / "val_0/mix").iterdir())
    assert len(found) == 8 and {"Für Elise_from_0.wav", "same.wav", "same_2.wav"} <= set(found)
    assert not any(name.startswith(".") or "\n" in name for name in found)
    assert {p.name for p in tmp_path.iterdir()} == {"val_0", "target_0"}
    assert len(list((tmp_path / "val_0/spectrograms").iterdir())) == 2


def test_safe_names():
    assert safe_name("Track00001_from_10") == "Track00001_from_10" and safe_name("a b (1)") == "a b (1)"
    assert safe_name("a/b") != safe_name("a:b") and safe_name("a/b").startswith("a_b-")
    assert safe_name("..") not in {"..", "."} and safe_name("") and safe_name("\udcff")
    assert len(safe_name("é" * 300).encode()) < 200
    assert [stem_folder(s) for s in ("bass", "mix", "stem_1")] == ["bass", "mix (stem)", "stem_1 (stem)"]


def test_values_that_are_not_finite_are_counted(tmp_path, caplog):
    output = make_output(["A_from_0", "B_from_0"])
    output["waveforms"][0, 1, 5], output["log_mels"][0, 1, 3, 3] = math.nan, math.inf
    validate(tmp_path, output)
    drums = json.loads((tmp_path / "val_0/metrics.json").read_text())["model"]["drums"]
    assert (drums["si_sdr"]["invalid"], drums["si_sdr"]["count"]) == (1, 1)
    assert (drums["log_mel_mse"]["invalid"], drums["log_mel_mse"]["count"]) == (1, 1)
    assert read_pcm(tmp_path / "val_0/drums/A_from_0.wav")[5] == 0 and "written as silence" in caplog.text


def test_limited_pictures_and_no_log_mels(tmp_path):
    writer = ResultWriter(tmp_path / "here", max_pictures=3)
    validate(tmp_path, make_output(["A", "B"]), make_output(["C", "D"]), writer=writer)
    assert {p.stem for p in (tmp_path / "here/val_0/spectrograms").iterdir()} == {"A", "B", "C"}
    bare = make_output(["A"]) | {"log_mels": None, "target_log_mels": None, "mixture_log_mel": None}
    validate(tmp_path / "bare", bare)
    assert files(tmp_path / "bare/val_0") == {f"{f}/A.wav" for f in (*STEMS, "mix")} | {"metrics.json", "metrics.csv"}
    metrics = json.loads((tmp_path / "bare/val_0/metrics.json").read_text())
    assert metrics["model"]["all"].keys() == {"si_sdr", "si_sdri", "sdr"}


def test_reconstructions_of_a_first_stage(tmp_path):
    names = ["A_from_0", "A_from_10", "A_from_20"]
    target = torch.randn(3, 4, FRAMES, BINS)
    waveforms = 0.1 * torch.randn(3, 3, SAMPLES)
    output = {
        "name": names,
        "log_mels": {"target": target, "estimate": target + 2},
        "waveforms": {"target": waveforms, "estimate": -waveforms},
    }
    output["waveforms"] = {key: torch.nn.functional.pad(w, (0, 0, 0, 1)) for key, w in output["waveforms"].items()}
    logged = validate(tmp_path, output, writer=ResultWriter(max_reconstructions=2))
    parts = ("stem_0", "stem_1", "stem_2", "mix")
    made = {f"{p}/{n}.wav" for p in parts for n in names[:2]} | {f"mel/{p}/{n}.npy" for p in parts for n in names[:2]}
    assert files(tmp_path / "target_0") == made
    assert files(tmp_path / "val_0") == made | {f"spectrograms/{n}.png" for n in names[:2]} | {"metrics.json"}
    assert (read_pcm(tmp_path / "val_0/stem_1/A_from_0.wav") == pcm(-waveforms[0, 1])).all()
    metrics = json.loads((tmp_path / "val_0/metrics.json").read_text())["model"]
    assert metrics["stem_2"]["log_mel_mse"]["mean"] == pytest.approx(4.0, abs=1e-5)
    assert metrics["all"]["log_mel_mse"]["count"] == 12
    assert logged == {"val/reconstruction/log_mel_mse": pytest.approx(4.0, abs=1e-5)}


def test_nothing_made_writes_nothing(tmp_path):
    validate(tmp_path, None, None)
    validate(tmp_path, {"loss": torch.tensor(1.0)})
    assert not list(tmp_path.iterdir())


def test_sanity_check_writes_nothing(tmp_path):
    writer, trainer = ResultWriter(tmp_path), SimpleNamespace(sanity_checking=True)
    writer.on_validation_batch_end(trainer, None, make_output(["A"]), None, 0)
    writer.on_validation_epoch_end(trainer, None)
    assert not list(tmp_path.iterdir())


def test_mixture_row_by_the_models_own_front_end(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(results, "draw_log_mels", lambda _path, rows, **_: drawn.append(rows))
    output, module = make_output(["A"]), Model([])
    trainer = SimpleNamespace(sanity_checking=False, world_size=1, global_step=0, default_root_dir=tmp_path)
    module.first_stage_model = SimpleNamespace(
        waveform_to_log_mel=lambda w: w[:, : FRAMES * BINS].view(-1, FRAMES, BINS)
    )
    ResultWriter().on_validation_batch_end(trainer, module, output, None, 0)
    mixture = drawn[0][0]
    assert (mixture.target == output["mixture_log_mel"][0].numpy()).all()
    assert (mixture.result.flatten() == output["mixture"][0, : FRAMES * BINS].numpy()).all()
    assert [row.title for row in drawn[0]] == ["mixture", *STEMS]


def test_numbers_of_all_processes_come_together(tmp_path, monkeypatch):
    whole = make_output(["A_from_0", "B_from_0", "C_from_0"])
    validate(tmp_path / "one", whole)

    def part(*items: int) -> dict:
        return {
            k: [v[i] for i in items] if k == "name" else v[list(items)] if isinstance(v, torch.Tensor) else v
            for k, v in whole.items()
        }

    def writer_of(output: dict | None) -> ResultWriter:
        writer = ResultWriter(tmp_path / "two", max_pictures=0)
        trainer = SimpleNamespace(sanity_checking=False, world_size=2, global_step=0)
        writer.on_validation_batch_end(trainer, Model([]), output, None, 0)
        return writer

    def gather(everyone: list, mine: object) -> None:
        everyone[:] = [mine, *(_state(other) for other in others)]

    others = [writer_of(part(2, 0)), writer_of(None)]  # A is padding, the third process had nothing
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    module = Model([])
    logged: dict = {}
    monkeypatch.setattr(module, "log_dict", lambda values, **_: logged.update(values))
    trainer = SimpleNamespace(sanity_checking=False, world_size=2, global_step=0, is_global_zero=True)
    writer = writer_of(part(0, 1))
    writer.on_validation_epoch_end(trainer, module)
    one, two = (json.loads((tmp_path / f / "val_0/metrics.json").read_text()) for f in ("one", "two"))
    assert one == two and logged["val/separation/si_sdr"] == one["model"]["sounding"]["si_sdr"]["mean"]


def _state(writer: ResultWriter) -> tuple:
    return writer._about, writer._items, writer._scores, writer._reconstruction


def test_picture(tmp_path):
    path = tmp_path / "a.png"
    ramp = np.linspace(-11.5, 1.0, 1024 * 64, dtype=np.float32).reshape(1024, 64)
    silence = np.full((1024, 64), -11.512925, dtype=np.float32)
    rows = [PictureRow("mixture", ramp, None), *(PictureRow(s, ramp, silence) for s in ("a$b$", "b\\x"))]
    draw_log_mels(path, rows, "title with $ and _", seconds=10.24)
    with Image.open(path) as image:
        assert 800 < image.width < 1600 and 300 < image.height < 900
        colours = len(set(image.convert("RGB").resize((200, 100)).get_flattened_data()))
    assert colours > 50
    narrow = tmp_path / "b.png"
    draw_log_mels(narrow, [PictureRow("bass", None, ramp)])
    with Image.open(narrow) as image:
        assert image.width < 800
    draw_log_mels(tmp_path / "c.png", [PictureRow("bass", None, np.full_like(ramp, np.nan))])
    with pytest.raises(ValueError, match="no log-mel"):
        draw_log_mels(path, [PictureRow("bass", None, None)])


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "folder" / "a.npy"
    with whole_file(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["a.npy"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "song"
    with pytest.raises(RuntimeError), whole_folder(path) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError
    assert not list(path.parent.iterdir())
    for text in ("old", "new"):
        with whole_folder(path) as temporary:
            (temporary / "a").write_text(text)
            assert not path.exists() or (path / "a").read_text() == "old"
        (path / "mine").write_text("kept")
    assert {file.name: file.read_text() for file in path.iterdir()} == {"a": "new", "mine": "kept"}
    assert [entry.name for entry in path.parent.iterdir()] == ["song"]
