"""Where fairseq-hydra-train meets a person: relative paths and errors."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.utils import get_original_cwd

from mae_ast_fairseq.errors import UserError

Result = TypeVar("Result")


class TrainingError(UserError, CompactHydraException):
    """A person's mistake, of which hydra prints the message and no traceback."""


def plain_errors(function: Callable[..., Result]) -> Callable[..., Result]:
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


def data_folder(data: str) -> Path:
    """Return `task.data` as an absolute path; a relative one counts from where the command was started."""
    start = get_original_cwd() if HydraConfig.initialized() else "."
    return Path(start, data).absolute()
