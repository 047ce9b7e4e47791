"""Splits keep test rows out of every choice, groups apart, and classes in like fractions."""

from collections import Counter

import numpy as np
import pytest

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.evaluation import splits
from mae_ast_fairseq.evaluation.splits import ProbeData, Split

NAMES = ("dog", "cat", "owl")


@pytest.fixture
def data() -> ProbeData:
    """90 clips of 3 classes by 5 speakers, in no order."""
    order = np.random.default_rng(0).permutation(90)
    return ProbeData(order % 3, NAMES, np.array(["ann", "bob", "eve", "kim", "tom"])[order // 3 % 5])


def without_groups(data: ProbeData) -> ProbeData:
    return data._replace(groups=None)


def many_labels(data: ProbeData) -> ProbeData:
    return ProbeData(np.stack([data.targets != label for label in range(3)], axis=1), NAMES)


def assert_apart(split: Split) -> None:
    """Nothing is tested that anything was fitted on or chosen by."""
    for rows in (split.train, *(part for inner in split.inner for part in inner)):
        assert not set(rows) & set(split.test)
    assert all(not set(fit) & set(valid) for fit, valid in split.inner)


@pytest.mark.parametrize("change", [without_groups, many_labels])
def test_folds_test_each_clip_once_and_choose_by_a_fifth_of_the_others(data, change) -> None:
    found = splits.split_by_folds(change(data), 5, seed=1)
    assert sorted(np.concatenate([split.test for split in found])) == list(range(90))
    for split in found:
        assert_apart(split)
        ((fit, valid),) = split.inner
        assert sorted([*fit, *valid]) == sorted(split.train)
        assert len(valid) in (14, 15)


def test_folds_have_like_fractions_of_the_classes(data) -> None:
    for split in splits.split_by_folds(without_groups(data), 5, seed=1):
        assert Counter(data.targets[split.test].tolist()) == {0: 6, 1: 6, 2: 6}


def test_folds_follow_from_the_seed(data) -> None:
    first, again, other = (splits.split_by_folds(without_groups(data), 3, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first.test, again.test)
    assert np.array_equal(first.inner[0][1], again.inner[0][1])
    assert not np.array_equal(first.test, other.test)


def test_groups_are_tested_alone_and_chosen_by_each_other_one(data) -> None:
    found = splits.split_by_groups(data, seed=1)
    assert [split.name for split in found] == ["ann", "bob", "eve", "kim", "tom"]
    for split in found:
        assert_apart(split)
        assert set(data.groups[split.test]) == {split.name}
        assert len(split.train) + len(split.test) == 90
        assert sorted(np.concatenate([valid for _, valid in split.inner])) == sorted(split.train)
        for fit, valid in split.inner:
            assert not set(data.groups[fit]) & set(data.groups[valid])


def test_many_groups_are_validated_in_five_parts(data) -> None:
    many = data._replace(groups=np.arange(90).astype(str))
    assert [len(valid) for _, valid in splits.split_by_groups(many, 0)[0].inner] == [18, 18, 18, 18, 17]


def test_splits_are_used_as_they_are(data) -> None:
    train, valid, test = np.split(np.arange(90), [60, 70])
    split = splits.given_split(data, train, valid, test, seed=0)
    assert (split.train is train, split.test is test) == (True, True)
    assert [(fit is train, chosen is valid) for fit, chosen in split.inner] == [(True, True)]


def test_without_a_validation_split_a_fifth_of_training_is_held_out(data) -> None:
    train, test = np.split(np.arange(90), [60])
    split = splits.given_split(without_groups(data), train, None, test, seed=0)
    ((fit, valid),) = split.inner
    assert sorted([*fit, *valid]) == train.tolist()
    assert len(valid) == 12


# --- few shots


def test_shots_are_so_many_of_each_class_in_training_and_choosing(data) -> None:
    split = splits.few_shot(data, splits.split_by_groups(data, 0)[0], shots=4, seed=3)
    assert_apart(split)
    for rows in (split.train, *(fit for fit, _ in split.inner)):
        assert Counter(data.targets[rows].tolist()) == {0: 4, 1: 4, 2: 4}
    whole = splits.split_by_groups(data, 0)[0]
    assert np.array_equal(split.test, whole.test)
    assert [len(valid) for _, valid in split.inner] == [len(valid) for _, valid in whole.inner]


def test_shots_of_a_class_are_of_as_many_speakers_as_can_be(data) -> None:
    whole = splits.split_by_groups(data, 0)[0]
    for shots in (2, 4, 8):
        train = splits.few_shot(data, whole, shots, seed=3).train
        for label in range(3):
            speakers = Counter(data.groups[train[data.targets[train] == label]].tolist())
            assert max(speakers.values()) == -(-shots // 4)
            assert len(speakers) == min(shots, 4)


def test_more_shots_hold_those_of_fewer_and_seeds_differ(data) -> None:
    whole = splits.split_by_groups(data, 0)[0]
    few, more, other = (
        set(splits.few_shot(data, whole, shots, seed).train) for shots, seed in ((2, 3), (5, 3), (2, 4))
    )
    assert few < more
    assert few != other


# --- bad input


@pytest.mark.parametrize(
    ("change", "shots", "expected"),
    [
        (lambda data: data, 25, "--shots 25: ann has 24 training clips of class 'dog'; expected 1 to 24"),
        (many_labels, 1, "--shots: clips have many labels here"),
    ],
)
def test_shots_that_cannot_be_drawn(data, change, shots: int, expected: str) -> None:
    whole = splits.split_by_groups(data, 0)[0]._replace(inner=[])
    with pytest.raises(ConfigError) as caught:
        splits.few_shot(change(data), whole, shots, 0)
    assert str(caught.value).startswith(expected)


def test_a_group_alone_with_a_class_is_named(data) -> None:
    groups = np.where(data.targets == 2, "ann", np.where(data.groups == "ann", "bob", data.groups))
    with pytest.raises(ConfigError, match=r"^ann: there is no training clip of class 'owl', which its test part has"):
        splits.split_by_groups(data._replace(groups=groups), 0)


def test_two_groups_are_too_few(data) -> None:
    with pytest.raises(ConfigError, match=r"^groups: found 2 \(a, b\); expected at least 3"):
        splits.split_by_groups(data._replace(groups=np.where(data.groups == "ann", "a", "b")), 0)


def test_more_folds_than_clips_of_any_class(data) -> None:
    with pytest.raises(ConfigError, match=r"^--folds 31: expected 2 to 30, the number of clips of the largest class"):
        splits.split_by_folds(data, 31, 0)
    with pytest.raises(ConfigError, match=r"^--folds 91: expected 2 to 90, the number of clips"):
        splits.split_by_folds(many_labels(data), 91, 0)


def test_a_class_of_one_clip_cannot_be_divided(data) -> None:
    rows = np.flatnonzero((data.targets != 2) | (np.arange(90) == np.argmax(data.targets == 2)))
    with pytest.raises(ConfigError, match=r"^class 'owl': found one clip to divide"):
        splits.split_by_folds(ProbeData(data.targets[rows], NAMES), 3, 0)


def test_training_parts_of_one_class_are_refused(data) -> None:
    train, test = np.flatnonzero(data.targets == 1), np.flatnonzero(data.targets == 1)[:3]
    with pytest.raises(ConfigError, match=r"^test: a training part has too few classes \(cat\); expected at least 2"):
        splits.given_split(data, train, train[:5], test, 0)
