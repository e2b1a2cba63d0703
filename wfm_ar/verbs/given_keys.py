"""Settings with values put in by their dotted keys, except where the user has set them."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from wfm_ar.verbs.train_settings import Settings


def with_chosen(settings: Settings, keys: Mapping[str, Any]) -> Settings:
    """The settings with the values of these keys, but for keys that the user set."""
    return with_keys(settings, not_given(settings, keys))


def not_given(settings: Settings, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keys that the user did not set."""
    return {key: value for key, value in keys.items() if not given(key, settings.given)}


def given(key: str, keys: tuple[str, ...]) -> bool:
    """Whether the user set `key`, by itself, with its group, or for all stages at once."""
    last = key.split(".", 2)[-1] if key.startswith("stages.") else key.removeprefix("tokenizer.")
    return any(key == one or key.startswith(f"{one}.") or last == one for one in keys)


def with_keys(settings: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass with some of its values, by dotted keys, replaced; lists become tuples."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        first, _, rest = key.partition(".")
        groups.setdefault(first, {})[rest] = value
    names, changes = {field.name for field in fields(settings)}, {}
    for name, inner in groups.items():
        assert name in names, f"{type(settings).__name__} has no {name}"
        value = inner.get("")
        changes[name] = tuple(value) if isinstance(value, list) else value
        if "" not in inner:
            assert is_dataclass(getattr(settings, name)), name
            changes[name] = with_keys(getattr(settings, name), inner)
    return replace(settings, **changes)
