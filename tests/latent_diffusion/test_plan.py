"""Plans: chords as musicians write them, phases of beats and bars, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from latent_diffusion.errors import ConfigError
from latent_diffusion.plan import BAR, BEAT, CHORD, ROWS, Plan, PlannedChord, drawn_plan, parse_chord, plan_rows


@pytest.mark.parametrize(
    ("text", "pitch_classes", "bass"),
    [
        ("C", (0, 4, 7), 0),
        ("Am", (9, 0, 4), 9),
        ("F#7", (6, 10, 1, 4), 6),
        ("Bbmaj7", (10, 2, 5, 9), 10),
        ("Cb", (11, 3, 6), 11),
        ("C/G", (0, 4, 7), 7),
        ("Dm7b5/Ab", (2, 5, 8, 0), 8),
    ],
)
def test_chords(text: str, pitch_classes: tuple[int, ...], bass: int) -> None:
    assert parse_chord(text) == (pitch_classes, bass)


@pytest.mark.parametrize("text", ["H", "c", "C#b", "Amaj", "C/H", "", "C7/"])
def test_no_chords(text: str) -> None:
    with pytest.raises(ConfigError, match="chord: found"):
        parse_chord(text)


def test_phases() -> None:
    """On a beat the phase is (1, 0), between two beats (-1, 0); outside, the nearest tempo goes on."""
    times = np.array([0.5, 1.0, 1.25, 1.5, 3.0])
    rows = plan_rows([1.0, 1.5, 2.0], [1.0, 3.0], (), times)
    assert rows.shape == (ROWS, 5)
    np.testing.assert_allclose(rows[BEAT], [[1] * 5, [1, 1, -1, 1, 1], [0] * 5], atol=1e-6)
    np.testing.assert_allclose(rows[BAR][1], np.cos(np.pi * (times - 1.0)), atol=1e-6)
    assert not rows[CHORD].any()


def test_what_is_unknown_is_zero() -> None:
    assert not plan_rows((), (), (), np.arange(3.0)).any()
    rows = plan_rows((), (), [PlannedChord(1.0, 2.0, (0, 4, 7), 7)], np.array([0.5, 1.0, 1.9, 2.0]))
    assert rows[CHORD.start].tolist() == [0, 1, 1, 0]
    assert np.flatnonzero(rows[:, 1]).tolist() == [6, 7, 11, 14, 6 + 13 + 7]


def test_plan_of_a_tempo() -> None:
    plan = Plan(120.0, ("C", "G"), beats_per_bar=4, first_beat=0.25)
    times = np.array([0.25, 0.75, 2.25, 4.25, 0.0])
    rows = plan.rows(np.sort(times))
    assert rows[BEAT][1].tolist() == pytest.approx([-1, 1, 1, 1, 1], abs=1e-5)
    by_time = {float(t): rows[CHORD][:, i] for i, t in enumerate(np.sort(times))}
    assert by_time[0.25][13] == 1 and by_time[2.25][13 + 7] == 1 and by_time[4.25][13] == 1  # C, G, C in the bass
    later = Plan(120.0, ("C", "G"), first_beat=0.25).rows(times[:3] + 8.0)
    np.testing.assert_allclose(later, plan.rows(times[:3]), atol=1e-5)  # two bars of two chords on


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tempo": 20.0}, "tempo"),
        ({"tempo": 100.0, "chords": ("X",)}, "chord"),
        ({"chords": ("C",)}, "without a tempo"),
        ({"tempo": 100.0, "beats_per_bar": 0}, "beats per bar"),
    ],
)
def test_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Plan(**arguments)


def test_drawn_plans_differ_and_repeat() -> None:
    plans = [drawn_plan(seed) for seed in range(40)]
    assert plans[3] == drawn_plan(3)
    assert len({plan.tempo for plan in plans}) > 10
    assert len({plan.chords for plan in plans}) > 20
    assert not Plan().rows(np.arange(4.0)).any()
