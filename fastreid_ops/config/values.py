# SPDX-License-Identifier: Apache-2.0
"""Between dataclasses and plain values: fill, flatten, compare, hash."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fastreid_ops.config.schema import Config, Plain


class ConfigError(ValueError):
    """A key, a value or a combination that cannot run; the message names the key, what came and what is
    expected.
    """


def to_dict(config: Config) -> dict[str, Any]:
    """Nested plain types only, fit for YAML, JSON and a checkpoint."""
    return dataclasses.asdict(config)


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optim": {"lr": 1}} -> {"optim.lr": 1}. Lists and the free `options` tables are values, not levels."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, dict) and key != "options":
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def difference(base: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    """{dotted key: [base value, other value]} of two nested configurations, in the order of the first."""
    left, right = flatten(base), flatten(other)
    return {key: [left.get(key), right.get(key)] for key in left | right if left.get(key) != right.get(key)}


def digest(values: dict[str, Any]) -> str:
    """sha256 over the sorted JSON of everything but `run.folder`, so that a moved run keeps its hash."""
    flat = flatten(values)
    flat.pop("run.folder", None)
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()


def nearest(name: str, known: Iterable[str]) -> str:
    """'; nearest: a, b' for a message; the whole list if nothing is close and the list is short; else ''."""
    known = sorted(set(known))
    last = name.rsplit(".", 1)[-1]
    close = [k for k in known if k.rsplit(".", 1)[-1] == last]
    close += [k for k in get_close_matches(name, known, n=3, cutoff=0.6) if k not in close]
    if not close:  # a typo in the last part of a long dotted name
        close = [k for k in known if get_close_matches(last, [k.rsplit(".", 1)[-1]], cutoff=0.75)]
    if close:
        return f"; nearest: {', '.join(close[:3])}"
    return f"; known: {', '.join(known)}" if len(known) < 20 else ""


def from_dict(values: dict[str, Any], source: str = "config") -> Config:
    """A Config from nested plain values; missing keys take the defaults, unknown ones and wrong types are
    errors.

    Errors: ConfigError naming `source` and the dotted key, with the nearest known name for an unknown one.
    """
    return _fill(Config, values, source, "")


def _fill(cls: type, values: Any, source: str, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: {prefix[:-1] or 'top level'}: got {values!r}, expected a table of keys")
    types = get_type_hints(cls)
    for key in values:
        if key not in types:
            known = [f"{prefix}{name}" for name in types]
            if not any(
                part.isdigit() for part in prefix.split(".")
            ):  # the item of a list has its own names only
                known += [*flatten(to_dict(Config())), *get_type_hints(Config)]
            raise ConfigError(f"{source}: unknown key {prefix}{key}{nearest(f'{prefix}{key}', known)}")
    for needed in dataclasses.fields(cls):
        bare = needed.default is dataclasses.MISSING and needed.default_factory is dataclasses.MISSING
        if bare and needed.name not in values:
            raise ConfigError(f"{source}: {prefix}{needed.name}: got nothing, expected a value")
    return cls(
        **{key: _convert(types[key], value, source, f"{prefix}{key}") for key, value in values.items()}
    )


def _convert(kind: Any, value: Any, source: str, key: str) -> Any:
    """`value` as `kind`, or an error: a deliberately small set of types, so that nothing from a file is ever
    imported.
    """
    if dataclasses.is_dataclass(kind):
        return _fill(kind, value, source, f"{key}.")
    origin, inner = get_origin(kind), get_args(kind)
    words = [choice for choice in inner if get_origin(choice) is Literal]
    if words:  # names, or null
        return None if value is None and type(None) in inner else _convert(words[0], value, source, key)
    if origin is Literal:
        value = "off" if value is False else value  # YAML 1.1 reads a bare `off` as false
        if value in inner:
            return value
        raise ConfigError(f"{source}: {key}: got {value!r}, expected one of {', '.join(inner)}")
    if origin is list and isinstance(value, list):
        return [_convert(inner[0], item, source, f"{key}.{i}") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {str(name): _option(item, source, f"{key}.{name}") for name, item in value.items()}
    choices = (kind,) if origin in (None, list, dict) else inner
    if type(value) in choices:
        return value
    if float in choices and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # 1, and "3e-4", which YAML 1.1 reads as text
        except ValueError:
            pass
    words = " or ".join(
        "null" if c is type(None) else "a list" if origin is list else c.__name__ for c in choices
    )
    raise ConfigError(f"{source}: {key}: got {value!r}, expected {words}")


def _option(value: Any, source: str, key: str) -> Any:
    """A value of an `options` table: plain, or a list of plain values."""
    if isinstance(value, list):
        return [_convert(Plain, item, source, f"{key}.{i}") for i, item in enumerate(value)]
    return _convert(Plain, value, source, key)
