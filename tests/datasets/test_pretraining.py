"""Batches of masked tokens: their fields, masks, crops and padding."""

import numpy as np
import pytest
import torch

from mae_ast_fairseq.data.float32 import Float32Tensor
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.data.masking import STRATEGIES, Masking
from mae_ast_fairseq.datasets.pretraining import MaskedAudioDataset
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.tokens import TokenGrid
from tests.datasets.batches import batch_of, equal

PATCHES = TokenGrid(feature_dim=128, kernel=(16, 16), stride=(16, 16))
FRAMES = TokenGrid(feature_dim=128, kernel=(128, 2), stride=(128, 2))


def make(corpus, split="train", mask_type="random_mask", **changes):
    arguments = {
        "grid": PATCHES,
        "masking": Masking(mask_type, 0.75),
        "seed": 1,
        "training": split == "train",
        "max_sample_size": 16_000,
    }
    return MaskedAudioDataset(read_manifest(corpus / f"{split}.tsv"), **(arguments | changes))


def test_a_batch_has_the_fields_of_the_contract(corpus):
    batch = batch_of(make(corpus, pad_audio=True))
    net_input = batch["net_input"]
    assert batch["id"].tolist() == list(range(6))
    assert batch["nsentences"] == 6
    assert isinstance(net_input["source"], Float32Tensor)
    assert set(net_input) == {
        "source", "padding_mask", "visible", "masked", "visible_padding_mask", "masked_padding_mask",
    }  # fmt: skip
    assert batch["ntokens"] == (~net_input["masked_padding_mask"]).sum()


@pytest.mark.parametrize("grid", [PATCHES, FRAMES])
@pytest.mark.parametrize("mask_type", ["random_mask", "chunk_mask"])
def test_masks_split_the_tokens_of_each_clip_and_touch_no_padding(corpus, grid, mask_type):
    net_input = batch_of(make(corpus, pad_audio=True, grid=grid, mask_type=mask_type))["net_input"]
    token_padding = grid.token_padding_mask(net_input["padding_mask"])
    for row in range(6):
        num_tokens = int((~token_padding[row]).sum())
        parts = [net_input[part][row][~net_input[f"{part}_padding_mask"][row]] for part in ("visible", "masked")]
        assert len(parts[0]) == max(1, int((1 - 0.75) * num_tokens))
        assert torch.equal(torch.cat(parts).sort().values, torch.arange(num_tokens))
        assert all(torch.equal(part, part.sort().values) for part in parts)
        assert not net_input["visible"][row][net_input["visible_padding_mask"][row]].any()


def test_frames_are_those_of_the_crop_that_was_drawn(corpus):
    dataset = make(corpus, max_sample_size=6_000)
    dataset.set_epoch(3)
    clips = [dataset[index] for index in range(4)]
    whole = [make(corpus, max_sample_size=None)[index].waveform for index in range(4)]
    source = dataset.collater(clips)["net_input"]["source"]
    num_kept = min(len(clip.waveform) for clip in clips)
    for row, clip in enumerate(clips):
        windows = np.lib.stride_tricks.sliding_window_view(whole[row], len(clip.waveform))
        assert np.isclose(windows, clip.waveform, atol=1e-5).all(axis=1).any()
        start = int(clip.crop_position * (len(clip.waveform) - num_kept + 1))
        expected = fbank.log_mel(torch.from_numpy(clip.waveform[start : start + num_kept]))
        torch.testing.assert_close(source.plain[row], expected, atol=1e-5, rtol=0)


def test_draws_depend_on_the_manifests_row_and_not_on_what_was_left_out(corpus):
    everything, long_ones = make(corpus), make(corpus, min_sample_size=12_000)
    row = int(long_ones.rows[2])
    assert row != 2
    assert np.array_equal(long_ones[2].waveform, everything[row].waveform)
    assert equal(batch_of(long_ones, [2]), batch_of(everything, [row]))


def test_cropping_gives_every_clip_the_length_of_the_shortest(corpus):
    dataset = make(corpus)
    net_input = batch_of(dataset)["net_input"]
    assert net_input["padding_mask"] is None
    assert net_input["visible_padding_mask"] is None
    assert net_input["source"].shape[1] == fbank.num_frames(dataset.sizes[:6].min())


def test_masks_change_with_the_epoch_in_training_only(corpus):
    for split, changes in (("train", True), ("valid", False)):
        dataset = make(corpus, split, random_crop=False)
        batches = []
        for epoch in (1, 2):
            dataset.set_epoch(epoch)
            batches.append(batch_of(dataset))
        assert equal(*batches) != changes


def test_validation_pads_even_where_training_crops(corpus):
    assert batch_of(make(corpus, "valid", pad_audio=False))["net_input"]["padding_mask"] is not None


def test_random_mask_batched_is_one_mask_in_training_seeded_by_the_first_clip(corpus):
    training = make(corpus, mask_type="random_mask_batched")
    masked = batch_of(training, [4, 2, 7])["net_input"]["masked"]
    assert (masked == masked[0]).all()
    same_length = batch_of(training, [4, 2, 7])["net_input"]["source"].shape[1]
    assert same_length == fbank.num_frames(training.sizes[[4, 2, 7]].min())
    validation = make(corpus, "valid", mask_type="random_mask_batched")
    assert equal(batch_of(validation), batch_of(make(corpus, "valid", mask_type="random_mask")))


def test_no_samples_make_an_empty_batch(corpus):
    assert make(corpus).collater([]) == {}


def test_a_broken_file_is_counted_in_its_batch(damaged):
    dataset = make(damaged)
    assert batch_of(dataset, [0, 1])["num_bad_files"] == 0
    assert batch_of(dataset, [3, 4])["num_bad_files"] == dataset[3].num_bad_files > 0


def test_every_strategy_of_masking_is_a_mask_type(corpus):
    for mask_type in STRATEGIES:
        assert batch_of(make(corpus, mask_type=mask_type))["ntokens"] > 0
