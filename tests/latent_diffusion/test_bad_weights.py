"""What is no weights file, or more than one: one clear line each, and nothing in it runs."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from latent_diffusion.checkpoints import read_weights, reading, writing
from latent_diffusion.inference import MultiTrackPipeline
from latent_diffusion.inspection import summarise
from tests.latent_diffusion.test_checkpoints import TINY, error, published, tiny_model


class Payload:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def bomb(path: Path) -> None:
    """A few kilobytes that unpack to many megabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        archive.writestr("archive/data/0", bytes(2**24))


def broken_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 20) + b'{"a": {"dtype": "F3')


BAD = {
    "text.ckpt": (lambda p: p.write_text("weights"), "not a complete PyTorch checkpoint"),
    "empty.ckpt": (lambda p: p.write_bytes(b""), "not a complete PyTorch checkpoint"),
    "old.ckpt": (lambda p: p.write_bytes(pickle.dumps({"state_dict": {}})), "not a complete PyTorch checkpoint"),
    "truncated.ckpt": (lambda p: p.write_bytes(TINY.read_bytes()[:100_000]), "not a complete PyTorch checkpoint"),
    "hole.ckpt": (lambda p: p.write_bytes(TINY.read_bytes()[100_000:]), "damaged"),
    "folder.ckpt": (lambda p: p.mkdir(), "found a folder"),
    "missing.ckpt": (lambda p: None, "no such file"),
    "bomb.ckpt": (bomb, "would unpack to 16 MiB"),
    "list.ckpt": (lambda p: torch.save([1, 2], p), "found a list"),
    "other.ckpt": (lambda p: torch.save({"fc.weight": torch.zeros(1)}, p), "of no known kind"),
    "state.ckpt": (lambda p: torch.save({"state_dict": 3}, p), "'state_dict' is a int"),
    "text.safetensors": (lambda p: p.write_text("weights of a kind"), "not a readable safetensors file"),
    "broken.safetensors": (broken_header, "not a readable safetensors file"),
    "short.safetensors": (lambda p: p.write_bytes(b"\0\1"), "not a readable safetensors file"),
    "json.safetensors": (
        lambda p: save_file({"a": torch.zeros(1)}, p, {"msgld": "{"}),
        "not a readable safetensors file",
    ),
    "float8.safetensors": (
        lambda p: save_file({"a": torch.zeros(1).to(torch.float8_e5m2)}, p),
        "expected floating point of 16 to 64 bits",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_weights_file_is_one_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_UNPACKED_BYTES", 2**23)  # a bomb that is quickly made
    make, words = BAD[name]
    make(tmp_path / name)
    message = error(read_weights, tmp_path / name)
    assert words in message and name in message


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_a_payload_is_refused_and_does_not_run(tmp_path: Path, where: str) -> None:
    marker, path, content = tmp_path / "marker", tmp_path / "payload.ckpt", published()
    (content if where == "beside" else content["state_dict"])["payload"] = Payload(marker)
    torch.save(content, path)
    for function in (read_weights, MultiTrackPipeline.from_checkpoint, tiny_model().load_model, summarise):
        message = error(function, path)
        assert "run code when read" in message and "refused" in message and "system" in message
        assert "weights_only=False" in message  # the way out
    assert not marker.exists()
    Payload(marker).__reduce__()[0](f"touch {marker}")
    assert marker.exists(), "the payload would have worked"


def test_nonsense_settings_in_a_file_are_one_line(tmp_path: Path) -> None:
    tensors = read_weights(TINY).tensors
    for settings in (
        {"stems": 3},
        {"unet": {"model_channels": "x"}},
        {"unet": {"color": 1}},
        {"mel": []},
        {"a": 1},
        [],
    ):
        path = tmp_path / "nonsense.safetensors"
        writing.write_safetensors(path, tensors, {"msgld": {"settings": settings}})
        assert "nonsense.safetensors" in error(MultiTrackPipeline.from_checkpoint, path)
