import pytest

from mae_ast_fairseq.benchmark import results
from mae_ast_fairseq.benchmark.timing import Product, Rounds
from tests.benchmark.small import small_case

NAMES = results.TIMES


def rounds(*seconds: float) -> Rounds:
    return Rounds([dict.fromkeys(NAMES, number) for number in seconds])


def row(seconds: float = 1.0, flops: int = 100) -> dict:
    return {
        "recipe": "a",
        "precision": "float32",
        "seconds": seconds,
        "batch_size": 2,
        "mask_ratio": 0.75,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "num_tokens": 48,
        "operations": {"step_flops": flops, "inference_flops": flops // 2},
    }


def test_ratios_are_taken_within_each_round() -> None:
    rows = [row(flops=300), row(flops=100)]
    cases = [small_case("ssast_patch"), small_case("mae_ast_patch")]
    # The machine slows down fourfold in the last round: the ratio does not notice.
    results.add_times(rows, cases, [rounds(3.0, 6.0, 12.0), rounds(1.0, 2.0, 4.0)], "ssast_patch")
    assert rows[1]["times_faster"]["update"] == {"median": 3.0, "q1": 3.0, "q3": 3.0}
    assert rows[0]["times_faster"]["update"]["median"] == 1.0
    assert rows[1]["times_fewer_operations"] == 3.0
    assert rows[1]["throughput"]["training_tokens_per_second"] == 2 * 48 / 2.0
    assert rows[1]["throughput"]["inference_audio_seconds_per_second"] == 1.0


def test_a_failed_baseline_leaves_no_ratio() -> None:
    rows = [row(), row()]
    cases = [small_case("ssast_patch"), small_case("mae_ast_patch")]
    results.add_times(rows, cases, [Rounds([], "not enough memory"), rounds(1.0)], "ssast_patch")
    assert rows[0]["time"] == {"error": "not enough memory"}
    assert "times_faster" not in rows[1]
    assert rows[1]["time"]["update"]["median"] == 1.0


def test_the_share_is_of_the_best_product_of_the_same_precision() -> None:
    rows = [row(flops=100)]
    results.add_times(rows, [small_case()], [rounds(2.0)], "mae_ast_patch")
    rates = {40.0: "float32", 50.0: "float32", 900.0: "bfloat16"}
    found = results.add_rates(
        rows,
        [(name, Product(1, 2, 3), Rounds([{"flops_per_second": rate}])) for rate, name in rates.items()],
    )
    assert [rate["is_best"] for rate in found] == [False, True, True]
    assert rows[0]["share_of_rate"] == {"forward_backward": 1.0, "inference": 0.5}


def test_memory_ratios() -> None:
    rows = [row() | {"memory": {"step_bytes": 220}}, row() | {"memory": {"step_bytes": 100}}]
    cases = [small_case("ssast_patch"), small_case("mae_ast_patch")]
    results.add_memory_ratios(rows, cases, "ssast_patch")
    assert rows[1]["times_less_memory"] == pytest.approx(2.2)
    rows[0]["memory"] = {"error": "not enough memory"}
    del rows[1]["times_less_memory"]
    results.add_memory_ratios(rows, cases, "ssast_patch")
    assert "times_less_memory" not in rows[1]


def test_scaling_compares_time_per_clip_with_proportion() -> None:
    rows = [row(10.0), row(60.0), row(20.0) | {"time": {"error": "not enough memory"}}]
    for one, seconds in zip(rows[:2], (2.0, 18.0), strict=True):
        one["time"] = {"forward_backward": {"median": seconds}}
    (found,) = results.scaling(rows)
    assert (found["from_seconds"], found["to_seconds"]) == (10.0, 60.0)
    assert found["times_longer"] == 9.0
    assert found["against_proportionality"] == 1.5
