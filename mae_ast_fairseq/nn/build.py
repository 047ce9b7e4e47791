"""Builds the torch modules from the plain config fields; the only place below the registered classes that sees them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Optional

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
    require_positive,
)
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder
from mae_ast_fairseq.nn.classifier import AudioClassifier
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder
from mae_ast_fairseq.nn.normalization import STATISTICS
from mae_ast_fairseq.nn.positions import LearnedPositions, Positions, SinusoidalPositions
from mae_ast_fairseq.nn.readout import check_readout, parse_layers
from mae_ast_fairseq.nn.ssast import Ssast
from mae_ast_fairseq.nn.tokens import TokenGrid
from mae_ast_fairseq.nn.transformer import ACTIVATIONS, TransformerLayer, TransformerStack

UNUSED_RELEASED_PREFIXES = ("layer_norm.", "encoder_mask_emb", "enc_sine_pos_embed.", "dec_sine_pos_embed.")
"""Tensors that released checkpoints carry and no forward pass reads; positions are computed."""


def build_grid(fields: EncoderFields, feature_dim: int) -> TokenGrid:
    """Return the token grid of a model's fields; raises ConfigError where the kernel does not fit."""
    return TokenGrid(
        feature_dim=feature_dim,
        kernel=(fields.ast_kernel_size_chan, fields.ast_kernel_size_time),
        stride=(fields.ast_kernel_stride_chan, fields.ast_kernel_stride_time),
    )


def build_stack(fields: EncoderFields, *, num_layers: int, width: int, ffn_width: int, heads: int) -> TransformerStack:
    """Return a stack of transformer layers with the dropouts and LayerNorm place of a model's fields."""
    layers = [
        TransformerLayer(
            width=width,
            ffn_width=ffn_width,
            heads=heads,
            activation=fields.activation_fn,
            dropout=fields.dropout,
            attention_dropout=fields.attention_dropout,
            activation_dropout=fields.activation_dropout,
            layer_norm_first=fields.layer_norm_first,
        )
        for _ in range(num_layers)
    ]
    return TransformerStack(
        layers,
        width=width,
        dropout=fields.dropout,
        layer_norm_first=fields.layer_norm_first,
        checkpoint_activations=fields.checkpoint_activations,
    )


def build_positions(kind: str, fields: EncoderFields, grid: TokenGrid, width: int) -> Optional[Positions]:
    """Return the positions of a choice of `model.positions`, for tokens of a width."""
    require_choice("model.positions", kind, POSITIONS)
    return POSITIONS[kind](fields, grid, width)


def _sinusoidal(fields: EncoderFields, grid: TokenGrid, width: int) -> SinusoidalPositions:
    require_even("model.encoder_embed_dim", width)
    return SinusoidalPositions(width=width, max_tokens=fields.max_token_length)


def _learned(fields: EncoderFields, grid: TokenGrid, width: int) -> LearnedPositions:
    require_multiple("model.max_token_length", fields.max_token_length, "the grid's rows", grid.rows)
    return LearnedPositions(width=width, num_positions=fields.max_token_length, rows=grid.rows)


POSITIONS: dict[str, Callable[[EncoderFields, TokenGrid, int], Optional[Positions]]] = {
    "sinusoidal": _sinusoidal,
    "learned": _learned,
    "none": lambda fields, grid, width: None,
}
"""The choices of `model.positions`."""


def encoder_arguments(fields: EncoderFields, feature_dim: int, positions: str) -> dict[str, Any]:
    """Return the keywords of SpectrogramEncoder for a model's fields; raises ConfigError where they are wrong."""
    require_choice("model.activation_fn", fields.activation_fn, ACTIVATIONS)
    require_choice("model.normalization", fields.normalization, STATISTICS)
    grid = build_grid(fields, feature_dim)
    encoder = build_stack(
        fields,
        num_layers=fields.encoder_layers,
        width=fields.encoder_embed_dim,
        ffn_width=fields.encoder_ffn_embed_dim,
        heads=fields.encoder_attention_heads,
    )
    return {
        "grid": grid,
        "encoder": encoder,
        "width": fields.encoder_embed_dim,
        "positions": build_positions(positions, fields, grid, fields.encoder_embed_dim),
        "normalization": fields.normalization,
        "dropout_input": fields.dropout_input,
        "encoder_layer_drop": fields.encoder_layerdrop,
    }


def autoencoder_arguments(fields: MaeAstFields, feature_dim: int) -> dict[str, Any]:
    """Return the keywords of MaskedAutoencoder for a model's fields; raises ConfigError where they are wrong."""
    check_mae_ast(fields)
    require_positive("model.random_mask_prob", fields.random_mask_prob)  # pretraining asks for less than 1 too
    arguments = encoder_arguments(fields, feature_dim, "sinusoidal" if fields.enc_sine_pos else "none")
    decoder = build_stack(
        fields,
        num_layers=fields.decoder_layers,
        width=fields.decoder_embed_dim,
        ffn_width=fields.decoder_ffn_embed_dim or fields.encoder_ffn_embed_dim,
        heads=fields.decoder_attention_heads or fields.encoder_attention_heads,
    )
    kind = "sinusoidal" if fields.dec_sine_pos else "none"
    return {
        **arguments,
        "decoder": decoder,
        "decoder_width": fields.decoder_embed_dim,
        "project_encoded": fields.use_post_enc_proj,
        "decoder_layer_drop": fields.decoder_layerdrop,
        "decoder_positions": build_positions(kind, fields, arguments["grid"], fields.decoder_embed_dim),
        "head_init_scale": fields.head_init_scale,
    }


def ssast_arguments(fields: SsastFields, feature_dim: int) -> dict[str, Any]:
    """Return the keywords of Ssast for a model's fields; raises ConfigError where they are wrong."""
    check_encoder(fields)
    require_positive("model.random_mask_prob", fields.random_mask_prob)
    arguments = encoder_arguments(fields, feature_dim, "learned")
    return {**arguments, "head_init_scale": fields.head_init_scale}


def classifier_arguments(fields: ClassifierFields, feature_dim: int) -> dict[str, Any]:
    """Return the keywords of AudioClassifier for a model's fields; raises ConfigError where they are wrong."""
    check_encoder(fields)
    if not fields.labels:
        raise ConfigError("model.labels: there are none; expected the names of the classes, as in labels.txt")
    arguments = encoder_arguments(fields, feature_dim, fields.positions)
    check_readout("model.readout", fields.readout, arguments["grid"].rows)
    return {
        **arguments,
        "readout": fields.readout,
        "readout_layers": parse_layers(str(fields.readout_layers)),
        "num_classes": len(fields.labels),
        "multi_label": fields.multi_label,
        "head_dropout": fields.head_dropout,
    }


class ModelSpec(NamedTuple):
    """A kind of model, without fairseq."""

    fields: type[EncoderFields]
    """the dataclass of its fields"""
    module: type[SpectrogramEncoder]
    """its torch module"""
    arguments: Callable[[Any, int], dict[str, Any]]
    """(fields, feature_dim) -> the module's keywords"""

    def build(self, fields: EncoderFields, feature_dim: int) -> nn.Module:
        """Return the model of some fields; raises ConfigError where they are wrong."""
        return self.module(**self.arguments(fields, feature_dim))


MODELS = {
    "mae_ast": ModelSpec(MaeAstFields, MaskedAutoencoder, autoencoder_arguments),
    "ssast": ModelSpec(SsastFields, Ssast, ssast_arguments),
    "mae_ast_classifier": ModelSpec(ClassifierFields, AudioClassifier, classifier_arguments),
}
"""The models by the names they are registered and saved with."""


def unused_released_keys(state_dict: Mapping[str, Any]) -> list[str]:
    """Return the keys of a released state dict that have no use here."""
    return [key for key in state_dict if key.startswith(UNUSED_RELEASED_PREFIXES)]
