"""YAML as text: every plain scalar stays as it was typed, and the key's type decides what it means.

YAML 1.1, which PyYAML reads, makes 45000 of `12:30:00`, 8 of `010`, 1.1 of `1.10` and false of `no`. Here `id.name=010`
is a name, `seed=010` is ten, and a duration is a duration.
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from latent_diffusion.errors import ConfigError

_KEPT_TAGS = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")
LONGEST_QUOTE = 80  # characters of a value that an error shows


class _TextLoader(yaml.SafeLoader):
    """Reads scalars as text, and refuses keys that stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value != "<<" and isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, "a key stands twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _KEPT_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str, where: str) -> Any:
    """What YAML text holds: dicts, lists, text and None.

    Args:
        text: the YAML.
        where: the file, for the error.

    Raises:
        ConfigError: it is no YAML; the error says at which line, and quotes nothing.
    """
    try:
        return yaml.load(text, Loader=_TextLoader)
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ConfigError(f"{where}: cannot be read as YAML{place}") from None


def read_yaml_file(path: Path) -> Any:
    """As `read_yaml`, from a file.

    Raises:
        ConfigError: it is missing, or no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, expected a YAML file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file, expected YAML in UTF-8") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return read_yaml(text, str(path))


def read_value(text: str, is_path: bool = False, is_list: bool = False) -> Any:
    """What was typed behind `key=`: a list or group in brackets, quoted text, or the text itself.

    Args:
        text: as typed.
        is_path: a path may hold brackets and anything else.
        is_list: whether the key takes a list.

    Raises:
        ConfigError: brackets that are not closed.
    """
    stripped = text.strip()
    opening, closing = stripped[:1], stripped[-1:]
    quoted = len(stripped) > 1 and opening == closing and opening in "'\""
    whole = opening + closing in ("[]", "{}")
    if quoted or (whole and (is_list or not is_path)) or (opening and opening in "[{" and not is_path):
        try:
            return read_yaml(stripped, "value")
        except ConfigError:
            if not is_path:
                raise
            return text
    if stripped.lower() in ("", "null", "~"):
        return None
    return text if is_path else stripped


def typed(value: Any) -> Any:
    """Text as the number or switch that it looks like; anything else stays. In lists and groups, too."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if not isinstance(value, str):
        return value
    word = value.strip().lower()
    if word in _TRUE + _FALSE:
        return word in _TRUE
    number = _number(word)
    return value if number is None else number


def _number(word: str) -> int | float | None:
    if not word.isascii():
        return None
    for base in (10, 0):  # 010 is ten; 0x10, 0o10 and 0b10 say their base
        try:
            return int(word, base)
        except ValueError:
            continue
    try:
        return float(word.replace(".nan", "nan").replace(".inf", "inf"))
    except ValueError:
        return None


def shown(value: Any) -> str:
    """A value as errors show it: what it looks like, not longer than `LONGEST_QUOTE`."""
    text = repr(typed(value))
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 4]} ..."
