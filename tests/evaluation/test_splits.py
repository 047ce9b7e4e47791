"""Divisions keep test rows out of every choice, groups apart, and classes in their shares."""

from collections import Counter

import numpy as np
import pytest

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.evaluation import splits
from mae_ast_fairseq.evaluation.splits import Division, Task

NAMES = ("dog", "cat", "owl")


@pytest.fixture
def task() -> Task:
    """90 clips of 3 classes by 5 speakers, in no order."""
    order = np.random.default_rng(0).permutation(90)
    return Task(order % 3, NAMES, np.array(["ann", "bob", "eve", "kim", "tom"])[order // 3 % 5])


def without_groups(task: Task) -> Task:
    return task._replace(groups=None)


def many_labels(task: Task) -> Task:
    return Task(np.stack([task.targets != label for label in range(3)], axis=1), NAMES)


def assert_apart(division: Division) -> None:
    """Nothing is tested that anything was fitted on or chosen by."""
    for rows in (division.train, *(part for inner in division.inner for part in inner)):
        assert not set(rows) & set(division.test)
    assert all(not set(fit) & set(valid) for fit, valid in division.inner)


@pytest.mark.parametrize("change", [without_groups, many_labels])
def test_folds_test_each_clip_once_and_choose_by_a_fifth_of_the_others(task, change) -> None:
    found = splits.divide_by_folds(change(task), 5, seed=1)
    assert sorted(np.concatenate([division.test for division in found])) == list(range(90))
    for division in found:
        assert_apart(division)
        ((fit, valid),) = division.inner
        assert sorted([*fit, *valid]) == sorted(division.train)
        assert len(valid) in (14, 15)


def test_folds_have_the_shares_of_the_classes(task) -> None:
    for division in splits.divide_by_folds(without_groups(task), 5, seed=1):
        assert Counter(task.targets[division.test].tolist()) == {0: 6, 1: 6, 2: 6}


def test_folds_follow_from_the_seed(task) -> None:
    first, again, other = (splits.divide_by_folds(without_groups(task), 3, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first.test, again.test)
    assert np.array_equal(first.inner[0][1], again.inner[0][1])
    assert not np.array_equal(first.test, other.test)


def test_groups_are_tested_alone_and_chosen_by_each_other_one(task) -> None:
    found = splits.divide_by_groups(task, seed=1)
    assert [division.name for division in found] == ["ann", "bob", "eve", "kim", "tom"]
    for division in found:
        assert_apart(division)
        assert set(task.groups[division.test]) == {division.name}
        assert len(division.train) + len(division.test) == 90
        assert sorted(np.concatenate([valid for _, valid in division.inner])) == sorted(division.train)
        for fit, valid in division.inner:
            assert not set(task.groups[fit]) & set(task.groups[valid])


def test_many_groups_are_validated_in_five_parts(task) -> None:
    many = task._replace(groups=np.arange(90).astype(str))
    assert [len(valid) for _, valid in splits.divide_by_groups(many, 0)[0].inner] == [18, 18, 18, 18, 17]


def test_splits_are_used_as_they_are(task) -> None:
    train, valid, test = np.split(np.arange(90), [60, 70])
    (division,) = splits.divide_by_split(task, train, valid, test, seed=0)
    assert (division.train is train, division.test is test) == (True, True)
    assert [(fit is train, chosen is valid) for fit, chosen in division.inner] == [(True, True)]


def test_without_a_validation_split_a_fifth_of_training_is_held_out(task) -> None:
    train, test = np.split(np.arange(90), [60])
    (division,) = splits.divide_by_split(without_groups(task), train, None, test, seed=0)
    ((fit, valid),) = division.inner
    assert sorted([*fit, *valid]) == train.tolist()
    assert len(valid) == 12


# --- few shots


def test_shots_are_so_many_of_each_class_in_training_and_choosing(task) -> None:
    division = splits.few_shot(task, splits.divide_by_groups(task, 0)[0], shots=4, seed=3)
    assert_apart(division)
    for rows in (division.train, *(fit for fit, _ in division.inner)):
        assert Counter(task.targets[rows].tolist()) == {0: 4, 1: 4, 2: 4}
    whole = splits.divide_by_groups(task, 0)[0]
    assert np.array_equal(division.test, whole.test)
    assert [len(valid) for _, valid in division.inner] == [len(valid) for _, valid in whole.inner]


def test_shots_of_a_class_are_of_as_many_speakers_as_can_be(task) -> None:
    whole = splits.divide_by_groups(task, 0)[0]
    for shots in (2, 4, 8):
        train = splits.few_shot(task, whole, shots, seed=3).train
        for label in range(3):
            speakers = Counter(task.groups[train[task.targets[train] == label]].tolist())
            assert max(speakers.values()) == -(-shots // 4)
            assert len(speakers) == min(shots, 4)


def test_more_shots_hold_those_of_fewer_and_seeds_differ(task) -> None:
    whole = splits.divide_by_groups(task, 0)[0]
    few, more, other = (
        set(splits.few_shot(task, whole, shots, seed).train) for shots, seed in ((2, 3), (5, 3), (2, 4))
    )
    assert few < more
    assert few != other


# --- bad input


@pytest.mark.parametrize(
    ("change", "shots", "expected"),
    [
        (lambda task: task, 25, "--shots 25: ann has 24 training clips of class 'dog'; expected at least 25"),
        (many_labels, 1, "--shots: clips have many labels here"),
    ],
)
def test_shots_that_cannot_be_drawn(task, change, shots: int, expected: str) -> None:
    whole = splits.divide_by_groups(task, 0)[0]._replace(inner=[])
    with pytest.raises(ConfigError) as caught:
        splits.few_shot(change(task), whole, shots, 0)
    assert str(caught.value).startswith(expected)


def test_a_group_alone_with_a_class_is_named(task) -> None:
    groups = np.where(task.targets == 2, "ann", np.where(task.groups == "ann", "bob", task.groups))
    with pytest.raises(ConfigError, match=r"^ann: there is no training clip of class 'owl', which its test part has"):
        splits.divide_by_groups(task._replace(groups=groups), 0)


def test_two_groups_are_too_few(task) -> None:
    with pytest.raises(ConfigError, match=r"^groups: found 2 \(a, b\); expected at least 3"):
        splits.divide_by_groups(task._replace(groups=np.where(task.groups == "ann", "a", "b")), 0)


def test_more_folds_than_clips_of_any_class(task) -> None:
    with pytest.raises(ConfigError, match=r"^--folds 31: no class has more than 30 clips; expected at most 30 folds"):
        splits.divide_by_folds(task, 31, 0)
    with pytest.raises(ConfigError, match=r"^--folds 91: there are 90 clips"):
        splits.divide_by_folds(many_labels(task), 91, 0)


def test_a_class_of_one_clip_cannot_be_divided(task) -> None:
    rows = np.flatnonzero((task.targets != 2) | (np.arange(90) == np.argmax(task.targets == 2)))
    with pytest.raises(ConfigError, match=r"^class 'owl': found one clip to divide"):
        splits.divide_by_folds(Task(task.targets[rows], NAMES), 3, 0)


def test_training_parts_of_one_class_are_refused(task) -> None:
    train, test = np.flatnonzero(task.targets == 1), np.flatnonzero(task.targets == 1)[:3]
    with pytest.raises(ConfigError, match=r"^test: a training part has too few classes \(cat\); expected at least 2"):
        splits.divide_by_split(task, train, train[:5], test, 0)
