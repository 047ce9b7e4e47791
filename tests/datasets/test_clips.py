"""What every dataset of clips does: sizes, filters, crops, replacements, order and batches."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.datasets.clips import LENGTH_BUCKET, MAX_LENGTH_RATIO, MAX_REPLACEMENTS, ClipDataset
from mae_ast_fairseq.errors import ManifestError
from mae_ast_fairseq.nn.tokens import TokenGrid

PATCHES = TokenGrid(feature_dim=128, kernel=(16, 16), stride=(16, 16))
FRAMES = TokenGrid(feature_dim=128, kernel=(128, 2), stride=(128, 2))


def make(corpus, split="train", **changes):
    arguments = {"grid": PATCHES, "seed": 1, "training": split == "train", "max_sample_size": 16_000}
    return ClipDataset(read_manifest(corpus / f"{split}.tsv"), **(arguments | changes))


def test_sizes_count_samples_at_16k_up_to_the_crop(corpus):
    dataset = make(corpus)
    expected = [
        min(-(-samples * 16_000 // rate), 16_000)
        for samples, rate in zip(
            dataset.manifest.num_samples.tolist(), dataset.manifest.sample_rates.tolist(), strict=True
        )
    ]
    assert dataset.sizes.tolist() == expected
    assert dataset.num_tokens_vec(np.array([3, 0])).tolist() == [expected[3], expected[0]]


def test_crops_move_with_the_epoch_and_stand_still_without_random_crop(corpus):
    moving, standing = (
        make(corpus, max_sample_size=4_000),
        make(corpus, max_sample_size=4_000, random_crop=False),
    )
    waveforms = {}
    for epoch in (1, 2):
        for name, dataset in (("moving", moving), ("standing", standing)):
            dataset.set_epoch(epoch)
            waveforms[name, epoch] = dataset[0].waveform
    whole = make(corpus, max_sample_size=None)[0].waveform
    assert not np.array_equal(waveforms["moving", 1], waveforms["moving", 2])
    assert np.array_equal(waveforms["standing", 1], waveforms["standing", 2])
    np.testing.assert_allclose(waveforms["standing", 1], whole[:4_000], atol=1e-5)


def test_batches_hold_clips_of_near_equal_length_in_a_new_order_each_epoch(corpus):
    dataset = make(corpus, max_sample_size=None)
    orders = []
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        orders.append(dataset.ordered_indices())
        sizes = dataset.sizes[orders[-1]]
        assert sorted(orders[-1]) == list(range(len(dataset)))
        # what comes later is at most one bucket longer
        assert (np.maximum.accumulate(sizes[::-1])[::-1] <= sizes * LENGTH_BUCKET).all()
    assert not np.array_equal(*orders)


def test_length_filters_leave_out_and_say_how_many(corpus, caplog):
    with caplog.at_level(logging.INFO):
        dataset = make(corpus, min_sample_size=8_000, max_keep_size=20_000)
    num_samples = dataset.manifest.num_samples_at_16k
    assert np.array_equal(dataset.rows, np.flatnonzero((num_samples >= 8_000) & (num_samples <= 20_000)))
    assert f"left out {(num_samples < 8_000).sum()} clips: shorter than task.min_sample_size=8000" in caplog.text
    assert f"left out {(num_samples > 20_000).sum()} clips: longer than task.max_keep_size=20000" in caplog.text


def test_clips_of_fewer_than_two_tokens_are_left_out(tmp_path):
    # frame tokens of 2 frames: 4 frames are 880 samples
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t879\nb.wav\t880\nc.wav\t0\n")
    dataset = make(tmp_path, grid=FRAMES)
    assert dataset.rows.tolist() == [1]


def test_a_manifest_of_which_nothing_is_left_is_an_error(tmp_path):
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t100\n")
    with pytest.raises(ManifestError, match=r"train\.tsv: none of its 1 clips.*too short"):
        make(tmp_path)


@pytest.mark.parametrize("row", [3, 5, 7, 9])
def test_a_broken_file_is_replaced_by_a_good_one_always_the_same(damaged, caplog, row):
    one, other = make(damaged), make(damaged)
    clip = one[row]
    assert clip.row not in (3, 5, 7, 9)
    assert clip.num_bad_files >= 1
    assert np.array_equal(clip.waveform, other[row].waveform)
    assert np.array_equal(clip.waveform, one[clip.row].waveform)
    assert row in one.bad_rows
    assert f"train.tsv:{row + 2}" in caplog.text
    assert f"{row:02}.wav" in caplog.text


def test_where_every_file_is_broken_silence_stands_in_and_says_so(tmp_path):
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t16000\n")
    dataset = make(tmp_path)
    clip = dataset[0]
    assert clip.num_bad_files == MAX_REPLACEMENTS
    assert np.array_equal(clip.waveform, np.zeros(16_000))
    assert dataset.bad_rows.tolist() == [0]
    assert dataset.replacements_exhausted


def test_a_broken_file_that_was_replaced_does_not_exhaust_the_replacements(damaged):
    dataset = make(damaged)
    assert dataset[3].num_bad_files >= 1
    assert not dataset.replacements_exhausted


def test_training_batches_hold_clips_of_near_equal_length_however_large_they_may_be(corpus):
    dataset = make(corpus, max_sample_size=None)
    limits = {"max_tokens": 10_000_000, "max_sentences": None, "required_batch_size_multiple": 1}
    batches = dataset.batch_by_size(dataset.ordered_indices(), **limits)
    assert sorted(index for batch in batches for index in batch) == list(range(len(dataset)))
    assert len(batches) > 1
    for batch in batches:
        assert dataset.sizes[batch].max() <= MAX_LENGTH_RATIO * dataset.sizes[batch].min()


@given(lengths=st.lists(st.integers(4_000, 40_000), min_size=1, max_size=60), max_sentences=st.integers(1, 70))
def test_the_ratio_of_lengths_in_a_batch_holds_for_any_clips(tmp_path_factory, lengths, max_sentences):
    folder = tmp_path_factory.mktemp("lengths")
    rows = "".join(f"{row}.wav\t{length}\n" for row, length in enumerate(lengths))
    (folder / "train.tsv").write_text(f"{folder}\n{rows}")
    dataset = make(folder, max_sample_size=None)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=max_sentences)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert dataset.sizes[batch].max() <= MAX_LENGTH_RATIO * dataset.sizes[batch].min()


def test_validation_batches_have_clips_of_near_equal_length_too(corpus):
    dataset = make(corpus, "valid")
    batches = dataset.batch_by_size(dataset.ordered_indices(), 10_000_000, None, 1)
    assert 1 < len(batches) < len(dataset)
    assert sorted(np.concatenate(batches)) == list(range(len(dataset)))
    for batch in batches:
        assert dataset.sizes[batch].max() <= MAX_LENGTH_RATIO * dataset.sizes[batch].min()


@pytest.mark.parametrize("split", ["train", "valid"])
def test_every_clip_is_in_a_batch_whatever_its_size_is_a_multiple_of(corpus, split):
    dataset = make(corpus, split)
    batches = dataset.batch_by_size(dataset.ordered_indices(), 60_000, None, required_batch_size_multiple=8)
    assert sorted(np.concatenate(batches)) == list(range(len(dataset)))
    assert all(dataset.sizes[batch].max() * len(batch) <= 60_000 for batch in batches)


def test_each_time_that_a_clip_comes_it_is_cropped_anew(corpus):
    dataset = make(corpus, max_sample_size=4_000)
    crops = [dataset.clip(occurrence * len(dataset)).waveform for occurrence in (0, 1, 2, 1)]
    assert np.array_equal(crops[0], dataset[0].waveform)
    assert not np.array_equal(crops[0], crops[1])
    assert not np.array_equal(crops[1], crops[2])
    assert np.array_equal(crops[1], crops[3])


def test_a_broken_file_is_logged_once(damaged, caplog):
    dataset = make(damaged)
    assert dataset[3].row == dataset[3].row != 3
    assert caplog.text.count("03.wav") == 1
