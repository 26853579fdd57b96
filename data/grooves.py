"""Runs MMA (Musical MIDI Accompaniment), and finds out which grooves are installed and which classes they play."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mido
from tqdm import tqdm

from data.building import write_file
from data.charts import Groove, kind_of
from data.render_midi import class_of_program
from data.rendering import STEMS
from latent_diffusion.errors import DataError

logger = logging.getLogger(__name__)

INSTALL = "apt-get install --no-install-recommends mma"
LIBRARY = Path("/usr/share/mma/lib")
CACHE_NAME = "grooves.json"

_TICKS = 192  # of a beat, in all that MMA writes
_DRUM_CHANNEL = 9
_TEST_BARS = ("C", "Am", "F", "G7")
_MIN_NOTES = 2
_TIMEOUT = 120  # seconds


def find_mma() -> str:
    """The command.

    Raises:
        DataError: it is not installed.
    """
    command = shutil.which("mma")
    if command is None:
        raise DataError(f"mma: command not found; expected Musical MIDI Accompaniment; install it with: {INSTALL}")
    return command


def _call(arguments: Sequence[str], folder: str) -> str:
    """Runs mma with a start-up file that is empty, so that nobody's settings get in.

    Raises:
        DataError: it fails or hangs.
    """
    settings = Path(folder) / "empty.rc"
    settings.touch()
    command = [find_mma(), "-w", "-i", str(settings), *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"mma: did not run ({type(error).__name__}: {error}); check that `mma -v` works") from error
    if done.returncode:
        text = " ".join((done.stdout + done.stderr).split())
        reason = text[text.find("Error") :][:200] if "Error" in text else text[-200:]
        raise DataError(f"mma: refuses the chart ({reason})")
    return done.stdout


def perform(chart: str) -> bytes:
    """Plays a chart.

    Args:
        chart: MMA's input.

    Returns:
        A MIDI file.

    Raises:
        DataError: mma is missing or refuses the chart.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "song.mma").write_text(chart)
        _call(["-xNOCREDIT", "song.mma", "-f", "song.mid"], folder)
        try:
            return (Path(folder) / "song.mid").read_bytes()
        except OSError as error:
            raise DataError(f"mma: wrote no MIDI file for the chart ({error.strerror})") from error


def read_midi(data: bytes) -> mido.MidiFile:
    """Reads what mma wrote.

    Raises:
        DataError: it is not MIDI.
    """
    try:
        return mido.MidiFile(file=io.BytesIO(data))
    except Exception as error:  # mido raises whatever a corrupt byte leads to
        raise DataError(f"mma: wrote a file that is no MIDI ({type(error).__name__})") from error


def notes_of(midi: mido.MidiFile) -> list[tuple[int, int, int | None, int]]:
    """All notes as (tick, channel, program or None for drums, pitch)."""
    notes = []
    for track in midi.tracks:
        tick, programs = 0, defaultdict(int)
        for message in track:
            tick += message.time
            if message.type == "program_change":
                programs[message.channel] = message.program
            elif message.type == "note_on" and message.velocity:
                drums = message.channel == _DRUM_CHANNEL
                program = None if drums else programs[message.channel]
                notes.append((tick, message.channel, program, message.note))
    return notes


def class_of(program: int | None) -> str | None:
    """The class of a program of `notes_of`."""
    return "drums" if program is None else class_of_program(program)


def _listed(library: Path, file: str) -> list[tuple[str, int]]:
    """Names and sizes of the grooves of a library file, as mma lists them."""
    with tempfile.TemporaryDirectory() as folder:
        text = _call(["-Djs", str((library / f"{file}.mma").resolve())], folder)
    try:
        return [(str(entry["groove"]), int(entry["size"])) for entry in json.loads(text[text.index("[") :])]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: mma's list of grooves cannot be read ({type(error).__name__})") from error


def trial_chart(file: str, names: Sequence[str]) -> str:
    """A chart that plays four bars of every groove, with a marker where each begins."""
    lines, number = ["RndSeed 1", "Tempo 120"], 1
    for i, name in enumerate(names):
        lines += [f"Groove {file}:{name}", f"MidiMark groove{i}"]
        for chord in _TEST_BARS:
            lines.append(f"{number} {chord}")
            number += 1
    return "\n".join([*lines, "MidiMark end"]) + "\n"


def inspect(library: Path, file: str) -> list[Groove]:
    """Plays every groove of a library file and looks at the programs.

    Args:
        library: folder of MMA's library.
        file: library file without suffix.

    Returns:
        The grooves, with those classes that play at least two notes in four bars.

    Raises:
        DataError: mma refuses the file.
    """
    listed = _listed(library, file)
    if not listed:
        raise DataError(f"{file}: mma lists no grooves in it")
    midi = read_midi(perform(trial_chart(file, [name for name, _ in listed])))
    marks: dict[str, int] = {}
    for track in midi.tracks:
        tick = 0
        for message in track:
            tick += message.time
            if message.type == "marker":
                marks[message.text] = tick
    notes, grooves = notes_of(midi), []
    for i, (name, size) in enumerate(listed):
        start = marks.get(f"groove{i}")
        end = marks.get(f"groove{i + 1}", marks.get("end"))
        if start is None or end is None or end <= start:
            continue
        counts = Counter(class_of(program) for tick, _, program, _ in notes if start <= tick < end)
        classes = tuple(stem for stem in STEMS if counts[stem] >= _MIN_NOTES)
        beats = (end - start) / _TICKS / len(_TEST_BARS)
        grooves.append(Groove(file, name, kind_of(name), beats, size, classes))
    return grooves


def find_grooves(out: Path, library: Path, workers: int) -> list[Groove]:
    """The grooves of the installed library; kept in <out>/grooves.json, as finding them takes a minute or two.

    Args:
        out: folder of the MIDI files.
        library: folder of MMA's library.
        workers: processes of mma at a time.

    Returns:
        All grooves that mma plays.

    Raises:
        DataError: mma or its library is missing, or the cache cannot be written.
    """
    cache = out / CACHE_NAME
    with tempfile.TemporaryDirectory() as folder:
        version = _call(["-v"], folder).split()[-1]
    try:
        content = json.loads(cache.read_text())
        if content["mma"] == version and content["library"] == str(library):
            return [Groove(**{**values, "classes": tuple(values["classes"])}) for values in content["grooves"]]
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError):
        logger.warning("%s: cannot be read; the grooves are looked at again", cache)
    files = sorted(str(f.relative_to(library)).removesuffix(".mma") for f in library.rglob("*.mma"))
    if not files:
        raise DataError(f"{library}: found no grooves (*.mma); expected MMA's library; check --library")
    grooves: list[Groove] = []
    left_out: dict[str, str] = {}

    def attempt(file: str) -> list[Groove] | DataError:
        try:
            return inspect(library, file)
        except DataError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(attempt, files)
        for file, result in zip(files, tqdm(results, total=len(files), desc="grooves", disable=None), strict=True):
            if isinstance(result, DataError):
                left_out[file] = str(result)
            else:
                grooves += result
    content = {"mma": version, "library": str(library), "left_out": left_out, "grooves": [g.to_dict() for g in grooves]}
    write_file(cache, (json.dumps(content, indent=0) + "\n").encode())
    logger.info("%s: %d grooves in %d files, %d files left out", cache, len(grooves), len(files), len(left_out))
    return grooves
