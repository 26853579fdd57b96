"""Plays guitar stems through a distorting amplifier and the response of a cabinet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import soxr
from scipy.signal import butter, fftconvolve, sosfilt

from data.rendering import SAMPLE_RATE, active_rms_db
from latent_diffusion.errors import DataError
from utilities.audio import audio_info, read_audio, to_mono

RESPONSES = Path("/usr/share/gx_head/sounds")
INSTALL = "apt-get install --no-install-recommends guitarix-common"

DRIVE_DB = (10.0, 36.0)
_OVERSAMPLING = 4  # distortion makes frequencies above half the rate; they must be filtered, not mirrored
_BIAS = 0.2  # valves bend one half of a wave sooner
_LOW_CUT_HZ = 90.0  # amplifiers cut the lowest tones before they distort; otherwise chords turn to mud
_LONGEST_SECONDS = 1.0  # a longer response is a room's


@dataclass(frozen=True)
class Amplifier:
    """How a stem is amplified.

    Attributes:
        response: file with the impulse response of a cabinet.
        drive_db: gain before the distortion, over the level at which the stem's loudness reaches its knee.
    """

    response: str
    drive_db: float


@lru_cache(maxsize=4)
def find_responses(folder: str) -> tuple[str, ...]:
    """Impulse responses of at most a second in a folder, at any depth, sorted.

    Raises:
        DataError: there is none.
    """
    files = tuple(
        str(file)
        for file in sorted(Path(folder).rglob("*.wav"))
        if (info := audio_info(file)).samples <= _LONGEST_SECONDS * info.sample_rate
    )
    if not files:
        raise DataError(f"{folder}: found no impulse response (.wav, at most a second); install some with: {INSTALL}")
    return files


def draw_amplifier(random: Random, share: float, folder: str) -> Amplifier | None:
    """An amplifier for this share of the stems.

    Args:
        random: source of the choice.
        share: from 0 to 1.
        folder: see `find_responses`.
    """
    if random.random() >= share:
        return None
    return Amplifier(random.choice(find_responses(folder)), round(random.uniform(*DRIVE_DB), 1))


@lru_cache(maxsize=128)
def _response(file: str) -> np.ndarray:
    waveform, rate = read_audio(file)
    return soxr.resample(to_mono(waveform).reshape(-1).numpy(), rate, SAMPLE_RATE, quality="HQ")


def amplify(sound: np.ndarray, amplifier: Amplifier) -> np.ndarray:
    """Distorts a stem and plays it through a cabinet. The level of where it sounds stays (`active_rms_db`).

    Args:
        sound: mono float32 (N,) at SAMPLE_RATE.
        amplifier: how.

    Returns:
        Mono float32 (N,) at SAMPLE_RATE; silence stays silence.

    Raises:
        DataError: the response cannot be read, or is silent.
    """
    level = active_rms_db(sound)
    if level <= -120.0:
        return sound
    low_cut = butter(2, _LOW_CUT_HZ, "highpass", fs=SAMPLE_RATE, output="sos")
    driven = sosfilt(low_cut, sound).astype(np.float32) * np.float32(10.0 ** ((amplifier.drive_db - level) / 20.0))
    wide = soxr.resample(driven, SAMPLE_RATE, _OVERSAMPLING * SAMPLE_RATE, quality="HQ")
    bent = np.tanh(wide + np.float32(_BIAS)) - np.float32(np.tanh(_BIAS))
    bent = soxr.resample(bent, _OVERSAMPLING * SAMPLE_RATE, SAMPLE_RATE, quality="HQ")[: len(sound)]
    played = sosfilt(low_cut, fftconvolve(bent, _response(amplifier.response))[: len(sound)]).astype(np.float32)
    played = np.pad(played, (0, len(sound) - len(played)))
    after = active_rms_db(played)
    if after <= -120.0:
        raise DataError(f"{amplifier.response}: is silent; expected an impulse response; move it away")
    return played * np.float32(10.0 ** ((level - after) / 20.0))
