"""The masked autoencoder equals a plain reference, and what it predicts does not depend on the batch."""

import copy
import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_ast_fairseq.config.pretraining import SsastFields
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder
from mae_ast_fairseq.nn.build import MODELS, build_autoencoder
from mae_ast_fairseq.nn.losses import reconstruction_error
from mae_ast_fairseq.nn.normalization import NORMALIZATIONS
from mae_ast_fairseq.rng import Stream
from tests.nn import reference
from tests.tiny import (
    FRAME,
    NUM_BANDS,
    PATCH,
    TINY,
    alone,
    tiny_autoencoder,
    tiny_batch,
    tiny_fields,
)

LENGTHS = {"whole": (96, 96), "padded": (100, 64, 47)}  # frames
NARROW_DECODER = {
    "use_post_enc_proj": True,
    "decoder_embed_dim": 32,
    "decoder_attention_heads": 8,
    "decoder_ffn_embed_dim": 40,
}
RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "patch": (PATCH, "random_mask"),
    "patch-chunks": (PATCH, "chunk_mask"),
    "patch-pre-layer-norm": ({**PATCH, "layer_norm_first": True}, "random_mask"),
    "patch-narrow-decoder": ({**PATCH, **NARROW_DECODER}, "chunk_mask"),
    "patch-no-positions": ({**PATCH, "enc_sine_pos": False, "dec_sine_pos": False}, "random_mask"),
    "frame-spans": (FRAME, "chunk_mask"),
    "frame-everything": ({**FRAME, **NARROW_DECODER, "layer_norm_first": True}, "random_mask"),
}


def outputs_and_gradients(model: MaskedAutoencoder, clips: list[tuple[Tensor, ...]]) -> tuple[Any, Any]:
    """Join the outputs of clips, and give the gradients of their sum, weighted so that no value is like another."""
    outputs = [torch.cat(parts) for parts in zip(*clips, strict=True)]
    weighted = sum((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum() for output in outputs)
    gradients = torch.autograd.grad(weighted, list(model.parameters()))
    names = [name for name, _ in model.named_parameters()]
    return outputs, dict(zip(names, gradients, strict=True))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_forward_equals_the_plain_reference(recipe: str, lengths: tuple[int, ...]) -> None:
    changes, mask_type = RECIPES[recipe]
    model = tiny_autoencoder(**changes, normalization="dataset").double()
    batch = tiny_batch(model.grid, lengths, mask_type)
    predictions, clips, references = model(**batch), [], []
    for row in range(len(lengths)):
        clip = alone(batch, row)
        num_masked = clip["masked"].shape[1]
        clips.append(tuple(output[row, :num_masked] for output in predictions[:2]))
        expected = reference.pretraining(model, clip["source"][0], clip["visible"][0], clip["masked"][0])
        references.append((expected.reconstruction, expected.classification))
        torch.testing.assert_close(predictions.target[row, :num_masked].double(), expected.target)
    torch.testing.assert_close(
        outputs_and_gradients(model, clips), outputs_and_gradients(model, references), atol=1e-9, rtol=1e-7
    )
    assert predictions.padding_mask is batch["masked_padding_mask"]


@pytest.mark.parametrize("grid", [PATCH, FRAME], ids=["patch", "frame"])
@pytest.mark.parametrize("normalization", sorted(NORMALIZATIONS))
def test_losses_of_a_clip_do_not_depend_on_its_batch(grid: dict, normalization: str) -> None:
    model = tiny_autoencoder(**grid, normalization=normalization)
    reference.assert_losses_do_not_depend_on_the_batch(model, LENGTHS["padded"])


def test_decoder_sees_mask_embeddings_where_masked_and_positions_up_to_padding() -> None:
    model = tiny_autoencoder(**NARROW_DECODER)
    batch = tiny_batch(model.grid, LENGTHS["padded"])
    encoded, filled = [], []
    model.post_enc_proj.register_forward_hook(lambda _module, _args, output: encoded.append(output))
    model.decoder.register_forward_pre_hook(lambda _module, args: filled.append(args[0]))
    model(**batch)
    expected = model.decoder_mask_emb.expand_as(filled[0]).clone()  # padding stays so
    for row in range(len(LENGTHS["padded"])):
        clip = alone(batch, row)
        visible, num_tokens = clip["visible"][0], clip["visible"].shape[1] + clip["masked"].shape[1]
        expected[row, visible] = encoded[0][row, : len(visible)]
        expected[row, :num_tokens] += model.decoder_positions.table[:num_tokens]
    torch.testing.assert_close(filled[0], expected)


def test_source_is_not_changed() -> None:
    model = tiny_autoencoder().train()
    batch = tiny_batch(model.grid, LENGTHS["padded"])
    before, version = batch["source"].clone(), batch["source"]._version
    sum(output.sum() for output in model(**batch)[:2]).backward()
    model.extract_features(batch["source"], batch["padding_mask"])
    assert batch["source"].equal(before)
    assert batch["source"]._version == version


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_an_attention_mask_is_built_only_where_something_is_padded(
    lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_autoencoder()
    batch = tiny_batch(model.grid, lengths)
    attend, with_mask = F.scaled_dot_product_attention, []

    def record(*args: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        with_mask.append(attn_mask is not None)
        return attend(*args, attn_mask=attn_mask, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    model(**batch)
    model.extract_features(batch["source"], batch["padding_mask"])
    assert with_mask == [batch["padding_mask"] is not None] * (3 + 2 + 3)


@pytest.mark.parametrize("normalization", sorted(NORMALIZATIONS))
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("cast", ["bfloat16", "half"])
def test_targets_of_a_half_precision_model_are_float32s_to_the_bit(
    normalization: str, lengths: tuple[int, ...], cast: str
) -> None:
    model = tiny_autoencoder(normalization=normalization).train()
    batch = tiny_batch(model.grid, lengths)
    half = getattr(copy.deepcopy(model), cast)()
    predictions = half(**batch)
    assert predictions.reconstruction.dtype is half.post_extract_proj.weight.dtype is not torch.float32
    assert predictions.target.equal(model(**batch).target)


# --- dropout and layer drop


def test_input_dropout_acts_only_when_masking_and_training() -> None:
    model = tiny_autoencoder(dropout_input=0.3, normalization="dataset", enc_sine_pos=False).train()
    source = tiny_batch(model.grid, (1600,))["source"]
    everything = torch.arange(model.grid.num_tokens(1600))[None]

    def embedded(**kwargs: Any) -> Tensor:
        return model.extract_features(source, ret_conv=True, **kwargs).features

    unmasked, masking = embedded(), embedded(mask=True, visible=everything)
    dropped = masking == 0
    assert abs(float(dropped.float().mean()) - 0.3) < 4 * (0.21 / dropped.numel()) ** 0.5
    torch.testing.assert_close(masking[~dropped], unmasked[~dropped] / 0.7)
    model.eval()
    assert embedded().equal(unmasked)
    assert embedded(mask=True, visible=everything).equal(unmasked)


def layers_run(model: MaskedAutoencoder, batch: dict[str, Any], num_updates: int) -> list[bool]:
    """Tell which layers of the encoder, then of the decoder, an update runs."""
    layers = [*model.encoder.layers, *model.decoder.layers]
    ran = [False] * len(layers)

    def note(number: int) -> Any:
        return lambda *_: ran.__setitem__(number, True)

    hooks = [layer.register_forward_hook(note(number)) for number, layer in enumerate(layers)]
    model.set_num_updates(num_updates)
    with torch.no_grad():
        model(**batch)
    for hook in hooks:
        hook.remove()
    return ran


def test_layers_are_dropped_at_the_given_rates_by_update_and_only_while_training() -> None:
    model = tiny_autoencoder(encoder_layerdrop=0.4, decoder_layerdrop=0.15, normalization="dataset").train()
    batch, updates = tiny_batch(model.grid, (32,)), 400
    ran = np.array([layers_run(model, batch, number) for number in range(updates)])  # [updates, layers]
    for layers, rate in ((ran[:, :3], 0.4), (ran[:, 3:], 0.15)):
        deviation = (rate * (1 - rate) / updates) ** 0.5
        assert (abs(1 - layers.mean(axis=0) - rate) < 4 * deviation).all()
    correlations = np.corrcoef(ran.T)[np.triu_indices(5, k=1)]
    assert (abs(correlations) < 4 / updates**0.5).all()
    torch.manual_seed(1234)  # another process, with another past
    twin = copy.deepcopy(model)
    assert [layers_run(twin, batch, number) for number in range(20, 0, -1)] == ran[20:0:-1].tolist()
    model.eval()
    assert all(all(layers_run(model, batch, number)) for number in range(20))


def test_encoder_and_decoder_drop_layers_by_streams_of_their_own() -> None:
    model = tiny_autoencoder(encoder_layers=2, encoder_layerdrop=0.5, decoder_layerdrop=0.5).train()
    batch = tiny_batch(model.grid, (32,))
    ran = [layers_run(model, batch, number) for number in range(30)]
    assert [row[:2] for row in ran] != [row[2:] for row in ran]
    assert Stream.ENCODER_LAYER_DROP != Stream.DECODER_LAYER_DROP


def test_layers_are_dropped_by_the_runs_seed() -> None:
    def ran(seed: int) -> list[list[bool]]:
        torch.manual_seed(seed)  # as fairseq does before it builds the model
        model = build_autoencoder(MaskedAutoencoder, tiny_fields(encoder_layerdrop=0.5), NUM_BANDS).train()
        return [layers_run(model, tiny_batch(model.grid, (32,)), number) for number in range(20)]

    assert ran(1) == ran(1) != ran(2)


# --- initialisation


@pytest.fixture(scope="module")
def initial_model() -> MaskedAutoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fields = tiny_fields(use_post_enc_proj=True, decoder_embed_dim=480)
        return build_autoencoder(MaskedAutoencoder, fields, NUM_BANDS)


def test_transformer_linears_start_normal_with_deviation_002_and_no_bias(initial_model) -> None:
    linears = [
        module
        for stack in (initial_model.encoder, initial_model.decoder)
        for module in stack.modules()
        if isinstance(module, nn.Linear)
    ]
    assert len(linears) == (3 + 2) * 6
    for linear in linears:
        weights = linear.weight.detach().flatten() / 0.02
        error = weights.numel() ** -0.5
        assert abs(weights.mean()) < 4 * error
        assert abs(weights.std() - 1) < 4 * error * 0.5**0.5
        assert abs((weights**4).mean() - 3) < 4 * error * 96**0.5  # a normal's fourth moment
        assert not linear.bias.any()


def test_mask_embedding_starts_uniform_in_0_to_1(initial_model) -> None:
    values = initial_model.decoder_mask_emb.detach().sort().values
    steps = (torch.arange(480) + 0.5) / 480
    assert (values - steps).abs().max() < 1.95 / 480**0.5  # Kolmogorov-Smirnov, p = 0.001


@pytest.mark.parametrize(
    "name",
    ["post_extract_proj", "post_enc_proj", "final_proj_reconstruction", "final_proj_classification"],
)
def test_projections_start_as_torch_does(initial_model, name: str) -> None:
    linear = initial_model.get_submodule(name)
    bound = linear.in_features**-0.5
    for values in (linear.weight.detach(), linear.bias.detach()):
        assert 0.9 * bound < values.abs().max() <= bound
        assert abs(values.std() - bound / 3**0.5) < 4 * bound * (0.07 / values.numel()) ** 0.5


def test_layer_norms_start_as_the_identity(initial_model) -> None:
    for module in initial_model.modules():
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_overlapping_patches_are_refused() -> None:
    with pytest.raises(ConfigError, match="ast_kernel_stride_time"):
        tiny_autoencoder(ast_kernel_stride_time=8)


def test_clips_that_swap_are_reconstructed_from_the_clip_before_them() -> None:
    model = tiny_autoencoder()
    batch = tiny_batch(model.grid, (64, 64, 64))
    predictions = model(**batch)
    errors = model.swapped_errors(predictions)
    own = reconstruction_error(predictions.reconstruction, predictions.target).sum()
    torch.testing.assert_close(errors.own, own)
    encoded = predictions.encoded.features[[2, 0, 1]]
    decoded = model.forward_decoder(encoded, predictions.places)
    swapped = reconstruction_error(model.final_proj_reconstruction(decoded), predictions.target).sum()
    torch.testing.assert_close(errors.swapped, swapped)
    assert not torch.allclose(errors.swapped, errors.own, rtol=1e-5)


def test_equal_clips_lose_nothing_by_swapping_and_lengths_alone_change_nothing() -> None:
    model = tiny_autoencoder(normalization="dataset")
    batch = tiny_batch(model.grid, (160, 96))
    errors = model.swapped_errors(model(**batch))
    assert not torch.allclose(errors.swapped, errors.own, rtol=1e-5)
    with torch.no_grad():  # an encoder whose tokens are all alike, whatever it hears
        model.encoder.layers[-1].final_layer_norm.weight.zero_()
    collapsed = model.swapped_errors(model(**batch))
    torch.testing.assert_close(collapsed.swapped, collapsed.own)


HEADS = r"final_proj_(reconstruction|classification)\.(2\.)?(weight|bias)"
"""The last layers of both models' heads."""


@pytest.mark.parametrize(
    ("kind", "fields"), [("mae_ast", tiny_fields()), ("ssast", SsastFields(**TINY))], ids=["mae_ast", "ssast"]
)
def test_scaled_heads_are_torchs_times_the_scale_and_all_else_is_the_same(kind: str, fields: Any) -> None:
    def initial(scale: float) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return MODELS[kind].build(dataclasses.replace(fields, head_init_scale=scale), NUM_BANDS).state_dict()

    whole, scaled = initial(1.0), initial(0.01)
    for name, value in whole.items():
        expected = 0.01 * value if re.fullmatch(HEADS, name) else value
        torch.testing.assert_close(scaled[name], expected, equal_nan=True, msg=name)
    assert sum(re.fullmatch(HEADS, name) is not None for name in whole) == 4


def test_predictions_of_the_first_clips_are_those_of_a_smaller_batch() -> None:
    predictions = tiny_autoencoder()(**tiny_batch(tiny_autoencoder().grid, (160, 96, 64)))
    few = predictions.of_first(2)
    for part, whole in zip((*few[:4], *few.encoded), (*predictions[:4], *predictions.encoded), strict=True):
        assert torch.equal(part, whole[:2])
    assert tiny_autoencoder()(**tiny_batch(tiny_autoencoder().grid, (64, 64))).of_first(1).padding_mask is None
