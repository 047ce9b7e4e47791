"""SSAST equals a plain reference, shares MAE-AST's parts, and what it predicts does not depend on the batch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mae_ast_fairseq.config.pretraining import SsastFields
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.build import MODELS
from mae_ast_fairseq.nn.normalization import NORMALIZATIONS
from tests.nn import reference
from tests.tiny import FRAME, NUM_BANDS, PATCH, TINY, alone, padded_batch, tiny_batch, tiny_ssast

LENGTHS = {"whole": (96, 96), "padded": (100, 64, 47)}  # frames
RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "patch-chunks": (PATCH, "chunk_mask"),
    "patch-pre-layer-norm": ({**PATCH, "layer_norm_first": True}, "random_mask"),
    "frame": (FRAME, "random_mask"),
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_outputs_and_gradients_equal_the_plain_reference(recipe: str, lengths: tuple[int, ...]) -> None:
    changes, mask_type = RECIPES[recipe]
    model = tiny_ssast(**changes).double()
    batch = tiny_batch(model.grid, lengths, mask_type)
    predictions = model(**batch)

    def gradients(outputs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        joined = torch.cat([torch.cat(pair).flatten() for pair in outputs])
        weighted = joined @ torch.linspace(-1, 1, len(joined), dtype=joined.dtype)
        return list(torch.autograd.grad(weighted, list(model.parameters()), retain_graph=True))

    given, expected = [], []
    for row in range(len(lengths)):
        clip = alone(batch, row)
        num_masked = clip["masked"].shape[1]
        outputs = reference.ssast(model, clip["source"][0], clip["visible"][0], clip["masked"][0])
        given.append((predictions.reconstruction[row, :num_masked], predictions.classification[row, :num_masked]))
        expected.append((outputs.reconstruction, outputs.classification))
        torch.testing.assert_close(predictions.target[row, :num_masked].double(), outputs.target)
    torch.testing.assert_close(given, expected, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(gradients(given), gradients(expected), atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("grid", [PATCH, FRAME], ids=["patch", "frame"])
@pytest.mark.parametrize("normalization", sorted(NORMALIZATIONS))
@pytest.mark.parametrize("max_token_length", [256, 24], ids=["cut", "stretched"])
def test_losses_of_a_clip_do_not_depend_on_its_batch(grid: dict, normalization: str, max_token_length: int) -> None:
    model = tiny_ssast(**grid, normalization=normalization, max_token_length=max_token_length)
    reference.assert_losses_do_not_depend_on_the_batch(model, LENGTHS["padded"])


def test_the_encoder_sees_every_token_and_nothing_of_the_masked_ones() -> None:
    model = tiny_ssast()
    batch = tiny_batch(model.grid, LENGTHS["whole"])
    seen = []
    model.encoder.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    model(**batch)
    patches = model.patches(batch["source"])
    for row, masked in enumerate(batch["masked"]):
        given = seen[0][row] - model.positions.table[: patches.shape[1]]
        torch.testing.assert_close(given[masked], model.mask_emb.expand(len(masked), -1))
        visible = batch["visible"][row]
        torch.testing.assert_close(given[visible], model.post_extract_proj(patches[row, visible]))


def test_features_with_a_mask_are_those_of_all_tokens() -> None:
    model = tiny_ssast()
    batch = tiny_batch(model.grid, LENGTHS["padded"])
    names = ("source", "padding_mask", "visible", "visible_padding_mask")
    features, tokens_mask = model.extract_features(**{name: batch[name] for name in names}, mask=True)
    assert features.shape[1] == model.grid.num_tokens(100)
    for row in range(3):
        clip = alone(batch, row)
        expected = reference.ssast(model, clip["source"][0], clip["visible"][0], clip["masked"][0]).encoded
        torch.testing.assert_close(features[row][~tokens_mask[row]], expected, atol=1e-5, rtol=1e-5)


def test_features_without_a_mask_need_no_pretraining_modules() -> None:
    model, batch = tiny_ssast(), padded_batch((64, 64))
    before = model.extract_features(**batch).features
    model.remove_pretraining_modules()
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {
        "post_extract_proj", "positions", "encoder",
    }  # fmt: skip
    assert model.extract_features(**batch).features.equal(before)


def test_heads_have_two_layers_and_a_relu() -> None:
    model = tiny_ssast()
    for head in (model.final_proj_reconstruction, model.final_proj_classification):
        assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Linear"]
        assert (head[0].weight.shape, head[2].weight.shape) == ((48, 48), (256, 48))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ast_kernel_stride_time": 8}, "ast_kernel_stride_time: found 8, expected 16"),
        ({"max_token_length": 100}, "model.max_token_length: 100 cannot be divided by the grid's rows=8"),
        ({"encoder_layers": 0}, "model.encoder_layers: 0 was given"),
        ({"random_mask_prob": 0.0}, "model.random_mask_prob: 0.0 was given"),
    ],
)
def test_a_wrong_field_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        MODELS["ssast"].build(SsastFields(**{**TINY, **changes}), NUM_BANDS)
    assert message in str(error.value)
