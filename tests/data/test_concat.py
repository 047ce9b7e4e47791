import numpy as np
import pytest

from mae_ast_fairseq.data.concat import draw_by_weight, join
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
    kept = draw_by_weight(rows, np.array([0, 400, 1_000]), [1.0, 0.25], order)
    assert (rows[kept] < 400).sum() == 360
    assert (rows[kept] >= 400).sum() == 135
    assert np.array_equal(kept, order[np.isin(order, kept)])


def test_over_many_epochs_every_clip_is_drawn_equally_often():
    rows, draws = np.arange(60), np.random.default_rng(0)
    counts = sum(
        np.bincount(draw_by_weight(rows, np.array([0, 60]), [0.2], draws.permutation(60)), minlength=60)
        for _ in range(5_000)
    )
    assert np.abs(counts / 5_000 - 0.2).max() < 0.03  # 5 standard deviations
