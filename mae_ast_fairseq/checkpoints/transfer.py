"""What fine-tuning takes from a checkpoint."""

from typing import Any

from torch import Tensor

from mae_ast_fairseq.checkpoints.read import Checkpoint
from mae_ast_fairseq.config.pretraining import ClassifierFields, EncoderFields, MaeAstFields
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.build import build_grid
from mae_ast_fairseq.nn.positions import resize_positions
from mae_ast_fairseq.nn.tokens import TokenGrid

ARCHITECTURE = (
    *("ast_kernel_size_chan", "ast_kernel_size_time", "ast_kernel_stride_chan", "ast_kernel_stride_time"),
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
    *("activation_fn", "layer_norm_first", "normalization", "max_token_length"),
)
"""Fields that weights depend on; how much is dropped in training is for the recipe to say."""

STRIDES = ("ast_kernel_stride_chan", "ast_kernel_stride_time")
ENCODER_PREFIXES = ("batch_norm.", "post_extract_proj.", "encoder.", "positions.")
"""Tensors of any of our models that make up its encoder."""

TABLE = "positions.table"


def positions_of(fields: EncoderFields) -> str:
    """Return the choice of `model.positions` that a model of any kind was trained with."""
    if isinstance(fields, MaeAstFields):
        return "sinusoidal" if fields.enc_sine_pos else "none"
    return getattr(fields, "positions", "learned")  # SSAST's are always learned


def taken_fields(checkpoint: Checkpoint, fields: ClassifierFields, feature_dim: int) -> dict[str, Any]:
    """Return the fields of the classifier that follow from the checkpoint it starts from.

    Patches that overlap (strides below the kernel in `fields`) are kept where the checkpoint's positions are learned,
    which can be interpolated; the number of positions then grows, so that they cover the same bands and seconds.

    Raises:
        ConfigError: another number of Mel bands, or overlap with a checkpoint whose positions cannot follow.
    """
    if checkpoint.feature_dim != feature_dim:
        raise ConfigError(
            f"task.feature_dim: {feature_dim} was given; expected {checkpoint.feature_dim}, the number of Mel bands of "
            f"model.pretrained={checkpoint.path}"
        )
    taken = {name: getattr(checkpoint.model, name) for name in ARCHITECTURE}
    taken["positions"] = positions_of(checkpoint.model)
    if not _overlaps(fields):
        return taken
    if taken["positions"] != "learned":
        raise ConfigError(
            f"model.ast_kernel_stride_chan, model.ast_kernel_stride_time: {fields.ast_kernel_stride_chan} and "
            f"{fields.ast_kernel_stride_time} make patches overlap, but {checkpoint.path} was pretrained with "
            f"{taken['positions']} positions, which are those of patches without overlap; expected the kernel's size, "
            f"{fields.ast_kernel_size_chan} and {fields.ast_kernel_size_time}; or start from an SSAST checkpoint"
        )
    own = build_grid(checkpoint.model, feature_dim)
    taken.update({name: getattr(fields, name) for name in STRIDES})
    grid = build_grid(ClassifierFields(**{name: taken[name] for name in ARCHITECTURE}), feature_dim)
    num_frames = own.kernel[1] + (_columns(own, checkpoint.model) - 1) * own.stride[1]
    taken["max_token_length"] = grid.num_tokens(num_frames)
    return taken


def encoder_state(checkpoint: Checkpoint, fields: ClassifierFields) -> dict[str, Tensor]:
    """Return the weights and buffers of the checkpoint's encoder, for a classifier that has its `taken_fields`."""
    state = {name: value for name, value in checkpoint.state.items() if name.startswith(ENCODER_PREFIXES)}
    if TABLE in state:
        old, new = (build_grid(model, checkpoint.feature_dim) for model in (checkpoint.model, fields))
        state[TABLE] = resize_positions(
            state[TABLE], (old.rows, _columns(old, checkpoint.model)), (new.rows, _columns(new, fields))
        )
    return state


def _overlaps(fields: EncoderFields) -> bool:
    kernel = (fields.ast_kernel_size_chan, fields.ast_kernel_size_time)
    return (fields.ast_kernel_stride_chan, fields.ast_kernel_stride_time) != kernel


def _columns(grid: TokenGrid, fields: EncoderFields) -> int:
    """Return the columns of tokens for which positions are learned."""
    return fields.max_token_length // grid.rows
