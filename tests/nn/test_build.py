"""Config fields reach the modules that they are about, and wrong ones are named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder
from mae_ast_fairseq.nn.build import DECODERS, build_autoencoder, build_grid
from mae_ast_fairseq.nn.normalization import NORMALIZATIONS, InputNormalization, moments
from mae_ast_fairseq.nn.positions import NoPositions
from mae_ast_fairseq.nn.transformer import gather_tokens
from tests.tiny import FRAME, NUM_BANDS, log_mel_like, tiny_autoencoder, tiny_batch, tiny_fields


def build(**changes: Any) -> MaskedAutoencoder:
    return build_autoencoder(MaskedAutoencoder, tiny_fields(**changes), NUM_BANDS)


def in_every_layer(read: Callable[[nn.Module], Any]) -> Callable[[MaskedAutoencoder], set]:
    return lambda model: {read(layer) for layer in [*model.encoder.layers, *model.decoder.layers]}


def in_both_stacks(read: Callable[[nn.Module], Any]) -> Callable[[MaskedAutoencoder], set]:
    return lambda model: {read(model.encoder), read(model.decoder)}


@pytest.mark.parametrize(
    ("changes", "read", "expected"),
    [
        ({"encoder_layers": 5}, lambda model: len(model.encoder.layers), 5),
        ({"decoder_layers": 4}, lambda model: len(model.decoder.layers), 4),
        ({"encoder_ffn_embed_dim": 60}, in_every_layer(lambda layer: layer.fc1.out_features), {60}),
        (
            {"encoder_ffn_embed_dim": 60, "decoder_ffn_embed_dim": 40},
            in_every_layer(lambda layer: layer.fc2.in_features),
            {60, 40},
        ),
        ({"decoder_ffn_embed_dim": 40}, lambda model: model.decoder.layers[0].fc1.out_features, 40),
        ({"encoder_attention_heads": 6}, in_every_layer(lambda layer: layer.self_attn.heads), {6}),
        ({"decoder_attention_heads": 12}, lambda model: model.decoder.layers[1].self_attn.heads, 12),
        ({"decoder_attention_heads": 12}, lambda model: model.encoder.layers[1].self_attn.heads, 4),
        ({"activation_fn": "gelu"}, in_every_layer(lambda layer: layer.activation), {F.gelu}),
        ({"activation_fn": "relu"}, in_every_layer(lambda layer: layer.activation), {F.relu}),
        ({"layer_norm_first": True}, in_every_layer(lambda layer: layer.layer_norm_first), {True}),
        ({"layer_norm_first": True}, in_both_stacks(lambda stack: stack.layer_norm_first), {True}),
        ({"checkpoint_activations": True}, in_both_stacks(lambda stack: stack.checkpoint_activations), {True}),
        ({"dropout": 0.2}, in_every_layer(lambda layer: layer.dropout.p), {0.2}),
        ({"dropout": 0.2}, in_both_stacks(lambda stack: stack.dropout.p), {0.2}),
        ({"attention_dropout": 0.3}, in_every_layer(lambda layer: layer.self_attn.dropout), {0.3}),
        ({"activation_dropout": 0.4}, in_every_layer(lambda layer: layer.activation_dropout.p), {0.4}),
        ({"dropout_input": 0.5}, lambda model: model.dropout_input.p, 0.5),
        ({"encoder_layerdrop": 0.1}, lambda model: model.encoder.layer_drop, 0.1),
        ({"decoder_layerdrop": 0.2}, lambda model: model.decoder.layer_drop, 0.2),
        ({"enc_sine_pos": False}, lambda model: type(model.positions), NoPositions),
        ({"dec_sine_pos": False}, lambda model: type(model.decoder_positions), NoPositions),
        ({"max_token_length": 77}, lambda model: model.positions.table.shape, (77, 48)),
        ({"max_token_length": 77}, lambda model: model.decoder_positions.table.shape, (77, 48)),
        ({"use_post_enc_proj": False}, lambda model: model.post_enc_proj, None),
        (
            {"use_post_enc_proj": True, "decoder_embed_dim": 32},
            lambda model: model.post_enc_proj.weight.shape,
            (32, 48),
        ),
        (
            {"use_post_enc_proj": True, "decoder_embed_dim": 32},
            lambda model: (model.decoder_mask_emb.shape, model.final_proj_reconstruction.in_features),
            ((32,), 32),
        ),
        (FRAME, lambda model: (model.grid.kernel, model.grid.stride, model.grid.rows), ((128, 2),) * 2 + (1,)),
        (FRAME, lambda model: model.post_extract_proj.weight.shape, (48, 256)),
    ],
)
def test_a_field_reaches_its_module(changes: dict, read: Callable, expected: Any) -> None:
    assert read(build(**changes)) == expected


@pytest.mark.parametrize(("normalization", "is_set"), [("dataset", False), ("batch", True), ("utterance", True)])
def test_only_dataset_normalization_awaits_its_statistics(normalization: str, is_set: bool) -> None:
    assert build(normalization=normalization).batch_norm.is_set is is_set


def test_a_normalization_is_a_class_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class BandNormalization(InputNormalization):
        def moments(self, frames: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
            return moments(frames, padding_mask, dim=(0, 1))

    monkeypatch.setitem(NORMALIZATIONS, "bands", BandNormalization)
    frames = log_mel_like(2, 32, NUM_BANDS) + torch.arange(NUM_BANDS)
    patches = build(normalization="bands").patches(frames)
    normalised = build(normalization="bands").grid.unpatchify(patches)
    torch.testing.assert_close(normalised.mean(dim=(0, 1)), torch.zeros(NUM_BANDS), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std(dim=(0, 1), correction=0), torch.full((NUM_BANDS,), 0.5))


def test_a_decoder_is_a_builder_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    class MeanDecoder(nn.Module):
        def forward(self, tokens: Tensor, padding_mask: Tensor | None, *, at: Tensor) -> Tensor:
            return gather_tokens(tokens, at) + tokens.mean(dim=1, keepdim=True)

    monkeypatch.setitem(DECODERS, "mean", lambda fields: MeanDecoder())
    model = tiny_autoencoder(decoder_type="mean")
    batch = tiny_batch(model.grid, (64, 64))
    predictions = model(**batch)
    positions = model.decoder_positions.table[batch["masked"][0]]
    differences = model.final_proj_reconstruction.weight @ (positions[1] - positions[0])
    torch.testing.assert_close(predictions.reconstruction[0, 1] - predictions.reconstruction[0, 0], differences)
    model.set_num_updates(3)
    sum(part.sum() for part in model.train()(**batch)[:2]).backward()
    assert model.decoder_mask_emb.grad.abs().sum() > 0


def test_the_grid_is_the_models_with_its_own_stride() -> None:
    grid = build_grid(tiny_fields(ast_kernel_stride_chan=10, ast_kernel_stride_time=8), 64)
    assert (grid.feature_dim, grid.kernel, grid.stride) == (64, (16, 16), (10, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_layers": 0}, r"model\.encoder_layers: 0"),
        ({"encoder_attention_heads": 5}, r"model\.encoder_attention_heads=5"),
        ({"decoder_attention_heads": -4}, r"model\.decoder_attention_heads: -4 was given"),
        ({"decoder_ffn_embed_dim": -1}, r"model\.decoder_ffn_embed_dim: -1"),
        ({"decoder_embed_dim": 32}, r"model\.decoder_embed_dim: 32.*set model\.use_post_enc_proj=true"),
        ({"activation_fn": "swish"}, r"model\.activation_fn: 'swish' is unknown; expected one of gelu, relu"),
        ({"normalization": "layer"}, r"model\.normalization: 'layer' .* one of batch, dataset, utterance"),
        ({"decoder_type": "lstm"}, r"model\.decoder_type: 'lstm' is unknown; expected one of transformer"),
        ({"random_mask_prob": 0.0}, r"model\.random_mask_prob: 0\.0 was given"),
        ({"max_token_length": 0}, r"model\.max_token_length: 0"),
        ({"dropout": 1.0}, r"model\.dropout: 1\.0"),
        ({"ast_kernel_size_chan": 48}, r"ast_kernel_size_chan: found 48, expected a divisor of feature_dim"),
        ({"ast_kernel_stride_time": 17}, r"ast_kernel_stride_time: found 17, expected at most 16"),
        ({"ast_kernel_stride_chan": 8}, r"ast_kernel_stride_chan: found 8, expected 16"),
    ],
)
def test_a_wrong_field_is_named(changes: dict, message: str) -> None:
    if changes.get("ast_kernel_size_chan"):
        changes = {**changes, "ast_kernel_stride_chan": changes["ast_kernel_size_chan"]}
    with pytest.raises(ConfigError, match=message):
        build(**changes)
