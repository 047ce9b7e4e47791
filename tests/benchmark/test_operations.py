from typing import Any

import pytest
import torch

from mae_ast_fairseq.benchmark.cases import make_sample
from mae_ast_fairseq.benchmark.operations import Counter, count
from mae_ast_fairseq.benchmark.steps import BenchmarkModel
from tests.benchmark.small import CPU, small_case, small_recipes

LAYERS, WIDTH, FFN, PATCH = 2, 48, 96, 256  # of the small recipes
NUM_TOKENS, NUM_VISIBLE, NUM_MASKED, BATCH = 48, 12, 36, 2


def built(**changes: Any) -> tuple[BenchmarkModel, dict[str, Any]]:
    case = small_case(**changes)
    recipe = small_recipes(case.recipe)[case.recipe]
    return BenchmarkModel(recipe, case.model_key, CPU), make_sample(recipe, case, CPU)


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
        "forward": projection + linear + attention + scores,
        # Input and target need no gradient; fused attention's backward is five products, forward's two.
        "backward": projection + 2 * linear + attention * 5 // 2 + scores,
        "inference": 2 * NUM_TOKENS * PATCH * WIDTH
        + LAYERS * (linear_flops(NUM_TOKENS) + attention_flops(NUM_TOKENS, NUM_TOKENS)),
    }


def test_operations_are_those_of_the_formula() -> None:
    counted = count(*built())
    by_hand = {name: BATCH * flops for name, flops in expected().items()}
    assert counted.forward_flops == by_hand["forward"]
    assert counted.backward_flops == by_hand["backward"]
    assert counted.inference_flops == by_hand["inference"]
    assert counted.step_flops == by_hand["forward"] + by_hand["backward"]


@pytest.mark.parametrize("recipe", ["mae_ast_patch", "ssast_patch"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_a_step_on_fake_tensors_dispatches_what_a_real_one_does(
    recipe: str, precision: str, attention_dropout: float
) -> None:
    trainee, sample = built(recipe=recipe, precision=precision, attention_dropout=attention_dropout)
    counted = count(trainee, sample)
    with Counter() as real:
        trainee.forward(sample).backward()
    assert (counted.dispatched, counted.step_flops) == (real.dispatched, real.flops)


def test_counting_leaves_the_model_as_it_was() -> None:
    trainee, sample = built(seconds=30.0)  # longer than the table of positions
    before = {name: tensor.clone() for name, tensor in trainee.model.state_dict().items()}
    count(trainee, sample)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainee.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trainee.parameters)
    assert trainee.forward(sample).isfinite()


def test_as_many_operations_for_any_batch_size() -> None:
    trainee, sample = built(batch_size=4)
    _, larger = built(batch_size=32)
    assert count(trainee, sample).dispatched == count(trainee, larger).dispatched


def test_kept_bytes_are_those_of_a_real_step() -> None:
    trainee, sample = built(batch_size=3)
    weights = {tensor.untyped_storage().data_ptr() for tensor in trainee.model.state_dict(keep_vars=True).values()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainee.forward(sample)
    real = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
    assert count(trainee, sample).kept_bytes == pytest.approx(real, rel=0.02)
