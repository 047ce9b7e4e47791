"""MAE-AST, the Masked Autoencoding Audio Spectrogram Transformer, as a fairseq plugin.

Where the package and fairseq are both imported, in whichever order, its tasks, models and criterions are registered.
The package alone imports neither fairseq nor torch, which takes seconds.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"


def register() -> None:
    """Register tasks, models and criterions with fairseq; the error of a missing or broken fairseq is passed on."""
    import torch.serialization
    from fairseq.distributed.utils import _TensorPlaceholder

    from mae_ast_fairseq.criterions import classification as _classification  # noqa: F401
    from mae_ast_fairseq.criterions import pretraining as _criterion  # noqa: F401
    from mae_ast_fairseq.models import mae_ast as _model  # noqa: F401
    from mae_ast_fairseq.models import mae_ast_classifier as _classifier  # noqa: F401
    from mae_ast_fairseq.models import ssast as _ssast  # noqa: F401
    from mae_ast_fairseq.optim import fused_adam as _optimizer  # noqa: F401
    from mae_ast_fairseq.tasks import classification as _finetuning  # noqa: F401
    from mae_ast_fairseq.tasks import pretraining as _task  # noqa: F401

    # fairseq sends a checkpoint to the other processes with this class in it, which torch >= 2.6 else refuses to load.
    torch.serialization.add_safe_globals([_TensorPlaceholder])


class _RegisterAfterFairseq(MetaPathFinder):
    """Finds fairseq as the other finders do, and registers when it has been imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "fairseq":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                with _log_settings_kept():
                    execute(module)
                register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


@contextmanager
def _log_settings_kept() -> Iterator[None]:
    """Undo what fairseq's import does to the root logger (`basicConfig`), and keep its remarks to itself."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    level, handlers = root.level, root.handlers.copy()
    logging.disable(max(disabled, logging.INFO))
    try:
        yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers


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
