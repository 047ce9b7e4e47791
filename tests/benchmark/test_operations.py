from pathlib import Path

import pytest
import torch

from mae_ast_fairseq.benchmark.operations import DispatchCounter, count
from tests.benchmark.small import small_case, small_model

LAYERS, WIDTH, FFN, PATCH = 2, 48, 96, 256  # of the small recipes
NUM_TOKENS, NUM_VISIBLE, NUM_MASKED, BATCH = 48, 12, 36, 2


def linear_flops(tokens: int) -> int:
    """Return the forward operations of a full layer's matrix products, attention left out."""
    return 2 * tokens * (4 * WIDTH**2 + 2 * WIDTH * FFN)


def attention_flops(queries: int, keys: int) -> int:
    return 2 * 2 * queries * keys * WIDTH


def expected() -> dict[str, int]:
    """Count by hand, of one clip: the last decoder layer has queries and feed-forward at masked tokens alone."""
    projection = 2 * NUM_VISIBLE * PATCH * WIDTH
    heads = 2 * 2 * NUM_MASKED * WIDTH * PATCH
    scores = 2 * NUM_MASKED**2 * PATCH
    last = 2 * (2 * NUM_TOKENS * WIDTH**2 + 2 * NUM_MASKED * WIDTH**2 + 2 * NUM_MASKED * WIDTH * FFN)
    linear = LAYERS * linear_flops(NUM_VISIBLE) + linear_flops(NUM_TOKENS) + last + heads
    attention = (
        LAYERS * attention_flops(NUM_VISIBLE, NUM_VISIBLE)
        + attention_flops(NUM_TOKENS, NUM_TOKENS)
        + attention_flops(NUM_MASKED, NUM_TOKENS)
    )
    return {
        "forward_flops": projection + linear + attention + scores,
        # Input and target need no gradient; fused attention's backward is five products, forward's two.
        "backward_flops": projection + 2 * linear + attention * 5 // 2 + scores,
        "inference_flops": 2 * NUM_TOKENS * PATCH * WIDTH
        + LAYERS * (linear_flops(NUM_TOKENS) + attention_flops(NUM_TOKENS, NUM_TOKENS)),
    }


def test_operations_are_those_of_the_formula(tmp_path: Path) -> None:
    counted = count(*small_model(tmp_path, small_case()))
    by_hand = {name: BATCH * flops for name, flops in expected().items()}
    assert {name: counted[name] for name in by_hand} == by_hand
    assert counted["step_flops"] == by_hand["forward_flops"] + by_hand["backward_flops"]


@pytest.mark.parametrize("recipe", ["mae_ast_patch", "ssast_patch"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_a_step_on_fake_tensors_dispatches_what_a_real_one_does(
    tmp_path: Path, recipe: str, precision: str, attention_dropout: float
) -> None:
    case = small_case(recipe, precision=precision, attention_dropout=attention_dropout)
    trained, sample = small_model(tmp_path, case)
    counted = count(trained, sample)
    with DispatchCounter() as real:
        trained.criterion(trained.model.train(), sample)[0].backward()
    assert counted["dispatched"] == real.dispatched


def test_counting_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    trained, sample = small_model(tmp_path, small_case(seconds=30.0))  # longer than the table of positions
    before = {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}
    count(trained, sample)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trained.model.parameters())
    assert trained.criterion(trained.model, sample)[0].isfinite()


def test_as_many_operations_for_any_batch_size(tmp_path: Path) -> None:
    small, large = (count(*small_model(tmp_path, small_case(batch_size=size))) for size in (4, 32))
    assert small["dispatched"] == large["dispatched"]
    assert large["step_flops"] == 8 * small["step_flops"]
