"""Nested dicts from a YAML file become the schema's dataclasses here: names, types, bounds and targets are checked."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from latent_diffusion.errors import ConfigError

from . import config_schema as schema
from . import config_schema_model as model_schema
from .config_published import FIRST_STAGE, WITHOUT_EFFECT, WithoutEffect
from .config_schema import Config
from .config_yaml import LONGEST_QUOTE, shown, typed
from .registry import lookup

MODEL_KINDS = {
    "msgld": "msgld",
    "autoencoder": "autoencoder",
    "autoencoder_training": "autoencoder",
    "vocoder": "vocoder",
    "vocoder_training": "vocoder",
}
# Which kinds a target may be of, by the class of the group it stands in.
TARGET_KINDS: dict[type, tuple[str, ...]] = {
    schema.DataConfig: ("stem_data",),
    model_schema.ModelConfig: tuple(MODEL_KINDS),
    model_schema.UNetConfig: ("unet", "stem_transformer"),
    model_schema.FirstStageConfig: ("autoencoder",),
    model_schema.CondStageConfig: ("condition",),
    model_schema.VocoderConfig: ("vocoder", "spectral_vocoder", "griffin_lim"),
    model_schema.AutoencoderLossConfig: ("autoencoder_loss",),
    model_schema.VocoderLossConfig: ("vocoder_loss",),
}


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


@cache
def keys_without_effect(kind_of_model: str) -> dict[str, WithoutEffect]:
    """The rows of `WITHOUT_EFFECT` under the names that a file of this kind of model gives them."""
    if kind_of_model == "msgld":
        return WITHOUT_EFFECT
    rows = {name: row for name, row in WITHOUT_EFFECT.items() if name.startswith("data.")}
    if kind_of_model == "autoencoder":
        own = {f.name for f in fields(model_schema.AutoencoderTrainingParams)}
        for name, row in WITHOUT_EFFECT.items():
            if name.startswith(FIRST_STAGE) and name.removeprefix(FIRST_STAGE) not in own:
                rows["model.params." + name.removeprefix(FIRST_STAGE)] = row
    return rows


@cache
def path_keys() -> dict[str, bool]:
    """Names of the keys that are paths, and whether they take a list."""
    groups = [group for module in (schema, model_schema) for group in vars(module).values() if is_dataclass(group)]
    keys = [f for group in groups for f in fields(group) if f.metadata.get("path")]
    return {f.name: f.metadata["single"] for f in keys}


class _Mismatch(Exception):
    """A value of the wrong type; the text says what was expected."""


class Reader:
    """Turns nested dicts into the schema's dataclasses, and remembers what it ignored."""

    def __init__(self, path: str, overridden: tuple[str, ...]):
        self.path = path
        self.overridden = overridden
        self.kind = "msgld"
        self.without_effect: list[str] = []

    def where(self, dotted: str) -> str:
        """File (or command line) and key, for messages."""
        by_hand = any(dotted == name or dotted.startswith((name + ".", name + "[")) for name in self.overridden)
        return f"{'command line' if by_hand else self.path}: {dotted}"

    def group(self, cls: type, values: Any, dotted: str) -> Any:
        """An instance of `cls` from a dict; None gives the defaults."""
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise _Mismatch("a group of keys")
        prefix = f"{dotted}." if dotted else ""
        # The target comes first: the other keys depend on it.
        if cls in TARGET_KINDS and values.get("target") is not None:
            self.target(cls, values["target"], f"{prefix}target")
        if cls is Config and isinstance(values.get("model"), dict):
            self.kind = self.model_kind(values["model"].get("target"))
        hints = dict(_hints(cls))
        if cls is model_schema.ModelConfig:
            hints["params"] = model_schema.PARAMS_OF_KIND[self.kind]
        known = {f.name: f for f in fields(cls) if f.metadata}
        for name in values:
            if not self.ignores(f"{prefix}{name}", values[name]) and name not in known:
                raise self.unknown_key(str(name), prefix, list(known))
        arguments = {}
        for name, f in known.items():
            value = values.get(name)
            if name in values or is_dataclass(hints[name]):
                arguments[name] = self.value(value, hints[name], f, prefix + name)
        return cls(**arguments)

    def model_kind(self, target: Any) -> str:
        default = model_schema.ModelConfig().target
        found = target if isinstance(target, str) else default
        return MODEL_KINDS[lookup(found, tuple(MODEL_KINDS), self.where("model.target"))]

    def target(self, cls: type, value: Any, dotted: str) -> None:
        if isinstance(value, str):
            lookup(value, TARGET_KINDS[cls], self.where(dotted))

    def ignores(self, dotted: str, value: Any) -> bool:
        """Whether a key is a published one without effect; notes it, if its value says anything else."""
        row = keys_without_effect(self.kind).get(dotted)
        if row is not None and not row.describes(typed(value)):
            self.without_effect.append(dotted)
        return row is not None

    def unknown_key(self, name: str, prefix: str, siblings: list[str]) -> ConfigError:
        everywhere = [doc.key for doc in key_docs(self.kind)]
        near = difflib.get_close_matches(name, siblings, n=1, cutoff=0.7)
        near = [prefix + near[0]] if near else [key for key in everywhere if key.split(".")[-1] == name][:1]
        near = near or difflib.get_close_matches(prefix + name, everywhere, n=1, cutoff=0.0)
        return ConfigError(f"{self.where(prefix + _short(name))}: unknown key; nearest known key: {near[0]}")

    def value(self, value: Any, hint: Any, f: Any, dotted: str) -> Any:
        """One key's value, converted and within its bounds."""
        about = f.metadata
        if isinstance(value, str) and value.strip() in ("", "None"):
            value = None  # Python's word for empty is text to YAML
        if value is None and not is_dataclass(hint):
            return self.empty(hint, f)
        if about["single"] and value is not None and not isinstance(value, list):
            value = [value]
        try:
            result = self.convert(value, hint, dotted)
        except _Mismatch as mismatch:
            found = "a group of keys" if isinstance(value, dict) else shown(value)
            raise ConfigError(f"{self.where(dotted)}: found {found}, expected {mismatch}") from None
        self.check_bounds(result, about, dotted)
        return _expanded(result) if about["path"] else result

    @staticmethod
    def empty(hint: Any, f: Any) -> Any:
        """What an empty value means: see the schema's docstring."""
        meaning = f.metadata["empty"]
        if meaning is not model_schema.UNSET:
            return list(meaning) if isinstance(meaning, tuple) else meaning
        if NoneType in get_args(hint):
            return None
        if hint is bool:
            return False
        return f.default_factory() if callable(f.default_factory) else f.default

    def convert(self, value: Any, hint: Any, dotted: str) -> Any:
        """`value` as `hint` wants it, or `_Mismatch`."""
        if is_dataclass(hint):
            return self.group(hint, value, dotted)
        if get_origin(hint) in (Union, UnionType):
            return self.union(value, get_args(hint), dotted)
        if get_origin(hint) is list:
            if not isinstance(value, list):
                raise _Mismatch(_expected(hint))
            try:
                return [self.convert(item, get_args(hint)[0], dotted) for item in value]
            except _Mismatch:
                raise _Mismatch(_expected(hint)) from None
        if hint is dict:
            if not isinstance(value, dict):
                raise _Mismatch("a group of keys")
            return value
        return _scalar(value, hint)

    def union(self, value: Any, hints: tuple[Any, ...], dotted: str) -> Any:
        looks = typed(value)
        if value is None or (looks is False and NoneType in hints and bool not in hints):
            return None  # `false` switches off what empty switches off
        if str not in hints or (type(looks) in hints and str(looks) == value):  # 3 is a number, 1.10 a name
            value = looks
        exact = [hint for hint in hints if type(value) is hint]
        others = [hint for hint in hints if hint is not NoneType and hint not in exact]
        if isinstance(value, dict):
            others = [hint for hint in others if is_dataclass(hint) or hint is dict]
        for hint in exact + others:
            try:
                return self.convert(value, hint, dotted)
            except _Mismatch:
                continue
        raise _Mismatch(" or ".join(_expected(hint) for hint in hints if hint is not NoneType))

    def check_bounds(self, value: Any, about: Any, dotted: str) -> None:
        low, high, choices = about["low"], about["high"], about["choices"]
        for item in _leaves(value):
            if choices and item not in choices:
                near = difflib.get_close_matches(str(item), choices, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise ConfigError(
                    f"{self.where(dotted)}: found {shown(item)}, expected one of {', '.join(choices)}{hint}"
                )
            number = isinstance(item, int | float) and not isinstance(item, bool)
            if number and ((low is not None and item < low) or (high is not None and item > high)):
                limits = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
                wanted = f"{low}" if low == high else " and ".join(limits)
                raise ConfigError(f"{self.where(dotted)}: found {item!r}, expected {wanted}")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None and not is_dataclass(value) and not isinstance(value, dict):
        yield value


NAMES_OF_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a group of keys",
}


def _expected(hint: Any) -> str:
    if get_origin(hint) is list:
        inner = {int: "whole numbers", float: "numbers"}.get(get_args(hint)[0], "names")
        return f"a list of {inner if get_origin(get_args(hint)[0]) is not list else 'lists'}"
    return NAMES_OF_TYPES.get(hint, "a group of keys")


def _scalar(value: Any, hint: Any) -> Any:
    """Bool, int, float or str; numbers and switches come as text, as `config_yaml` reads them, or as themselves."""
    if hint is str and isinstance(value, str):
        return value
    value = typed(value)
    if hint is bool and isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise _Mismatch(_expected(hint)) from None
        if math.isfinite(number) and hint is float:
            return number
        if math.isfinite(number) and number == int(number):
            return int(value)
    raise _Mismatch(_expected(hint))


def _expanded(value: Any) -> Any:
    """A path or a list of paths with `~` as the home folder."""
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) else value


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_QUOTE else f"{name[: LONGEST_QUOTE - 4]} ..."


# ---- documentation of the keys ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeyDoc:
    """One line of the table of keys."""

    key: str  # dotted
    expected: str
    default: Any
    doc: str
    ours: bool
    unused: bool


def key_docs(kind_of_model: str = "msgld") -> list[KeyDoc]:
    """Every key of the schema in its order, groups left out, then the published keys without effect.

    Args:
        kind_of_model: msgld, autoencoder or vocoder; decides what `model.params` holds.
    """

    def walk(cls: type, prefix: str) -> Iterator[KeyDoc]:
        for f in fields(cls):
            if not f.metadata:
                continue
            hint = _hints(cls)[f.name]
            if cls is model_schema.ModelConfig and f.name == "params":
                hint = model_schema.PARAMS_OF_KIND[kind_of_model]
            options = (
                [h for h in get_args(hint) or (hint,) if h is not NoneType] if get_origin(hint) is not list else []
            )
            group = next((h for h in options if is_dataclass(h)), None)
            if group is not None:
                yield from walk(group, f"{prefix}{f.name}.")
                continue
            expected = " or ".join(f.metadata["choices"] or [_expected(h) for h in options])
            default = f.default_factory() if callable(f.default_factory) else f.default
            yield KeyDoc(prefix + f.name, expected, default, f.metadata["doc"], f.metadata["ours"], unused=False)

    ignored = keys_without_effect(kind_of_model)
    rows = [doc for doc in walk(Config, "") if not any(_within(doc.key, name) for name in ignored)]
    return rows + [KeyDoc(name, "anything", None, row.doc, ours=False, unused=True) for name, row in ignored.items()]


def _within(key: str, group: str) -> bool:
    return f"{key}.".startswith(f"{group}.")
