"""The layout of the released MAE-AST checkpoints: the fields and tensors in it that our model does not have.

Reading sets them aside, and writing puts them back; for models that were trained here, which never had them,
constants are written: the defaults of the two dataclasses, and of the tensors

- `layer_norm.weight` 1, `layer_norm.bias` 0, `encoder_mask_emb` 0: no forward pass reads them;
- `{enc,dec}_sine_pos_embed.pe`: the positions as computed, `max_token_length` of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Optional, get_type_hints

from torch import Tensor

from mae_ast_fairseq.checkpoints.fields import is_interpolated, is_plain
from mae_ast_fairseq.config.pretraining import MaeAstFields
from mae_ast_fairseq.nn.positions import sinusoidal_positions


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
    enc_conv_pos: Literal[False] = False
    dec_conv_pos: Literal[False] = False


@dataclass
class ReleasedTaskFields:
    """Fields of a released file's task, besides `feature_dim` and `mask_type`; the defaults are the constants."""

    sample_rate: Literal[16_000] = 16_000
    normalize: Literal[False] = False
    max_keep_size: Optional[int] = None
    max_sample_size: Optional[int] = None
    min_sample_size: Optional[int] = None
    random_crop: bool = True
    pad_audio: bool = False
    data: Optional[str] = ""
    enable_padding: bool = False
    feature_type: Literal["fbank"] = "fbank"
    feature_rate: Literal[100] = 100
    deltas: Literal[False] = False
    mask_spans: bool = False


MODEL_TYPES = get_type_hints(ReleasedModelFields)
TASK_TYPES = get_type_hints(ReleasedTaskFields)
"""A choice of one: a field that changes what the model computes, and the value with which ours computes the same."""


class Released(NamedTuple):
    """What a file in the released layout has beyond our model, for a conversion to write back; ours have nothing."""

    tensors: Mapping[str, Tensor] = {}
    """those of no use here; a position table that equals the computed one to the bit is left out"""
    cfg: Mapping[str, Mapping[str, Any]] = {"model": {}, "task": {}}
    """of `model` the fields that ours does not have, the whole `task`, and other parts that hold plain values"""


def tensor_shapes(fields: MaeAstFields, feature_dim: int) -> dict[str, list[int]]:
    """Return the released tensors that our model does not have, and their shapes."""
    return {
        "encoder_mask_emb": [fields.encoder_embed_dim],
        "layer_norm.weight": [feature_dim],
        "layer_norm.bias": [feature_dim],
        "enc_sine_pos_embed.pe": [1, fields.max_token_length, fields.encoder_embed_dim],
        "dec_sine_pos_embed.pe": [1, fields.max_token_length, fields.decoder_embed_dim],
    }


def set_aside(
    fields: MaeAstFields, feature_dim: int, cfg: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Released]:
    """Split a checked state in that of our model and what a released file has besides."""
    names = tensor_shapes(fields, feature_dim)
    own = {key: value for key, value in state.items() if key not in names}
    others = {key: value for key, value in state.items() if key in names}
    model_fields = {name: value for name, value in cfg["model"].items() if name not in {"_name", *vars(fields)}}
    if not others and not model_fields:
        return own, Released()
    for key, table in computed_tables(fields).items():
        if key in others and others[key].dtype == table.dtype and others[key].equal(table):
            del others[key]
    sections = {
        name: part
        for name, part in cfg.items()
        if name not in ("model", "task") and is_plain(part) and not is_interpolated(part)
    }
    return own, Released(others, {**sections, "model": model_fields, "task": dict(cfg["task"])})


def computed_tables(fields: MaeAstFields) -> dict[str, Tensor]:
    """Return the tables [1, max_token_length, C] of the stacks that have positions."""
    tables = {}
    if fields.enc_sine_pos:
        tables["enc_sine_pos_embed.pe"] = sinusoidal_positions(fields.max_token_length, fields.encoder_embed_dim)[None]
    if fields.dec_sine_pos:
        tables["dec_sine_pos_embed.pe"] = sinusoidal_positions(fields.max_token_length, fields.decoder_embed_dim)[None]
    return tables
