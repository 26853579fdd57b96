"""What a person types means what it looks like: names, numbers, durations, paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from latent_diffusion.errors import ConfigError
from utilities.config import load_config
from utilities.config_yaml import typed


def load(tmp_path: Path, text: str = "mode: train\n", *overrides: str):
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    return load_config(tmp_path / "c.yaml", overrides)


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("trainer.max_time", "1:00:00:00", "01:00:00:00"),
        ("trainer.max_time", "12:30:00", "00:12:30:00"),
        ("trainer.max_time", "90", "00:00:01:30"),
        ("trainer.max_time", "1.5e2", "00:00:02:30"),
        ("id.name", "12:30:00", "12:30:00"),
        ("id.name", "no", "no"),
        ("id.name", "2024-01-02", "2024-01-02"),
        ("id.name", "1_000", "1_000"),
        ("id.version", "1.10", "1.10"),
        ("id.version", "010", "010"),
        ("project_name", "2024", "2024"),
        ("project_name", "0x1F", "0x1F"),
        ("project_name", "'quoted: name'", "quoted: name"),
        ("seed", "010", 10),
        ("seed", "0x10", 16),
        ("seed", "1_000", 1000),
        ("dev", "yes", True),
        ("dev", "off", False),
        ("model.params.base_learning_rate", "3e-5", 3e-5),
        ("trainer.limit_val_batches", "3", 3),
        ("trainer.limit_val_batches", "0.5", 0.5),
        ("data.params.latent_cache", "false", None),
        ("data.params.path.stems_to_inpaint", "[0, drums]", ["bass", "drums"]),
    ],
)
def test_alike_in_files_and_on_the_command_line(tmp_path: Path, key: str, given: str, expected: object) -> None:
    nested = "".join("  " * depth + f"{name}:\n" for depth, name in enumerate(key.split(".")))[:-1] + f" {given}\n"
    for config in (load(tmp_path, "mode: train\n", f"{key}={given}"), load(tmp_path, nested)):
        value = config
        for name in key.split("."):
            value = getattr(value, name)
        assert value == expected and type(value) is type(expected)
        assert load(tmp_path, config.to_yaml()) == config


@pytest.mark.parametrize("given", ["1:30", "1e3.5", "10 20", "0o9"])
def test_no_number(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError, match="a whole number"):
        load(tmp_path, "mode: train\n", f"seed={given}")


@pytest.mark.parametrize(
    "path",
    ["/a #1/b", "/a: b", "[live] album", "[live]", "{x}", "a::b", "*x", "&x", "!x", "%x", "@x", "`x`", " x", "a=b"],
)
def test_paths_of_any_characters(tmp_path: Path, path: str) -> None:
    config = load(tmp_path, "mode: train\n", f"log_directory={path}", f"data.params.latent_cache={path}")
    assert config.log_directory == config.data.params.latent_cache == path
    assert load(tmp_path, config.to_yaml()) == config


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text = "log_directory: ~/r\ndata: {params: {latent_cache: ~/x, path: {train_data: [~/a, ~/b], valid_data: ~/c}}}\n"
    overrides = ["trainer.resume=~/run", "model.params.ckpt_path=~/m.ckpt"]
    vae = "model.params.first_stage_config.params"
    overrides += [
        f"{vae}.reload_from_ckpt=~/v",
        f"{vae}.vocoder_config.ckpt_path=~/h",
        f"{vae}.ddconfig.hifigan_ckpt=~/g",
    ]
    config = load(tmp_path, text, *overrides)
    p, v = config.data.params, config.model.params.first_stage_config.params
    found = [config.log_directory, p.latent_cache, *p.path.train_data, *p.path.valid_data, config.trainer.resume]
    found += [config.model.params.ckpt_path, v.reload_from_ckpt, v.vocoder_config.ckpt_path, v.ddconfig.hifigan_ckpt]
    assert found == [f"{tmp_path}/{name}" for name in ("r", "x", "a", "b", "c", "run", "m.ckpt", "v", "h", "g")]
    (tmp_path / "d.yaml").write_text("base: ~/c.yaml\n")
    assert load_config("~/d.yaml") == config.__class__(**{**vars(load_config(tmp_path / "c.yaml"))})
    from utilities.cli.arguments import given_path

    assert given_path("~/x") == tmp_path / "x"


def test_errors_quote_little(tmp_path: Path) -> None:
    secret = tmp_path / "passwd"
    secret.write_text("root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1:daemon:/usr/sbin:\n  - '\n")
    for content in (
        secret.read_text(),
        "root:x:0:0:root\n" * 9,
        "key: [secret\n",
        '"secret',
        "- secret\n",
        "secret words",
    ):
        secret.write_text(content)
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, f"base: {secret}\n")
        text = str(caught.value).replace(str(secret), "")
        assert "root" not in text and "secret" not in text and str(secret) in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"seed: {'x' * 10_000}\n")
    assert len(str(caught.value)) < len(str(tmp_path)) + 200
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"{'x' * 500}: 1\n")
    assert len(str(caught.value)) < len(str(tmp_path)) + 300


def test_what_text_looks_like() -> None:
    assert typed({"a": ["1", "1.5", "no", "x", "１"]}) == {"a": [1, 1.5, False, "x", "１"]}
