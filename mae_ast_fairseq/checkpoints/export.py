"""Writes checkpoints for others: the released layout, for fairseq and for s3prl, and safetensors.

Files hold tensors and plain values only, so they open with `weights_only=True` where neither fairseq nor this package
is installed.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from mae_ast_fairseq.checkpoints.fields import refuse
from mae_ast_fairseq.checkpoints.read import Checkpoint
from mae_ast_fairseq.checkpoints.released import ReleasedModelFields, ReleasedTaskFields, computed_tables
from mae_ast_fairseq.checkpoints.unpickling import as_safetensors
from mae_ast_fairseq.checkpoints.version import own_state
from mae_ast_fairseq.config.pretraining import MaeAstFields
from mae_ast_fairseq.files import atomic_write

S3PRL_BANDS = 128

_OF_OURS_ONLY = ("normalization", "decoder_type", "decoder_ffn_embed_dim", "decoder_attention_heads", "head_init_scale")
_EXPORT_SAFETENSORS = "export it with --to safetensors"


class Exported(NamedTuple):
    """What was written."""

    num_tensors: int
    num_parameters: int
    """values in the model's weights, without position tables and what else the layout asks for"""
    num_bytes: int


def export(checkpoint: Checkpoint, layout: str, out: Path) -> Exported:
    """Write a checkpoint in one of LAYOUTS; the file takes its place only when it is whole.

    Raises CheckpointError where the layout cannot express the model, and OSError where the file cannot be written.
    """
    content = LAYOUTS[layout](checkpoint)
    buffer = io.BytesIO()
    if layout == "safetensors":
        buffer.write(as_safetensors(content))
    else:
        torch.save(content, buffer)
    with atomic_write(out) as stream:
        stream.write(buffer.getbuffer())
    return Exported(
        num_tensors=len(content["model"]),
        num_parameters=sum(tensor.numel() for tensor in checkpoint.state.values()),
        num_bytes=buffer.tell(),
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


def _released(checkpoint: Checkpoint) -> dict[str, Any]:
    """The whole layout of fairseq: what its loaders look for stands in the file, without the optimiser's state."""
    parts = _released_parts(checkpoint)
    history = {
        "criterion_name": "MAE_AST_Criterion",
        "optimizer_name": "FairseqAdam",
        "lr_scheduler_state": {},
        "num_updates": checkpoint.num_updates or 0,
    }
    return {
        "args": None,
        "cfg": {"common": {}, **checkpoint.released.cfg, **parts["cfg"]},
        "model": parts["model"],
        "criterion": None,
        "optimizer_history": [history],
        "task_state": own_state(),
        "extra_state": {"train_iterator": {"epoch": 1}},
        "last_optimizer_state": None,
    }


def _s3prl(checkpoint: Checkpoint) -> dict[str, Any]:
    """The same without what only fairseq reads."""
    if checkpoint.feature_dim != S3PRL_BANDS:
        found = f"cfg.task.feature_dim is {checkpoint.feature_dim}"
        refuse(checkpoint.path, found, f"{S3PRL_BANDS}, the log-Mel bands that s3prl computes", _EXPORT_SAFETENSORS)
    return {**_released_parts(checkpoint), "task_state": own_state()}


def _safetensors(checkpoint: Checkpoint) -> dict[str, Any]:
    """The weights and the config; of released files also what was set aside."""
    tensors, cfg = checkpoint.released
    model = {"_name": checkpoint.kind, **vars(checkpoint.model), **cfg["model"]}
    task = {**cfg["task"], "feature_dim": checkpoint.feature_dim, "mask_type": checkpoint.mask_type}
    return {
        "cfg": {**cfg, "model": model, "task": task},
        "task_state": own_state(),
        "optimizer_history": [] if checkpoint.num_updates is None else [{"num_updates": checkpoint.num_updates}],
        "model": {**checkpoint.state, **tensors},
    }


LAYOUTS: dict[str, Callable[[Checkpoint], dict[str, Any]]] = {
    "released": _released,
    "s3prl": _s3prl,
    "safetensors": _safetensors,
}
"""What a file of a layout holds, in that of a fairseq checkpoint."""


def _released_parts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return config and weights of a released file: the model's, and what was set aside or the constants."""
    _check_expressible(checkpoint)
    fields, (tensors, cfg) = cast(MaeAstFields, checkpoint.model), checkpoint.released
    own = {name: value for name, value in vars(fields).items() if name not in _OF_OURS_ONLY}
    model = {"_name": "mae_ast", **own, **vars(ReleasedModelFields()), "checkpoint_activations": False, **cfg["model"]}
    task = {"_name": "mae_ast_pretraining", **vars(ReleasedTaskFields()), **cfg["task"]}
    task.update(feature_dim=checkpoint.feature_dim, mask_type=checkpoint.mask_type)
    constants = {
        "encoder_mask_emb": torch.zeros(fields.encoder_embed_dim),
        "layer_norm.weight": torch.ones(checkpoint.feature_dim),
        "layer_norm.bias": torch.zeros(checkpoint.feature_dim),
    }
    state = {**constants, **computed_tables(fields), **tensors, **checkpoint.state}
    return {"cfg": {"model": model, "task": task}, "model": {key: value.detach() for key, value in state.items()}}


def _check_expressible(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for the first field whose value the released layout has no place for."""
    fields = {"_name": checkpoint.kind, **vars(checkpoint.model)}
    choices: dict[str, tuple[Any, ...]] = {
        "_name": ("mae_ast",),
        "normalization": ("dataset", "batch"),  # whose statistics are in the weights
        "decoder_type": ("transformer",),
        "decoder_ffn_embed_dim": (0, fields["encoder_ffn_embed_dim"]),
        "decoder_attention_heads": (0, fields["encoder_attention_heads"]),
    }
    if not checkpoint.released.tensors:  # positions are among the layout's weights
        choices |= {"enc_sine_pos": (True,), "dec_sine_pos": (True,)}
    for name, values in choices.items():
        if fields[name] not in values:
            found = f"cfg.model.{name} is {fields[name]!r}, which the layouts released and s3prl cannot express"
            refuse(checkpoint.path, found, " or ".join(map(str, values)), _EXPORT_SAFETENSORS)
