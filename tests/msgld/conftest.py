"""A tiny model's weights, and the command in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.msgld.files import Run, few_steps, save
from tests.tiny import model
from utilities import cli


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model with random weights."""
    return save(tmp_path_factory.mktemp("model") / "last.ckpt", model(parameterization="v"))


@pytest.fixture
def run(weights: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: status, standard output, standard error."""

    def call(*arguments: object, quick: bool = True) -> tuple[int, str, str]:
        capsys.readouterr()
        common = ("--model", weights, *few_steps(arguments), "--quiet", "--device", "cpu") if quick else ()
        status = cli.main([str(argument) for argument in (*arguments, *common)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
