"""Builds the torch modules from the plain config fields; the only place below the registered classes that sees them."""

from collections.abc import Mapping
from typing import Any

from mae_ast_fairseq.config import MaeAstFields, check_model, require_choice, require_positive
from mae_ast_fairseq.nn.normalization import STATISTICS
from mae_ast_fairseq.nn.transformer import ACTIVATIONS, TransformerLayer, TransformerStack
from mae_ast_fairseq.tokens import TokenGrid

UNUSED_RELEASED_PREFIXES = ("layer_norm.", "encoder_mask_emb", "enc_sine_pos_embed.", "dec_sine_pos_embed.")
"""Tensors that released checkpoints carry and no forward pass reads; positions are computed."""


def build_grid(fields: MaeAstFields, feature_dim: int) -> TokenGrid:
    """Return the token grid of a model's fields; raises ConfigError where the kernel does not fit."""
    return TokenGrid(
        feature_dim=feature_dim,
        kernel=(fields.ast_kernel_size_chan, fields.ast_kernel_size_time),
        stride=(fields.ast_kernel_stride_chan, fields.ast_kernel_stride_time),
    )


def build_stack(fields: MaeAstFields, *, num_layers: int, width: int, ffn_width: int, heads: int) -> TransformerStack:
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


def autoencoder_arguments(fields: MaeAstFields, feature_dim: int) -> dict[str, Any]:
    """Return the keywords of MaskedAutoencoder for a model's fields; raises ConfigError where they are wrong."""
    check_model(fields)
    require_positive("model.random_mask_prob", fields.random_mask_prob)  # pretraining asks for less than 1 too
    require_choice("model.activation_fn", fields.activation_fn, ACTIVATIONS)
    require_choice("model.normalization", fields.normalization, STATISTICS)
    encoder = build_stack(
        fields,
        num_layers=fields.encoder_layers,
        width=fields.encoder_embed_dim,
        ffn_width=fields.encoder_ffn_embed_dim,
        heads=fields.encoder_attention_heads,
    )
    decoder = build_stack(
        fields,
        num_layers=fields.decoder_layers,
        width=fields.decoder_embed_dim,
        ffn_width=fields.decoder_ffn_embed_dim or fields.encoder_ffn_embed_dim,
        heads=fields.decoder_attention_heads or fields.encoder_attention_heads,
    )
    return {
        "grid": build_grid(fields, feature_dim),
        "encoder": encoder,
        "decoder": decoder,
        "encoder_width": fields.encoder_embed_dim,
        "decoder_width": fields.decoder_embed_dim,
        "project_encoded": fields.use_post_enc_proj,
        "normalization": fields.normalization,
        "dropout_input": fields.dropout_input,
        "encoder_layer_drop": fields.encoder_layerdrop,
        "decoder_layer_drop": fields.decoder_layerdrop,
        "encoder_positions": fields.enc_sine_pos,
        "decoder_positions": fields.dec_sine_pos,
        "max_tokens": fields.max_token_length,
    }


def unused_released_keys(state_dict: Mapping[str, Any]) -> list[str]:
    """Return the keys of a released state dict that have no use here."""
    return [key for key in state_dict if key.startswith(UNUSED_RELEASED_PREFIXES)]
