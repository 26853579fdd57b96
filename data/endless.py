"""Renders songs without end, for a training that reads them as they come: python -m data.endless --out DIR."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pretty_midi
import soxr
from tqdm import tqdm

from data import variation
from data.building import positive, run_command
from data.composer import STEMS, Song, compose, perform
from data.render_midi import find_midi, read_stems
from data.rendering import MIXTURE_PEAK, SAMPLE_RATE, balance, limit_peak, render_stems, to_pcm
from latent_diffusion.errors import DataError
from latent_diffusion.plan import PlannedChord, plan_rows

RATE = 16_000  # of what is written, hz
PLAN_HZ = 100  # columns of the plan a second
SUFFIX = ".npz"
OwnFonts = dict[str, list[str]]  # SoundFonts that one class alone has, by stem


def draw_variation(recipe: dict, song: str, instruments: dict, own_fonts: OwnFonts) -> variation.Variation:
    """Draws how a song is rendered; every third stem gets one of the SoundFonts that its class alone has."""
    varied, rng = variation.draw(recipe, song, instruments), Random(f"{song}/{recipe['seed']}/own font")
    fonts = {stem: rng.choice(own) for stem, own in own_fonts.items() if rng.random() < 1 / 3}
    return replace(varied, soundfonts={**varied.soundfonts, **fonts})


def composed_song(seed: str, fonts: Sequence[str], own_fonts: OwnFonts) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A composed song: stems (N,) at `SAMPLE_RATE`, and its plan (P, N / SAMPLE_RATE * PLAN_HZ)."""
    rng = Random(f"{seed}/endless")
    song = compose(seed, rng.uniform(40.0, 80.0))
    instruments = {part.name: [part] for part in perform(song).instruments}
    end = max(note.end for parts in instruments.values() for part in parts for note in part.notes)
    recipe = {"soundfonts": fonts, "programs": "random" if rng.random() < 0.3 else "", "seed": 0}
    varied = draw_variation(recipe, seed, instruments, own_fonts)
    variation.apply(varied, instruments)
    sounds = balance(render_stems(instruments, end, soundfonts=varied.soundfonts), song.level_db)
    seconds = len(sounds["bass"]) / SAMPLE_RATE
    beats = [song.seconds(k * song.metre.pulse) for k in range(song.bars * len(song.metre.pulses) + 1)]
    bars = [song.seconds(k * song.metre.beats) for k in range(song.bars + 1)]
    return sounds, plan_rows(beats, bars, planned_chords(song), plan_times(seconds))


def planned_chords(song: Song) -> list[PlannedChord]:
    """The chords of a composed song, in seconds."""
    chords = []
    for section in song.sections:
        first = section.first_bar * song.metre.beats
        for chord in section.chords:
            start, end = song.seconds(first + chord.start), song.seconds(first + chord.end)
            chords.append(PlannedChord(start, end, chord.pitch_classes, chord.bass))
    return chords


def midi_song(
    file: Path, seed: str, fonts: Sequence[str], own_fonts: OwnFonts, bars_known: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A MIDI file with programs, key and tempo drawn at random; see `composed_song`."""
    instruments, end, _ = read_stems(file)
    for parts in instruments.values():
        for part in parts:
            for events in (part.control_changes, part.pitch_bends):
                events[:] = [event for event in events if event.time <= end]
    recipe = {"soundfonts": fonts, "programs": "random", "transpose": "random", "tempo": "random", "seed": seed}
    varied = draw_variation(recipe, file.name, instruments, own_fonts)
    variation.apply(varied, instruments)
    sounds = render_stems(instruments, end / varied.tempo, soundfonts=varied.soundfonts)
    midi = pretty_midi.PrettyMIDI(str(file))
    beats = midi.get_beats() / varied.tempo
    bars = midi.get_downbeats() / varied.tempo if bars_known else ()
    return sounds, plan_rows(beats, bars, (), plan_times(len(sounds["bass"]) / SAMPLE_RATE))


def plan_times(seconds: float) -> np.ndarray:
    """Times of a plan's columns, the middles of frames of 10 ms."""
    return (np.arange(int(seconds * PLAN_HZ)) + 0.5) / PLAN_HZ


def write_song(file: Path, sounds: dict[str, np.ndarray], plan: np.ndarray) -> float:
    """Write `stems` (S, N) int16 at `RATE` and `plan` (P, N * PLAN_HZ / RATE) float16; returns the seconds."""
    low = [soxr.resample(limited, SAMPLE_RATE, RATE) for limited in limit_peak(sounds, MIXTURE_PEAK).values()]
    columns = min(len(low[0]) * PLAN_HZ // RATE, plan.shape[1])
    stems = np.stack([to_pcm(sound[: columns * RATE // PLAN_HZ]) for sound in low])
    partial = file.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, stems=stems, plan=plan[:, :columns].astype(np.float16))
    os.replace(partial, file)
    return stems.shape[1] / RATE


def render_forever(arguments: argparse.Namespace) -> int:
    """Render until stopped; waits while `--ahead` songs lie unread."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    fonts, own = [str(font) for font in arguments.soundfont], {}
    for stem, _, font in (text.partition("=") for text in arguments.stem_soundfont):
        own.setdefault(stem, []).append(font)
    folders = [find_midi(folder) for folder in arguments.midi]
    bar, number = tqdm(unit="song", disable=None), 0
    while arguments.songs is None or number < arguments.songs:
        if sum(1 for _ in out.glob(f"*{SUFFIX}")) >= arguments.ahead:
            time.sleep(0.2)
            continue
        seed = f"{arguments.seed}/{number}"
        number += 1
        rng = Random(f"{seed}/source")
        try:
            if not folders or rng.random() < arguments.composed:
                sounds, plan = composed_song(seed, fonts, own)
            else:
                which = rng.randrange(len(folders))
                sounds, plan = midi_song(
                    rng.choice(folders[which]), seed, fonts, own, arguments.midi[which] == arguments.midi[0]
                )
            if sum(bool(np.abs(sound).max() > 1e-3) for sound in sounds.values()) < 2:
                continue
            write_song(out / f"{arguments.seed}-{number:06d}{SUFFIX}", {stem: sounds[stem] for stem in STEMS}, plan)
        except DataError as error:
            tqdm.write(f"left out: {error}", file=sys.stderr)
        bar.update()
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data.endless",
        description="Renders song after song into DIR until it is stopped, as .npz files that a training reads and"
        " removes.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the songs")
    parser.add_argument("--soundfont", type=Path, nargs="+", required=True, metavar="FILE", help="SoundFont 2 files")
    parser.add_argument(
        "--stem-soundfont",
        nargs="*",
        default=[],
        metavar="STEM=FILE",
        help="SoundFonts that one class alone has: every third stem's",
    )
    parser.add_argument(
        "--midi",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="folders of MIDI files; the bars of the first's files are right",
    )
    parser.add_argument(
        "--composed", type=float, default=0.5, metavar="P", help="share of composed songs (default 0.5)"
    )
    parser.add_argument("--songs", type=positive, metavar="N", help="stop after so many songs (default: never)")
    parser.add_argument(
        "--ahead", type=positive, default=100, metavar="N", help="wait while so many songs lie unread (default 100)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="K", help="of everything random; processes take different ones"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status, see `run_command`."""
    return run_command(render_forever, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
