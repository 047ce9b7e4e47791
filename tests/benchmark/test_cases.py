import pytest
import torch

from mae_ast_fairseq.benchmark.cases import (
    Case,
    Choices,
    build_model,
    fields_of,
    make_sample,
    product,
    sizes_of,
    sweep,
)
from mae_ast_fairseq.errors import ConfigError
from tests.benchmark.small import CPU, small_case, small_recipes

CHOICES = Choices(["a", "b"], ["float32", "bfloat16"], [None], [0.0], [0.5, 0.75], [1.0, 2.0], [3])


def test_the_product_has_every_row_and_recipes_side_by_side() -> None:
    cases = product(CHOICES)
    assert len(set(cases)) == len(cases) == 16
    assert [case.recipe for case in cases] == ["a", "b"] * 8
    assert all(first.of_recipe("b") == second for first, second in zip(cases[::2], cases[1::2], strict=True))


def test_a_sweep_is_two_lines_through_the_first_sizes() -> None:
    cases = sweep(CHOICES, [1.0, 5.0, 9.0], [0.5, 0.9])
    assert {(case.seconds, case.mask_ratio) for case in cases} == {(1.0, 0.5), (5.0, 0.5), (9.0, 0.5), (1.0, 0.9)}
    assert len(cases) == 4 * 4


@pytest.mark.parametrize(("ratio", "num_visible"), [(None, 12), (0.5, 24)])
def test_the_batch_is_that_of_the_dataset(ratio: float | None, num_visible: int) -> None:
    case = small_case(mask_ratio=ratio, batch_size=3)
    recipe = small_recipes("mae_ast_patch")["mae_ast_patch"]
    sample = make_sample(recipe, case, CPU)
    inputs = sample["net_input"]
    sizes = sizes_of(recipe, case)
    assert sizes == (48, num_visible, 48 - num_visible)  # 98 frames: 6 columns of 8 patches
    assert inputs["source"].shape == (3, 98, 128)
    assert inputs["source"].dtype is torch.float32
    both = torch.cat([inputs["visible"], inputs["masked"]], dim=1)
    assert torch.equal(both.sort(dim=1).values, torch.arange(48).expand(3, -1))
    assert inputs["visible"].shape == (3, num_visible)
    assert sample["ntokens"] == 3 * sizes.num_masked
    assert not torch.equal(inputs["visible"][0], inputs["visible"][1])


def test_one_mask_for_the_batch_where_the_recipe_says_so() -> None:
    recipe = small_recipes("mae_ast_patch", settings=("task.mask_type=random_mask_batched",))["mae_ast_patch"]
    visible = make_sample(recipe, small_case(), CPU)["net_input"]["visible"]
    assert torch.equal(visible[0], visible[1])


def test_the_model_is_in_its_precision_but_for_the_statistics() -> None:
    recipe = small_recipes("ssast_patch")["ssast_patch"]
    model = build_model(recipe, small_case("ssast_patch", precision="bfloat16").model_key, CPU)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.batch_norm.running_mean.dtype is torch.float32
    assert model.training


def test_dropouts_are_the_case_s_and_no_layer_is_dropped() -> None:
    recipe = small_recipes("mae_ast_patch")["mae_ast_patch"]
    own = fields_of(recipe, small_case(dropout=None, attention_dropout=None))
    assert (own.dropout, own.attention_dropout, own.dropout_input, own.encoder_layerdrop) == (0.1, 0.1, 0.1, 0.0)
    changed = fields_of(recipe, small_case(dropout=0.2, attention_dropout=0.0))
    assert (changed.dropout, changed.attention_dropout, changed.dropout_input) == (0.2, 0.0, 0.2)


def test_cases_of_other_sizes_share_a_model() -> None:
    case = small_case()
    assert case.model_key == small_case(seconds=3.0, batch_size=9, mask_ratio=0.3).model_key
    assert case.model_key != small_case(attention_dropout=0.1).model_key


def test_clips_too_short_for_two_tokens_are_refused() -> None:
    case: Case = small_case(seconds=0.05)
    with pytest.raises(ConfigError, match=r"--seconds 0\.05: gives 0 tokens of mae_ast_patch"):
        sizes_of(small_recipes("mae_ast_patch")["mae_ast_patch"], case)
