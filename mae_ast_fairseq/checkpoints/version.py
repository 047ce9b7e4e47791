"""The version of what stands in our checkpoints, kept where fairseq keeps a task's state.

Version 1 began to be written with the clips that a run was trained and validated on; files without a version are older.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_ast_fairseq.checkpoints.fields import refuse, shown

FORMAT = 1
"""The version that is written, and the newest that is read."""

KEY = "mae_ast_fairseq"
"""Of `task_state`: a mapping with `format`, and in a checkpoint of training `clips` and `patience`."""


def own_state(**more: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands in `task_state` of a file of ours."""
    return {KEY: {"format": FORMAT, **more}}


def read_state(path: Path, task_state: Any) -> Mapping[str, Any]:
    """Return what we wrote into a file's `task_state`, nothing where it has none.

    Raises CheckpointError where a later version of the package wrote it.
    """
    state = task_state.get(KEY) if isinstance(task_state, Mapping) else None
    if not isinstance(state, Mapping):
        return {}
    version = state.get("format", 0)
    if type(version) is not int or version > FORMAT:
        found = f"its format is {shown(version)}, of a later version of mae_ast_fairseq"
        refuse(path, found, f"at most {FORMAT}", "update the package")
    return state
