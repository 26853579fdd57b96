"""The latent cache: what it holds, when it is made anew, and that training with it is the same training."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import soundfile
import torch

from latent_diffusion.diffusion.loss import LossSettings
from latent_diffusion.errors import ConfigError, DataError
from latent_diffusion.musicldm import MusicLDM, TrainingSettings
from tests.tiny import MEL, STEMS, config, model, write_config, write_first_stage, write_songs
from train_musicldm import main as train_main
from utilities import cli
from utilities.config import load_config
from utilities.data import latents
from utilities.data.datamodule import train_loader
from utilities.data.latent_check import compare
from utilities.data.latent_store import LatentStore
from utilities.data.latents import LatentDataset, TrackEncoder, build, cut, latent_store
from utilities.data.stems import StemDataset, Track
from utilities.plan import describe

STEP = MEL.hop_length * 2  # samples of a latent frame
LENGTH = MEL.frames // 2  # latent frames of a window
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def songs(tmp_path: Path) -> StemDataset:
    return StemDataset(write_songs(tmp_path / "train", 3, 1.5), STEMS, MEL, shift=True)


@pytest.fixture
def encoder() -> TrackEncoder:
    return TrackEncoder(model().first_stage_model)


@pytest.fixture
def store(encoder: TrackEncoder, tmp_path: Path) -> LatentStore:
    return latent_store(encoder, STEMS, tmp_path / "cache")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tracks that are encoded from here on."""
    names: list[str] = []
    encode = TrackEncoder.encode

    def record(self: TrackEncoder, track: Track, progress: Callable[[], None] = lambda: None) -> torch.Tensor:
        names.append(track.name)
        return encode(self, track, progress)

    monkeypatch.setattr(TrackEncoder, "encode", record)
    return names


class AlignedDataset(StemDataset):
    """Waveforms of the windows that `LatentDataset` reads."""

    def _start(self, *args: Any) -> int:
        return super()._start(*args) // STEP * STEP


# ---- what is kept


@pytest.mark.parametrize("margin", [0, 2, 4])
def test_kept_parts_cover_a_track_once_with_context_on_both_sides(margin: int) -> None:
    for frames in range(16, 90):
        cuts = cut(frames, 16, margin)
        assert [n for _, begin, end in cuts for n in range(begin, end)] == list(range(frames))
        for start, begin, end in cuts:
            assert 0 <= start <= begin < end <= start + 16 <= frames
            assert start == 0 or begin >= start + margin
            assert start + 16 == frames or end <= start + 16 - margin


def test_entries_hold_what_the_first_stage_makes(songs: StemDataset, encoder: TrackEncoder, store: LatentStore) -> None:
    assert build(store, encoder, songs.tracks) == {}
    track = songs.tracks[0]
    frames = store.frames(track)
    assert frames == track.samples // STEP
    whole = store.read(track, 0, frames)
    assert whole.shape == (5, 2, 4, frames, 8) and whole.dtype == torch.float32
    # the first window is kept up to its last eighth, exactly but for the rounding to 16 bit
    item = songs[0]
    pipeline = model().pipeline
    posterior = pipeline.first_stage.log_mel_to_posterior(
        pipeline.first_stage.waveform_to_log_mel(torch.cat([item["stems"], item["mixture"][None]]))
    )
    kept = LENGTH - LENGTH // latents.MARGIN
    torch.testing.assert_close(whole[:, 0, :, :kept], posterior.mean[:, :, :kept], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(whole[:, 1, :, :kept], posterior.logvar[:, :, :kept], rtol=1e-3, atol=1e-3)
    assert torch.equal(store.read(track, 5, 7), whole[:, :, :, 5:12])
    with pytest.raises(DataError, match="ends before frame"):
        store.read(track, frames - 3, 4)
    one, three = (TrackEncoder(model().first_stage_model, windows_at_once=n).encode(track) for n in (1, 3))
    torch.testing.assert_close(one, three, rtol=1e-3, atol=1e-4)


def test_crops_are_close_to_windows_encoded_alone(
    songs: StemDataset, encoder: TrackEncoder, store: LatentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(store, encoder, songs.tracks)
    figures = compare(store, encoder, songs.tracks, crops=40)
    assert 0 < figures["half precision"] < 1e-3 and figures["inside"] < figures["edges"]
    assert figures["difference"] < 0.35  # random weights, and windows of 16 latent frames, nearly all edge
    monkeypatch.setattr(latents, "MARGIN", 10**6)  # no context
    bare = latent_store(encoder, STEMS, store.folder.parent)
    build(bare, encoder, songs.tracks)
    assert bare.folder != store.folder
    assert figures["inside"] < 0.9 * compare(bare, encoder, songs.tracks, crops=40)["inside"]


def test_items_are_the_windows_of_the_stem_dataset(
    songs: StemDataset, encoder: TrackEncoder, store: LatentStore
) -> None:
    build(store, encoder, songs.tracks)
    dataset = LatentDataset(songs, store)
    assert len(dataset) == len(songs) == 15
    for index in range(len(songs)):
        for item in (index, (index, 100 + index)):
            ours, theirs = dataset[item], songs[item]
            assert set(ours) == {"latents", "mixture_latent", "name"} and ours["name"] == theirs["name"]
            assert ours["latents"].shape == (4, 2, 4, LENGTH, 8) and ours["mixture_latent"].shape == (2, 4, LENGTH, 8)
    track, (_, start) = songs.tracks[1], songs.windows[7]
    rng = np.random.default_rng(5)
    start = min(max(start + int(rng.integers(-640, 640, endpoint=True)), 0), track.samples - MEL.window_samples)
    expected = store.read(track, start // STEP, LENGTH)
    item = dataset[7, 5]
    assert torch.equal(item["latents"], expected[:4]) and torch.equal(item["mixture_latent"], expected[4])


def test_a_track_without_entry_is_replaced_as_an_unreadable_one(
    songs: StemDataset, encoder: TrackEncoder, store: LatentStore, caplog: pytest.LogCaptureFixture
) -> None:
    build(store, encoder, songs.tracks)
    dataset = LatentDataset(songs, store)
    store.path(songs.tracks[1]).unlink()
    assert dataset[7, 1]["name"].startswith(songs.tracks[2].name)
    assert dataset.unreadable == {songs.tracks[1].name: 1} and "no such latent cache entry" in caplog.text


# ---- when it is made


def test_only_what_is_missing_or_stale_is_encoded(
    songs: StemDataset, encoder: TrackEncoder, store: LatentStore, encoded: list[str]
) -> None:
    one, two, three = songs.tracks
    build(store, encoder, songs.tracks)
    assert sorted(encoded) == [t.name for t in songs.tracks]
    build(store, encoder, songs.tracks)
    assert len(encoded) == 3
    os.utime(one.files[0], ns=(1, 1))  # other times, same contents
    before = store.read(one, 0, 10)
    build(store, encoder, songs.tracks)
    assert len(encoded) == 3 and store.is_fresh(one) and torch.equal(store.read(one, 0, 10), before)
    waveform, rate = soundfile.read(two.files[2])
    soundfile.write(two.files[2], waveform[::-1], rate)  # other contents, same size
    old = store.read(two, 0, 10)
    build(store, encoder, songs.tracks)
    assert encoded[3:] == [two.name] and not torch.allclose(store.read(two, 0, 10), old, atol=1e-2)
    os.truncate(store.path(three), store.path(three).stat().st_size // 2)
    left_over, in_use = store.folder / ".1.tmp.safetensors", store.folder / ".2.tmp.safetensors"
    left_over.touch(), in_use.touch()
    os.utime(left_over, (1, 1))
    with pytest.raises(DataError, match="not readable as a latent cache entry"):
        store.read(three, 0, 10)
    build(store, encoder, songs.tracks)
    assert encoded[4:] == [three.name] and store.is_fresh(three)
    assert in_use.exists() and not left_over.exists()
    in_use.unlink()
    assert sorted(p.suffix for p in store.folder.iterdir()) == [".json"] + 3 * [".safetensors"]


def test_the_key_follows_weights_mel_settings_and_stems(encoder: TrackEncoder) -> None:
    def key(seed: int, stems: tuple[str, ...] = STEMS) -> str:
        return TrackEncoder(model(seed=seed).first_stage_model).key(stems)[0]

    assert key(0) == encoder.key(STEMS)[0]
    changed = model().first_stage_model
    changed.decoder.conv_out.bias.data.add_(1.0)  # the decoder takes no part
    assert TrackEncoder(changed).key(STEMS)[0] == key(0)
    changed.mel_settings = type(MEL)(**{**vars(MEL), "f_max": 1900.0})
    assert len({key(0), key(1), key(0, STEMS[::-1]), TrackEncoder(changed).key(STEMS)[0]}) == 4


def test_a_bad_track_is_listed_and_the_others_are_encoded(
    tmp_path: Path, encoder: TrackEncoder, store: LatentStore, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_songs(tmp_path / "train", 2, 1.5)
    bad = folder / "Track00001" / "bass"
    waveform, rate = soundfile.read(f"{bad}.wav")
    soundfile.write(f"{bad}.flac", waveform, rate)
    Path(f"{bad}.wav").unlink()
    songs = StemDataset(folder, STEMS, MEL, shift=True)
    os.truncate(f"{bad}.flac", os.path.getsize(f"{bad}.flac") // 4)
    with caplog.at_level(logging.WARNING):
        failed = build(store, encoder, songs.tracks)
    assert list(failed) == ["Track00001"] and "bass.flac" in failed["Track00001"]
    assert [r.message for r in caplog.records if "1 of 2 tracks cannot be encoded" in r.message]
    assert store.is_fresh(songs.tracks[0]) and not store.is_fresh(songs.tracks[1])
    with pytest.raises(DataError, match="none of 1 tracks can be encoded"):
        build(store, encoder, songs.tracks[1:])


def test_a_claimed_track_is_left_to_its_process(
    songs: StemDataset, encoder: TrackEncoder, store: LatentStore, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "_POLL_SECONDS", 0.05)
    track = songs.tracks[0]
    with store.claim(track) as claim:
        assert claim is not None
        with store.claim(track) as second:
            assert second is None
        thread = threading.Thread(target=build, args=(store, encoder, songs.tracks))
        thread.start()
        deadline = time.monotonic() + 20
        while len(encoded) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        assert sorted(encoded) == [t.name for t in songs.tracks[1:]] and thread.is_alive()
    thread.join(20)
    assert encoded[2:] == [track.name] and store.is_fresh(track)


def test_claims_of_the_dead_are_taken_over(songs: StemDataset, store: LatentStore) -> None:
    track = songs.tracks[0]
    lock = store.path(track).with_suffix(".lock")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with store.claim(track) as claim:
        text = claim.owner.replace(f" {os.getpid()},", f" {dead.pid},")
    for owner, age, free in (
        (text, 0, True),  # a process of this host that is gone
        (text.replace('["', '["other-'), 0, False),  # of another host: who knows
        (text.replace('["', '["other-'), 10_000, True),  # that gave no sign of life for long
        ("", 0, False),  # just made
        ("", 100, True),
    ):
        lock.write_text(owner)
        os.utime(lock, (time.time() - age,) * 2)
        with store.claim(track) as claim:
            assert (claim is not None) == free, (owner, age)
        assert lock.exists() != free


def test_several_processes_make_the_same_cache(
    songs: StemDataset, encoder: TrackEncoder, store: LatentStore, tmp_path: Path
) -> None:
    build(store, encoder, songs.tracks, workers=2)
    alone = latent_store(encoder, STEMS, tmp_path / "other")
    build(alone, encoder, songs.tracks)
    for track in songs.tracks:
        ours, theirs = (s.read(track, 0, s.frames(track)) for s in (store, alone))
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


def test_a_folder_that_cannot_be_written_is_one_line(encoder: TrackEncoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"latent_cache: .*file.* cannot be written") as caught:
        latent_store(encoder, STEMS, tmp_path / "file")
    assert "\n" not in str(caught.value)


# ---- training


class Losses(pl.Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: MusicLDM, outputs: Any, *_: Any) -> None:
        self.values.append(float(outputs["loss"]))


def test_training_from_the_cache_is_the_same_training(
    songs: StemDataset, encoder: TrackEncoder, store: LatentStore
) -> None:
    """Same seeds, same windows: the loss curves agree but for the crops' small differences."""
    build(store, encoder, songs.tracks)
    aligned = AlignedDataset(songs.folders, STEMS, MEL, shift=True)
    curves = []
    for dataset in (aligned, LatentDataset(songs, store)):
        module = model(training=TrainingSettings(base_learning_rate=1e-3, warmup_steps=5), parameterization="v")
        losses = Losses()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(accelerator="cpu", max_steps=30, enable_model_summary=False, callbacks=[losses], **quiet)
        trainer.fit(module, train_loader(dataset, 4, seed=1))
        curves.append(torch.tensor(losses.values))
    with_waveforms, with_cache = curves
    difference = (with_cache - with_waveforms).abs()
    print(f"largest difference over 30 steps {difference.max():.4f}, of losses {with_waveforms.mean():.4f}")
    assert len(with_cache) == 30 and difference.max() > 0
    assert difference.max() < 0.1 * with_waveforms.mean() and difference.mean() < 0.03 * with_waveforms.mean()
    assert difference.mean() < 0.1 * (with_waveforms - with_waveforms.roll(1)).abs().mean()


def test_posteriors_are_sampled_anew_at_every_draw(
    songs: StemDataset, encoder: TrackEncoder, store: LatentStore
) -> None:
    build(store, encoder, songs.tracks)
    module = model()
    module.scale_factor.fill_(2.0)
    item = LatentDataset(songs, store)[3]
    batch = {"latents": item["latents"][None], "mixture_latent": item["mixture_latent"][None], "name": [item["name"]]}
    drawn = [module.latents_of(batch, torch.Generator().manual_seed(seed)) for seed in range(200)]
    z = torch.stack([d[0] for d in drawn])
    mean, logvar = batch["latents"].unbind(2)
    assert z.shape[1:] == (1, 4, 4, LENGTH, 8) and drawn[0][1].shape == (1, 4, LENGTH, 8) and drawn[0][2] is None
    std = (0.5 * logvar).exp()
    assert ((z.mean(0) / 2 - mean) / std).abs().max() < 6 / 200**0.5
    assert ((z.std(0) / 2) / std).mean() == pytest.approx(1, abs=0.02)
    again = module.latents_of(batch, torch.Generator().manual_seed(0))
    assert torch.equal(again[0], drawn[0][0]) and torch.equal(again[1], drawn[0][1])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents")
    write_songs(folder / "train", 2, 1.3, seed=1)
    write_songs(folder / "valid", 1, 0.4, seed=2)
    write_first_stage(folder)
    write_config(folder / "train.yaml", config(folder, max_steps=6, save_checkpoint_every_n_steps=3))
    write_config(folder / "vae.yaml", config(folder, "vae"))
    return folder


def test_a_run_makes_its_cache_and_resumes_from_it(root: Path, encoded: list[str]) -> None:
    def train(*overrides: str) -> dict[str, torch.Tensor]:
        before = set((root / "runs" / "tiny").glob("*"))
        cache = f"data.params.latent_cache={root / 'cache'}"
        assert train_main(["--config", str(root / "train.yaml"), cache, *overrides]) == 0
        (folder,) = set((root / "runs" / "tiny").glob("*")) - before or before
        return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    half = train("trainer.max_steps=3")
    assert sorted(encoded) == ["Track00000", "Track00001"]
    assert len(list((root / "cache").glob("*/*.safetensors"))) == 2
    (run,) = (root / "runs" / "tiny").glob("*")
    resumed = train(f"trainer.resume={run}")  # with the weights of its checkpoint, so with the same cache
    whole = train()
    assert len(encoded) == 2 and len(list((root / "cache").iterdir())) == 1
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())
    assert not all(torch.equal(value, whole[name]) for name, value in half.items())


@pytest.mark.parametrize(
    ("file", "override", "key"),
    [
        ("train.yaml", "data.params.augmentation.masking=true", "data.params.augmentation.masking"),
        ("train.yaml", "model.params.use_silence_weight=true", "model.params.use_silence_weight"),
        ("vae.yaml", "seed=0", "model.target"),
    ],
)
def test_what_the_cache_cannot_serve_is_refused(root: Path, file: str, override: str, key: str) -> None:
    load_config(root / file, [override])
    with pytest.raises(ConfigError, match=key) as caught:
        load_config(root / file, [override, "data.params.latent_cache=cache"])
    assert "data.params.latent_cache" in str(caught.value) and "\n" not in str(caught.value)


def test_the_module_and_the_dataset_refuse_it_too(songs: StemDataset, store: LatentStore) -> None:
    masked = StemDataset(songs.folders, STEMS, MEL, shift=True, masking=True)
    with pytest.raises(ConfigError, match="masking"):
        LatentDataset(masked, store)
    module = model(training=TrainingSettings(loss=LossSettings(silence_tau=3.0)))
    batch = {"latents": torch.zeros(1, 4, 2, 4, 16, 8), "mixture_latent": torch.zeros(1, 2, 4, 16, 8), "name": ["x"]}
    with pytest.raises(ConfigError, match="use_silence_weight"):
        module.losses(batch, torch.Generator(), 0.1)


def test_the_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = f"data.params.latent_cache={tmp_path / 'cache'}"
    assert cli.main(["latents", "--config", str(root / "train.yaml")]) == 2
    assert "data.params.latent_cache: found nothing" in capsys.readouterr().err
    assert cli.main(["latents", "--config", str(root / "train.yaml"), cache, "--workers", "0"]) == 2
    assert "--workers: found 0" in capsys.readouterr().err
    assert cli.main(["latents", "--config", str(root / "train.yaml"), cache, "--check"]) == 0
    out = capsys.readouterr().out
    assert "2 tracks" in out and "inside" in out and "half precision" in out
    assert len(list(tmp_path.glob("cache/*/*.safetensors"))) == 2
    assert f"encoded once, kept in {tmp_path / 'cache'}" in describe(load_config(root / "train.yaml", [cache]))
