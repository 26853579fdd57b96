"""Renders songs without end, for a training that reads them as they come: python -m data.endless --out DIR."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import pretty_midi
import soxr
from tqdm import tqdm

from data import variation
from data.amplifier import amplify
from data.building import positive, run_command
from data.composer import STEMS, Song, compose, perform
from data.render_midi import find_midi, read_stems
from data.rendering import MIXTURE_PEAK, SAMPLE_RATE, balance, limit_peak, render_stems, to_pcm
from latent_diffusion.errors import DataError
from latent_diffusion.plan import PlannedChord, plan_rows
from utilities.audio import read_audio, to_mono

RATE = 16_000  # of what is written, hz
PLAN_HZ = 100  # columns of the plan a second
SUFFIX = ".npz"
OWN_FONT = 1 / 3  # how often a stem is played with a SoundFont of its class alone

Rendered = tuple[dict[str, np.ndarray], np.ndarray]  # stems (N,) at SAMPLE_RATE, plan (P, N / SAMPLE_RATE * PLAN_HZ)


@dataclass(frozen=True)
class Sources:
    """What is rendered.

    Attributes:
        recipe: SoundFonts and amplifiers (see `variation.draw`); those of `stem_soundfonts` are taken by `OWN_FONT`.
        midi: MIDI files of each folder; of the first, bars are known.
        tracks: folders of a data set's tracks.
        composed, rendered: share of composed songs, and of MIDI files; the others are tracks.
    """

    recipe: Mapping
    midi: list[list[Path]]
    tracks: list[Path]
    composed: float
    rendered: float

    def song(self, seed: str) -> Rendered:
        """A song at random.

        Raises:
            DataError: what was drawn is of no use.
        """
        rng = Random(f"{seed}/source")
        place = rng.random()
        if self.midi and self.composed <= place < self.composed + self.rendered:
            which = rng.randrange(len(self.midi))
            return self.midi_song(rng.choice(self.midi[which]), seed, bars_known=which == 0)
        if self.tracks and place >= self.composed + self.rendered:
            return track(rng.choice(self.tracks))
        return self.composed_song(seed)

    def composed_song(self, seed: str) -> Rendered:
        """A composed song, and its plan."""
        rng = Random(f"{seed}/endless")
        song = compose(seed, rng.uniform(40.0, 80.0))
        instruments = {part.name: [part] for part in perform(song).instruments}
        end = max(note.end for parts in instruments.values() for part in parts for note in part.notes)
        drawn = {"programs": "random"} if rng.random() < 0.3 else {}
        sounds = balance(self._render(seed, instruments, end, drawn)[0], song.level_db)
        beats = [song.seconds(k * song.metre.pulse) for k in range(song.bars * len(song.metre.pulses) + 1)]
        bars = [song.seconds(k * song.metre.beats) for k in range(song.bars + 1)]
        return sounds, plan_rows(beats, bars, planned_chords(song), plan_times(sounds))

    def midi_song(self, file: Path, seed: str, bars_known: bool) -> Rendered:
        """A MIDI file, its programs, key and tempo drawn at random, and the plan of its beats."""
        instruments, end, _ = read_stems(file)
        for parts in instruments.values():
            for part in parts:
                for events in (part.control_changes, part.pitch_bends):
                    events[:] = [event for event in events if event.time <= end]
        drawn = dict.fromkeys(("programs", "transpose", "tempo"), "random")
        sounds, tempo = self._render(f"{seed}/{file.name}", instruments, end, drawn)
        midi = pretty_midi.PrettyMIDI(str(file))
        bars = midi.get_downbeats() / tempo if bars_known else ()
        return sounds, plan_rows(midi.get_beats() / tempo, bars, (), plan_times(sounds))

    def _render(self, song: str, instruments: dict, end: float, drawn: Mapping) -> tuple[dict[str, np.ndarray], float]:
        """The stems of instruments that end at `end` seconds, and the factor of their tempo."""
        own, rng = self.recipe.get("stem_soundfonts", {}), Random(f"{song}/own font")
        recipe = {key: value for key, value in self.recipe.items() if key != "stem_soundfonts"}
        varied = variation.draw({**recipe, **drawn}, song, instruments)
        fonts = {stem: rng.choice(files) for stem, files in own.items() if rng.random() < OWN_FONT}
        varied = replace(varied, soundfonts={**varied.soundfonts, **fonts})
        variation.apply(varied, instruments)
        sounds = render_stems(instruments, end / varied.tempo, soundfonts=varied.soundfonts)
        if varied.amplifier is not None:
            sounds["guitar"] = amplify(sounds["guitar"], varied.amplifier)
        return sounds, varied.tempo


def planned_chords(song: Song) -> list[PlannedChord]:
    """The chords of a composed song, in seconds."""
    chords = []
    for section in song.sections:
        first = section.first_bar * song.metre.beats
        for chord in section.chords:
            start, end = song.seconds(first + chord.start), song.seconds(first + chord.end)
            chords.append(PlannedChord(start, end, chord.pitch_classes, chord.bass))
    return chords


def track(folder: Path) -> Rendered:
    """A track of a data set, of which no plan is known."""
    sounds = {}
    for stem in STEMS:
        waveform, rate = read_audio(folder / f"{stem}.wav")
        sounds[stem] = soxr.resample(to_mono(waveform).reshape(-1).numpy(), rate, SAMPLE_RATE)
    return sounds, plan_rows((), (), (), plan_times(sounds))


def plan_times(sounds: Mapping[str, np.ndarray]) -> np.ndarray:
    """Times of a plan's columns, the middles of frames of 10 ms, in seconds."""
    seconds = len(next(iter(sounds.values()))) / SAMPLE_RATE
    return (np.arange(int(seconds * PLAN_HZ)) + 0.5) / PLAN_HZ


def write_song(file: Path, sounds: Mapping[str, np.ndarray], plan: np.ndarray) -> None:
    """Write `stems` (S, N) int16 at `RATE` and `plan` (P, N * PLAN_HZ / RATE) float16, whole or not at all."""
    low = [soxr.resample(limited, SAMPLE_RATE, RATE) for limited in limit_peak(sounds, MIXTURE_PEAK).values()]
    columns = min(len(low[0]) * PLAN_HZ // RATE, plan.shape[1])
    stems = np.stack([to_pcm(sound[: columns * RATE // PLAN_HZ]) for sound in low])
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, stems=stems, plan=plan[:, :columns].astype(np.float16))
    os.replace(partial, file)


def render_forever(arguments: argparse.Namespace) -> int:
    """Render until stopped; waits while `--ahead` songs lie unread."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tracks = [file.parent for folder in arguments.tracks for file in sorted(folder.glob("*/bass.wav"))]
    recipe = variation.soundfonts_of(arguments.soundfont) | variation.amplifier_of(arguments)
    midi = [find_midi(folder) for folder in arguments.midi]
    rest = 1.0 - arguments.composed
    sources = Sources(recipe, midi, tracks, arguments.composed, rest * arguments.rendered if tracks else rest)
    bar, number = tqdm(unit="song", disable=None), 0
    while arguments.songs is None or number < arguments.songs:
        if sum(1 for _ in out.glob(f"*{SUFFIX}")) >= arguments.ahead:
            time.sleep(0.2)
            continue
        number += 1
        try:
            sounds, plan = sources.song(f"{arguments.seed}/{number}")
            if sum(bool(np.abs(sound).max() > 1e-3) for sound in sounds.values()) > 1:
                stems = {stem: sounds[stem] for stem in STEMS}
                write_song(out / f"{arguments.seed}-{number:06d}{SUFFIX}", stems, plan)
        except DataError as error:
            tqdm.write(f"left out: {error}", file=sys.stderr)
        bar.update()
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.endless",
        description="Renders song after song into DIR until it is stopped, as .npz files that a training reads and"
        " removes: composed songs, MIDI files in other keys, tempi and sounds each time, and tracks of data sets.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the songs")
    parser.add_argument(
        "--midi",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="MIDI files; the bars of the first DIR's are right",
    )
    parser.add_argument("--tracks", type=Path, nargs="*", default=[], metavar="DIR", help="splits of data sets")
    parser.add_argument(
        "--composed", type=float, default=0.5, metavar="P", help="share of composed songs (default 0.5)"
    )
    parser.add_argument(
        "--rendered", type=float, default=0.5, metavar="P", help="share of MIDI files among the others (default 0.5)"
    )
    parser.add_argument("--songs", type=positive, metavar="N", help="stop after so many songs (default: never)")
    parser.add_argument(
        "--ahead", type=positive, default=100, metavar="N", help="wait while so many songs lie unread (default 100)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of all choices; each process has its own")
    variation.add_soundfont_option(parser)
    variation.add_amplifier_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(render_forever, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
