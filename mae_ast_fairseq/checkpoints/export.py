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
from mae_ast_fairseq.checkpoints.released import ReleasedModelFields, ReleasedTaskFields, computed_tables, tensor_shapes
from mae_ast_fairseq.checkpoints.unpickling import as_safetensors
from mae_ast_fairseq.config.pretraining import MaeAstFields, PretrainingTaskFields
from mae_ast_fairseq.files import atomic_write

S3PRL_BANDS = 128

_OF_OURS_ONLY = ("normalization", "decoder_type", "decoder_ffn_embed_dim", "decoder_attention_heads", "head_init_scale")
_TASK_FIELDS = (
    *("sample_rate", "normalize", "max_keep_size", "max_sample_size", "min_sample_size"),
    *("random_crop", "pad_audio"),
)
"""Those of our task's fields that a released file has, besides `feature_dim` and `mask_type`."""

_EXPORT_SAFETENSORS = "export it with --to safetensors"

_File = tuple[dict[str, Tensor], bytes | memoryview]
"""The tensors that were written, and the file that holds them and all else."""


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
    state, content = LAYOUTS[layout](checkpoint)
    with atomic_write(out) as stream:
        stream.write(content)
    return Exported(
        num_tensors=len(state),
        num_parameters=sum(tensor.numel() for tensor in checkpoint.state.values()),
        num_bytes=len(content),
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
    _check_expressible(checkpoint, "released")
    state = _released_state(checkpoint)
    content = {
        "args": None,
        "cfg": {"common": {}, **checkpoint.released.sections, **_released_cfg(checkpoint)},
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
    return state, _pickled(content)


def _s3prl(checkpoint: Checkpoint) -> _File:
    """The same without what only fairseq reads."""
    if checkpoint.feature_dim != S3PRL_BANDS:
        found = f"cfg.task.feature_dim is {checkpoint.feature_dim}"
        refuse(checkpoint.path, found, f"{S3PRL_BANDS}, the log-Mel bands that s3prl computes", _EXPORT_SAFETENSORS)
    _check_expressible(checkpoint, "s3prl")
    state = _released_state(checkpoint)
    return state, _pickled({"cfg": _released_cfg(checkpoint), "model": state})


def _safetensors(checkpoint: Checkpoint) -> _File:
    """The weights and, as JSON, the config; of released files also what was set aside."""
    tensors, model_fields, task_fields, sections = checkpoint.released
    task = {**task_fields, "feature_dim": checkpoint.feature_dim, "mask_type": checkpoint.mask_type}
    model = {"_name": checkpoint.kind, **vars(checkpoint.model), **model_fields}
    state = {**checkpoint.state, **tensors}
    history = [] if checkpoint.num_updates is None else [{"num_updates": checkpoint.num_updates}]
    return state, as_safetensors(
        state, {"cfg": {**sections, "model": model, "task": task}, "optimizer_history": history}
    )


LAYOUTS: dict[str, Callable[[Checkpoint], _File]] = {
    "released": _released,
    "s3prl": _s3prl,
    "safetensors": _safetensors,
}


def _released_cfg(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """Return `model` and `task` of a released file's config, as plain values."""
    own = {name: value for name, value in vars(checkpoint.model).items() if name not in _OF_OURS_ONLY}
    model = {"_name": AUTOENCODER, **own, **vars(ReleasedModelFields()), "checkpoint_activations": False}
    defaults = {name: getattr(PretrainingTaskFields, name) for name in _TASK_FIELDS}
    task = {"_name": "mae_ast_pretraining", **defaults, **vars(ReleasedTaskFields()), **checkpoint.released.task_fields}
    task.update(feature_dim=checkpoint.feature_dim, mask_type=checkpoint.mask_type)
    return {"model": {**model, **checkpoint.released.model_fields}, "task": task}


def _released_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the state of a released file: the model's, and what was set aside or the constants."""
    fields = cast(MaeAstFields, checkpoint.model)
    shapes = tensor_shapes(fields, checkpoint.feature_dim)
    constants = {key: torch.zeros(shapes[key]) for key in ("encoder_mask_emb", "layer_norm.weight", "layer_norm.bias")}
    constants["layer_norm.weight"] += 1
    state = {**constants, **computed_tables(fields), **checkpoint.released.tensors, **checkpoint.state}
    return {key: tensor.detach() for key, tensor in state.items()}


def _check_expressible(checkpoint: Checkpoint, layout: str) -> None:
    """Raise CheckpointError for the first field whose value the released layout has no place for."""
    if checkpoint.kind != AUTOENCODER:
        found = f"cfg.model._name is {checkpoint.kind!r}, which the {layout} layout cannot express"
        refuse(checkpoint.path, found, AUTOENCODER, _EXPORT_SAFETENSORS)
    fields = cast(MaeAstFields, checkpoint.model)
    choices: dict[str, tuple[Any, ...]] = {
        "normalization": ("dataset", "batch"),  # whose statistics are in the weights
        "decoder_type": ("transformer",),
        "decoder_ffn_embed_dim": (0, fields.encoder_ffn_embed_dim),
        "decoder_attention_heads": (0, fields.encoder_attention_heads),
    }
    if not checkpoint.released.tensors:  # positions are among the layout's weights
        choices |= {"enc_sine_pos": (True,), "dec_sine_pos": (True,)}
    for name, values in choices.items():
        if getattr(fields, name) not in values:
            found = f"cfg.model.{name} is {getattr(fields, name)!r}, which the {layout} layout cannot express"
            refuse(checkpoint.path, found, " or ".join(map(str, values)), _EXPORT_SAFETENSORS)


def _pickled(content: dict[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()
