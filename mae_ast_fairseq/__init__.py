"""MAE-AST, the Masked Autoencoding Audio Spectrogram Transformer, as a fairseq plugin.

Where fairseq is installed, importing the package registers its tasks, models and criterions. Our own command does
without it until it needs it, since importing fairseq takes seconds.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

OWN_COMMAND = "mae-ast"


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


def __getattr__(name: str) -> Any:
    """Import `load_pretrained` when it is first asked for: torch takes seconds too."""
    if name == "load_pretrained":
        from mae_ast_fairseq.inference.encoder import load_pretrained

        return load_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if find_spec("fairseq") is not None and Path((sys.argv or [""])[0]).name != OWN_COMMAND:
    register()
