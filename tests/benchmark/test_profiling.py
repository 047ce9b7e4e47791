from pathlib import Path

import pytest

from mae_ast_fairseq.benchmark.profiling import NUM_OPERATORS, heaviest_operators, peak_memory
from tests.benchmark.small import small_case, small_model


def test_larger_batches_need_more_memory_above_the_weights(tmp_path: Path) -> None:
    small, large = (peak_memory(*small_model(tmp_path, small_case(batch_size=size, seconds=4.0))) for size in (4, 32))
    # Forward keeps 8 times as much; temporaries make it no more than twice what is kept.
    assert 4 < large["step_bytes"] / small["step_bytes"] < 12
    assert small["static_bytes"] == large["static_bytes"]
    assert large["peak_bytes"] == large["step_bytes"] + large["static_bytes"]


def test_the_peak_is_at_least_what_forward_keeps(tmp_path: Path) -> None:
    trained, sample = small_model(tmp_path, small_case(seconds=4.0))
    # The inputs of the two linear layers of both feed-forward networks, of visible tokens alone in the encoder.
    num_visible, num_tokens = 48, 192
    kept = 2 * 4 * (2 * num_visible + num_tokens) * (48 + 96)
    assert peak_memory(trained, sample)["step_bytes"] > kept


@pytest.mark.parametrize(("precision", "bytes_per_weight"), [("float32", 16), ("bfloat16", 20)])
def test_bytes_of_weights_gradients_and_state(tmp_path: Path, precision: str, bytes_per_weight: int) -> None:
    trained, sample = small_model(tmp_path, small_case(precision=precision))
    num_weights = sum(parameter.numel() for parameter in trained.model.parameters())
    assert peak_memory(trained, sample)["static_bytes"] == bytes_per_weight * num_weights
    assert all(parameter.grad is None for parameter in trained.model.parameters())


def test_the_heaviest_operators_come_first(tmp_path: Path) -> None:
    found = heaviest_operators(*small_model(tmp_path, small_case()))
    assert len(found) == NUM_OPERATORS
    fractions = [operator["share"] for operator in found]
    assert fractions == sorted(fractions, reverse=True)
    assert sum(fractions) <= 1
    products = [operator for operator in found if operator["operator"] in ("aten::mm", "aten::addmm")]
    assert sum(operator["calls"] for operator in products) > 40
