"""`extract_features` keeps HuBERT's contract, and a clip's features do not depend on its batch."""

import copy

import pytest
import torch
from torch import Tensor

from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder
from mae_ast_fairseq.nn.normalization import NORMALIZATIONS
from tests.nn import reference
from tests.tiny import FRAME, PADDING_VALUE, PATCH, alone, padded_batch, tiny_autoencoder, tiny_batch

LENGTHS = (100, 64, 47)  # frames


@pytest.fixture(params=[PATCH, FRAME], ids=["patch", "frame"])
def grid(request: pytest.FixtureRequest) -> dict[str, int]:
    return request.param


@pytest.fixture
def model(grid) -> MaskedAutoencoder:
    return tiny_autoencoder(**grid, normalization="dataset")


def waveforms(*num_samples: int) -> tuple[Tensor, Tensor]:
    """Return noise [B, S] and its padding mask, what is padded full of loud nonsense."""
    waveform = 0.1 * torch.randn(len(num_samples), max(num_samples), generator=torch.Generator().manual_seed(0))
    padding_mask = torch.arange(max(num_samples)) >= torch.tensor(num_samples)[:, None]  # [B, S]
    return waveform.masked_fill(padding_mask, PADDING_VALUE), padding_mask


@pytest.mark.parametrize("normalization", sorted(NORMALIZATIONS))
@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_features_of_a_clip_do_not_depend_on_its_batch(grid, normalization: str, layer_norm_first: bool) -> None:
    model = tiny_autoencoder(**grid, normalization=normalization, layer_norm_first=layer_norm_first)
    batch = padded_batch(LENGTHS)
    for output_layer in (None, 1, 2, 3):
        together, padding_mask = model.extract_features(**batch, output_layer=output_layer)
        for row in range(len(LENGTHS)):
            by_itself, no_mask = model.extract_features(**alone(batch, row), output_layer=output_layer)
            assert no_mask is None
            torch.testing.assert_close(together[row][~padding_mask[row]], by_itself[0], atol=1e-5, rtol=1e-5)


def test_features_equal_the_plain_reference(model) -> None:
    model = model.double()
    source = padded_batch((96,))["source"]
    tokens = model.post_extract_proj(reference.patches(model, source[0]))
    tokens = tokens + model.positions.table[: len(tokens)]
    features = model.extract_features(source).features[0]
    torch.testing.assert_close(features, reference.stack(model.encoder, tokens), atol=1e-9, rtol=1e-7)


def test_a_waveform_gives_the_features_of_its_log_mel_frames(model) -> None:
    waveform, _ = waveforms(16_000, 16_000)
    from_frames = model.extract_features(fbank.log_mel(waveform))
    from_waveform = model.extract_features(waveform)
    assert from_waveform.features.equal(from_frames.features)
    assert from_waveform.token_padding_mask is None


def test_a_padded_waveform_gives_the_features_that_it_gives_alone(model) -> None:
    lengths = (16_000, 9_999, 5_000)
    batch, padding_mask = waveforms(*lengths)
    features, token_padding_mask = model.extract_features(batch, padding_mask)
    for row, length in enumerate(lengths):
        by_itself, _ = model.extract_features(batch[row : row + 1, :length])
        torch.testing.assert_close(features[row][~token_padding_mask[row]], by_itself[0], atol=1e-5, rtol=1e-5)


def test_ret_conv_gives_projected_tokens_with_positions(model) -> None:
    batch = padded_batch(LENGTHS)
    tokens, padding_mask = model.extract_features(**batch, ret_conv=True)
    for row in range(len(LENGTHS)):
        patches = reference.patches(model, alone(batch, row)["source"][0])
        expected = model.post_extract_proj(patches) + model.positions.table[: len(patches)]
        torch.testing.assert_close(tokens[row][~padding_mask[row]], expected)
    entered = []
    model.encoder.register_forward_pre_hook(lambda _module, args: entered.append(args[0]))
    model.extract_features(**batch)
    assert entered[0].equal(tokens)


@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_output_layer_counts_from_one(grid, layer_norm_first: bool) -> None:
    model, outputs = tiny_autoencoder(**grid, layer_norm_first=layer_norm_first), []
    batch = padded_batch(LENGTHS)
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    final = model.extract_features(**batch).features
    for number, output in enumerate(outputs[:3], start=1):
        assert model.extract_features(**batch, output_layer=number).features.equal(output)
    # The end of a pre-LayerNorm encoder is its LayerNorm, which no output_layer includes.
    assert final.equal(model.encoder.layer_norm(outputs[2]) if layer_norm_first else outputs[2])


@pytest.mark.parametrize("output_layer", [-1, 0, 4])
def test_an_output_layer_that_is_not_there_is_refused(model, output_layer: int) -> None:
    with pytest.raises(ConfigError, match=f"output_layer: {output_layer} was given; expected 1 to 3"):
        model.extract_features(padded_batch(LENGTHS)["source"], output_layer=output_layer)


@pytest.mark.parametrize("lengths", [LENGTHS, (96, 96)], ids=["padded", "whole"])
def test_masked_features_are_the_encoders_output_in_pretraining(model, lengths: tuple[int, ...]) -> None:
    batch = tiny_batch(model.grid, lengths)
    encoded = []
    hook = model.encoder.register_forward_hook(lambda _module, _args, output: encoded.append(output))
    model(**batch)
    hook.remove()
    masked = batch.pop("masked"), batch.pop("masked_padding_mask")
    features, padding_mask = model.extract_features(**batch, mask=True)
    assert features.equal(encoded[0])
    assert padding_mask is batch["visible_padding_mask"]
    assert features.shape[1] + masked[0].shape[1] == model.grid.num_tokens(lengths[0])


@pytest.mark.parametrize("given", [{}, {"visible": torch.tensor([[0, 1]])}])
def test_predicting_without_tokens_is_refused(model, given) -> None:
    with pytest.raises(ConfigError, match=r"(visible|masked): nothing was given; expected token indices"):
        model(torch.zeros(1, 64, model.grid.feature_dim), **given)


@pytest.mark.parametrize("num_short", [1, 0])
def test_clips_without_a_token_are_refused(model, num_short: int) -> None:
    source = torch.zeros(2, model.grid.kernel[1] - num_short, model.grid.feature_dim)
    if num_short:
        with pytest.raises(AudioError, match=rf"source: {len(source[0])} frames of 10 ms were given, less"):
            model.extract_features(source)
    else:
        assert model.extract_features(source).features.shape[1] == model.grid.rows


def test_masking_without_visible_tokens_is_refused(model) -> None:
    with pytest.raises(ConfigError, match=r"mask: true was given without visible; pass the indices"):
        model.extract_features(padded_batch(LENGTHS)["source"], mask=True)


def test_removing_pretraining_modules_leaves_features_and_the_encoders_state() -> None:
    model = tiny_autoencoder(use_post_enc_proj=True, decoder_embed_dim=32)
    batch, complete = padded_batch(LENGTHS), copy.deepcopy(model)
    model.remove_pretraining_modules()
    assert model.extract_features(**batch).features.equal(complete.extract_features(**batch).features)
    kept = ("post_extract_proj.", "batch_norm.", "encoder.")
    expected = {name: value for name, value in complete.state_dict().items() if name.startswith(kept)}
    assert list(model.state_dict()) == list(expected)
    assert {name.split(".")[0] for name in complete.state_dict()} - {name[:-1] for name in kept} == {
        "decoder",
        "decoder_mask_emb",
        "post_enc_proj",
        "final_proj_reconstruction",
        "final_proj_classification",
    }


@pytest.mark.parametrize(
    ("source", "padding_mask", "message"),
    [
        (torch.zeros(16_000), None, r"source: a tensor of shape \[16000\]"),
        (torch.zeros(1, 100, 80), None, r"source: a tensor of shape \[1, 100, 80\].*\[B, T, 128\]"),
        (torch.zeros(2, 16_000), torch.zeros(1, 16_000, dtype=torch.bool), r"padding_mask: .*shape \[1, 16000\]"),
        (torch.zeros(2, 16_000), torch.zeros(2, 16_000), r"padding_mask: torch\.float32"),
    ],
)
def test_a_source_of_another_shape_is_an_error_that_says_what_is_expected(source, padding_mask, message):
    with pytest.raises(ConfigError, match=message):
        tiny_autoencoder().extract_features(source, padding_mask)


@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_hidden_states_are_the_features_of_every_layer(grid, layer_norm_first: bool) -> None:
    model, batch = tiny_autoencoder(**grid, layer_norm_first=layer_norm_first), padded_batch(LENGTHS)
    states = model.hidden_states(**batch)
    assert len(states.layers) == model.num_layers == 3
    for number, layer in enumerate(states.layers, start=1):
        assert layer.equal(model.extract_features(**batch, output_layer=number).features)
    features, token_padding_mask = model.extract_features(**batch)
    assert states.features.equal(features)
    assert states.token_padding_mask.equal(token_padding_mask)
