from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from mae_ast_fairseq.benchmark import timing
from mae_ast_fairseq.benchmark.timing import Product, round_robin, spread, time_product
from tests.benchmark.small import CPU


def test_rows_take_turns_and_warm_up_is_not_counted() -> None:
    order: list[str] = []

    def row(name: str) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            order.append(name)
            return {"place": len(order)}

        return measure

    rounds = round_robin({name: row(name) for name in "abc"}, num_rounds=3, num_warm_up=1)
    assert order == ["a", "b", "c"] * 4
    places = {name: [found["place"] for found in rounds[name]] for name in "abc"}
    assert places == {"a": [4, 7, 10], "b": [5, 8, 11], "c": [6, 9, 12]}


def test_a_row_without_memory_is_told_and_the_others_go_on() -> None:
    calls = []

    def fails() -> dict[str, float]:
        calls.append(None)
        raise MemoryError

    rounds = round_robin({"failed": fails, "fine": lambda: {"s": 1.0}}, num_rounds=2, num_warm_up=1)
    assert rounds["failed"].startswith("not enough memory")
    assert (len(calls), rounds["fine"]) == (1, [{"s": 1.0}, {"s": 1.0}])


def test_quartiles() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert spread([7.0]) == {"median": 7.0, "q1": 7.0, "q3": 7.0}


def test_the_rate_of_a_product_counts_multiplications_and_additions(monkeypatch: pytest.MonkeyPatch) -> None:
    def timer(statement: str, *, globals: dict, num_threads: int) -> SimpleNamespace:
        assert eval(statement, globals).shape == (10, 30)
        return SimpleNamespace(blocked_autorange=lambda min_run_time: SimpleNamespace(median=2.0))

    monkeypatch.setattr(timing, "Timer", timer)
    assert time_product(Product(10, 20, 30), torch.float32, CPU) == {"flops_per_second": 2 * 10 * 20 * 30 / 2.0}
