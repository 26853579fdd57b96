"""The frame of a page, and the small parts that all pages share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from utilities.files import whole_file


def table(heads: Iterable[tuple[str, str, bool]], rows: Iterable[str]) -> str:
    """A sortable table: headings (name, tip, holds text), and rows as HTML."""
    cells = (
        f'<th{" class=text" if text else ""} title="{escape(tip)}">{escape(name)}</th>' for name, tip, text in heads
    )
    return f"<table><thead><tr>{''.join(cells)}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def is_sum(group: str) -> str:
    """An attribute that sets a row of several stems apart."""
    return ' class="sum"' if group in ("all", "sounding") or group.startswith("mixture") else ""


def number(value: float | None) -> str:
    """A number for people; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2f}".replace("-", "−")


def interval(ends: Sequence[float] | None) -> str:
    """An interval for people; nothing for none."""
    return f"[{number(ends[0])}, {number(ends[1])}]" if ends else ""


def card(title: str, small: str, content: str) -> str:
    """A framed part with a heading; `content` is HTML."""
    return f'<div class="card"><h3>{escape(title)}<small>{escape(small)}</small></h3>{content}</div>'


def about_card(about: Mapping[str, str], texts: Mapping[str, str], notes: Sequence[str]) -> str:
    """Terms, long texts to unfold, and notes."""
    terms = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in about.items() if text)
    folded = "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>" for name, text in texts.items()
    )
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    read = f'<h3 class="apart">How to read the numbers</h3><ul class="notes">{lines}</ul>' if notes else ""
    return f'<div class="card"><dl>{terms}</dl>{folded}</div>{read}'


def write_document(
    path: str | os.PathLike[str],
    title: str,
    lead: str,
    sections: Mapping[str, tuple[str, list[str]]],
    scripts: Mapping[str, str],
    top: str = "",
) -> None:
    """Write a page as one file, whole or not at all.

    Args:
        path: the file.
        title, lead: heading and the sentence under it.
        sections: heading -> sentence under it and parts as HTML; one without parts is left out.
        scripts: elements that hold the sounds.
        top: HTML between the title and the first section.

    Raises:
        OSError: the file cannot be written.
    """
    filled = {name: (text, "".join(parts)) for name, (text, parts) in sections.items() if any(parts)}
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in filled)
    body = "".join(
        f'<section><h2 id="{_anchor(name)}">{escape(name)}</h2><p>{escape(text)}</p>{content}</section>'
        for name, (text, content) in filled.items()
    )
    style, code = (files("utilities.report").joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    with whole_file(path) as temporary, Path(temporary).open("w", encoding="utf-8") as file:
        file.write(
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f'<style>{style}</style></head><body><nav class="top"><div><b>MSG-LD</b>{links}</div></nav>'
            f'<main><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{top}{body}'
            "<footer>Written by msg-ld. Everything on this page is inside this file.</footer></main>"
        )
        file.writelines(scripts.values())
        file.write(f"<script>{code}</script></body></html>\n")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-").replace("é", "e")
