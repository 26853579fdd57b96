"""Tracker modules: which instrument is which stem, and stems that add up."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data import modules, openmpt
from data.datafile import MAGIC, read_objects
from data.instrument_names import stem_of_name
from data.modules import read_module, sort_instruments
from latent_diffusion.errors import DataError


def has_libopenmpt() -> bool:
    try:
        openmpt.library()
    except DataError:
        return False
    return True


needs_libopenmpt = pytest.mark.skipif(
    not has_libopenmpt(), reason="libopenmpt is not installed (apt-get install --no-install-recommends libopenmpt0)"
)

_PERIODS = (428, 381, 339, 320)  # C, D, E, F


def module_bytes(names: list[str], notes: list[int], title: str = "tune", patterns: int = 2) -> bytes:
    """A four-channel MOD. Each sample is a tone of its own; `notes` are the samples (from 1) that play, in turn."""
    samples, heads = [], b""
    for i, name in enumerate(names):
        wave = np.round(50 * np.sin(2 * np.pi * (2 + i) * np.arange(2048) / 64)).astype(np.int8).tobytes()
        samples.append(wave)
        heads += struct.pack(">22sHBBHH", name.encode(), len(wave) // 2, 0, 64, 0, 1)
    heads += struct.pack(">22sHBBHH", b"", 0, 0, 0, 0, 1) * (31 - len(names))
    pattern = bytearray(1024)
    for row in range(64):
        for channel in range(2):
            sample, period = notes[(row + channel) % len(notes)], _PERIODS[row % 4]
            cell = struct.pack(">BBBB", (sample & 0xF0) | period >> 8, period & 255, (sample & 15) << 4, 0)
            pattern[row * 16 + channel * 4 : row * 16 + channel * 4 + 4] = cell
    orders = bytes(range(patterns)).ljust(128, b"\0")
    head = title.encode().ljust(20, b"\0") + heads + bytes([patterns, 127]) + orders + b"M.K."
    return head + bytes(pattern) * patterns + b"".join(samples)


def datafile_bytes(objects: list[tuple[bytes, bytes]]) -> bytes:
    """An Allegro datafile whose objects are packed, every byte of them as it is."""
    out = MAGIC + struct.pack(">i", len(objects))
    for kind, data in objects:
        packed = b"".join(b"\xff" + data[i : i + 8] for i in range(0, len(data), 8))
        out += b"propNAME" + struct.pack(">I", 5) + b"thing" + kind
        out += struct.pack(">Ii", len(packed), -len(data)) + packed
    return out


def test_stems_of_names() -> None:
    wanted = {
        "drums": "Drum.Bass.Future,HardBaseDrum.12,Bassdr,Ressnr,16snar,64tom1,hht2,Hicl,Acoustic Bass Drum (St,"
        "TinyTom,fat.rave.bassdrum,CHihat,Nicehat1,BassD/Cymbal/HH,TechBD.*JAM*,cencerro_1.wav,TR-808,Perctom,Claps,HatPerco",
        "bass": "16bass,TightBaz,Synthbas,bass-guitar:maz,SmoothBassGuitarPluck.Dee,Acoustic Bs.,Bas03trp.wav,bajo",
        "guitar": "DistGuitar,Gtr21trp.wav,guitarra c/distorsion,ylon Gt.o,Guitar.Lead.PM",
        "piano": "Dsppiano,c3acpno.wav,bright-piano:*,Piano.HiGrand,Rhodes 1",
        None: "Bassoon,bass-oboe:*,string-piano:timelord,PianoBass.mixed,KettleDrum 1,oh...that piano sound,what,"
        "this is my bass,Orchestra,Shattering glass,Bottom,Chinky,Strings,,Total length: 02:33,greets to snare,atomic",
    }
    found = {(stem, name): stem_of_name(name) for stem, names in wanted.items() for name in names.split(",")}
    assert {key: stem for key, stem in found.items() if stem != key[0]} == {}


def test_datafile_is_unpacked() -> None:
    # 3 bytes as they are, then 10 bytes from where they began: the copy runs into what it has just written.
    packed = b"\x07abc" + struct.pack("BB", (4096 - 18) & 255, ((4096 - 18) >> 4 & 0xF0) | 7)
    data = MAGIC + struct.pack(">i4sIi", 1, b"TXT ", len(packed), -13) + packed
    assert list(read_objects(data)) == [("TXT", b"abcabcabcabca")]
    plain = MAGIC + struct.pack(">i4sIi", 1, b"TXT ", 3, 3) + b"xyz"
    assert list(read_objects(plain)) == [("TXT", b"xyz")]
    for broken, text in (
        (data[:-1], "damaged"),
        (MAGIC + struct.pack(">i4sIi", 1, b"TXT ", len(packed), -14) + packed, "ends within"),
        (data[:14], "ends within"),
        (b"slh!ALL." + data[8:], "expected an Allegro datafile"),
    ):
        with pytest.raises(DataError, match=text):
            list(read_objects(broken))


@needs_libopenmpt
def test_stems_are_exact(tmp_path: Path) -> None:
    names = ["bassdrum", "", "slap bass", "strings", "piano", "my piano is here"]
    (tmp_path / "a.mod").write_bytes(module_bytes(names, [1, 3, 4, 6, 2]))
    module = read_module(tmp_path / "a.mod", None)
    stems = sort_instruments(module)
    assert stems == {"bass": [2], "drums": [0], "guitar": [], "piano": []}, "the piano plays no note"
    assert module.names[:6] == names and len(module.names) == 31
    everything = range(len(module.names))
    assert module.notes(everything) == 2 * 2 * 64
    mix = module.render(everything, 44100, 60.0)
    parts = [module.render([i], 44100, 60.0) for i in range(6)]
    assert {len(part) for part in parts} == {len(mix)} and 10 * 44100 < len(mix) < 20 * 44100
    assert [bool(part.any()) for part in parts] == [True, True, True, True, False, True]
    np.testing.assert_allclose(sum(parts), mix, atol=1e-4)
    assert len(module.render(everything, 44100, 1.0)) == 44100
    sounds, error_db = modules.render_stems(module, stems)
    assert error_db < -80.0 and {len(s) for s in sounds.values()} == {round(len(mix) / 2)}


@needs_libopenmpt
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free, share = (
        next(s for s in modules.SOURCES if s.package == package) for package in ("kraptor-data", "pingus-data")
    )
    good = module_bytes(["snare", "Guitar", "flute"], [1, 2, 3])
    for source in (free, share):
        (tmp_path / source.place).mkdir(parents=True)
    content = datafile_bytes([(b"TXT ", b"no music"), (b"IT  ", good), (b"XM  ", module_bytes(["a", "b"], [1, 2]))])
    (tmp_path / free.place / "level.dat").write_bytes(content)
    (tmp_path / free.place / "other.dat").write_bytes(b"of another kind")
    (tmp_path / share.place / "AGAIN.MOD").write_bytes(good)
    (tmp_path / share.place / "b.it").write_bytes(module_bytes(["kick", "bass", "piano", "gtr"], [1, 2, 3, 4]))
    (tmp_path / share.place / "c.xm").write_bytes(b"no module")
    options = ["--root", str(tmp_path), "--workers", "1"]
    out = tmp_path / "free"
    assert modules.main([*options, "--out", str(out)]) == 0
    assert "tell only nothing; expected 2 classes" in capsys.readouterr().err
    metadata = json.loads((out / "train" / "Track00001" / "song.json").read_text())
    assert (metadata["recipe"]["object"], metadata["recipe"]["licence"]) == (1, "MIT")
    assert metadata["recipe"]["share_alike"] is False and metadata["instruments_dropped"] == 1
    assert metadata["instruments"] == {"bass": [], "drums": ["snare"], "guitar": ["Guitar"], "piano": []}
    sounds = {stem: soundfile.read(out / "train" / "Track00001" / f"{stem}.wav") for stem in metadata["stems"]}
    assert {rate for _, rate in sounds.values()} == {22050}
    assert {stem for stem, (sound, _) in sounds.items() if sound.any()} == {"drums", "guitar"}
    assert 0.85 < np.abs(sum(sound for sound, _ in sounds.values())).max() <= 0.9

    assert modules.main([*options, "--share-alike", "--out", str(tmp_path / "all")]) == 0
    statistics = json.loads((tmp_path / "all" / "train" / "statistics.json").read_text())
    assert [song["recipe"]["share_alike"] for song in statistics["tracks"].values()] == [False, True]
    assert len(statistics["left_out"]) == 2, "the module of two packages is taken once"
    assert "is no tracker module" in statistics["left_out"][1]["reason"]


@needs_libopenmpt
def test_stems_that_do_not_add_up_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mod").write_bytes(module_bytes(["snare", "bass"], [1, 2]))
    render = openmpt.Module.render
    monkeypatch.setattr(
        openmpt.Module, "render", lambda self, found, *rest: render(self, found, *rest) * (1.1 if len(found) > 1 else 1)
    )
    arguments = ["--modules", str(tmp_path / "a.mod"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert modules.main(arguments) == 2
    assert "plays otherwise when instruments are muted: its stems sum to -21 dB" in capsys.readouterr().err


def test_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def error_of(*options: str) -> str:
        assert modules.main(["--out", str(tmp_path / "out"), "--workers", "1", *options]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ")
        return last

    assert "apt-get install" in error_of("--root", str(tmp_path))
    (tmp_path / "own").mkdir()
    assert "found no module" in error_of("--modules", str(tmp_path / "own"))
    (tmp_path / "own" / "a.mod").write_bytes(module_bytes(["snare", "bass"], [1, 2]))
    monkeypatch.setattr(openmpt.ctypes.util, "find_library", lambda name: "libnothing-of-this-name.so")
    openmpt.library.cache_clear()
    missing = error_of("--modules", str(tmp_path / "own"))
    assert missing.startswith("error: libopenmpt cannot be used") and openmpt.INSTALL in missing
    (tmp_path / "own" / "b.dat").write_bytes(MAGIC + b"\0\0")
    assert "b.dat: damaged" in error_of("--modules", str(tmp_path / "own"))
