"""What fine-tuning takes from a checkpoint."""

from typing import Any

from torch import Tensor

from mae_ast_fairseq.checkpoints.read import Checkpoint
from mae_ast_fairseq.config.continuing import NETWORK
from mae_ast_fairseq.config.pretraining import ClassifierFields, EncoderFields, MaeAstFields
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.build import build_grid
from mae_ast_fairseq.nn.positions import resize_positions

ARCHITECTURE = tuple(name for name in NETWORK if name in EncoderFields.__dataclass_fields__)
"""Fields that weights depend on; how much is dropped in training is for the recipe to say."""

ENCODER_PREFIXES = ("batch_norm.", "post_extract_proj.", "encoder.", "positions.")
"""Tensors of any of our models that make up its encoder."""

TABLE = "positions.table"


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
    model = checkpoint.model
    if isinstance(model, MaeAstFields):
        positions = "sinusoidal" if model.enc_sine_pos else "none"
    else:
        positions = getattr(model, "positions", "learned")  # SSAST's are always learned
    taken = {**{name: getattr(model, name) for name in ARCHITECTURE}, "positions": positions}
    kernel = (fields.ast_kernel_size_chan, fields.ast_kernel_size_time)
    stride = (fields.ast_kernel_stride_chan, fields.ast_kernel_stride_time)
    if stride == kernel:
        return taken
    if positions != "learned":
        raise ConfigError(
            f"model.ast_kernel_stride_chan, model.ast_kernel_stride_time: {stride[0]} and {stride[1]} make patches "
            f"overlap, but {checkpoint.path} was pretrained with {positions} positions, which are those of patches "
            f"without overlap; expected the kernel's size, {kernel[0]} and {kernel[1]}; or start from an SSAST one"
        )
    taken.update(ast_kernel_stride_chan=stride[0], ast_kernel_stride_time=stride[1])
    _, num_columns = _table_shape(model, feature_dim)
    num_frames = model.ast_kernel_size_time + (num_columns - 1) * model.ast_kernel_stride_time
    taken["max_token_length"] = build_grid(ClassifierFields(**taken), feature_dim).num_tokens(num_frames)
    return taken


def encoder_state(checkpoint: Checkpoint, fields: ClassifierFields) -> dict[str, Tensor]:
    """Return the weights and buffers of the checkpoint's encoder, for a classifier that has its `taken_fields`."""
    state = {name: value for name, value in checkpoint.state.items() if name.startswith(ENCODER_PREFIXES)}
    if TABLE in state:
        old, new = (_table_shape(model, checkpoint.feature_dim) for model in (checkpoint.model, fields))
        state[TABLE] = resize_positions(state[TABLE], old, new)
    return state


def _table_shape(fields: EncoderFields, feature_dim: int) -> tuple[int, int]:
    """Return the rows and columns of tokens for which positions are learned."""
    rows = build_grid(fields, feature_dim).rows
    return rows, fields.max_token_length // rows
