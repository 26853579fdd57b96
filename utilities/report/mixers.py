"""The mixers of a page: lanes with a spectrogram, sound, mute and solo, which start together."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from utilities.report.embed import choose_quality, digest, encode_audio, picture, read_excerpt, spectrogram

MIXTURE_TITLE = "mixture"


@dataclass(frozen=True)
class Sound:
    """A file to hear, or the sum of several; its role, "target" or "result"; its stem, "" for the mixture."""

    paths: tuple[Path, ...]
    role: str
    stem: str


@dataclass
class PageItem:
    """One mixer.

    Args:
        name: its heading.
        sounds: its lanes.
        numbers: stem -> lines under its name.
        heard: (role, stem) of the lanes that are not muted at first; `None`: the results' stems.
    """

    name: str
    sounds: list[Sound]
    numbers: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    heard: set[tuple[str, str]] | None = None


class Studio:
    """Makes mixers, and keeps each different sound once."""

    def __init__(self, items: list[PageItem]) -> None:
        self.lossless, self.longest = choose_quality({path for item in items for s in item.sounds for path in s.paths})
        self.scripts: dict[str, str] = {}  # id -> element

    def mixer(self, item: PageItem, target_title: str, identifier: str) -> str:
        excerpts = {sound: read_excerpt(*sound.paths, longest=self.longest) for sound in item.sounds}
        highest = min(excerpt.sample_rate for excerpt in excerpts.values()) / 2
        levels = {sound: spectrogram(excerpt, highest) for sound, excerpt in excerpts.items()}
        loudest = max(float(level.max()) for level in levels.values())
        roles = [role for role in ("target", "result") if any(sound.role == role for sound in item.sounds)]
        stems = list(dict.fromkeys(sound.stem for sound in item.sounds))
        lanes = [f'<div class="head"></div>{"".join(_head(role, target_title) for role in roles)}']
        for stem in stems:
            lines = "".join(f"<span>{escape(a)} <em>{escape(b)}</em></span>" for a, b in item.numbers.get(stem, []))
            lanes.append(f'<div class="stem"><b>{escape(stem or MIXTURE_TITLE)}</b>{lines}</div>')
            for role in roles:
                sound = next((s for s in item.sounds if (s.role, s.stem) == (role, stem)), None)
                if sound is None:
                    lanes.append('<div class="lane none"></div>')
                    continue
                heard = (role, stem) in item.heard if item.heard is not None else role == "result" and stem != ""
                audio = self._audio(*encode_audio(excerpts[sound], self.lossless))
                lanes.append(_lane(sound, audio, picture(levels[sound], loudest), heard))
        first = next(iter(excerpts.values()))
        seconds = min(len(e.samples) / e.sample_rate for e in excerpts.values())
        note = f"from {first.start:g} s" if first.start else ""
        presets = [("mixture", "Mixture")] if any(s.stem == "" for s in item.sounds) else []
        titles = {"target": f"{target_title}s", "result": "Results"}
        presets += [(role, titles[role]) for role in roles if any(s.stem and s.role == role for s in item.sounds)]
        buttons = "".join(f'<button data-preset="{a}" aria-pressed="false">{escape(b)}</button>' for a, b in presets)
        return (
            f'<article class="mixer" id="{identifier}" data-seconds="{seconds:.4f}"><header>'
            f'<button class="play" aria-label="play or pause"></button><h3>{escape(item.name)}</h3>'
            f'<span class="clock"></span><span class="note">{note}</span>'
            f'<div class="presets" role="group" aria-label="what is heard">{buttons}</div></header>'
            f'<div class="lanes {"two" if len(roles) == 2 else "one"}">{"".join(lanes)}</div></article>'
        )

    def _audio(self, mime: str, content: bytes) -> str:
        name = f"a-{digest(content)}"
        text = b64encode(content).decode("ascii")
        self.scripts.setdefault(name, f'<script type="text/plain" id="{name}" data-mime="{mime}">{text}</script>')
        return name


def _head(role: str, target_title: str) -> str:
    return f'<div class="head">{escape(target_title if role == "target" else "Result")}</div>'


def _lane(sound: Sound, audio: str, image: str, heard: bool) -> str:
    name = f"{sound.role} {sound.stem or MIXTURE_TITLE}"
    return (
        f'<div class="lane" data-audio="{audio}" data-role="{sound.role}" data-stem="{escape(sound.stem)}" '
        f'data-muted="{str(not heard).lower()}"><img alt="spectrogram: {escape(name)}" src="{image}">'
        f'<i class="head-line"></i><span class="keys"><button class="mute" aria-label="mute {escape(name)}">M</button>'
        f'<button class="solo" aria-label="solo {escape(name)}">S</button></span><i class="meter"></i></div>'
    )
