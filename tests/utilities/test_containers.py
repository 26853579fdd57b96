"""Files that are cut off, or that a recorder did not close, in every container that can be read."""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from latent_diffusion.errors import DataError
from utilities import audio

RATE, SAMPLES = 44_100, 20_000
WHOLE = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "SVX", "AVR", "NIST", "VOC", "MPC2K", "MAT4", "HTK", "WVE")
SUBTYPES = {"WAV": "MS_ADPCM", "AIFF": "FLOAT", "CAF": "ALAC_16", "VOC": "PCM_16", "SVX": "PCM_16", "OGG": "OPUS"}
SILENT = ("PVF", "PAF", "IRCAM", "MAT5", "XI")  # on how long they are


def write(path: Path, kind: str, subtype: str | None = None, **options: object) -> bytes:
    """A file of noise, mono where the container wants that; returns its bytes."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (SAMPLES, 1))
    rate = 48_000 if subtype == "OPUS" else 8000 if kind == "WVE" else RATE
    soundfile.write(path, noise, rate, format=kind, subtype=subtype, **options)
    return path.read_bytes()


def read_all(path: Path) -> int:
    """As `msgld separate` reads it; returns the samples."""
    source = audio.FileSource(path)
    source.check()
    return source.samples


CASES = [(kind, soundfile.default_subtype(kind), {}) for kind in (*WHOLE, "FLAC", "MP3", "OGG")]
CASES += [(kind, subtype, {}) for kind, subtype in SUBTYPES.items()]
CASES += [(kind, "PCM_16", {"endian": endian}) for kind, endian in (("WAV", "BIG"), ("AU", "LITTLE"))]


@pytest.mark.parametrize(("kind", "subtype", "options"), [case for case in CASES if case[1]])
def test_a_file_that_is_cut_off(kind: str, subtype: str, options: dict[str, str], tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", kind, subtype, **options)
    assert read_all(tmp_path / "whole") >= SAMPLES
    for kept in (len(whole) // 2, len(whole) * 9 // 10, len(whole) - 3):
        (tmp_path / "cut").write_bytes(whole[:kept])
        with pytest.raises(DataError) as caught:
            read_all(tmp_path / "cut")
        message = str(caught.value)
        assert message.startswith(str(tmp_path / "cut")) and "\n" not in message
        assert "is cut off" in message or (kind == "HTK" and "not readable as audio" in message)


@pytest.mark.parametrize("kind", SILENT)
def test_files_that_do_not_say_how_long_they_are(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "x", kind)
    with caplog.at_level(logging.WARNING):
        assert read_all(tmp_path / "x") == SAMPLES
    assert f"{kind} files do not say how long they are: whether it is cut off is unknown" in caplog.text


@pytest.mark.parametrize(("kind", "zeroed"), [("FLAC", b"fLaC"), ("MP3", b"Xing")])
def test_cut_off_though_the_length_is_unknown(
    kind: str, zeroed: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(write(tmp_path / "x", kind))
    if kind == "FLAC":
        data[21:26] = bytes([data[21] & 0xF0, 0, 0, 0, 0])  # the number of samples in STREAMINFO: 36 bits
    else:
        data = data.replace(zeroed, bytes(4))
    (tmp_path / "x").write_bytes(data)
    assert read_all(tmp_path / "x") >= SAMPLES and not caplog.text
    (tmp_path / "x").write_bytes(data[: len(data) // 2])
    if kind == "FLAC":
        with pytest.raises(DataError, match="it is cut off or damaged"):
            read_all(tmp_path / "x")
    else:  # so does a recorded stream end
        assert read_all(tmp_path / "x") < SAMPLES and "left out: it may be cut off" in caplog.text


def test_an_ogg_that_ends_between_pages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE)
    soundfile.write(tmp_path / "x.ogg", noise, RATE, format="OGG")
    data = (tmp_path / "x.ogg").read_bytes()
    assert read_all(tmp_path / "x.ogg") == len(noise) and not caplog.text
    (tmp_path / "x.ogg").write_bytes(data[: data.rindex(b"OggS")])
    assert read_all(tmp_path / "x.ogg") < len(noise) and "its last page is not marked as the last" in caplog.text


def unclosed(data: bytes, kind: str) -> bytes:
    """The file as its recorder leaves it when the batteries are empty: without the lengths."""
    data = bytearray(data)
    mark, lengths = {
        "WAV": (b"data", (4, 4)),
        "AIFF": (b"SSND", (4, 4)),
        "AU": (b".snd", (8, 4)),
        "CAF": (b"data", (4, 8)),
        "RF64": (b"ds64", (8, 24)),
        "W64": (b"data", (16, 8)),
    }[kind]
    place = data.find(mark) + lengths[0]
    data[place : place + lengths[1]] = struct.pack("<Q", 24) if kind == "W64" else bytes(lengths[1])
    if kind in ("WAV", "AIFF"):
        data[4:8] = bytes(4)
    return bytes(data)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "CAF", "RF64", "W64"])
def test_a_file_that_its_recorder_did_not_close(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(tmp_path / "whole", kind, "PCM_16")
    (tmp_path / "x").write_bytes(unclosed(data, kind))
    source = audio.FileSource(tmp_path / "x")
    assert source.samples == SAMPLES and "its recorder did not write how long it is" in caplog.text
    assert source.read(100, 1000).equal(audio.read_audio(tmp_path / "whole")[0][:, 100:1100])
    assert audio.read_audio(tmp_path / "x")[0].shape == (1, SAMPLES)


def test_a_length_that_was_not_known_and_one_of_zero(tmp_path: Path) -> None:
    """What a program writes into a pipe; and a wav that holds nothing but notes."""
    data = bytearray(write(tmp_path / "x", "WAV", "PCM_16"))
    data[4:8] = data[40:44] = b"\xff" * 4
    (tmp_path / "x").write_bytes(data)
    assert read_all(tmp_path / "x") == SAMPLES
    data[40:44] = bytes(4)
    (tmp_path / "x").write_bytes(data[:44] + b"LIST\x04\0\0\0INFO")
    with pytest.raises(DataError, match="holds no samples"):
        audio.FileSource(tmp_path / "x")


def test_chunks_behind_the_audio_may_be_cut(tmp_path: Path) -> None:
    data = write(tmp_path / "x", "WAV", "PCM_16")
    (tmp_path / "x").write_bytes(data + b"LIST\xff\0\0\0INFO")
    assert read_all(tmp_path / "x") == SAMPLES
    os.truncate(tmp_path / "x", len(data) - 2)
    with pytest.raises(DataError, match="is cut off, its header promises 40000 bytes of audio, 39998 are there"):
        audio.read_audio(tmp_path / "x")


def test_zeros_are_no_chunks(tmp_path: Path) -> None:
    """They are not walked through eight bytes at a time."""
    with open(tmp_path / "x.wav", "wb") as file:
        file.write(b"RIFF\0\0\0\0WAVE")
        file.truncate(2**32)
    with pytest.raises(DataError):
        audio.FileSource(tmp_path / "x.wav")
