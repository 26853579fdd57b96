"""Renders MIDI instruments to stems with a SoundFont, and writes a track of the dataset."""

from __future__ import annotations

import copy
import importlib.resources
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import midirenderer
import numpy as np
import pretty_midi
import soundfile
import soxr

from latent_diffusion.errors import DataError

STEMS = ("bass", "drums", "guitar", "piano")
SAMPLE_RATE = 22050
MIXTURE_PEAK = 0.9
METADATA_NAME = "song.json"

DEFAULT_SOUNDFONT = "TimGM6mb.sf2"
_CHANNELS = 15  # MIDI channels beside the drums'
_VOLUME, _IGNORED_CONTROL = 7, 119
_DEFAULT_VOLUME = 100
_QUIETER = 0.7
_ATTEMPTS = 8
_KICKS = (35, 36)


@lru_cache(maxsize=1)
def soundfont() -> bytes:
    """The General MIDI SoundFont that pretty_midi carries.

    Returns:
        The file's bytes.

    Raises:
        DataError: the installed pretty_midi has none.
    """
    file = importlib.resources.files("pretty_midi") / DEFAULT_SOUNDFONT
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file}: SoundFont not found; expected it inside pretty_midi; reinstall with: pip install pretty_midi"
        ) from error


def check_soundfont(file: Path) -> None:
    """Looks at the head of a SoundFont file, without reading it all.

    Args:
        file: the file.

    Raises:
        DataError: it cannot be read, is no SoundFont, or has compressed samples (SoundFont 3), which the renderer
            cannot read.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(256)
    except OSError as error:
        raise DataError(f"{file}: SoundFont cannot be read ({error.strerror}); check --soundfont") from error
    version = head.find(b"ifil")
    if head[:4] != b"RIFF" or head[8:12] != b"sfbk" or version < 0 or version + 9 >= len(head):
        raise DataError(f"{file}: begins with {head[:4]!r}; expected a SoundFont 2 file (.sf2); check --soundfont")
    major = head[version + 8]
    if major > 2:
        raise DataError(
            f"{file}: is SoundFont {major} (compressed); the renderer reads SoundFont 2 only; choose an .sf2 file"
        )


@lru_cache(maxsize=2)  # they are large, up to 500 MB, and every worker has its own
def read_soundfont(file: str) -> bytes:
    """A SoundFont file's bytes.

    Raises:
        DataError: see `check_soundfont`.
    """
    check_soundfont(Path(file))
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"{file}: SoundFont cannot be read ({error.strerror}); check --soundfont") from error


def _midi_bytes(instruments: Sequence[pretty_midi.Instrument], end_seconds: float, volume: float) -> bytes:
    """A MIDI file of the instruments that lasts to `end_seconds`, channel volumes multiplied by `volume`."""
    midi = pretty_midi.PrettyMIDI(resolution=960)
    for instrument in instruments:
        part = copy.deepcopy(instrument)
        changes = part.control_changes
        if not any(change.number == _VOLUME and change.time <= 0.0 for change in changes):
            changes.append(pretty_midi.ControlChange(_VOLUME, _DEFAULT_VOLUME, 0.0))
        for change in changes:
            if change.number == _VOLUME:
                change.value = round(change.value * volume)
        # The renderer stops at the last event: a control that nothing listens to keeps it going through the tail.
        changes.append(pretty_midi.ControlChange(_IGNORED_CONTROL, 0, end_seconds))
        midi.instruments.append(part)
    buffer = io.BytesIO()
    midi.write(buffer)
    return buffer.getvalue()


def _render(
    instruments: Sequence[pretty_midi.Instrument], end_seconds: float, volume: float, sounds: bytes
) -> tuple[np.ndarray, int]:
    """Renders up to 15 instruments.

    Returns:
        int16 samples (N, channels), and their rate in Hz.
    """
    try:
        data = midirenderer.render_wave_from(sounds, _midi_bytes(instruments, end_seconds, volume))
    except (KeyboardInterrupt, SystemExit, DataError):
        raise
    except BaseException as error:  # a panic of the Rust renderer is not an Exception
        raise DataError(
            f"the renderer refuses the notes ({type(error).__name__}: {error})".replace("\n", " ")
        ) from error
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    return samples, rate


def _render_class(
    instruments: Sequence[pretty_midi.Instrument], end_seconds: float, volume: float, sounds: bytes
) -> np.ndarray | None:
    """One stem, mono float32 at SAMPLE_RATE; None when the 16 bit of the renderer were not enough."""
    length = round(end_seconds * SAMPLE_RATE)
    total = np.zeros(length, dtype=np.float32)
    for first in range(0, len(instruments), _CHANNELS):
        samples, rate = _render(instruments[first : first + _CHANNELS], end_seconds, volume, sounds)
        if samples.size and max(int(samples.max()), -int(samples.min())) >= 32767:
            return None
        mono = samples.astype(np.float32).mean(axis=1) / 32768.0
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")[:length]
        total[: len(mono)] += mono
    return total


@lru_cache(maxsize=8)
def _lacks_second_kick(file: str) -> bool:
    """Whether a drum kit is silent on key 35, General MIDI's other bass drum, but plays key 36."""
    sounds = read_soundfont(file)

    def plays(key: int) -> bool:
        kit = pretty_midi.Instrument(0, is_drum=True)
        kit.notes = [pretty_midi.Note(100, key, 0.0, 0.1)]
        return bool(_render([kit], 0.2, 1.0, sounds)[0].any())

    return not plays(_KICKS[0]) and plays(_KICKS[1])


def _with_one_kick(kits: Sequence[pretty_midi.Instrument]) -> list[pretty_midi.Instrument]:
    kits = copy.deepcopy(list(kits))
    for kit in kits:
        for note in kit.notes:
            if note.pitch == _KICKS[0]:
                note.pitch = _KICKS[1]
    return kits


def render_stems(
    stems: Mapping[str, Sequence[pretty_midi.Instrument]],
    seconds: float,
    tail_seconds: float = 1.5,
    soundfonts: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Renders every stem by itself. If any clips, all are rendered again at a lower channel volume.

    Args:
        stems: instruments of every stem; a stem without any is silent.
        seconds: end of the last note.
        tail_seconds: time for the sound to die away.
        soundfonts: SoundFont file by stem; a stem that is not in it gets pretty_midi's.

    Returns:
        Mono float32 (N,) at SAMPLE_RATE by stem, equally long. No sample is clipped; the balance is that of the notes.

    Raises:
        DataError: the renderer refuses the notes, or they clip even when very quiet.
    """
    end_seconds = seconds + tail_seconds
    volume = 1.0
    for _ in range(_ATTEMPTS):
        rendered: dict[str, np.ndarray] = {}
        for stem, instruments in stems.items():
            file = (soundfonts or {}).get(stem)
            sounds = soundfont() if file is None else read_soundfont(file)
            if stem == "drums" and instruments and file is not None and _lacks_second_kick(file):
                instruments = _with_one_kick(instruments)
            sound = _render_class(instruments, end_seconds, volume, sounds)
            if sound is None:
                break
            rendered[stem] = sound
        else:
            return rendered
        volume *= _QUIETER
    raise DataError(
        f"the stems clip even at {volume:.0%} of their channel volume; lower the velocities in the MIDI file"
    )


def active_rms_db(sound: np.ndarray) -> float:
    """Level of the parts of a stem that sound: RMS in dB over 50 ms frames less than 40 dB below the loudest."""
    frame = SAMPLE_RATE // 20
    count = len(sound) // frame
    power = (sound[: count * frame].reshape(count, frame).astype(np.float64) ** 2).mean(axis=1)
    if count == 0 or power.max() <= 0.0:
        return -120.0
    return float(10.0 * np.log10(power[power > power.max() * 1e-4].mean()))


def balance(stems: Mapping[str, np.ndarray], level_db: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Mixes: brings every stem that sounds to a level (`active_rms_db`), in dB."""
    mixed = {}
    for stem, sound in stems.items():
        level = active_rms_db(sound)
        mixed[stem] = sound if level <= -120.0 else sound * np.float32(10.0 ** ((level_db[stem] - level) / 20.0))
    return mixed


def limit_peak(stems: Mapping[str, np.ndarray], peak: float = MIXTURE_PEAK) -> dict[str, np.ndarray]:
    """Gives the mixture a peak by one gain for all stems, so that their balance stays.

    Args:
        stems: (N,) by stem.
        peak: largest absolute sample of the sum, also of any stem, after rounding to 16 bit.

    Returns:
        The stems, scaled; silence stays silence.
    """
    largest = max(float(np.abs(sum(stems.values())).max()), *(float(np.abs(sound).max()) for sound in stems.values()))
    if largest == 0.0:
        return dict(stems)
    gain = np.float32((peak - len(stems) / 32768.0) / largest)
    return {stem: sound * gain for stem, sound in stems.items()}


def to_pcm(sound: np.ndarray) -> np.ndarray:
    """Rounds float samples in [-1, 1] to int16."""
    return np.clip(np.round(sound * 32768.0), -32768, 32767).astype(np.int16)


def write_track(
    folder: Path, stems: Mapping[str, np.ndarray], metadata: dict, midi: pretty_midi.PrettyMIDI | None
) -> None:
    """Writes a track so that its folder appears whole or not at all.

    Args:
        folder: <split>/<TrackNNNNN>; must not exist.
        stems: int16 samples (N,) by stem.
        metadata: written to song.json beside the stems.
        midi: written to song.mid, if given.

    Raises:
        DataError: the folder cannot be written.
    """
    partial = folder.parent / f".{folder.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for stem, sound in stems.items():
            soundfile.write(partial / f"{stem}.wav", sound, SAMPLE_RATE, subtype="PCM_16")
        (partial / METADATA_NAME).write_text(json.dumps(metadata, indent=1) + "\n")
        if midi is not None:
            midi.write(str(partial / "song.mid"))
        os.replace(partial, folder)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error}); check the space and the rights of the folder"
        ) from error
