"""A field of ours that has a value of another type, or that does not exist, is named in one line.

fairseq merges a config with the dataclass of what it builds, of a task before the task exists, and lets a traceback of
omegaconf out, in which a number too large names no field. So its merging is wrapped when our tasks are registered, for
our dataclasses alone.
"""

import dataclasses
import difflib
import functools
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin, get_type_hints

import fairseq.dataclass.utils
import fairseq.models
import fairseq.registry
import fairseq.tasks
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mae_ast_fairseq.checkpoints.fields import short, shown
from mae_ast_fairseq.tasks.resume import plain
from mae_ast_fairseq.training_error import TrainingError

PACKAGE = __name__.partition(".")[0]
SECTIONS = {"tasks": "task", "models": "model", "criterions": "criterion", "optim": "optimizer"}
"""The section of the config that the dataclasses of a room describe."""

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    list: "a list of texts",
    types.NoneType: "null",
}
_MISFITS = (OmegaConfBaseException, ArithmeticError, ValueError, TypeError)


def install() -> None:
    """Wrap fairseq's merging wherever it was imported to, once."""
    for module in (fairseq.dataclass.utils, fairseq.tasks, fairseq.models, fairseq.registry):
        if not hasattr(module.merge_with_parent, "__wrapped__"):
            module.merge_with_parent = _naming_fields(module.merge_with_parent)


def settle_model_types(cfg: Any) -> None:
    """Turn the values of a model's config, in place, into those of its fields' types, as fairseq does when building it.

    Raises TrainingError where that cannot be.
    """
    if kind := fairseq.models.MODEL_DATACLASS_REGISTRY.get(cfg.get("_name")):
        settled = fairseq.models.merge_with_parent(kind(), cfg)
        cfg.update({name: settled[name] for name in cfg})


def _naming_fields(merge: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(merge)
    def merge_with_parent(fields: Any, cfg: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return merge(fields, cfg, *args, **kwargs)
        except _MISFITS as error:
            kind = fields if isinstance(fields, type) else type(fields)
            package, *rooms = kind.__module__.split(".")
            if package != PACKAGE or rooms[0] not in SECTIONS:
                raise
            raise TrainingError(_misfit(SECTIONS[rooms[0]], kind, cfg, error)) from None

    return merge_with_parent


def _misfit(section: str, kind: type, cfg: Any, error: Exception) -> str:
    """Say which field does not fit: what was found, and what is expected."""
    for name, value in {str(name): value for name, value in cfg.items_ex(resolve=False)}.items():
        try:
            OmegaConf.merge(kind, {name: value})
        except _MISFITS:
            names = [each.name for each in dataclasses.fields(kind)]
            if name in names:
                expected = _expected(get_type_hints(kind)[name])
                return f"{section}.{name}: {shown(plain(value))} was given; expected {expected}"
            similar = difflib.get_close_matches(name, names, n=1)
            remedy = f"did you mean {section}.{similar[0]}?" if similar else "docs/fields.md lists them"
            return f"{section}.{short(name)}: there is no such field; expected one of {cfg.get('_name')}; {remedy}"
    return (
        f"{section}: its fields cannot be read ({short(str(error).splitlines()[0])}); expected those of docs/fields.md"
    )


def _expected(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_expected(each) for each in get_args(kind))
    return _WORDS.get(get_origin(kind) or kind, "another type")
