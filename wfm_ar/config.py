"""From a hydra/OmegaConf tree to validated, frozen dataclasses.

This file promises that nothing unknown, missing or of the wrong type reaches a computation: `build` refuses it with one
line that names the key and the nearest known one. It knows types and key names; ranges and relations between values are
checked by each dataclass's own `__post_init__`. It is the only file that imports omegaconf besides cli.py.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from wfm_ar.errors import BadConfig, nearest

Built = TypeVar("Built")
_MOST_VALUES = 100_000  # of a resolved config


def from_hydra(config: DictConfig, where: str) -> dict[str, Any]:
    """The resolved tree as plain dicts, lists and scalars. Raises BadConfig for `???` keys and broken interpolations."""
    _check_growth(config, where)
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key or "a key"
        raise BadConfig(f"{where}: {key} has no value, expected one; fix: add {key}=VALUE") from None
    except OmegaConfBaseException as error:
        raise BadConfig(f"{where}: {first_line(error)}; fix: see `{where} --help` for the keys") from None
    assert isinstance(plain, dict)
    return typing.cast(dict[str, Any], plain)


@contextmanager
def only_times_resolve() -> Iterator[None]:
    """Inside, `${now:...}` and hydra's own names resolve, and nothing else: no environment variables, no decoding, no code.

    OmegaConf keeps its resolvers for the whole process; those of other users of it are there again afterwards.
    """
    kept = dict(BaseContainer._resolvers)
    try:
        for name in kept.keys() - {"now", "hydra", "python_version"}:
            OmegaConf.clear_resolver(name)
        yield
    finally:
        BaseContainer._resolvers.update(kept)


def _check_growth(config: DictConfig, where: str) -> None:
    """Raises BadConfig where references to references would make the config explode: each is followed, none is copied."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        sizes[id(node)] = 1  # a reference to itself: OmegaConf refuses those
        total = 1
        if isinstance(node, (DictConfig, ListConfig)) and not node._is_interpolation():
            if not (node._is_none() or node._is_missing()):
                keys = node.keys() if isinstance(node, DictConfig) else range(len(node))
                total += sum(size(node._get_node(key)) for key in keys)  # pyright: ignore[reportArgumentType] - as the container gives them
        elif node is not None and node._is_interpolation():
            try:
                total += size(node._dereference_node())
            except OmegaConfBaseException:
                pass  # said better when it is resolved
        sizes[id(node)] = total
        if total > _MOST_VALUES:
            raise BadConfig(f"{where}: references make more than {_MOST_VALUES} values, expected fewer; fix: write them out")
        return total

    size(config)


def build(kind: type[Built], values: Mapping[str, Any], where: str) -> Built:
    """The dataclass `kind` filled from `values`; nested dataclasses from nested mappings.

    Raises BadConfig, naming the full key, for an unknown key (with the nearest), a missing key without a default, and a
    value of the wrong type. Whole numbers pass as float; nothing else is converted.
    """
    return _build(kind, values, where, "")


def _build(kind: type[Built], values: Any, where: str, prefix: str) -> Built:
    assert dataclasses.is_dataclass(kind), f"{kind} is not a dataclass"
    if not isinstance(values, Mapping):
        raise BadConfig(f"{where}: {_dotless(prefix)} is {values!r:.80}, expected a group of keys; fix: set its keys one by one")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in values:
        if key not in fields:
            names = list(fields)
            expected = names if len(names) <= 12 else f"a key of {kind.__name__}"
            raise BadConfig(f"{where}: unknown key '{prefix}{key}'{nearest(key, names)}, expected {expected}; fix: rename or remove it")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise BadConfig(f"{where}: key '{prefix}{name}' is missing, expected a value; fix: add {prefix}{name}=VALUE")
    return kind(**{key: _convert(hints[key], value, where, f"{prefix}{key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """`value` as the type `hint`, or BadConfig. The trees are small, so one pass of plain branches is clear enough."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where, key)
    if hint is None or hint is types.NoneType:
        if value is None:
            return None
    elif origin is Literal:
        if value in get_args(hint) and type(value) in {type(choice) for choice in get_args(hint)}:
            return value
        choices = [str(choice) for choice in get_args(hint)]
        raise BadConfig(
            f"{where}: {key} is {value!r:.80}{nearest(str(value), choices)}, expected {' | '.join(choices)}; fix: set {key} to one of them"
        )
    elif dataclasses.is_dataclass(hint):
        return _build(typing.cast(type[Any], hint), value, where, f"{key}.")
    elif hint is bool:
        if isinstance(value, bool):
            return value
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif hint is float:
        with suppress(OverflowError):  # a whole number of hundreds of digits
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value):
                return float(value)
    elif hint is str:
        if isinstance(value, str):
            return value
        # `text=1` and `run=2026` are what a user means as words: the YAML reader made them numbers
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
    elif hint is Path:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(value):
            return Path(str(value)).expanduser()
    elif hint is tuple or origin is tuple:
        if isinstance(value, (list, tuple)):
            return _convert_tuple(hint, value, where, key)
    elif hint is list or origin is list:
        if isinstance(value, (list, tuple)):
            (item,) = get_args(hint) or (Any,)
            return [_convert(item, one, where, f"{key}[{i}]") for i, one in enumerate(value)]
    elif hint is dict or origin is dict:
        if isinstance(value, Mapping):
            _, item = get_args(hint) or (str, Any)
            return {str(name): _convert(item, one, where, f"{key}.{name}") for name, one in value.items()}
    else:
        raise AssertionError(f"{where}: {key} has a type {hint} that config.py does not know")
    raise BadConfig(f"{where}: {key} is {value!r:.80}, expected {_describe(hint)}; fix: set {key} to such a value")


def _convert_union(hint: Any, value: Any, where: str, key: str) -> Any:
    choices = get_args(hint)
    if value is None and types.NoneType in choices:
        return None
    rest = [choice for choice in choices if choice is not types.NoneType]
    if len(rest) == 1:  # an optional value: its own message is the clearest
        return _convert(rest[0], value, where, key)
    exact = [choice for choice in rest if choice is type(value)]
    for choice in exact + rest:
        try:
            return _convert(choice, value, where, key)
        except BadConfig:
            continue
    raise BadConfig(f"{where}: {key} is {value!r:.80}, expected {_describe(hint)}; fix: set {key} to such a value")


def _convert_tuple(hint: Any, value: Any, where: str, key: str) -> tuple[Any, ...]:
    items = get_args(hint)
    if not items:
        return tuple(value)
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_convert(items[0], one, where, f"{key}[{i}]") for i, one in enumerate(value))
    if len(items) != len(value):
        raise BadConfig(f"{where}: {key} is {list(value)!r:.80}, expected {len(items)} values; fix: set {key} to such a list")
    return tuple(_convert(item, one, where, f"{key}[{i}]") for i, (item, one) in enumerate(zip(items, value, strict=True)))


def _describe(hint: Any) -> str:
    """A type as a user says it."""
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
        list: "a list",
        tuple: "a list",
        dict: "a group of keys",
        types.NoneType: "null",
    }
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_describe(choice) for choice in get_args(hint))
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    return words.get(get_origin(hint) or hint) or getattr(hint, "__name__", str(hint))


def _dotless(prefix: str) -> str:
    return prefix.removesuffix(".") or "the config"


def first_line(error: BaseException) -> str:
    """The message of a library's error as one line: the first line that says something, without the config dump below it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
