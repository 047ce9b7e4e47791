"""MAE-AST, the Masked Autoencoding Audio Spectrogram Transformer, as a fairseq plugin.

Where the package and fairseq are both imported, in whichever order, its tasks, models and criterions are registered.
The package alone imports neither fairseq nor torch, which takes seconds.
"""

import logging
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Optional

__version__ = "0.1.0"


def register() -> None:
    """Register tasks, models and criterions with fairseq; the error of a missing or broken fairseq is passed on."""
    from mae_ast_fairseq import criterions, models, optim, tasks  # noqa: F401


class _RegisterAfterFairseq(MetaPathFinder):
    """Finds fairseq as the other finders do, and registers when it has been imported."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Optional[ModuleSpec]:
        if fullname != "fairseq":
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is not None and spec.loader is not None:
            execute = partial(_execute_and_register, spec.loader.exec_module)
            spec.loader.exec_module = execute  # type: ignore[method-assign]
        return spec


def _execute_and_register(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Import fairseq without its remarks, undo what it does to the root logger (`basicConfig`), and register."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    level, handlers = root.level, root.handlers.copy()
    logging.disable(max(disabled, logging.INFO))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            execute(module)
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers
    register()


def __getattr__(name: str) -> Any:
    """Import `load_pretrained` when it is first asked for: torch takes seconds too."""
    if name == "load_pretrained":
        from mae_ast_fairseq.inference.encoder import load_pretrained

        return load_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if sys.modules.get("fairseq") is not None:  # as where fairseq imports the package as its user_dir
    register()
else:
    sys.meta_path.insert(0, _RegisterAfterFairseq())
