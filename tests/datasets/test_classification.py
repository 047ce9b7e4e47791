"""Batches with targets: their fields, what training draws, and what validation leaves as it is."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mae_ast_fairseq.data.augmentation import Augmentation
from mae_ast_fairseq.data.float32 import Float32Tensor
from mae_ast_fairseq.data.labels import Vocabulary, read_labels
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.datasets.classification import LabelledAudioDataset, LabelledClip, occurrences
from mae_ast_fairseq.errors import ManifestError
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.tokens import TokenGrid
from tests.datasets.batches import batch_of, equal

PATCHES = TokenGrid(feature_dim=128, kernel=(16, 16), stride=(16, 16))
CLASSES = Vocabulary(("cat", "dog", "owl"))
EVERYTHING = Augmentation(frequency_mask=30, time_mask=20, mixup=0.5, roll_seconds=0.1, label_smoothing=0.1)


def single(row):
    return "owl" if row % 20 == 3 else "dog" if row % 4 == 1 else "cat"


def multi(row):
    return ["cat", "cat,dog", "", "owl,cat", "cat"][row % 5]


@pytest.fixture
def make(corpus, tmp_path):
    """Make a dataset of the corpus with labels by row."""

    def make_dataset(split="train", label=single, folder=corpus, **changes):
        manifest = read_manifest(folder / f"{split}.tsv")
        file = tmp_path / f"{label.__name__}_{split}.lbl"
        file.write_text("".join(f"{label(row)}\n" for row in range(len(manifest))))
        multi_label = label is not single
        arguments = {"grid": PATCHES, "multi_label": multi_label, "seed": 1, "training": split == "train"}
        labels = read_labels(file, CLASSES, len(manifest), multi_label)
        return LabelledAudioDataset(manifest, labels, **(arguments | changes))

    return make_dataset


def test_a_batch_has_the_fields_of_the_contract(make):
    dataset = make()
    batch = batch_of(dataset)
    assert batch["id"].tolist() == list(range(6))
    assert (batch["nsentences"], batch["num_bad_files"]) == (6, 0)
    assert batch["ntokens"] == sum(PATCHES.num_tokens(fbank.num_frames(dataset.sizes[:6])))
    assert set(batch["net_input"]) == {"source", "padding_mask"}
    assert isinstance(batch["net_input"]["source"], Float32Tensor)
    assert isinstance(batch["target"], Float32Tensor)
    assert batch["target"].tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert dataset.collater([]) == {}


def test_many_labels_make_multi_hot_targets(make):
    target = batch_of(make(label=multi))["target"]
    assert target.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_without_augmentation_the_source_is_the_clips_own_log_mels(make, split):
    label = single if split == "train" else multi
    dataset = make(split, label=label)
    batch = batch_of(dataset)["net_input"]
    for row in range(6):
        alone = fbank.log_mel(torch.from_numpy(dataset.clip(row).waveform))
        torch.testing.assert_close(batch["source"].plain[row, : len(alone)], alone, atol=1e-5, rtol=0)
        assert batch["padding_mask"][row].tolist() == [frame >= len(alone) for frame in range(batch["source"].shape[1])]


def test_validation_draws_nothing_whatever_is_asked_for(make):
    plain = make("valid", max_sample_size=4_000, random_crop=False)
    asked = make("valid", max_sample_size=4_000, random_crop=True, augmentation=EVERYTHING, balanced=True, seed=7)
    asked.set_epoch(5)
    assert np.array_equal(plain.ordered_indices(), asked.ordered_indices())
    assert equal(batch_of(plain), batch_of(asked))
    whole = make("valid")[2].waveform
    np.testing.assert_allclose(asked[2].waveform, whole[:4_000], atol=1e-5)


def test_training_draws_anew_each_epoch_and_repeats_by_seed_and_epoch(make):
    dataset, other = make(augmentation=EVERYTHING), make(augmentation=EVERYTHING)
    batches = []
    for epoch in (1, 2, 1):
        dataset.set_epoch(epoch)
        batches.append(batch_of(dataset))
    other.set_epoch(2)
    assert equal(batches[0], batches[2])
    assert not equal(batches[0], batches[1])
    assert equal(batches[1], batch_of(other))


def test_rolling_keeps_the_samples_and_masks_keep_the_target(make):
    plain, rolled = make()[0], make(augmentation=Augmentation(roll_seconds=0.1))[0]
    shifts = [shift for shift in range(-1600, 1601) if np.array_equal(np.roll(plain.waveform, shift), rolled.waveform)]
    assert len(shifts) == 1
    assert shifts != [0]
    masked = batch_of(make(augmentation=Augmentation(frequency_mask=40, time_mask=30)))
    unmasked = batch_of(make())
    changed = masked["net_input"]["source"].plain != unmasked["net_input"]["source"].plain
    assert 0 < changed.float().mean() < 0.6
    assert not changed[unmasked["net_input"]["padding_mask"]].any()
    assert torch.equal(masked["target"].plain, unmasked["target"].plain)


def recorded(dataset):
    """Let a dataset note the clips that it loads."""
    loaded, load = [], dataset.clip
    dataset.clip = lambda *place: loaded.append(load(*place)) or loaded[-1]
    return loaded


def test_mixup_adds_another_clip_and_its_label_in_the_same_shares(make):
    dataset = make(augmentation=Augmentation(mixup=1.0))
    loaded = recorded(dataset)
    num_compared = 0
    for index in range(len(dataset)):
        both = dataset[index]
        one, other = loaded[-2:]
        assert both.row == one.row
        assert len(both.waveform) == len(one.waveform)
        shares = both.target[[CLASSES.names.index(single(clip.row)) for clip in (one, other)]]
        if single(one.row) == single(other.row):
            assert shares == pytest.approx(1)
            continue
        assert shares.sum() == pytest.approx(1)
        rest = (both.waveform - shares[0] * one.waveform) / shares[1]
        missing = max(0, len(rest) - len(other.waveform))  # silence follows a shorter one
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(other.waveform, (0, missing)), len(rest))
        assert np.abs(windows - rest).max(axis=1).min() < 1e-5
        num_compared += 1
    assert num_compared > 10


def test_mixup_has_asts_shares_and_its_probability(make):
    dataset = make(augmentation=Augmentation(mixup=0.4))
    clip = LabelledClip(0, np.zeros(8, dtype=np.float32), np.array([0, 0, 1], dtype=np.float32), None, 0)
    dataset.clip = lambda index: dataset_clip
    dataset_clip = make().clip(0)  # a cat, for every partner
    shares = []
    for epoch in range(400):
        dataset.set_epoch(epoch)
        shares += [dataset._mix(clip, index).target[2] for index in range(10)]
    shares = np.array(shares)
    mixed = shares[shares < 1]
    assert abs(len(mixed) / len(shares) - 0.4) < 4 * (0.4 * 0.6 / len(shares)) ** 0.5
    deviation = (0.25 / 21) ** 0.5  # of Beta(10, 10)
    assert abs(mixed.mean() - 0.5) < 4 * deviation / len(mixed) ** 0.5
    assert abs(mixed.std() / deviation - 1) < 0.1


def test_smoothed_targets_differ_by_the_kind_of_labels(make):
    smoothing = Augmentation(label_smoothing=0.3)
    one = batch_of(make(augmentation=smoothing))["target"]
    torch.testing.assert_close(one.plain[:2], torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]))
    many = batch_of(make(label=multi, augmentation=smoothing))["target"]
    torch.testing.assert_close(many.plain[1:3], torch.tensor([[0.85, 0.85, 0.15], [0.15, 0.15, 0.15]]))


def test_a_fixed_size_crops_pads_and_masks_what_it_padded(make):
    dataset = make(fixed_size=12_000)
    assert (dataset.sizes == 12_000).all()
    lengths = dataset.manifest.num_samples_at_16k
    short, long = np.flatnonzero(lengths < 11_000)[:2].tolist(), np.flatnonzero(lengths >= 12_000)[:2].tolist()
    for indices in (short, long, short + long):
        net_input = batch_of(dataset, indices)["net_input"]
        assert net_input["source"].shape[1] == fbank.num_frames(12_000)
        num_frames = fbank.num_frames(np.minimum(lengths[indices], 12_000))
        if indices == long:
            assert net_input["padding_mask"] is None
        else:
            assert (~net_input["padding_mask"]).sum(1).tolist() == num_frames.tolist()
            assert not net_input["source"].plain[net_input["padding_mask"]].any()


def test_padding_to_a_fixed_size_leaves_the_rest_as_it_is(make):
    fixed, variable = batch_of(make(fixed_size=40_000), [0, 1]), batch_of(make(), [0, 1])
    num_frames = variable["net_input"]["source"].shape[1]
    assert torch.equal(fixed["net_input"]["source"].plain[:, :num_frames], variable["net_input"]["source"].plain)
    assert fixed["net_input"]["padding_mask"][:, num_frames:].all()


def test_balanced_epochs_hold_as_many_clips_of_each_class(make):
    dataset = make(balanced=True)
    counts = np.zeros(3)
    for epoch in range(1, 101):
        dataset.set_epoch(epoch)
        indices = dataset.ordered_indices()
        assert len(indices) == len(dataset)
        assert len(np.unique(indices)) == len(indices)
        counts += dataset.labels.targets(dataset.rows[indices % len(dataset)]).sum(axis=0)
    shares = counts / counts.sum()  # of 2, 10 and 28 clips
    assert np.abs(shares - 1 / 3).max() < 4 * (2 / 9 / counts.sum()) ** 0.5


def test_a_clip_that_comes_again_is_drawn_anew_and_batched_by_its_length(make):
    dataset = make(balanced=True, augmentation=EVERYTHING, max_sample_size=4_000)
    dataset.set_epoch(1)
    indices = dataset.ordered_indices()
    again = indices[indices >= len(dataset)][0]
    first = again % len(dataset)
    one, other = dataset[first], dataset[again]
    assert one.row == other.row
    assert not np.array_equal(one.waveform, other.waveform)
    assert not np.array_equal(one.mask_draws, other.mask_draws)
    assert dataset.num_tokens(again) == dataset.size(first) == dataset.num_tokens_vec(np.array([again]))[0]
    batches = dataset.batch_by_size(indices, max_tokens=16_000)
    assert np.array_equal(np.concatenate(batches), indices)
    assert max(len(batch) for batch in batches) == 4


def test_other_epochs_and_seeds_sample_otherwise_and_the_same_ones_alike(make):
    orders = {}
    for seed in (1, 2):
        for epoch in (1, 2):
            dataset = make(balanced=True, seed=seed)
            dataset.set_epoch(epoch)
            orders[seed, epoch] = dataset.ordered_indices().tolist()
            dataset.set_epoch(9)
            dataset.set_epoch(epoch)
            assert dataset.ordered_indices().tolist() == orders[seed, epoch]
    assert len({tuple(order) for order in orders.values()}) == 4


def test_occurrences_count_what_came_before():
    assert occurrences(np.array([5, 2, 5, 5, 2, 7])).tolist() == [0, 0, 1, 2, 1, 0]


def test_workers_make_the_batches_that_the_process_itself_makes(make):
    dataset = make(balanced=True, augmentation=EVERYTHING, max_sample_size=8_000)
    dataset.set_epoch(1)
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=8)
    loaded = {}
    for num_workers in (0, 2):
        loader = DataLoader(
            dataset, batch_sampler=batches, collate_fn=dataset.collater, num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )  # fmt: skip
        dataset.set_epoch(1)
        list(loader)
        dataset.set_epoch(2)  # which living workers must see
        loaded[num_workers] = list(loader)
    assert len(loaded[0]) == len(loaded[2]) == len(batches)
    assert all(equal(one, other) for one, other in zip(loaded[0], loaded[2], strict=True))


def test_a_broken_file_is_replaced_with_its_replacements_labels(make, damaged):
    dataset = make(folder=damaged)
    clip = dataset[3]
    assert clip.row != 3
    assert clip.num_bad_files >= 1
    assert np.array_equal(clip.target, dataset.labels.targets([clip.row])[0])
    assert single(3) != single(clip.row)
    assert batch_of(dataset, [3, 4])["num_bad_files"] == clip.num_bad_files


def test_a_broken_partner_of_mixup_is_counted_too(make, damaged):
    dataset = make(folder=damaged, augmentation=Augmentation(mixup=1.0))
    loaded = recorded(dataset)
    counts = []
    for index in (0, 3, *range(10, 40)):
        counts.append(dataset[index].num_bad_files)
        assert counts[-1] == sum(clip.num_bad_files for clip in loaded[-2:])
    assert any(counts[2:])


def test_more_labels_than_clips_are_refused(make, corpus):
    labels = make("valid").labels
    with pytest.raises(ManifestError, match=r"labels of 8 clips; expected 40, those of .*train\.tsv"):
        LabelledAudioDataset(
            read_manifest(corpus / "train.tsv"), labels, grid=PATCHES, multi_label=False, seed=1, training=True
        )


def test_a_class_whose_clips_are_all_left_out_cannot_be_trained(make):
    lengths = make().manifest.num_samples_at_16k
    longest_owl = max(lengths[3], lengths[23])
    with pytest.raises(ManifestError, match="that can be trained on has the label 'owl'"):
        make(min_sample_size=int(longest_owl) + 1)
    make("valid", min_sample_size=int(lengths.min()))  # where classes may be missing
