import json

import numpy as np
import pytest
import torch

from mae_ast_fairseq.data.statistics import measure, read_statistics, sample_rows
from mae_ast_fairseq.errors import AudioError, ConfigError


def test_measure_equals_numpy_over_all_values():
    draws = np.random.default_rng(0)
    clips = [draws.normal(-4, 4.4, (length, 128)).astype(np.float32) for length in (3, 50, 20)]
    statistics = measure(torch.from_numpy(clip) for clip in clips)
    values = np.concatenate(clips).astype(np.float64)
    assert statistics.mean == pytest.approx(values.mean(), abs=1e-9)
    assert statistics.deviation == pytest.approx(values.std(), abs=1e-9)


def test_measuring_nothing_is_an_error():
    with pytest.raises(AudioError, match="none of the clips"):
        measure([])


def test_read_statistics_takes_mean_and_std(tmp_path):
    path = tmp_path / "stats.json"
    path.write_text(json.dumps({"mean": -4.25, "std": 4.5, "more": [1]}))
    assert read_statistics(path) == (-4.25, 4.5)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"mean": 1}',
        '{"mean": 0, "std": 0}',
        '{"mean": NaN, "std": 1}',
        '{"mean": "x", "std": 1}',
    ],
)
def test_a_wrong_file_is_one_error_that_names_it(tmp_path, content):
    path = tmp_path / "stats.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"stats\.json.*expected"):
        read_statistics(path)


def test_sample_rows_draws_without_repeats_and_takes_all_where_few():
    rows = sample_rows(10_000, 1_000, np.random.default_rng(0))
    assert len(np.unique(rows)) == 1_000
    assert rows.max() < 10_000
    assert np.array_equal(sample_rows(5, 1_000, np.random.default_rng(0)), np.arange(5))
