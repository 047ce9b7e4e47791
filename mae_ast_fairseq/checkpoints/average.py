"""The mean of the weights of several checkpoints of one run, as AST and SSAST report it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_ast_fairseq.checkpoints.fields import refuse, shown
from mae_ast_fairseq.checkpoints.read import Checkpoint, read_checkpoint
from mae_ast_fairseq.checkpoints.unpickling import read_content
from mae_ast_fairseq.config.continuing import network
from mae_ast_fairseq.files import atomic_write


def average_checkpoints(paths: Sequence[Path], out: Path, ignore_unknown: Collection[str] = ()) -> Checkpoint:
    """Write the mean of the weights of some checkpoints, with all else from the last of them; return that one.

    ignore_unknown: as in `read_checkpoint`.

    Raises CheckpointError where a file cannot be read or is of another model than the first.
    """
    total: dict[str, Tensor] = {}
    first = last = read_checkpoint(paths[0], ignore_unknown)
    for path in paths:
        last = first if path is paths[0] else read_checkpoint(path, ignore_unknown)
        if _network(last) != _network(first):
            found = f"its model is another than that of {first.path} ({_differing(last, first)})"
            refuse(path, found, "checkpoints of one run, which alone have a mean", "leave it out")
        for name, value in last.state.items():
            if value.is_floating_point():
                total[name] = total.get(name, 0) + value.double()
    mean = {name: (value / len(paths)).to(last.state[name].dtype) for name, value in total.items()}
    content = dict(read_content(paths[-1]))
    content.pop("last_optimizer_state", None)  # of no use with a mean
    with atomic_write(out) as stream:
        torch.save({**content, "model": {**content["model"], **mean}}, stream)  # what was set aside too
    return last


def _network(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"_name": checkpoint.kind, "feature_dim": checkpoint.feature_dim, **network(checkpoint.model)}


def _differing(checkpoint: Checkpoint, first: Checkpoint) -> str:
    """Name the first field in which two networks differ, with its values."""
    values, others = _network(checkpoint), _network(first)
    name = next(name for name in {**values, **others} if values.get(name) != others.get(name))
    return f"{name} is {shown(values.get(name))}, not {shown(others.get(name))}"
