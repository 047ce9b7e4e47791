"""Fields of a config that a file holds: each of its declared type, nothing in them evaluated or interpolated."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, Union, get_args, get_origin

from mae_ast_fairseq.errors import CheckpointError

MAX_SHOWN = 3  # fields or keys named in a message
MAX_INT = 2**63 - 1  # that torch can hold
MAX_VALUE_CHARACTERS = 60  # of a value shown in a message
OF_TRAINING = "take a file that fairseq's training or `mae-ast export` wrote"


def refuse(path: Path, found: str, expected: str, remedy: str = OF_TRAINING) -> NoReturn:
    """Raise CheckpointError: what was found in a file, what is expected, and how to mend it."""
    raise CheckpointError(f"{path}: {found}; expected {expected}; {remedy}")


def mapping(path: Path, value: Any, key: str) -> Mapping[str, Any]:
    """Return `value` where it is a mapping with text for keys; `key` is '' for the file's whole content."""
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return value
    what = f"{key} is" if key else "it holds"
    refuse(path, f"{what} {type(value).__name__}", "a mapping of names")


def entry(path: Path, values: Mapping[str, Any], key: str) -> Any:
    """Return the entry of `values` that a full key such as `cfg.model` ends with."""
    name = key.rpartition(".")[2]
    if name in values:
        return values[name]
    refuse(path, f"{key} is missing", "the layout of fairseq: cfg (model, task) and model (weights)")


def check_fields(path: Path, key: str, values: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a field is unknown to `types`, interpolated, or of another type than it says."""
    for name, value in values.items():
        field = f"{key}.{short(name)}"
        if is_interpolated(value):
            refuse(path, f"{field} is {shown(value)}", "a value", "interpolations are not resolved: write the value")
        if name not in types:
            found = f"{field} is no field that is known here, with the value {shown(value)}"
            refuse(path, found, "the fields of this version", "take a newer mae_ast_fairseq, or leave the field out")
        if not _is_of(types[name], value):
            refuse(path, f"{field} is {shown(value)}", _name(types[name]))


def taken(values: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the checked `values` that `types` names; a whole number will do for a fraction."""
    found = {name: values[name] for name in types if name in values}
    return {name: float(value) if types[name] is float else value for name, value in found.items()}


def is_plain(value: Any) -> bool:
    """Tell whether a value is made of None, text, numbers, lists and mappings alone, as JSON has them."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and is_plain(item) for name, item in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return type(value) in (NoneType, str, bool, int, float)


def is_interpolated(value: Any) -> bool:
    """Tell whether a text in `value`, however deep, asks omegaconf to look something up."""
    if isinstance(value, Mapping):
        return any(map(is_interpolated, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(is_interpolated, value))
    return isinstance(value, str) and "${" in value


def shown(value: Any) -> str:
    """Return a value for a message, in one short line."""
    return short(repr(value)) if isinstance(value, (str, int, float, NoneType)) else type(value).__name__


def short(text: str) -> str:
    """Return a text in one line of at most MAX_VALUE_CHARACTERS and three dots."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "..."


def listed(names: Collection[str]) -> str:
    """Return the first of some names in order, and how many there are more."""
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(sorted(names)[:MAX_SHOWN]) + more


def _is_of(kind: Any, value: Any) -> bool:
    if kind is Any:
        return is_plain(value)
    if get_origin(kind) is Union:
        return any(_is_of(choice, value) for choice in get_args(kind))
    if get_origin(kind) is list:
        return type(value) is list and all(_is_of(get_args(kind)[0], item) for item in value)
    if type(value) is int:  # not isinstance: True is an int too
        return kind in (int, float) and abs(value) <= MAX_INT
    return type(value) is kind


def _name(kind: Any) -> str:
    if get_origin(kind) is Union:
        return " or ".join(map(_name, get_args(kind)))
    if get_origin(kind) is list:
        return f"a list of {_name(get_args(kind)[0])}"
    if kind is Any:
        return "plain values"
    return "None" if kind is NoneType else "int of 64 bits" if kind is int else kind.__name__
