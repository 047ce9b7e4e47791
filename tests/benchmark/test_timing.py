from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mae_ast_fairseq.benchmark import timing
from mae_ast_fairseq.benchmark.timing import round_robin, spread, time_product
from tests.benchmark.small import CPU, small_case

BASE, OWN = small_case("ssast_patch"), small_case("mae_ast_patch")


def rounds(*seconds: float) -> list[dict[str, float]]:
    return [dict.fromkeys(timing.TIMES, number) for number in seconds]


def row(flops: int = 100) -> dict[str, Any]:
    return {"precision": "float32", "operations": {"step_flops": flops, "inference_flops": flops // 2}}


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
    assert time_product((10, 20, 30), torch.float32, CPU) == {"flops_per_second": 2 * 10 * 20 * 30 / 2.0}


def test_ratios_are_taken_within_each_round() -> None:
    rows = {BASE: row(), OWN: row()}
    # The machine slows down fourfold in the last round: the ratio does not notice.
    timing.add_times(rows, {BASE: rounds(3.0, 6.0, 12.0), OWN: rounds(1.0, 2.0, 4.0)}, "ssast_patch")
    assert rows[OWN]["times_faster"]["update"] == {"median": 3.0, "q1": 3.0, "q3": 3.0}
    assert rows[BASE]["times_faster"]["update"]["median"] == 1.0


def test_a_failed_baseline_leaves_no_ratio() -> None:
    rows = {BASE: row(), OWN: row()}
    timing.add_times(rows, {BASE: "not enough memory", OWN: rounds(1.0)}, "ssast_patch")
    assert rows[BASE]["time"] == {"error": "not enough memory"}
    assert "times_faster" not in rows[OWN]
    assert rows[OWN]["time"]["update"]["median"] == 1.0


def test_the_fraction_is_of_the_best_product_of_the_same_precision() -> None:
    rows = {OWN: row(flops=100)}
    timing.add_times(rows, {OWN: rounds(2.0)}, "mae_ast_patch")
    found = [
        {"precision": name, "flops_per_second": {"median": rate}}
        for rate, name in {40.0: "float32", 50.0: "float32", 900.0: "bfloat16"}.items()
    ]
    timing.add_rates(rows.values(), found)
    assert [rate["is_best"] for rate in found] == [False, True, True]
    assert rows[OWN]["share_of_rate"] == {"forward_backward": 1.0, "inference": 0.5}


def test_memory_ratios() -> None:
    rows = {BASE: {"memory": {"step_bytes": 220}}, OWN: {"memory": {"step_bytes": 100}}}
    timing.add_ratio(rows, "ssast_patch", "times_less_memory", "memory", "step_bytes")
    assert rows[OWN]["times_less_memory"] == pytest.approx(2.2)
    rows = {BASE: {"memory": {"error": "not enough memory"}}, OWN: {"memory": {"step_bytes": 100}}}
    timing.add_ratio(rows, "ssast_patch", "times_less_memory", "memory", "step_bytes")
    assert "times_less_memory" not in rows[OWN]
