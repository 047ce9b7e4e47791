"""The layout of the released MAE-AST checkpoints: the fields and tensors in it that our model does not have.

Reading sets them aside, and writing puts them back; for models that were trained here, which never had them,
constants are written: the defaults of the two dataclasses, and of the tensors

- `layer_norm.weight` 1, `layer_norm.bias` 0, `encoder_mask_emb` 0: no forward pass reads them;
- `{enc,dec}_sine_pos_embed.pe`: the positions as computed, `max_token_length` of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional, get_type_hints

import torch
from torch import Tensor

from mae_ast_fairseq.checkpoints.fields import is_interpolated, is_plain, refuse, shown
from mae_ast_fairseq.config.pretraining import MaeAstFields
from mae_ast_fairseq.nn.positions import sinusoidal_positions

_TABLES = {"enc": "enc_sine_pos_embed.pe", "dec": "dec_sine_pos_embed.pe"}
_OF_OURS_ONLY = ("normalization", "decoder_type", "decoder_ffn_embed_dim", "decoder_attention_heads", "head_init_scale")


@dataclass
class ReleasedModelFields:
    """Fields of a released file's model that ours does not have; the defaults are the constants we write."""

    feature_grad_mult: float = 1.0
    mask_selection: str = "static"
    mask_other: float = 0
    no_mask_overlap: bool = False
    mask_min_space: int = 0
    conv_pos: int = 128
    conv_pos_groups: int = 16
    enc_conv_pos: bool = False
    dec_conv_pos: bool = False


@dataclass
class ReleasedTaskFields:
    """Fields of a released file's task besides `feature_dim` and `mask_type`; the defaults are the constants."""

    data: Optional[str] = ""
    sample_rate: int = 16_000
    normalize: bool = False
    enable_padding: bool = False
    max_keep_size: Optional[int] = None
    max_sample_size: Optional[int] = None
    min_sample_size: Optional[int] = None
    random_crop: bool = True
    pad_audio: bool = False
    feature_type: str = "fbank"
    feature_rate: int = 100
    deltas: bool = False
    mask_spans: bool = False


MODEL_TYPES = get_type_hints(ReleasedModelFields)
TASK_TYPES = get_type_hints(ReleasedTaskFields)

_ONLY: dict[str, dict[str, Any]] = {
    "model": {"enc_conv_pos": False, "dec_conv_pos": False},
    "task": {"feature_type": "fbank", "feature_rate": 100, "sample_rate": 16_000, "normalize": False, "deltas": False},
}
"""Fields that change what the model computes, and the value with which it computes what ours does."""


class Released(NamedTuple):
    """What a file in the released layout has beyond our model, kept so that a conversion can write it back."""

    tensors: dict[str, Tensor]
    """those of no use here; a position table that equals the computed one to the bit is left out"""
    model_fields: dict[str, Any]
    """fields of `cfg.model` that our model does not have"""
    task_fields: dict[str, Any]
    """all fields of `cfg.task`"""
    sections: dict[str, Any]
    """the other parts of `cfg`, which nothing reads, where they are plain values"""


class Inexpressible(NamedTuple):
    """A field that the released layout has no place for."""

    field: str
    found: str
    expected: str


def check_supported(path: Path, cfg: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise CheckpointError where a field of `cfg` asks for a computation that is not built here."""
    for part, values in _ONLY.items():
        for name, value in values.items():
            found = cfg[part].get(name, value)
            if found != value:
                remedy = "take a checkpoint of log-Mel input with sin/cos positions"
                refuse(path, f"cfg.{part}.{name} is {shown(found)}", f"{value!r}, the only one that is built", remedy)


def tensor_shapes(fields: MaeAstFields, feature_dim: int) -> dict[str, list[int]]:
    """Return the released tensors that our model does not have, and their shapes."""
    return {
        "encoder_mask_emb": [fields.encoder_embed_dim],
        "layer_norm.weight": [feature_dim],
        "layer_norm.bias": [feature_dim],
        _TABLES["enc"]: [1, fields.max_token_length, fields.encoder_embed_dim],
        _TABLES["dec"]: [1, fields.max_token_length, fields.decoder_embed_dim],
    }


def set_aside(
    fields: MaeAstFields, feature_dim: int, cfg: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Optional[Released]]:
    """Split a checked state in that of our model and what a released file has besides; None: it has nothing."""
    names = tensor_shapes(fields, feature_dim).keys()
    own = {key: value for key, value in state.items() if key not in names}
    others = {key: value for key, value in state.items() if key in names}
    model_fields = {name: value for name, value in cfg["model"].items() if name in MODEL_TYPES}
    if not others and not model_fields:
        return own, None
    computed = _computed_tables(fields)
    sections = {name: part for name, part in cfg.items() if name not in ("model", "task")}
    released = Released(
        tensors={k: v for k, v in others.items() if not (k in computed and _is_same(v, computed[k]))},
        model_fields=model_fields,
        task_fields=dict(cfg["task"]),
        sections={k: part for k, part in sections.items() if is_plain(part) and not is_interpolated(part)},
    )
    return own, released


def inexpressible(fields: MaeAstFields, released: Optional[Released]) -> Optional[Inexpressible]:
    """Return the first field whose value the released layout has no place for; None where all have one."""
    if fields.normalization == "utterance":
        return Inexpressible("normalization", "'utterance'", "dataset or batch, whose statistics are in the weights")
    if fields.decoder_type != "transformer":
        return Inexpressible("decoder_type", repr(fields.decoder_type), "'transformer'")
    for name, encoders in (
        ("decoder_ffn_embed_dim", fields.encoder_ffn_embed_dim),
        ("decoder_attention_heads", fields.encoder_attention_heads),
    ):
        if getattr(fields, name) not in (0, encoders):
            return Inexpressible(name, str(getattr(fields, name)), f"{encoders}, as the encoder's")
    for name in ("enc_sine_pos", "dec_sine_pos"):
        if released is None and not getattr(fields, name):
            return Inexpressible(name, "False", "True: the layout's weights include the positions")
    return None


def released_cfg(
    fields: MaeAstFields, feature_dim: int, mask_type: str, released: Optional[Released]
) -> dict[str, dict[str, Any]]:
    """Return `model` and `task` of a released file's config, as plain values."""
    own = {name: value for name, value in vars(fields).items() if name not in _OF_OURS_ONLY}
    model = {"_name": "mae_ast", **own, **vars(ReleasedModelFields()), "checkpoint_activations": False}
    task = {"_name": "mae_ast_pretraining", **vars(ReleasedTaskFields())}
    if released is not None:
        model.update(released.model_fields)
        task.update(released.task_fields)
    return {"model": model, "task": {**task, "feature_dim": feature_dim, "mask_type": mask_type}}


def released_state(
    fields: MaeAstFields, feature_dim: int, state: Mapping[str, Tensor], released: Optional[Released]
) -> dict[str, Tensor]:
    """Return the state of a released file: the model's, and what was set aside or the constants."""
    shapes = tensor_shapes(fields, feature_dim)
    constants = {key: torch.zeros(shapes[key]) for key in ("encoder_mask_emb", "layer_norm.weight", "layer_norm.bias")}
    constants["layer_norm.weight"] += 1
    return {**constants, **_computed_tables(fields), **({} if released is None else released.tensors), **state}


def _computed_tables(fields: MaeAstFields) -> dict[str, Tensor]:
    """Return the tables [1, max_token_length, C] of the stacks that have positions."""
    widths = {"enc": fields.encoder_embed_dim, "dec": fields.decoder_embed_dim}
    return {
        _TABLES[stack]: sinusoidal_positions(fields.max_token_length, width)[None]
        for stack, width in widths.items()
        if getattr(fields, f"{stack}_sine_pos")
    }


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.equal(other)
