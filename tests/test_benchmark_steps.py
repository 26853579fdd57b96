"""The table of errors over samplers and steps: paired, appended to, resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import steps
from benchmarks.separation import parse_variant
from latent_diffusion.errors import ConfigError
from latent_diffusion.inference import SamplingSettings
from tests.tiny import model, write_songs


def row(variant: str, track: str, error: float, calls: int = 5) -> dict[str, object]:
    kind = {"model": "m", "seconds_of_music": "1"}
    return kind | {"variant": variant, "track": track, "stem": "bass", "error": error, "calls": calls, "seconds": 2.0}


def test_variants_as_typed() -> None:
    variant = parse_variant("sampler=dpm++,steps=10,spacing=karras,guidance=2,guidance_interval=0.3:1")
    assert variant.sampling == SamplingSettings("dpm++", 10, spacing="karras", guidance_interval=(0.3, 1.0))
    assert variant.guidance == 2.0 and variant.name.startswith("sampler=dpm++")
    for text in ("steps=few", "guidance_interval=all", "pace=3"):
        with pytest.raises(ConfigError, match=f"--variant {text}"):
            parse_variant(text)


def test_table_pairs_tracks(tmp_path: Path) -> None:
    results = steps.Results(tmp_path / "steps.csv")
    assert results.rows() == []
    results.add([row("many", "a", 1.0, 200), row("many", "b", 3.0, 200)])
    results.add([row("few", "a", 1.5), row("few", "b", 3.5), row("other", "c", 9.0)])
    lines = steps.table(results.rows(), "many")
    assert lines[2] == "| many | 200 | 2.000 | 1.000 to 3.000 | +0.000 | 0.000 to 0.000 | 2.0 | 2 |"
    assert lines[3] == "| few | 5 | 2.500 | 1.500 to 3.500 | +0.500 | 0.500 to 0.500 | 2.0 | 2 |"
    assert lines[4] == "| other | 5 | 9.000 | - | - | - | 2.0 | 1 |"  # no track that the reference has
    with results.path.open("a") as file:
        file.write("m,few,1,b")  # killed while writing
    assert len(results.rows()) == 5


def test_a_run_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    songs = write_songs(tmp_path / "songs", 2, 0.5)
    weights = tmp_path / "tiny.ckpt"
    made = model(parameterization="v")
    checkpoint = {"state_dict": made.state_dict()}
    torch.save(checkpoint | {"msgld": {"kind": "msgld", "settings": made.settings.to_dict(), "step": 0}}, weights)
    measured: list[tuple[str, str]] = []
    measure = steps.measure

    def counting(pipeline, track, variant):  # noqa: ANN001, ANN202
        measured.append((variant.name, track.name))
        return measure(pipeline, track, variant)

    monkeypatch.setattr(steps, "measure", counting)

    def run(*more: str) -> str:
        common = ["--model", str(weights), "--stems", str(songs), "--out", str(tmp_path / "s.csv"), "--device", "cpu"]
        reference = ["--reference", "sampler=ddim,steps=4,eta=1", "--samplers", "dpm++", "unipc,spacing=karras"]
        assert steps.main([*common, *reference, *more]) == 0
        return capsys.readouterr().out

    first = run("--steps", "2")
    assert len(measured) == 6 and "sampler=unipc,steps=2,spacing=karras" in first
    assert run("--steps", "2") == first and len(measured) == 6
    assert len(run("--steps", "2", "3", "--variant", "sampler=mean").splitlines()) == 2 + 6 and len(measured) == 12
