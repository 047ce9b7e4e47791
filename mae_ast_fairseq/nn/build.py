"""Builds the torch modules from the plain config fields; the only place below the registered classes that sees them."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from mae_ast_fairseq.config.pretraining import (
    ClassifierFields,
    EncoderFields,
    MaeAstFields,
    SsastFields,
    check_encoder,
    check_mae_ast,
    require_choice,
    require_even,
    require_multiple,
)
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder
from mae_ast_fairseq.nn.classifier import AudioClassifier
from mae_ast_fairseq.nn.encoder import EncoderParts, SpectrogramEncoder
from mae_ast_fairseq.nn.normalization import NORMALIZATIONS
from mae_ast_fairseq.nn.positions import LearnedPositions, NoPositions, Positions, SinusoidalPositions
from mae_ast_fairseq.nn.readout import check_readout, parse_layers
from mae_ast_fairseq.nn.ssast import Ssast
from mae_ast_fairseq.nn.tokens import TokenGrid
from mae_ast_fairseq.nn.transformer import ACTIVATIONS, TransformerStack
from mae_ast_fairseq.rng import Stream


def build_grid(fields: EncoderFields, feature_dim: int) -> TokenGrid:
    """Return the token grid of a model's fields; raises ConfigError where the kernel does not fit."""
    return TokenGrid(
        feature_dim=feature_dim,
        kernel=(fields.ast_kernel_size_chan, fields.ast_kernel_size_time),
        stride=(fields.ast_kernel_stride_chan, fields.ast_kernel_stride_time),
    )


def build_stack(
    fields: EncoderFields,
    *,
    num_layers: int,
    width: int,
    ffn_width: int,
    heads: int,
    layer_drop: float,
    layer_drop_stream: Stream,
) -> TransformerStack:
    """Return a stack of transformer layers with the dropouts and LayerNorm place of a model's fields."""
    return TransformerStack(
        num_layers,
        width=width,
        ffn_width=ffn_width,
        heads=heads,
        activation=fields.activation_fn,
        dropout=fields.dropout,
        attention_dropout=fields.attention_dropout,
        activation_dropout=fields.activation_dropout,
        layer_norm_first=fields.layer_norm_first,
        checkpoint_activations=fields.checkpoint_activations,
        layer_drop=layer_drop,
        layer_drop_stream=layer_drop_stream,
    )


def build_positions(kind: str, fields: EncoderFields, grid: TokenGrid, width: int) -> Positions:
    """Return the positions of a choice of `model.positions`, for tokens of a width."""
    require_choice("model.positions", kind, POSITIONS)
    return POSITIONS[kind](fields, grid, width)


def _sinusoidal(fields: EncoderFields, grid: TokenGrid, width: int) -> SinusoidalPositions:
    require_even("model.encoder_embed_dim", width)
    return SinusoidalPositions(width=width, max_tokens=fields.max_token_length)


def _learned(fields: EncoderFields, grid: TokenGrid, width: int) -> LearnedPositions:
    require_multiple("model.max_token_length", fields.max_token_length, "the grid's rows", grid.rows)
    return LearnedPositions(width=width, num_positions=fields.max_token_length, rows=grid.rows)


POSITIONS: dict[str, Callable[[EncoderFields, TokenGrid, int], Positions]] = {
    "sinusoidal": _sinusoidal,
    "learned": _learned,
    "none": lambda fields, grid, width: NoPositions(),
}
"""The choices of `model.positions`."""


def encoder_parts(fields: EncoderFields, feature_dim: int, positions: str) -> EncoderParts:
    """Return what an encoder is put together from; raises ConfigError where a model's fields are wrong."""
    require_choice("model.activation_fn", fields.activation_fn, ACTIVATIONS)
    require_choice("model.normalization", fields.normalization, NORMALIZATIONS)
    grid = build_grid(fields, feature_dim)
    stack = build_stack(
        fields,
        num_layers=fields.encoder_layers,
        width=fields.encoder_embed_dim,
        ffn_width=fields.encoder_ffn_embed_dim,
        heads=fields.encoder_attention_heads,
        layer_drop=fields.encoder_layerdrop,
        layer_drop_stream=Stream.ENCODER_LAYER_DROP,
    )
    return EncoderParts(
        grid=grid,
        normalization=NORMALIZATIONS[fields.normalization](),
        positions=build_positions(positions, fields, grid, stack.width),
        dropout_input=fields.dropout_input,
        stack=stack,
    )


def _transformer_decoder(fields: MaeAstFields) -> TransformerStack:
    return build_stack(
        fields,
        num_layers=fields.decoder_layers,
        width=fields.decoder_embed_dim,
        ffn_width=fields.decoder_ffn_embed_dim or fields.encoder_ffn_embed_dim,
        heads=fields.decoder_attention_heads or fields.encoder_attention_heads,
        layer_drop=fields.decoder_layerdrop,
        layer_drop_stream=Stream.DECODER_LAYER_DROP,
    )


DECODERS: dict[str, Callable[[MaeAstFields], nn.Module]] = {"transformer": _transformer_decoder}
"""The choices of `model.decoder_type`: each builds a module that is called as MaskedAutoencoder calls its decoder."""

Model = TypeVar("Model", bound=SpectrogramEncoder)


def build_autoencoder(module: Callable[..., Model], fields: MaeAstFields, feature_dim: int) -> Model:
    """Return a model of the class `module`; raises ConfigError where the fields are wrong."""
    check_mae_ast(fields)
    require_choice("model.decoder_type", fields.decoder_type, DECODERS)
    parts = encoder_parts(fields, feature_dim, "sinusoidal" if fields.enc_sine_pos else "none")
    width, positions = fields.decoder_embed_dim, "sinusoidal" if fields.dec_sine_pos else "none"
    return module(
        parts,
        decoder=DECODERS[fields.decoder_type](fields),
        decoder_width=width,
        decoder_positions=build_positions(positions, fields, parts.grid, width),
        project_encoded=fields.use_post_enc_proj,
        head_init_scale=fields.head_init_scale,
    )


def build_ssast(module: Callable[..., Model], fields: SsastFields, feature_dim: int) -> Model:
    """Return a model of the class `module`; raises ConfigError where the fields are wrong."""
    check_encoder(SsastFields, fields)
    return module(encoder_parts(fields, feature_dim, "learned"), head_init_scale=fields.head_init_scale)


def build_classifier(module: Callable[..., Model], fields: ClassifierFields, feature_dim: int) -> Model:
    """Return a model of the class `module`; raises ConfigError where the fields are wrong."""
    check_encoder(ClassifierFields, fields)
    if not fields.labels:
        raise ConfigError("model.labels: there are none; expected the names of the classes, as in labels.txt")
    parts = encoder_parts(fields, feature_dim, fields.positions)
    check_readout("model.readout", fields.readout, parts.grid.rows)
    return module(
        parts,
        num_classes=len(fields.labels),
        multi_label=fields.multi_label,
        head_dropout=fields.head_dropout,
        readout=fields.readout,
        readout_layers=parse_layers(str(fields.readout_layers)),
    )


def check_memory(build: Callable[[], nn.Module]) -> None:
    """Raise ConfigError where the weights of a model need more memory than there is: building it would be killed.

    It is built without memory for its values, and nothing is drawn.
    """
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            num_bytes = sum(weights.numel() * weights.element_size() for weights in build().parameters())
    except (RuntimeError, OverflowError, TypeError) as error:  # more values than torch can count
        found = str(error).splitlines()[0]
    else:
        if num_bytes <= memory_bytes:
            return
        found = f"its weights take {num_bytes / 2**30:,.1f} GiB"
    raise ConfigError(
        f"model: it cannot be built ({found}); expected one that fits into the {memory_bytes / 2**30:.1f} GiB of this "
        "machine; make its sizes smaller"
    )


class ModelSpec(NamedTuple):
    """A kind of model, without fairseq."""

    fields: type[EncoderFields]
    """the dataclass of its fields"""
    module: type[SpectrogramEncoder]
    """its torch module"""
    builder: Callable[[Any, Any, int], SpectrogramEncoder]
    """(module, fields, feature_dim) -> the model"""

    def build(self, fields: EncoderFields, feature_dim: int) -> SpectrogramEncoder:
        """Return the model of some fields; raises ConfigError where they are wrong."""
        return self.builder(self.module, fields, feature_dim)


MODELS = {
    "mae_ast": ModelSpec(MaeAstFields, MaskedAutoencoder, build_autoencoder),
    "ssast": ModelSpec(SsastFields, Ssast, build_ssast),
    "mae_ast_classifier": ModelSpec(ClassifierFields, AudioClassifier, build_classifier),
}
"""The models by the names they are registered and saved with."""
