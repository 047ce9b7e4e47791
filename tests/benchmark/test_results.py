import pytest

from mae_ast_fairseq.benchmark import results
from mae_ast_fairseq.benchmark.timing import Measurement
from tests.benchmark.small import small_case

BASE, OWN = small_case("ssast_patch"), small_case("mae_ast_patch")


def rounds(*seconds: float) -> list[Measurement]:
    return [dict.fromkeys(results.TIMES, number) for number in seconds]


def row(flops: int = 100) -> dict:
    return {"precision": "float32", "operations": {"step_flops": flops, "inference_flops": flops // 2}}


def test_ratios_are_taken_within_each_round() -> None:
    rows = {BASE: row(), OWN: row()}
    # The machine slows down fourfold in the last round: the ratio does not notice.
    results.add_times(rows, {BASE: rounds(3.0, 6.0, 12.0), OWN: rounds(1.0, 2.0, 4.0)}, "ssast_patch")
    assert rows[OWN]["times_faster"]["update"] == {"median": 3.0, "q1": 3.0, "q3": 3.0}
    assert rows[BASE]["times_faster"]["update"]["median"] == 1.0


def test_a_failed_baseline_leaves_no_ratio() -> None:
    rows = {BASE: row(), OWN: row()}
    results.add_times(rows, {BASE: "not enough memory", OWN: rounds(1.0)}, "ssast_patch")
    assert rows[BASE]["time"] == {"error": "not enough memory"}
    assert "times_faster" not in rows[OWN]
    assert rows[OWN]["time"]["update"]["median"] == 1.0


def test_the_fraction_is_of_the_best_product_of_the_same_precision() -> None:
    rows = {OWN: row(flops=100)}
    results.add_times(rows, {OWN: rounds(2.0)}, "mae_ast_patch")
    found = [
        {"precision": name, "flops_per_second": {"median": rate}}
        for rate, name in {40.0: "float32", 50.0: "float32", 900.0: "bfloat16"}.items()
    ]
    results.add_rates(rows.values(), found)
    assert [rate["is_best"] for rate in found] == [False, True, True]
    assert rows[OWN]["share_of_rate"] == {"forward_backward": 1.0, "inference": 0.5}


def test_memory_ratios() -> None:
    rows = {BASE: {"memory": {"step_bytes": 220}}, OWN: {"memory": {"step_bytes": 100}}}
    results.add_ratio(rows, "ssast_patch", "times_less_memory", "memory", "step_bytes")
    assert rows[OWN]["times_less_memory"] == pytest.approx(2.2)
    rows = {BASE: {"memory": {"error": "not enough memory"}}, OWN: {"memory": {"step_bytes": 100}}}
    results.add_ratio(rows, "ssast_patch", "times_less_memory", "memory", "step_bytes")
    assert "times_less_memory" not in rows[OWN]
