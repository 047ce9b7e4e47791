"""Writes checkpoints for others: the released layout, for fairseq and for s3prl, and safetensors.

Files hold tensors and plain values only, so they open with `weights_only=True` where neither fairseq nor this package
is installed.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from mae_ast_fairseq.checkpoints.fields import refuse
from mae_ast_fairseq.checkpoints.read import AUTOENCODER, Checkpoint
from mae_ast_fairseq.checkpoints.released import inexpressible, released_cfg, released_state
from mae_ast_fairseq.checkpoints.unpickling import as_safetensors
from mae_ast_fairseq.config.pretraining import MaeAstFields
from mae_ast_fairseq.files import atomic_write

S3PRL_BANDS = 128

_EXPORT_SAFETENSORS = "export it with --to safetensors"


class Exported(NamedTuple):
    """What was written."""

    num_tensors: int
    num_parameters: int
    """values in the model's weights, without position tables and what else the layout asks for"""
    num_bytes: int


class _File(NamedTuple):
    state: dict[str, Tensor]
    content: bytes | memoryview


def export(checkpoint: Checkpoint, layout: str, out: Path) -> Exported:
    """Write a checkpoint in one of LAYOUTS; the file takes its place only when it is whole.

    Raises CheckpointError where the layout cannot express the model, and OSError where the file cannot be written.
    """
    file = LAYOUTS[layout](checkpoint)
    with atomic_write(out) as stream:
        stream.write(file.content)
    return Exported(
        num_tensors=len(file.state),
        num_parameters=sum(tensor.numel() for tensor in checkpoint.state.values()),
        num_bytes=len(file.content),
    )


def in_precision(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    """Return a checkpoint whose weights are of another precision; the input's statistics stay as they are."""
    state = {
        key: tensor.to(dtype) if tensor.is_floating_point() and not key.startswith("batch_norm.") else tensor
        for key, tensor in checkpoint.state.items()
    }
    if not all(torch.isfinite(tensor).all() for tensor in state.values()):
        refuse(checkpoint.path, f"weights are too large for {dtype}", "finite ones", "export it with bfloat16")
    return checkpoint._replace(state=state)


def _released(checkpoint: Checkpoint) -> _File:
    """The whole layout of fairseq: what its loaders look for stands in the file, without the optimiser's state."""
    cfg, state = _released_parts(checkpoint, "released")
    sections = {} if checkpoint.released is None else checkpoint.released.sections
    content = {
        "args": None,
        "cfg": {"common": {}, **sections, **cfg},
        "model": state,
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "MAE_AST_Criterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {},
                "num_updates": checkpoint.num_updates or 0,
            }
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1}},
        "last_optimizer_state": None,
    }
    return _File(state, _pickled(content))


def _s3prl(checkpoint: Checkpoint) -> _File:
    """The same without what only fairseq reads."""
    if checkpoint.feature_dim != S3PRL_BANDS:
        found = f"cfg.task.feature_dim is {checkpoint.feature_dim}"
        refuse(checkpoint.path, found, f"{S3PRL_BANDS}, the log-Mel bands that s3prl computes", _EXPORT_SAFETENSORS)
    cfg, state = _released_parts(checkpoint, "s3prl")
    return _File(state, _pickled({"cfg": cfg, "model": state}))


def _safetensors(checkpoint: Checkpoint) -> _File:
    """The weights and, as JSON, the config; of released files also what was set aside."""
    cfg: dict[str, Any] = {
        "model": {"_name": checkpoint.kind, **vars(checkpoint.model)},
        "task": {"feature_dim": checkpoint.feature_dim, "mask_type": checkpoint.mask_type},
    }
    state = dict(checkpoint.state)
    if checkpoint.released is not None:
        cfg["model"].update(checkpoint.released.model_fields)
        cfg = {**checkpoint.released.sections, **cfg, "task": {**checkpoint.released.task_fields, **cfg["task"]}}
        state |= checkpoint.released.tensors
    history = [] if checkpoint.num_updates is None else [{"num_updates": checkpoint.num_updates}]
    return _File(state, as_safetensors(state, {"cfg": cfg, "optimizer_history": history}))


LAYOUTS: dict[str, Callable[[Checkpoint], _File]] = {
    "released": _released,
    "s3prl": _s3prl,
    "safetensors": _safetensors,
}


def _released_parts(checkpoint: Checkpoint, layout: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if checkpoint.kind != AUTOENCODER:
        found = f"cfg.model._name is {checkpoint.kind!r}, which the {layout} layout cannot express"
        refuse(checkpoint.path, found, AUTOENCODER, _EXPORT_SAFETENSORS)
    fields = cast(MaeAstFields, checkpoint.model)
    if fault := inexpressible(fields, checkpoint.released):
        found = f"cfg.model.{fault.field} is {fault.found}, which the {layout} layout cannot express"
        refuse(checkpoint.path, found, fault.expected, _EXPORT_SAFETENSORS)
    cfg = released_cfg(fields, checkpoint.feature_dim, checkpoint.mask_type, checkpoint.released)
    state = released_state(fields, checkpoint.feature_dim, checkpoint.state, checkpoint.released)
    return cfg, {key: tensor.detach() for key, tensor in state.items()}


def _pickled(content: dict[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()
