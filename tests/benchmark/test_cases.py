import pytest

from mae_ast_fairseq.benchmark.cases import product, require_tokens, sweep
from mae_ast_fairseq.errors import ConfigError
from tests.benchmark.small import small_case, small_recipe

RECIPES = ["a", "b"]
CHOICES = {
    "precision": ["float32", "bfloat16"],
    "dropout": [None],
    "attention_dropout": [0.0],
    "mask_ratio": [0.5, 0.75],
    "seconds": [1.0, 2.0],
    "batch_size": [3],
}


def test_the_product_has_every_row_and_recipes_side_by_side() -> None:
    cases = product(RECIPES, CHOICES)
    assert len(set(cases)) == len(cases) == 16
    assert [case.recipe for case in cases] == ["a", "b"] * 8
    assert all(first._replace(recipe="b") == second for first, second in zip(cases[::2], cases[1::2], strict=True))


def test_a_sweep_is_two_lines_through_the_first_sizes() -> None:
    cases = sweep(RECIPES, CHOICES)
    assert {(case.seconds, case.mask_ratio) for case in cases} == {(s, 0.5) for s in (5, 10, 20, 40, 60)} | {
        (1.0, ratio) for ratio in (0.5, 0.6, 0.7, 0.8, 0.9)
    }
    assert len(cases) == 10 * 4


def test_cases_of_other_sizes_share_a_model() -> None:
    case = small_case()
    assert case.model_key == small_case(seconds=3.0, batch_size=9, mask_ratio=0.3).model_key
    assert case.model_key != small_case(attention_dropout=0.1).model_key


def test_clips_too_short_for_two_tokens_are_refused() -> None:
    recipe = small_recipe()
    require_tokens(recipe, small_case(seconds=0.5))
    with pytest.raises(ConfigError, match=r"--seconds 0\.05: gives 0 tokens of mae_ast_patch"):
        require_tokens(recipe, small_case(seconds=0.05))
