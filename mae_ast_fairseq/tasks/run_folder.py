"""The folder of a run's checkpoints at the launch: locked, and with a last checkpoint that can be read."""

from pathlib import Path

import torch

from mae_ast_fairseq.checkpoints.unpickling import damage
from mae_ast_fairseq.errors import CheckpointError, get_logger
from mae_ast_fairseq.files import lock
from mae_ast_fairseq.tasks.launch import is_first_process

logger = get_logger(__name__)

LAST = "checkpoint_last.pt"
DAMAGED = ".damaged"
LOCK = ".lock"


def prepare_run_folder(folder: Path) -> None:
    """Lock the folder, and put the newest intact checkpoint in the place of a damaged last one.

    The first process does it, for which the others wait. Raises ConfigError where another run is in the folder, and
    CheckpointError where no checkpoint is intact.
    """
    if is_first_process() and folder.is_dir():
        lock(folder / LOCK)
        _replace_damaged(folder / LAST)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _replace_damaged(last: Path) -> None:
    fault = damage(last) if last.exists() else None
    if fault is None:
        return
    siblings = sorted(last.parent.glob("checkpoint*.pt"), key=lambda path: path.stat().st_mtime, reverse=True)
    intact = next((path for path in siblings if path != last and damage(path) is None), None)
    if intact is None:
        raise CheckpointError(
            f"{last}: {fault}; expected a whole checkpoint, and no other one in its folder is intact; remove it to "
            "begin anew, or name one by checkpoint.restore_file"
        )
    last.rename(last.with_name(last.name + DAMAGED))
    temporary = last.with_name(f".{last.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(intact.name)  # until the run writes its next one
    temporary.replace(last)
    logger.warning("%s: %s; going on from %s, and keeping it as %s", last, fault, intact, last.name + DAMAGED)
