"""How a person's mistake leaves fairseq-hydra-train: as one line, without a traceback."""

import functools
import inspect
from collections.abc import Callable
from typing import TypeVar

from hydra.errors import CompactHydraException

from mae_ast_fairseq.errors import UserError

Result = TypeVar("Result")


class TrainingError(UserError, CompactHydraException):
    """A person's mistake, of which hydra prints the message and no traceback."""


def without_traceback(function: Callable[..., Result]) -> Callable[..., Result]:
    """Let a UserError out of `function` as a TrainingError."""

    @functools.wraps(function)
    def wrapped(*args: object, **kwargs: object) -> Result:
        try:
            return function(*args, **kwargs)
        except TrainingError:
            raise
        except UserError as error:
            raise TrainingError(str(error)) from error

    # fairseq asks with getfullargspec, which does not look through a wrapper by itself, for `from_checkpoint`.
    wrapped.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return wrapped
