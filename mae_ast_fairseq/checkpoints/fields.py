"""The config in a checkpoint: each field of its declared type, nothing in it evaluated or interpolated."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from mae_ast_fairseq.errors import CheckpointError, listed

MAX_SHOWN = 3  # names in a message
MAX_INT = 2**63 - 1  # that torch can hold
MAX_CHARACTERS = 100  # of a name or value in a message
OF_TRAINING = "take a file that fairseq's training or `mae-ast export` wrote"


def refuse(path: Path, found: str, expected: str, remedy: str = OF_TRAINING) -> NoReturn:
    """Raise CheckpointError: what was found in a file, what is expected, and how to fix it."""
    raise CheckpointError(f"{path}: {found}; expected {expected}; {remedy}")


def section(path: Path, values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the mapping in `values` that a full key such as `cfg.model` ends with."""
    value = values.get(key.rpartition(".")[2])
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return value
    found = "missing" if value is None else type(value).__name__
    refuse(path, f"{key} is {found}", "a mapping of names: a checkpoint has cfg (model, task) and model (weights)")


def check_fields(path: Path, key: str, values: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a field is interpolated or of another type than `types` says, if it says one."""
    for name, value in values.items():
        found, kind = f"{key}.{short(name)} is {shown(value)}", types.get(name, Any)
        if is_interpolated(value):
            refuse(path, found, "a value", "interpolations are not resolved: write the value")
        if not _is_of(kind, value):
            refuse(path, found, _name(kind))


def select_fields(values: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the checked `values` that `types` names; a whole number will do for a fraction."""
    found = {name: values[name] for name in types if name in values}
    return {name: float(value) if types[name] is float else value for name, value in found.items()}


def is_plain(value: Any) -> bool:
    """Return whether a value is made of None, text, numbers, lists and mappings alone, as JSON has them."""
    return all(type(leaf) in (NoneType, str, bool, int, float) for leaf in _leaves(value))


def is_interpolated(value: Any) -> bool:
    """Return whether a text in `value`, however deep, asks omegaconf to look something up."""
    return any(isinstance(leaf, str) and "${" in leaf for leaf in _leaves(value))


def shown(value: Any) -> str:
    """Return a value for a message, in one short line."""
    plain = (str, int, float, NoneType)
    is_shown = isinstance(value, plain) or (type(value) is list and all(isinstance(item, plain) for item in value))
    return short(repr(value)) if is_shown else type(value).__name__


def short(text: str) -> str:
    """Return a text in one line of at most MAX_CHARACTERS and three dots."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "..."


def first_fields(names: Collection[str]) -> str:
    """Return the first of some names in order, and how many there are more."""
    return listed([short(name) for name in sorted(names)], MAX_SHOWN)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what stands in nested lists and mappings; of a mapping with other keys than text, itself."""
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _is_of(kind: Any, value: Any) -> bool:
    if kind is Any:
        return is_plain(value)
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if get_origin(kind) is Union:
        return any(_is_of(choice, value) for choice in get_args(kind))
    if get_origin(kind) is list:
        return type(value) is list and all(_is_of(get_args(kind)[0], item) for item in value)
    if type(value) is int:  # not isinstance: True is an int too
        return kind in (int, float) and abs(value) <= MAX_INT
    return type(value) is kind


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"{get_args(kind)[0]!r}, the only one that is built here"
    names = {int: "int of 64 bits", Any: "plain values"}
    return names.get(kind) or (kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", ""))
