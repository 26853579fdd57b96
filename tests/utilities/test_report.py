"""The report: what is on the page, and that a browser plays it."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.figure import Figure
from PIL import Image

from tests.browser import opened
from utilities.cli import main
from utilities.evaluation.scores import write_rows
from utilities.report import curves, render
from utilities.report.collect import choose, folder_page, run_page
from utilities.report.embed import Excerpt, choose_quality, encode_audio, picture, read_excerpt, spectrogram
from utilities.report.render import Axis, write_page

RATE, SECONDS = 16_000, 4.0
STEMS = ("bass", "drums")


def tone(hz: float, seconds: float = SECONDS, seed: int = 0) -> np.ndarray:
    """A tone with a little noise, half as loud in its second half."""
    t = np.arange(int(seconds * RATE)) / RATE
    noise = 0.002 * np.random.default_rng(seed).standard_normal(len(t))
    return 0.3 * np.sin(2 * np.pi * hz * t) * np.where(t < seconds / 2, 1, 0.5) + noise


def write(path: Path, waveform: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, RATE)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an evaluation of three tracks."""
    root = tmp_path_factory.mktemp("report")
    for number, track in enumerate(("T0", "T1", "<b>T2")):
        for s, stem in enumerate(STEMS):
            target = tone(150 * (s + 1) + 40 * number, seed=s)
            write(root / f"ref/{track}/{stem}.wav", target)
            write(root / f"est/{track}/{stem}.wav", 0.8 * target + 0.1 * (number + 1) * tone(1000, seed=9))
    given = ["--est", str(root / "est"), "--ref", str(root / "ref"), "--out", str(root / "out"), "--report", "--quiet"]
    assert main(["evaluate", *given]) == 0
    return root / "out/report.html"


def test_page_is_one_file(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|#)', html) and "url(" not in html and "<b>T2" not in html
    assert html.count('class="mixer"') == 3 and html.count('class="lane"') == 3 * 2 * 3
    ids = set(re.findall(r'data-audio="([^"]+)"', html))
    sounds = dict(re.findall(r'<script type="text/plain" id="([^"]+)"[^>]*>([^<]+)</script>', html))
    assert ids == sounds.keys()
    lane = re.search(r'data-audio="([^"]+)" data-role="target" data-stem="drums"', html)[1]
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[lane])))
    written, _ = soundfile.read(page.parents[1] / "ref/<b>T2/drums.wav")  # "<" sorts before "T"
    assert rate == RATE and np.abs(heard - written).max() < 1e-4
    assert all(word in html for word in ("SI-SDRi", "mixture", "torchmetrics", "95 % interval", "log_mel_si_sdr is as"))


def test_players_in_a_browser(page: Path, tmp_path: Path) -> None:
    with opened(page) as browser:
        assert browser.evaluate("window.msgldMixers.length") == 3
        browser.evaluate(
            "(() => { const start = AudioBufferSourceNode.prototype.start; window.starts = [];"
            "AudioBufferSourceNode.prototype.start ="
            " function (...a) { window.starts.push(a); start.apply(this, a); } })()"
        )
        browser.click("#item-0 .play")
        browser.wait_for_function("window.msgldMixers[0].playing && window.msgldMixers[0].now() > 0.2")
        starts = browser.evaluate("window.starts")
        assert len(starts) == 6 and all(start == starts[0] for start in starts)  # together, and at the same place

        def hears(*wanted: str) -> None:
            """Wait until these lanes, and no others, sound: gains fade, and a busy machine is slow."""
            for _ in range(100):
                again = "(m => m.playing && m.now() < 2 ? 0 : m.seek(0.1).then(() => m.play()))"
                browser.evaluate(f"{again}(window.msgldMixers[0])")
                names = browser.evaluate(
                    "window.msgldMixers[0].lanes.filter(l => l.level() > 0.02).map(l => `${l.role} ${l.stem}`)"
                )
                if set(names) == set(wanted):
                    return
                time.sleep(0.1)
            raise AssertionError(f"heard {names}, expected {wanted}")

        hears("result bass", "result drums")
        lane = '#item-0 .lane[data-role="{}"][data-stem="{}"] .{}'
        browser.click(lane.format("result", "bass", "mute"))
        hears("result drums")
        browser.click(lane.format("target", "bass", "solo"))
        hears("target bass")
        browser.click(lane.format("target", "bass", "solo"))
        hears("result drums")
        browser.click('#item-0 [data-preset="target"]')
        hears("target bass", "target drums")
        browser.click('#item-0 [data-preset="mixture"]')
        hears("target ")
        assert browser.get_attribute("#item-0 [data-preset=mixture]", "aria-pressed") == "true"

        browser.evaluate("window.msgldMixers[0].pause()")
        drums = browser.locator('#item-0 .lane[data-role="result"][data-stem="drums"]')
        box = drums.bounding_box()
        drums.click(position={"x": 0.75 * box["width"], "y": box["height"] / 2})
        assert browser.evaluate("window.msgldMixers[0].now()") == pytest.approx(3.0, abs=0.02)
        shown = browser.screenshot()
        browser.evaluate("window.msgldMixers[0].seek(0).then(() => window.msgldMixers[0].play())")
        browser.click("#item-1 .play")
        browser.wait_for_function("window.msgldMixers[1].playing")
        assert not browser.evaluate("window.msgldMixers[0].playing")  # one at a time
        browser.evaluate("window.msgldMixers[1].seek(3.8)")
        browser.wait_for_function("!window.msgldMixers[1].playing && window.msgldMixers[1].position === 0")  # the end

        rows = "[...document.querySelectorAll('#all-items ~ div tbody tr')]"
        column = f"{rows}.map(r => Number(r.cells[2].dataset.value))"
        heading = browser.locator("#all-items ~ div th").nth(2)
        heading.click()
        up = browser.evaluate(column)
        heading.click()
        assert len(up) == 6 and up == sorted(up) and browser.evaluate(column) == up[::-1]
        light = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        browser.emulate_media(color_scheme="dark")
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") != light
        browser.set_viewport_size({"width": 420, "height": 800})
        assert browser.evaluate("document.documentElement.scrollWidth") <= 420  # on a telephone nothing sticks out
    with Image.open(io.BytesIO(shown)) as image:
        assert image.width == 1280 and len(set(image.convert("RGB").resize((200, 150)).get_flattened_data())) > 200


def test_run_folder_with_training_and_history(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (100, 200):
        for side in ("val", "target"):
            for s, stem in enumerate(("mix", *STEMS)):
                write(run / f"{side}_{step}/{stem}/A_from_0.wav", tone(100 * (s + 1) + step, 0.2))
    metrics = {"task": "arrangement", "step": 200, "stems": ["bass", "drums"], "generated": ["drums"], "items": 1}
    (run / "val_200/metrics.json").write_text(json.dumps(metrics))
    (run / "config.yaml").write_text("mode: train\nseed: 7\ntrainer: {resume_from_checkpoint: here.ckpt}\n")
    (run / "training.csv").write_text("step,name,value\n10,train/loss_simple,1.0\n20,train/loss_simple,0.5\n20,tra")
    page = run_page(run)
    (item,) = page.items
    sounds = {(sound.role, sound.stem): sound.paths[0].parent.name for sound in item.sounds}
    assert sounds["result", "bass"] == "bass" and item.numbers["bass"] == [("given", "")]
    assert [sound.stem for sound in page.history[0].sounds] == ["step 100", "step 200", "target"]
    assert page.history[0].heard == {("result", "step 200")}
    assert page.about["Seed"] == "7" and page.about["Weights"] == "here.ckpt"
    assert [panel.title for panel in curves.panels_of(page.curves)] == ["Training loss"]
    write_rows(run / "val_200/metrics.csv", [])
    write_page(run / "report.html", page)
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "Over training" in html and "moving average" in html and "seed: 7" in html
    assert main(["report", str(run), "--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").stat().st_size > 10_000


def test_any_folder_can_be_heard(tmp_path: Path) -> None:
    write(tmp_path / "stems/generated_0/bass.wav", tone(100, 0.5))
    write(tmp_path / "stems/generated_0/mix.wav", tone(100, 0.5))
    page = folder_page(tmp_path / "stems", None, None)
    assert [(sound.role, sound.stem) for sound in page.items[0].sounds] == [("result", ""), ("result", "bass")]
    assert main(["report", str(tmp_path / "stems")]) == 0
    assert 'class="lanes one"' in (tmp_path / "stems/report.html").read_text(encoding="utf-8")


# What is embedded


def test_twenty_items_stay_small(tmp_path: Path) -> None:
    """Of noise, which compresses worst: twenty items of ten seconds, a mixture and four stems on both sides."""
    noise = 0.3 * np.random.default_rng(0).standard_normal((RATE * 10, 1)).astype(np.float32)
    few = [write(tmp_path / "a.wav", noise)] * 60
    assert choose_quality(few) == (True, 30.0)
    lossless, longest = choose_quality([*few, *few, *few, *few[:20]])
    assert (lossless, longest) == (False, 30.0)
    excerpt = Excerpt(noise, RATE, 0.0)
    sound, image = encode_audio(excerpt, lossless), picture(spectrogram(excerpt, RATE / 2), 0.0)
    assert sound[0] == "audio/ogg" and 200 * (len(sound[1]) * 4 / 3 + len(image)) < 50e6
    flac = encode_audio(excerpt, True)
    assert flac[0] == "audio/flac" and 60 * len(flac[1]) * 4 / 3 < 50e6
    long = tmp_path / "long.wav"
    soundfile.write(long, np.zeros((44_100 * 40, 2)), 44_100)
    assert choose_quality([long] * 180) == (False, 8.0)  # whole songs in stereo: shorter excerpts


def test_excerpts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.arange(RATE * 12) / (RATE * 12))
    excerpt = read_excerpt(path, longest=5.0)
    assert excerpt.start == 3.0 and len(excerpt.samples) == 5 * RATE
    assert excerpt.samples[0, 0] == pytest.approx(0.25, abs=1e-3)
    assert len(read_excerpt(path).samples) == RATE * 12
    assert np.allclose(read_excerpt(path, path).samples, 2 * read_excerpt(path).samples)


def test_items_are_of_as_many_tracks_as_possible() -> None:
    names = [f"A_from_{i}" for i in range(5)] + ["B_from_0", "C"]
    assert choose(names, 4) == ["A_from_0", "A_from_1", "B_from_0", "C"]
    assert choose(names, 100) == sorted(names)


# Charts


def test_axes_and_numbers() -> None:
    assert Axis(0, 10).ticks == [0, 2, 4, 6, 8, 10] and Axis(-0.31, 0.52).ticks == pytest.approx([-0.2, 0, 0.2, 0.4])
    axis = Axis.around([0.0, 2.0])  # a twentieth of room on either side of 472 units
    assert (axis.low, axis.high) == pytest.approx((-0.1, 2.1)) and axis(1.0) == 76 + 472 / 2
    assert Axis.around([0.0]).low < 0 < Axis.around([0.0]).high
    assert [render.number(v) for v in (None, 1500.4, -0.25, -0.001)] == ["–", "1500", "−0.25", "0.00"]
    assert (render.interval(None), render.interval([-1, 2.345])) == ("", "[−1.00, 2.35]")


def test_curves_are_smoothed_and_follow_the_theme() -> None:
    assert curves.smoothed([(0, 2.0), (1, 2.0)], 0.9) == [(0, pytest.approx(2)), (1, pytest.approx(2))]
    assert curves.smoothed([(0, 0.0), (1, 1.0)], 0.5)[1][1] == pytest.approx(0.5 / 0.75)
    panel = curves.Panel("A < B", {"a": "each <step>", "none": "nothing"}, smooth=True, logarithmic=True)
    values = [(0, 1.0), (10, float("nan")), (20, 100.0)]
    drawn = curves.panel_svg(panel, {"a": values})
    assert drawn.startswith("<svg") and "nan" not in drawn and "nothing" not in drawn
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", drawn)  # names of SVG itself, which nothing loads
    assert "each &lt;step&gt;" in drawn and "moving average" in drawn and "var(--accent)" in drawn
    assert "<svg" in curves.panel_svg(panel, {})


def test_wild_first_steps_do_not_flatten_the_rest() -> None:
    panel = curves.Panel("", {"a": "loss"})
    figure = Figure()
    curves._plot(ax := figure.subplots(), panel, {"a": [(0, 1e6), *((step, 1 + step % 2) for step in range(1, 200))]})
    assert 2 < ax.get_ylim()[1] < 3
    curves._plot(ax := figure.subplots(), panel, {"a": [(step, float(step)) for step in range(200)]})
    assert ax.get_ylim()[1] >= 199
