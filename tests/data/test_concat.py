import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.data.concat import clips_in_epoch, draw_by_weight, join
from mae_ast_fairseq.data.manifest import read_manifest


@pytest.fixture
def manifests(tmp_path):
    for name, rows in (
        ("a", "one.wav\t100\ntwo.wav\t200\t8000\n"),
        ("b", "three.wav\t300\n"),
        ("c", "four.wav\t9\n" * 3),
    ):
        (tmp_path / f"{name}.tsv").write_text(f"/{name}\n{rows}")
    return [read_manifest(tmp_path / f"{name}.tsv") for name in "abc"]


def test_rows_count_through_all_manifests(manifests):
    joined = join(manifests)
    assert [joined.path(row) for row in range(4)] == ["/a/one.wav", "/a/two.wav", "/b/three.wav", "/c/four.wav"]
    assert joined.num_samples.tolist() == [100, 200, 300, 9, 9, 9]
    assert joined.sample_rates.tolist() == [16_000, 8_000, *[16_000] * 4]
    assert joined.num_samples_at_16k.tolist() == [100, 400, 300, 9, 9, 9]
    assert len(joined) == 6


def test_messages_name_the_row_in_its_own_manifest(manifests):
    joined = join(manifests)
    assert joined.where(2) == f"{manifests[1].file}:2"
    assert joined.where(5) == f"{manifests[2].file}:4"
    assert joined.name == ", ".join(str(manifest.file) for manifest in manifests)


def test_one_manifest_stays_as_it_is(manifests):
    assert join(manifests[:1]) is manifests[0]


def test_weights_keep_their_share_of_each_manifest_in_the_order_drawn():
    rows = np.arange(1_000)[np.arange(1_000) % 10 != 3]  # some were left out
    order = np.random.default_rng(0).permutation(len(rows))
    kept = draw_by_weight(rows, np.array([0, 400, 1_000]), [1.0, 0.25], order, epoch=1)
    assert (rows[kept] < 400).sum() == 360
    assert (rows[kept] >= 400).sum() == 135
    assert np.array_equal(kept, order[np.isin(order, kept)])


def test_over_many_epochs_every_clip_is_drawn_equally_often():
    rows, draws = np.arange(60), np.random.default_rng(0)
    counts = sum(
        np.bincount(draw_by_weight(rows, np.array([0, 60]), [0.21], draws.permutation(60), epoch), minlength=60)
        for epoch in range(1, 5_001)
    )
    assert counts.sum() == 63_000  # 12.6 clips an epoch
    assert np.abs(counts / 5_000 - 0.21).max() < 0.03  # 5 standard deviations


def test_a_part_of_a_clip_is_carried_over_to_later_epochs():
    assert [clips_in_epoch([22, 22], [1, 0.02], epoch) for epoch in range(1, 7)] == [
        [22, 1], [22, 0], [22, 1], [22, 0], [22, 1], [22, 0],
    ]  # fmt: skip
    assert [clips_in_epoch([30], [0.1], epoch) for epoch in (1, 2, 3)] == [[3]] * 3  # though 0.1 * 30 > 3


def test_an_epoch_that_would_be_empty_draws_the_clip_whose_turn_is_next():
    counts = [clips_in_epoch([22, 0, 22], [0.002, 1, 0.004], epoch) for epoch in range(1, 12)]
    assert counts[0] == [1, 0, 1]
    assert all(sum(epoch) == 1 for epoch in counts[1:])
    assert counts[1] == [0, 0, 1]


@given(
    parts=st.lists(st.tuples(st.integers(1, 500), st.integers(1, 10_000)), min_size=1, max_size=4),
    start=st.integers(0, 10_000),
)
def test_the_share_is_exact_over_any_run_of_epochs_that_are_not_empty(parts, start):
    sizes, weights = [size for size, _ in parts], [thousandths / 10_000 for _, thousandths in parts]
    sizes.append(1)  # of weight 1: no epoch is empty
    weights.append(1.0)
    total = np.sum([clips_in_epoch(sizes, weights, epoch) for epoch in range(start + 1, start + 31)], axis=0)
    for given_clips, (size, thousandths) in zip(total, parts, strict=False):
        until, before = (-(-epoch * thousandths * size // 10_000) for epoch in (start + 30, start))
        assert given_clips == until - before
