"""Finding tracks, cutting windows, shift, masking, and what happens to bad files."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from latent_diffusion.errors import DataError
from latent_diffusion.inference import mix
from latent_diffusion.settings import MelSettings
from utilities.audio import read_audio, resample
from utilities.data.stems import StemDataset

STEMS = ("bass", "drums", "voice")
MEL = MelSettings(sample_rate=4000, n_fft=256, win_length=256, hop_length=40, n_mels=16, f_max=2000.0, frames=100)
WINDOW = MEL.window_samples  # 4000 samples, 1 s


def write_track(
    folder: Path,
    seconds: float = 3.0,
    rate: int = 4000,
    stems: Sequence[str] = STEMS,
    suffix: str = ".wav",
    channels: int = 1,
    level: float = 0.1,
) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(folder.name))
    for stem in stems:
        data = (rng.standard_normal((round(seconds * rate), channels)) * level).clip(-0.999, 0.999)
        soundfile.write(folder / f"{stem}{suffix}", data, rate)
    return folder


def names(dataset: StemDataset) -> list[str]:
    return [dataset[i]["name"] for i in range(len(dataset))]


def test_items_are_what_the_files_hold(tmp_path: Path) -> None:
    track = write_track(tmp_path / "Track1", seconds=3.0, rate=8820, channels=2)
    dataset = StemDataset(tmp_path, STEMS, MEL, shift=False)
    assert names(dataset) == ["Track1_from_0", "Track1_from_1", "Track1_from_2"]
    item = dataset[1]
    assert set(item) == {"stems", "mixture", "name", "valid_samples"}
    assert item["stems"].shape == (3, WINDOW) and item["stems"].dtype == torch.float32
    for number, stem in enumerate(STEMS):
        waveform, rate = read_audio(track / f"{stem}.wav")
        expected = resample(waveform.mean(0), rate, 4000)[WINDOW : 2 * WINDOW]
        assert (item["stems"][number] - expected).abs().max() < 1e-5
    assert torch.equal(item["mixture"], item["stems"].sum(0).clamp(-1, 1)) and item["valid_samples"] == WINDOW


def test_rates_formats_and_stem_order(tmp_path: Path) -> None:
    write_track(tmp_path / "A", rate=4000)
    write_track(tmp_path / "B", rate=11025, suffix=".flac", channels=2)
    mixed = write_track(tmp_path / "C", rate=8000)
    waveform, _ = soundfile.read(mixed / "drums.wav")
    (mixed / "drums.wav").unlink()
    soundfile.write(mixed / "drums.flac", waveform, 8000)
    dataset = StemDataset(str(tmp_path), ("voice", "drums"), MEL, shift=False)
    assert [t.name for t in dataset.tracks] == ["A", "B", "C"] and not dataset.left_out and len(dataset) == 9
    assert all(dataset[i]["stems"].shape == (2, WINDOW) for i in range(9))
    other_order = StemDataset(tmp_path, ("drums", "voice"), MEL, shift=False)
    assert torch.equal(dataset[3]["stems"], other_order[3]["stems"].flip(0))


def test_mixture_is_clipped_and_stems_too(tmp_path: Path) -> None:
    folder = tmp_path / "Loud"
    folder.mkdir()
    for stem in STEMS:
        soundfile.write(folder / f"{stem}.wav", np.full(4000, 1.5), 4000, subtype="FLOAT")
    item = StemDataset(tmp_path, STEMS, MEL, shift=False)[0]
    assert item["stems"].max() == 1 and item["mixture"].max() == 1
    assert torch.equal(mix(torch.tensor([[0.25, -0.9], [0.5, -0.9]])), torch.tensor([0.75, -1.0]))


def test_evaluation_visits_the_rest_of_a_track(tmp_path: Path) -> None:
    write_track(tmp_path / "Track1", seconds=2.3)
    dataset = StemDataset(tmp_path, STEMS, MEL, shift=False)
    assert names(dataset) == ["Track1_from_0", "Track1_from_1", "Track1_from_2"]
    last = dataset[2]
    assert last["valid_samples"] == 1200
    assert last["stems"][:, :1200].abs().max() > 0 and not last["stems"][:, 1200:].any()
    # in training a short rest is reached by moving the window before it, a long one has its own
    assert len(StemDataset(tmp_path, STEMS, MEL, shift=True)) == 2
    write_track(tmp_path / "Track22", seconds=2.7)
    assert len(StemDataset(tmp_path, STEMS, MEL, shift=True)) == 2 + 3


def test_shift_stays_in_the_track_and_reaches_all_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "Ramp"
    folder.mkdir()
    ramp = np.arange(10_800) / 20_000  # the first sample of a window tells its start
    for stem in STEMS:
        soundfile.write(folder / f"{stem}.wav", ramp, 4000, subtype="FLOAT")
    dataset = StemDataset(tmp_path, STEMS, MEL, shift=True)
    starts: list[list[int]] = [[], [], []]
    for index in range(3):
        for seed in range(300):
            item = dataset[index, seed]
            start = round(float(item["stems"][0, 0]) * 20_000)
            assert item["valid_samples"] == WINDOW and item["name"] == f"Ramp_from_{start // 4000}"
            assert abs(start - min(index * WINDOW, 10_800 - WINDOW)) <= WINDOW // 2
            starts[index].append(start)
    assert min(starts[0]) == 0 and max(starts[2]) == 10_800 - WINDOW
    assert max(starts[0]) > 1900 and min(starts[1]) < 2100 and max(starts[1]) > 5900
    assert len(set(starts[1])) > 200
    assert torch.equal(dataset[1, 5]["stems"], dataset[1, 5]["stems"])
    assert dataset[1]["name"] == "Ramp_from_1"  # without a seed nothing moves


def test_masking_silences_up_to_all_but_one_stem(tmp_path: Path) -> None:
    write_track(tmp_path / "Track1")
    dataset = StemDataset(tmp_path, STEMS, MEL, shift=True, masking=True)
    silent = torch.stack([~dataset[0, seed]["stems"].any(dim=1) for seed in range(200)])
    counts = silent.sum(dim=1).bincount(minlength=3)
    assert len(counts) == 3 and counts.min() > 40  # 0, 1 and 2 stems, each about a third
    assert silent.sum(dim=0).min() > 40  # and any of them
    item = dataset[0, int(silent.any(dim=1).nonzero()[0])]
    assert torch.equal(item["mixture"], mix(item["stems"]))
    assert dataset[0]["stems"].any(dim=1).all()
    plain = StemDataset(tmp_path, STEMS, MEL, shift=True)
    assert all(plain[0, seed]["stems"].any(dim=1).all() for seed in range(20))


def test_unusable_tracks_are_left_out_with_reasons(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_track(tmp_path / "Good")
    write_track(tmp_path / "Short", seconds=0.5)
    (write_track(tmp_path / "Lacking") / "drums.wav").unlink()
    soundfile.write(write_track(tmp_path / "Unequal") / "drums.wav", np.zeros(11_590), 4000)
    (write_track(tmp_path / "Text") / "drums.wav").write_text("no audio")
    soundfile.write(write_track(tmp_path / "Empty") / "voice.wav", np.zeros(0), 4000)
    cut = write_track(tmp_path / "Cut") / "bass.wav"
    os.truncate(cut, cut.stat().st_size // 2)
    (tmp_path / "Nothing").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "readme.txt").write_text("not a track")
    with caplog.at_level(logging.WARNING):
        dataset = StemDataset(tmp_path, STEMS, MEL, shift=False)
    assert [t.name for t in dataset.tracks] == ["Good"]
    assert set(dataset.left_out) == {"Short", "Lacking", "Unequal", "Text", "Empty", "Cut", "Nothing"}
    assert "0.50 s, shorter than one window of 1.00 s" in dataset.left_out["Short"]
    assert "lacks drums.wav" in dataset.left_out["Lacking"] and "lacks bass.wav" in dataset.left_out["Nothing"]
    assert "12000" in dataset.left_out["Unequal"] and "11590" in dataset.left_out["Unequal"]
    assert "unequal lengths" in dataset.left_out["Cut"]
    assert "drums.wav: not readable" in dataset.left_out["Text"]
    assert "voice.wav: holds no samples" in dataset.left_out["Empty"]
    assert len(caplog.records) == 1 and "7 of 8 tracks left out" in caplog.records[0].message
    assert "\n" not in caplog.records[0].message


def test_same_length_at_different_rates_is_equal(tmp_path: Path) -> None:
    track = write_track(tmp_path / "Track1")
    soundfile.write(track / "drums.wav", np.zeros(24_000), 8000)
    assert not StemDataset(tmp_path, STEMS, MEL, shift=False).left_out


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        StemDataset(tmp_path / "nowhere", STEMS, MEL, shift=False)
    with pytest.raises(DataError, match="holds no tracks"):
        StemDataset(tmp_path, STEMS, MEL, shift=False)
    write_track(tmp_path / "Short", seconds=0.5)
    with pytest.raises(DataError) as caught:
        StemDataset(tmp_path, STEMS, MEL, shift=False)
    message = str(caught.value)
    assert str(tmp_path) in message and "Short: lasts 0.50 s" in message and "{bass,drums,voice}" in message
    assert "\n" not in message


def test_several_folders_keep_names_unique(tmp_path: Path) -> None:
    for folder, tracks in {"a": ("Track1", "Track2"), "b": ("Track1", "Track1-1"), "c": ("Track3",)}.items():
        for track in tracks:
            write_track(tmp_path / folder / track, seconds=1.0)
    dataset = StemDataset([tmp_path / "a", tmp_path / "b", tmp_path / "c"], STEMS, MEL, shift=False)
    assert len(set(names(dataset))) == 5
    assert {"Track2_from_0", "Track3_from_0", "Track1-1_from_0"} <= set(names(dataset))


def test_names_stay_unique_for_windows_under_a_second(tmp_path: Path) -> None:
    write_track(tmp_path / "T", seconds=1.0)
    short = MelSettings(sample_rate=4000, n_fft=256, win_length=256, hop_length=40, n_mels=16, f_max=2000.0, frames=40)
    assert names(StemDataset(tmp_path, STEMS, short, shift=False)) == ["T_from_0_000", "T_from_0_400", "T_from_0_800"]


def test_long_tracks_are_used(tmp_path: Path) -> None:
    folder = tmp_path / "Long"
    folder.mkdir()
    for stem in STEMS:
        soundfile.write(folder / f"{stem}.wav", np.zeros(4000 * 700, dtype=np.int16), 4000)
    assert len(StemDataset(tmp_path, STEMS, MEL, shift=False)) == 700


def test_file_that_breaks_later_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for track in ("A", "BB", "CCC"):
        write_track(tmp_path / track, seconds=2.0 if track == "CCC" else 3.0, suffix=".flac")
    dataset = StemDataset(tmp_path, STEMS, MEL, shift=True)
    intact = [dataset[i, i] for i in range(len(dataset))]
    broken = tmp_path / "BB" / "drums.flac"
    os.truncate(broken, os.path.getsize(broken) // 8)
    with caplog.at_level(logging.WARNING):
        after = [dataset[i, i] for i in range(len(dataset))]
    assert [item["name"].split("_")[0] for item in after] == ["A"] * 3 + ["CCC"] * 5
    assert dataset.unreadable == {"BB": 3}
    assert len(caplog.records) == 1 and "BB" in caplog.records[0].message
    for old, new in zip(intact[:3] + intact[6:], after[:3] + after[6:], strict=True):
        assert torch.equal(old["stems"], new["stems"])
    # the replacement depends on the item alone, not on what was read before
    fresh = StemDataset(tmp_path, STEMS, MEL, shift=True)
    assert torch.equal(fresh[4, 4]["stems"], after[4]["stems"])
    assert fresh[5]["valid_samples"] == WINDOW
    for track in ("A", "CCC"):
        (tmp_path / track / "bass.flac").unlink()
    with pytest.raises(DataError, match="no track can be read"):
        dataset[0, 0]


# ---- what comes from elsewhere


def test_stems_may_differ_by_a_tenth_of_a_second(tmp_path: Path) -> None:
    """By a sample, or by the rounding of a rate: the track is as long as its shortest stem."""
    track = write_track(tmp_path / "Sample")
    soundfile.write(track / "drums.wav", np.full(11_999, 0.1), 4000)
    soundfile.write(track / "voice.wav", np.full(round(3.0 * 11_025) - 2, 0.1), 11_025)
    soundfile.write(write_track(tmp_path / "Bound") / "drums.wav", np.zeros(11_600), 4000)
    soundfile.write(write_track(tmp_path / "Beyond") / "drums.wav", np.zeros(11_596), 4000)
    dataset = StemDataset(tmp_path, STEMS, MEL, shift=False)
    assert {t.name: t.samples for t in dataset.tracks} == {"Bound": 11_600, "Sample": 11_999}
    assert "unequal lengths, bass.wav 12000 samples" in dataset.left_out["Beyond"]
    last = dataset[5]
    assert last["name"] == "Sample_from_2" and last["valid_samples"] == WINDOW - 1
    assert (last["stems"][1:, : WINDOW - 3] > 0.05).all()


def test_case_of_letters_and_other_endings(tmp_path: Path) -> None:
    track = write_track(tmp_path / "Track")
    os.rename(track / "bass.wav", track / "Bass.WAV")
    data, _ = soundfile.read(track / "drums.wav")
    soundfile.write(track / "DRUMS.aiff", data, 4000)
    soundfile.write(track / "voice.caf", data, 4000)
    os.remove(track / "voice.wav")
    os.remove(track / "drums.wav")
    (tmp_path / "Link").symlink_to(track)
    dataset = StemDataset(tmp_path, STEMS, MEL, shift=False)
    assert [[file.name for file in t.files] for t in dataset.tracks] == [["Bass.WAV", "DRUMS.aiff", "voice.caf"]] * 2
    soundfile.write(track / "drums.wav", data, 4000)
    assert StemDataset(tmp_path, STEMS, MEL, shift=False).tracks[0].files[1].name == "drums.wav"


def test_what_windows_cannot_be_read_from_is_said(tmp_path: Path) -> None:
    """Lossy formats give other samples after a seek: stems would shift against each other."""
    write_track(tmp_path / "Good")
    for name, ending in {"Lossy": "mp3", "Apple": "m4a"}.items():
        track = write_track(tmp_path / name)
        if ending == "mp3":
            data, _ = soundfile.read(track / "voice.wav")
            soundfile.write(track / "voice.mp3", data, 8000)
        else:
            (track / "voice.m4a").write_bytes(b"ftyp")
        os.remove(track / "voice.wav")
    cut = write_track(tmp_path / "Cut", stems=("voice",), suffix=".aiff") / "voice.aiff"
    os.truncate(cut, cut.stat().st_size // 2)
    left_out = StemDataset(tmp_path, ("voice",), MEL, shift=False).left_out
    assert left_out["Lossy"] == "voice.mp3: MP3 (MPEG_LAYER_III) gives no exact windows; convert it to flac or wav"
    assert "voice.m4a is there, but m4a files cannot be read; convert it to wav or flac" in left_out["Apple"]
    assert left_out["Cut"].startswith("voice.aiff: is cut off, its header promises")
