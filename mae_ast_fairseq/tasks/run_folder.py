"""The folder of a run's checkpoints at the launch: locked, and with a last checkpoint that can be read."""

from pathlib import Path

import torch

from mae_ast_fairseq.checkpoints.unpickling import damage
from mae_ast_fairseq.errors import CheckpointError, ConfigError, get_logger
from mae_ast_fairseq.files import lock
from mae_ast_fairseq.tasks.distributed import partners_needed
from mae_ast_fairseq.tasks.launch import is_first_process

logger = get_logger(__name__)

LAST_CHECKPOINT = "checkpoint_last.pt"
"""The default of `checkpoint.restore_file`, which need not exist."""
DAMAGED = ".damaged"
LOCK = ".lock"


def goes_on_from_its_own(save_dir: str | None, restore_file: str) -> bool:
    """Tell whether a run that started from another folder's file has a last checkpoint by now, which then counts.

    Else the same command, as Slurm gives it again, would throw away what it has done. A file of its own folder, to
    which a person goes back, counts always.
    """
    last = Path(save_dir or ".", LAST_CHECKPOINT)
    return last.is_file() and Path(restore_file).resolve().parent != last.parent.resolve()


@partners_needed()
def prepare_run_folder(folder: Path, *, needs_last: bool = True, keeps_last: bool = True) -> None:
    """Lock the folder, and put the newest intact checkpoint in the place of a damaged or missing last one.

    The first process does it, for which the others wait. Raises ConfigError where another run is in the folder or the
    run would write over its own checkpoints, and CheckpointError where there are checkpoints and none is intact.

    Args:
        needs_last: whether the run would go on from the last one, and so begin anew where it is missing.
        keeps_last: whether the run writes a last one.
    """
    if is_first_process() and folder.is_dir():
        lock(folder / LOCK)
        for left_by_killed in folder.glob(".checkpoint*.pt.*.tmp"):
            left_by_killed.unlink(missing_ok=True)
        last = folder / LAST_CHECKPOINT
        if needs_last and not keeps_last and not last.exists() and any(folder.glob("checkpoint*.pt")):
            raise ConfigError(
                f"checkpoint.no_last_checkpoints: true was given, and {folder} has checkpoints, none of which is "
                f"{LAST_CHECKPOINT}; expected an empty folder, or the one to go on from; name it by "
                "checkpoint.restore_file, or another folder by hydra.run.dir"
            )
        if needs_last or last.exists():
            _replace_damaged(last)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _replace_damaged(last: Path) -> None:
    siblings = sorted(last.parent.glob("checkpoint*.pt"), key=_modified, reverse=True)
    fault = damage(last) if last.exists() else "the file is gone"
    if fault is None or not siblings:
        return
    intact = next((path for path in siblings if path != last and damage(path) is None), None)
    if intact is None:
        raise CheckpointError(
            f"{last}: {fault}; expected a whole checkpoint, and no other one in its folder is intact; remove them to "
            "begin anew, or name one by checkpoint.restore_file"
        )
    kept = ""
    if last.exists():
        last.rename(last.with_name(last.name + DAMAGED))
        kept = f", and keeping it as {last.name}{DAMAGED}"
    temporary = last.with_name(f".{last.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(intact.name)  # until the run writes its next one
    temporary.replace(last)
    logger.warning("%s: %s; going on from %s%s", last, fault, intact, kept)


def _modified(path: Path) -> float:
    """Return when a file was written; of a link to one that is gone, when the link was."""
    return path.lstat().st_mtime
