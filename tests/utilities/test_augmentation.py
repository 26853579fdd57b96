"""Mixing augmentation: levels, equaliser, echo, saturation, remixing, and that each is a function of the seed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from latent_diffusion.errors import ConfigError
from latent_diffusion.inference import mix
from tests.tiny import MEL, STEMS, config, write_config, write_songs
from utilities.building import build_data
from utilities.config import load_config
from utilities.data.augmentation import DECAY_SECONDS, PEAK, WET, Augmentation, echo, equaliser
from utilities.data.datamodule import train_loader
from utilities.data.stems import StemDataset

RATE = 16_000
EVERYTHING = Augmentation(gain_db=(-9.0, 6.0), equaliser_db=6.0, reverb=0.5, saturation=0.5, remix=0.5)


def noise(samples: int = 20_480, level: float = 0.02) -> Tensor:
    return level * torch.randn(4, samples, generator=torch.Generator().manual_seed(0))


def changed(augmentation: Augmentation, stems: Tensor, seed: int = 0) -> Tensor:
    return augmentation(stems, RATE, np.random.default_rng(seed))


def db(stems: Tensor) -> Tensor:
    return 10 * stems.square().mean(-1).log10()


def dataset(folder: Path, augmentation: Augmentation | None = None, masking: bool = False) -> StemDataset:
    return StemDataset(folder, STEMS, MEL, shift=True, masking=masking, augmentation=augmentation)


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tracks of 2 s in which every stem is a constant, 0.01 times the track's number; "Mute" plays piano alone."""
    folder = tmp_path_factory.mktemp("songs")
    for number in range(1, 6):
        (folder / f"T{number}").mkdir()
        for stem in STEMS:
            data = np.full(2 * MEL.sample_rate, 0.01 * number)
            soundfile.write(folder / f"T{number}" / f"{stem}.wav", data, MEL.sample_rate)
    (folder / "Mute").mkdir()
    for stem in STEMS:
        data = np.full(2 * MEL.sample_rate, 0.06 if stem == "piano" else 0.0)
        soundfile.write(folder / "Mute" / f"{stem}.wav", data, MEL.sample_rate)
    return folder


# ---- what is done to the stems


def test_levels_are_drawn_for_each_stem_and_for_the_item() -> None:
    stems = noise()
    gains = torch.stack([db(changed(Augmentation(gain_db=(-9.0, 6.0)), stems, i)) - db(stems) for i in range(300)])
    assert gains.min() > -13.5 and gains.max() < 9.0  # the stem's range and half of it again
    between = gains - gains.mean(1, keepdim=True)
    assert between.abs().max() < 15.0 and between.std() > 3.0  # uniform over 15 dB: 4.3 dB
    assert gains.mean(1).std() > 2.5  # 2.2 dB from four stems that are independent, and 2.2 dB from the whole item
    exactly = changed(Augmentation(gain_db=(-6.0, -6.0)), stems)
    assert torch.allclose(exactly, stems * 10 ** (-9 / 20), rtol=1e-5)


def test_equaliser_is_smooth_and_within_its_range() -> None:
    curves = 20 * np.log10(equaliser(50, 8192, RATE, 6.0, np.random.default_rng(0)))
    assert np.abs(curves).max() <= 6.0 + 1e-4 and curves.std() > 2.0
    hz = np.fft.rfftfreq(8192, 1 / RATE)[64:]  # from 125 Hz
    slope = np.diff(curves[:, 64:]) / np.diff(np.log2(hz))
    assert np.abs(slope).max() <= 12.0 + 0.1  # dB an octave, from one end of the range to the other
    # a sine keeps its shape, and gets the curve's gain at its frequency
    sine = torch.sin(2 * math.pi * 1000 * torch.arange(20_480) / RATE).repeat(4, 1) * 0.05
    result = changed(Augmentation(equaliser_db=6.0), sine)
    inside = slice(4000, 16_000)
    factor = (result[:, inside] * sine[:, inside]).sum(1) / sine[:, inside].square().sum(1)
    assert torch.allclose(result[:, inside], factor[:, None] * sine[:, inside], atol=1e-3)
    assert len({round(float(f), 3) for f in factor}) == 4 and (20 * factor.log10()).abs().max() <= 6.0


def test_echo_decays_and_comes_after_the_sound() -> None:
    for seed in range(20):
        room = echo(9600, RATE, np.random.default_rng(seed))
        assert np.linalg.norm(room) == pytest.approx(1.0, abs=1e-4)
        energy = np.cumsum(room[::-1].astype(np.float64) ** 2)[::-1]
        reached = int(np.argmax(10 * np.log10(energy + 1e-30) < -30)) / RATE  # half of the fall by 60 dB
        assert 0.4 * DECAY_SECONDS[0] < reached < 0.6 * DECAY_SECONDS[1]
    click = torch.zeros(4, 20_480)
    click[:, 10_000] = 0.5
    result = changed(Augmentation(reverb=1.0), click)
    assert torch.allclose(result[:, :10_000], torch.zeros(4, 10_000), atol=1e-5)  # nothing wraps around
    level = result[:, 10_001:].norm(dim=1) / result[:, 10_000]
    assert level.min() > 0.8 * WET[0] and level.max() < 1.2 * WET[1]
    concerned = [changed(Augmentation(reverb=0.25), click, i)[:, 10_001:].abs().amax(1) > 1e-4 for i in range(200)]
    assert 0.2 < float(torch.stack(concerned).float().mean()) < 0.3


def test_saturation_bends_peaks_and_keeps_levels() -> None:
    stems = noise()
    stems[2] = 0.0
    result = changed(Augmentation(saturation=1.0), stems)
    sounding = [0, 1, 3]
    assert torch.allclose(db(result)[sounding], db(stems)[sounding], atol=1e-3) and not result[2].any()
    crest = stems.abs().amax(1) / stems.norm(dim=1)
    assert (result[sounding].abs().amax(1) / result[sounding].norm(dim=1) < 0.98 * crest[sounding]).all()
    order = stems[0].argsort()
    assert (result[0][order].diff() >= 0).all()  # one curve for all samples
    share = [(changed(Augmentation(saturation=0.25), stems, i) != stems).any(1)[sounding] for i in range(200)]
    assert 0.2 < float(torch.stack(share).float().mean()) < 0.3


def test_loud_items_are_turned_down_as_a_whole() -> None:
    stems = noise(level=0.5)
    result = changed(Augmentation(gain_db=(0.0, 0.0)), stems)
    peak = torch.cat([result, result.sum(0, keepdim=True)]).abs().max()
    assert float(peak) == pytest.approx(PEAK) and torch.allclose(result / result[0, 0], stems / stems[0, 0], rtol=1e-3)
    cancelling = torch.stack([torch.full((100,), 0.9), torch.full((100,), -0.9)])
    loud = changed(Augmentation(gain_db=(10.0, 10.0)), cancelling)
    assert float(loud.abs().max()) == pytest.approx(PEAK)  # stems must not clip either


# ---- items


def test_items_are_a_function_of_their_seed(tmp_path: Path) -> None:
    songs = write_songs(tmp_path, 3, 1.3)
    ours, again = dataset(songs, EVERYTHING), dataset(songs, EVERYTHING)
    for seed in range(12):
        first, second = ours[seed % len(ours), seed], again[seed % len(again), seed]
        assert torch.equal(first["stems"], second["stems"]) and first["coherent"] == second["coherent"]
        assert torch.equal(first["mixture"], mix(first["stems"])) and first["mixture"].abs().max() <= PEAK + 1e-6
        assert first["stems"].shape == (4, MEL.window_samples) and first["stems"].dtype == torch.float32
    assert not torch.equal(ours[0, 1]["stems"], ours[0, 2]["stems"])
    assert {ours[0, seed]["coherent"] for seed in range(12)} == {True, False}


def test_without_augmentation_nothing_changes(tmp_path: Path) -> None:
    songs = write_songs(tmp_path, 2, 1.3)
    plain, none, ours = dataset(songs), dataset(songs, Augmentation()), dataset(songs, Augmentation(gain_db=(0, 0)))
    for seed in range(8):
        for other in (none, ours):  # windows are the same ones, and 0 dB is no change
            assert torch.equal(plain[1, seed]["stems"], other[1, seed]["stems"])
            assert plain[1, seed].keys() == other[1, seed].keys() and plain[1, seed]["name"] == other[1, seed]["name"]
    assert torch.equal(dataset(songs, EVERYTHING)[1]["stems"], plain[1]["stems"])  # no seed: as the files hold it
    masked, both = dataset(songs, masking=True), dataset(songs, Augmentation(gain_db=(-3, 3), reverb=1), masking=True)
    for seed in range(20):
        assert torch.equal(masked[0, seed]["stems"].any(1), both[0, seed]["stems"].any(1))


def test_remixed_stems_come_from_several_tracks_and_sound(songs: Path) -> None:
    remix = dataset(songs, Augmentation(remix=1.0))
    items = [remix[index % len(remix), index] for index in range(40)]
    levels = torch.stack([item["stems"][:, 0] * 100 for item in items]).round()  # the track's number
    assert all(item["coherent"] is False and item["valid_samples"] == MEL.window_samples for item in items)
    assert {float(level) for level in levels[:, :3].flatten()} == {1.0, 2.0, 3.0, 4.0, 5.0}  # never the silent ones
    assert 6.0 in levels[:, 3]
    different = [len(set(row.tolist())) for row in levels]
    assert np.mean(different) > 2.5 and min(different) >= 1
    some = [dataset(songs, Augmentation(remix=0.3))[0, seed]["coherent"] for seed in range(100)]
    assert 0.55 < np.mean(some) < 0.85
    (songs / "T1").rename(songs / "gone")  # an unreadable track is passed over
    try:
        assert all(remix[2, seed]["stems"].any() for seed in range(20)) and remix.unreadable.keys() == {"T1"}
    finally:
        (songs / "gone").rename(songs / "T1")


def test_stems_of_remixed_items_are_muted(songs: Path) -> None:
    """Each with its probability, never all; an item of one song keeps all its stems."""
    remix = dataset(songs, Augmentation(remix=1.0, mute=0.5))
    sounding = torch.stack([remix[0, seed]["stems"].any(1) for seed in range(60)])
    assert sounding.any(1).all()
    assert float(sounding.float().mean()) == pytest.approx(1 - 0.5 * (1 - 1 / sounding.shape[1]), abs=0.1)
    songs_only, unchanged = dataset(songs, Augmentation(mute=1.0)), dataset(songs, None)
    assert all(torch.equal(songs_only[0, seed]["stems"], unchanged[0, seed]["stems"]) for seed in range(5))


def test_stems_that_sound_nowhere_stay_silent(tmp_path: Path) -> None:
    songs = write_songs(tmp_path, 2, 1.0)
    for track in songs.iterdir():
        soundfile.write(track / "drums.wav", np.zeros(4000), 4000)
    items = [dataset(songs, EVERYTHING)[0, seed] for seed in range(10)]
    assert not any(item["stems"][1].any() for item in items) and all(item["stems"][0].any() for item in items)


def test_batches_say_which_items_are_coherent(songs: Path) -> None:
    batch = next(iter(train_loader(dataset(songs, Augmentation(remix=0.5)), 16)))
    assert batch["coherent"].dtype == torch.bool and batch["coherent"].shape == (16,) and batch["coherent"].any()
    assert not batch["coherent"].all()
    assert "coherent" not in next(iter(train_loader(dataset(songs, Augmentation(reverb=0.5)), 2)))


# ---- configuration


def test_keys_reach_the_dataset_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    write_songs(tmp_path / "train", 2, 1.0)
    path = write_config(tmp_path / "c.yaml", config(tmp_path))
    group = "data.params.augmentation"
    given = [f"{group}.gain_db=[-9,6]", f"{group}.remix=0.25", f"{group}.equaliser_db=4"]
    data = build_data(load_config(path, [*given, "data.params.path.valid_data="]))
    data.setup("fit")
    assert data.train_dataset.augmentation == Augmentation((-9.0, 6.0), 4.0, 0.0, 0.0, 0.25)
    plain = build_data(load_config(path))
    assert not plain.augmentation and not plain.masking
    for wrong in ("gain_db=[6,-9]", "gain_db=[1]", "remix=1.5", "reverb=-1", "equaliser_db=x"):
        with pytest.raises(ConfigError, match=f"{group}.{wrong.split('=')[0]}: found"):
            load_config(path, [f"{group}.{wrong}"])
    for override in given:
        with pytest.raises(ConfigError, match=override.split("=")[0] + ".*latent_cache"):
            load_config(path, [override, "data.params.latent_cache=cache"])
