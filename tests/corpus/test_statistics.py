import json

import numpy as np
import pytest
import torch

from mae_ast_fairseq.corpus.statistics import (
    Statistics,
    measure_clip,
    measure_manifest,
    pool,
    read_statistics,
    sample_rows,
    write_statistics,
)
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.nn import fbank


def measure(clips):
    """Measure clips of frames [T, F] as `measure_manifest` does those that it reads."""
    return pool([measure_clip(clip) for clip in clips], [len(clip) for clip in clips])


def test_measure_equals_numpy_over_all_values():
    rng = np.random.default_rng(0)
    clips = [rng.normal(-4, 4.4, (length, 128)).astype(np.float32) for length in (3, 50, 20)]
    values = np.concatenate(clips).astype(np.float64)
    assert measure(clips) == pytest.approx((values.mean(), values.std()), rel=1e-12)


def test_a_deviation_far_smaller_than_the_mean_is_not_lost():
    # in float64 a sum of squares of such values has no digit of their variance left
    assert measure([np.array([[1e9 - 1], [1e9 + 1]])] * 10) == (1e9, 1.0)


def test_only_the_ratio_of_weights_counts():
    statistics = [Statistics(-4.0, 2.0), Statistics(-6.0, 1.0)]
    assert pool(statistics, [3, 1]) == pytest.approx(pool(statistics, [0.75, 0.25]))
    assert pool(statistics, [0, 1]) == pytest.approx((-6.0, 1.0))


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


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe" * 100_000,
        b"[" * 100_000,
        b'{"mean": ' + b"[" * 100_000,
        b'{"mean": 1' + b"0" * 400 + b', "std": 1}',
        b'{"mean": 1' + b"0" * 9_000 + b', "std": 1}',
        b'{"mean": "' + b"x" * 100_000 + b'", "std": 1}',
        b'{"mean": 1, "std": 1, "feature_dim": "' + b"x" * 100_000 + b'"}',
        b'{"mean": 1, "std": 1, "feature_dim": 1' + b"0" * 4_000 + b"}",
    ],
    ids=["no UTF-8", "deep", "deep value", "large", "many digits", "text", "bands of text", "many bands"],
)
def test_nothing_that_a_file_holds_makes_a_long_message(tmp_path, content):
    path = tmp_path / "stats.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"stats\.json.*expected") as caught:
        read_statistics(path, feature_dim=128)
    assert len(str(caught.value)) < 500


def test_sample_rows_draws_without_repeats_and_takes_all_where_few():
    rows = sample_rows(10_000, 1_000, np.random.default_rng(0))
    assert len(np.unique(rows)) == 1_000
    assert rows.max() < 10_000
    assert np.array_equal(sample_rows(5, 1_000, np.random.default_rng(0)), np.arange(5))


def test_statistics_of_another_number_of_bands_are_refused(tmp_path):
    write_statistics(tmp_path / "stats.json", {"mean": -4.5, "std": 2.25, "feature_dim": 80})
    assert read_statistics(tmp_path / "stats.json", feature_dim=80) == (-4.5, 2.25)
    with pytest.raises(ConfigError, match=r"stats\.json: measured with 80 .*expected task\.feature_dim=128"):
        read_statistics(tmp_path / "stats.json", feature_dim=128)


def test_a_file_that_states_no_bands_is_taken(tmp_path):
    (tmp_path / "stats.json").write_text('{"mean": -4, "std": 2}')
    assert read_statistics(tmp_path / "stats.json", feature_dim=128) == (-4, 2)


def test_a_manifest_is_measured_as_its_clips_are(corpus):
    manifest = read_manifest(corpus / "train.tsv")
    measured = measure_manifest(manifest, num_clips=1000, seed=1)
    clips = [load_audio(manifest.path(row), expect_rate=None) for row in range(len(manifest))]
    values = np.concatenate([fbank.log_mel(torch.from_numpy(clip)) for clip in clips]).astype(np.float64)
    assert measured.statistics == pytest.approx((values.mean(), values.std()), rel=1e-9)
    assert measured.num_usable_frames == measured.num_frames == len(values)


def test_only_the_start_of_a_clip_is_measured(corpus):
    manifest = read_manifest(corpus / "train.tsv")
    measured = measure_manifest(manifest, num_clips=1000, seed=1, max_sample_size=4_000)
    assert measured.num_frames == 40 * fbank.num_frames(4_000)


def test_a_weight_is_that_of_all_clips_and_not_of_those_drawn(corpus):
    manifest = read_manifest(corpus / "train.tsv")
    everything, few = (measure_manifest(manifest, num_clips=number, seed=1) for number in (1000, 5))
    assert few.num_clips == 5
    assert few.num_usable_frames == everything.num_frames


def test_broken_clips_are_named_and_left_out(corpus, tmp_path):
    lines = (corpus / "train.tsv").read_text().splitlines()
    lines[3] = "gone.wav\t16000"
    (tmp_path / "train.tsv").write_text("\n".join(lines))
    measured = measure_manifest(read_manifest(tmp_path / "train.tsv"), num_clips=1000, seed=1)
    assert measured.num_clips == 39
    assert list(measured.broken) == [2]
    assert measured.broken[2].startswith(f"{tmp_path / 'train.tsv'}:4: {corpus / 'gone.wav'}: there is no such file")


@pytest.mark.parametrize(("num_samples", "reason"), [(16_000, "there is no such file"), (800, "it has 3 frames")])
def test_a_manifest_of_which_nothing_can_be_measured_is_an_error(tmp_path, num_samples, reason):
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t{num_samples}\n")
    with pytest.raises(AudioError, match=rf"train\.tsv: none of its 1 clips can be measured.*{reason}"):
        measure_manifest(read_manifest(tmp_path / "train.tsv"), num_clips=10, seed=1)
