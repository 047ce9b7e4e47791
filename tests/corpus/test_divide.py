"""Splits by fraction: every clip in one, groups whole, labels alike, the same for the same seed."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.corpus.divide import check_whole, describe_rare, divide
from mae_ast_fairseq.corpus.script import SPLITS, split_side
from mae_ast_fairseq.errors import ConfigError

fractions = st.fixed_dictionaries({"valid": st.floats(0.05, 0.4), "test": st.sampled_from([0.0, 0.1, 0.3])})


def _names(number):
    return [f"{index}.wav" for index in range(number)]


def _of(names, values):
    return dict(zip(names, map(str, values), strict=True))


@given(st.lists(st.integers(0, 12), max_size=80), st.booleans(), st.booleans(), fractions, st.integers(0, 99))
def test_every_clip_is_in_one_split_and_no_group_is_cut(values, has_groups, has_labels, parts, seed):
    names = _names(len(values))
    groups = _of(names, values) if has_groups else None
    labels = {name: [str(value % 3)] for name, value in zip(names, values, strict=True)} if has_labels else None
    split_of = divide(names, parts, seed=seed, groups=groups, labels=labels)
    assert split_of.keys() == set(names)
    assert set(split_of.values()) <= {split for split in SPLITS if parts.get(split, 1) > 0}
    if groups:
        check_whole(groups, split_of)
    if not has_labels and len(set(values) if has_groups else values) > 6:
        assert {split for split, part in parts.items() if part} <= set(split_of.values())
    shuffled = names[::-1]
    assert divide(shuffled, parts, seed=seed, groups=groups, labels=labels) == split_of


@given(st.lists(st.integers(1, 12), min_size=3, max_size=40), fractions, st.integers(0, 99))
def test_sizes_are_as_near_as_the_largest_group_lets_them(sizes, parts, seed):
    values = [group for group, size in enumerate(sizes) for _ in range(size)]
    names = _names(len(values))
    counts = Counter(divide(names, parts, seed=seed, groups=_of(names, values)).values())
    assert all(counts[split] for split in ("train", *(split for split, part in parts.items() if part)))
    for split, part in parts.items():
        assert abs(counts[split] - part * len(names)) <= 2 * max(sizes)


@given(st.lists(st.sampled_from("aaaabbc"), min_size=1, max_size=200), fractions, st.integers(0, 99))
def test_each_label_has_its_fraction_of_every_split(values, parts, seed):
    names = _names(len(values))
    split_of = divide(names, parts, seed=seed, labels=_of(names, values))
    wanted = {"train": 1 - sum(parts.values()), **{split: part for split, part in parts.items() if part}}
    counts = Counter((label, split_of[name]) for name, label in zip(names, values, strict=True))
    for label, number in Counter(values).items():
        for split, part in wanted.items():
            assert abs(counts[label, split] - part * number) <= 2
            assert counts[label, split] >= (number >= len(wanted) or split == "train")


def test_small_classes_do_not_add_up_to_another_size():
    names = _names(600)
    labels = {name: [str(index % 50)] for index, name in enumerate(names)}
    counts = Counter(divide(names, {"valid": 0.1, "test": 0.1}, seed=1, labels=labels).values())
    assert counts == {"train": 480, "valid": 60, "test": 60}


def test_labels_are_alike_where_groups_are_whole():
    names = _names(600)
    groups = {name: str(index // 30) for index, name in enumerate(names)}
    labels = {name: ["ab"[index // 60 % 2], str(index % 5)] for index, name in enumerate(names)}
    split_of = divide(names, {"valid": 0.2, "test": 0.2}, seed=1, groups=groups, labels=labels)
    counts = Counter((label, split_of[name]) for name in names for label in labels[name][:1])
    assert [counts[label, split] for label in "ab" for split in SPLITS] == [180, 60, 60] * 2


def test_a_seed_gives_other_groups():
    names = _names(100)
    groups = {name: str(index // 5) for index, name in enumerate(names)}
    tests = [
        {groups[name] for name, split in divide(names, {"valid": 0, "test": 0.3}, seed=seed, groups=groups).items()
         if split == "test"}
        for seed in (1, 2)
    ]  # fmt: skip
    assert len(tests[0]) == len(tests[1]) == 6
    assert tests[0] != tests[1]


def test_without_groups_and_labels_the_side_is_that_of_the_name():
    names = _names(1000)
    split_of = divide(names, {"valid": 0.2, "test": 0.1}, seed=5)
    assert split_of == {name: split_side(name, 0.2, 5, 0.1) for name in names}
    assert 60 < Counter(split_of.values())["test"] < 140


def test_a_group_that_is_in_two_splits_is_named():
    groups = {"a1": "a", "a2": "a", "b1": "b"}
    with pytest.raises(ConfigError, match="group 'a': 'a1' was given to train and 'a2' is in test"):
        check_whole(groups, {"a1": "train", "a2": "test", "b1": "test"})


def test_labels_that_a_split_lacks_are_named():
    rows = {"train": [["a"], ["b"], ["b", "c"]], "test": [["a"], ["d"]]}
    text = describe_rare(rows, num_shown=2)
    assert (
        text
        == "3 of 4 labels are not in every split: 'b' (2 clips, none in test), 'c' (1 clip, none in test), 1 others"
    )
    assert describe_rare({"train": [["a"]], "test": [["a"]]}) == ""
