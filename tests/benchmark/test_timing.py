from collections.abc import Callable

import pytest
import torch

from mae_ast_fairseq.benchmark.cases import make_sample
from mae_ast_fairseq.benchmark.limits import NotEnoughMemoryError
from mae_ast_fairseq.benchmark.steps import BenchmarkModel
from mae_ast_fairseq.benchmark.timing import Product, Spread, interleave, spread, time_product, time_step
from tests.benchmark.small import CPU, small_case, small_recipes


class FakeClock:
    """Advances by one second each time it is asked."""

    def __init__(self) -> None:
        self.now = -1.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_rows_take_turns_and_warm_up_is_not_counted() -> None:
    clock, order, advanced = FakeClock(), [], []

    def row(name: str) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            order.append(name)
            return {"start": clock()}

        return measure

    rounds = interleave(
        [row("a"), row("b"), row("c")], num_rounds=3, num_warm_up=1, advance=lambda: advanced.append(None)
    )
    assert order == ["a", "b", "c"] * 4
    assert [found.of("start") for found in rounds] == [[3, 6, 9], [4, 7, 10], [5, 8, 11]]
    assert len(advanced) == 12


@pytest.mark.parametrize(
    "error",
    [
        NotEnoughMemoryError("not enough memory: needs 9 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
    ],
)
def test_a_row_without_memory_is_told_and_the_others_go_on(error: Exception) -> None:
    calls = []

    def fails() -> dict[str, float]:
        calls.append(None)
        raise error

    failed, fine = interleave([fails, lambda: {"s": 1.0}], num_rounds=2, num_warm_up=1)
    assert failed.error is not None
    assert failed.error.startswith("not enough memory")
    assert (len(calls), fine.of("s"), fine.error) == (1, [1.0, 1.0], None)


def test_other_errors_are_not_hidden() -> None:
    def fails() -> dict[str, float]:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        interleave([fails], num_rounds=1, num_warm_up=0)


def test_quartiles() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 2.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_parts_of_a_step_are_timed_one_after_the_other(precision: str) -> None:
    case = small_case(precision=precision)
    recipe = small_recipes(case.recipe)[case.recipe]
    trainee = BenchmarkModel(recipe, case.model_key, CPU)
    timed = time_step(trainee, make_sample(recipe, case, CPU), FakeClock())
    assert timed == {
        "forward": 1,
        "backward": 1,
        "forward_backward": 2,
        "optimizer": 1,
        "update": 3,
        "inference": 1,
    }
    assert all(parameter.grad is None for parameter in trainee.parameters)


def test_the_rate_of_a_product_counts_each_repetition() -> None:
    product = Product(10, 20, 30)
    assert product.flops == 12_000
    rate = time_product(product._replace(m=100_000), torch.float32, CPU, FakeClock())
    assert rate == {"flops_per_second": 167 * 120_000_000}  # 2e10 / 1.2e8, within one second of that clock
