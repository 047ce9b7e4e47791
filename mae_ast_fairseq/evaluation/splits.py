"""Splits of labelled clips for probes: what is learnt from, what is tested, and what choices are made by.

By given splits, stratified folds, or groups such as speakers; with few training clips of each class where wanted. Rows
that choices are made by are never test rows; where clips belong to groups, they are of groups that the compared
classifiers were not fitted on.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, LeaveOneGroupOut, StratifiedKFold

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.evaluation.metrics import one_hot
from mae_ast_fairseq.rng import Stream, generator

VALIDATION_PARTS = 5  # a fifth of the training rows validates; of groups, each of at most five parts in turn
HOLD_OUT, FOLDS, SHOTS = range(3)  # places among the draws of a seed

Rows = tuple[np.ndarray, np.ndarray]
"""rows fitted on, and rows predicted"""


class ProbeData(NamedTuple):
    """What is to be predicted of N clips."""

    targets: np.ndarray
    """[N] int class numbers, or [N, K] bool where a clip may have many labels"""
    names: Sequence[str]
    """[K] the classes' names"""
    groups: Optional[np.ndarray] = None
    """[N] the group of each clip, such as its speaker; None where there are none"""

    @property
    def is_multi_label(self) -> bool:
        """Return whether a clip may have many labels."""
        return self.targets.ndim == 2

    def has_label(self, rows: np.ndarray) -> np.ndarray:
        """Return which classes each of some rows has: bool [M, K]."""
        return one_hot(self.targets[rows], len(self.names))

    def classes(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers of the classes that some rows have, ascending."""
        return np.flatnonzero(self.has_label(rows).any(axis=0))


class Split(NamedTuple):
    """One way to split the rows: what is learnt from, what is tested on, and what choices are made by."""

    name: str
    train: np.ndarray
    """rows that the tested classifier is fitted on"""
    test: np.ndarray
    inner: list[Rows]
    """(rows fitted on, rows validated on) for choosing, all outside of `test`"""


def given_split(
    data: ProbeData,
    train: np.ndarray,
    valid: Optional[np.ndarray],
    test: np.ndarray,
    seed: int,
    name: str = "test",
    number: int = 0,
) -> Split:
    """Return the split of rows that are given; without a validation part, one is held out of training.

    Where it is given, the tested classifier is fitted on `train` alone, as the field does it. Splits of other numbers
    hold other parts out.
    """
    if valid is not None:
        return _checked(data, Split(name, train, test, [(train, valid)]))
    parts = _stratified(data, train, VALIDATION_PARTS, _state(seed, HOLD_OUT, number))
    return _checked(data, Split(name, train, test, parts[:1]))


def split_by_folds(data: ProbeData, num_folds: int, seed: int) -> list[Split]:
    """Return a split for each of `num_folds` folds, with like fractions of the classes where labels are single.

    Each is tested once; a part of the others is held out for choosing, and is then trained on as well.
    """
    rows = np.arange(len(data.targets))
    most = len(rows) if data.is_multi_label else int(np.bincount(data.targets).max())
    if not 2 <= num_folds <= most:
        of_what = "" if data.is_multi_label else " of the largest class"
        raise ConfigError(f"--folds {num_folds}: expected 2 to {most}, the number of clips{of_what}")
    return [
        given_split(data, train, None, test, seed, f"fold {number}", number)
        for number, (train, test) in enumerate(_stratified(data, rows, num_folds, _state(seed, FOLDS)), start=1)
    ]


def split_by_groups(data: ProbeData, seed: int) -> list[Split]:
    """Return a split for each group, which is tested; choices are made on other groups than were fitted on.

    Raises ConfigError for fewer than three groups: one to test, one to validate and one to fit.
    """
    assert data.groups is not None
    names = np.unique(data.groups)
    if len(names) < 3:
        raise ConfigError(
            f"groups: found {len(names)} ({', '.join(map(str, names))}); expected at least 3, one to test, one to "
            "choose by and one to learn from; use --folds"
        )
    splits = []
    for number, (train, test) in enumerate(LeaveOneGroupOut().split(data.targets, groups=data.groups)):
        num_parts = min(VALIDATION_PARTS, len(names) - 1)
        folds = GroupKFold(num_parts, shuffle=True, random_state=_state(seed, HOLD_OUT, number))
        inner = [(train[fit], train[valid]) for fit, valid in folds.split(train, groups=data.groups[train])]
        splits.append(_checked(data, Split(str(names[number]), train, test, inner)))
    return splits


def _state(seed: int, what: int, number: int = 0) -> int:
    return int(generator(seed, Stream.ORDER, what, number).integers(2**32))


def _stratified(data: ProbeData, rows: np.ndarray, num_folds: int, random_state: int) -> list[Rows]:
    """Return (the others, the fold) of rows for each fold; raises ConfigError for a class of one clip."""
    if len(rows) < 2:
        raise ConfigError(f"found {len(rows)} clip to divide into training and other clips; expected two or more")
    if data.is_multi_label:
        folds = KFold(min(num_folds, len(rows)), shuffle=True, random_state=random_state)
        return [(rows[others], rows[fold]) for others, fold in folds.split(rows)]
    counts = np.bincount(data.targets[rows])
    if (counts == 1).any():
        raise ConfigError(
            f"class {data.names[int(np.argmax(counts == 1))]!r}: found one clip to divide into training and other "
            "parts; expected at least 2; add clips, or leave the class out"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fewer clips of a class than folds: some have none of it
        folds = StratifiedKFold(min(num_folds, int(counts.max())), shuffle=True, random_state=random_state)
        return [(rows[others], rows[fold]) for others, fold in folds.split(rows, data.targets[rows])]


def _checked(data: ProbeData, split: Split) -> Split:
    """Raise ConfigError where a split lacks what it is to learn: two classes, and each that it is tested on."""
    missing = np.setdiff1d(data.classes(split.test), data.classes(split.train))
    if len(missing):
        raise ConfigError(
            f"{split.name}: there is no training clip of class {data.names[int(missing[0])]!r}, which its test part "
            "has; expected each class in both; add clips, use fewer folds, or leave the class out"
        )
    for rows in (split.train, *(fit for fit, _ in split.inner)):
        found = data.classes(rows)
        if len(found) < (1 if data.is_multi_label else 2):
            raise ConfigError(
                f"{split.name}: a training part has too few classes ({', '.join(data.names[k] for k in found)}); "
                "expected at least 2; check the label files, or divide otherwise"
            )
    return split


def few_shot(data: ProbeData, split: Split, shots: int, seed: int) -> Split:
    """Keep `shots` training clips of each class, drawn by `seed`, in training and wherever is fitted on for choosing.

    Validation and test rows stay. The draw depends on the seed and the class, and with more shots, those of fewer are
    among them. Where rows belong to groups, a class' clips are spread over as many as can be. Raises ConfigError where
    a class has fewer clips, or clips may have many labels.
    """
    if data.is_multi_label:
        raise ConfigError("--shots: clips have many labels here; expected single labels, of which N clips can be drawn")

    def draw(rows: np.ndarray) -> np.ndarray:
        drawn = []
        for label in data.classes(rows).tolist():
            clips = rows[data.targets[rows] == label]
            if not 1 <= shots <= len(clips):
                raise ConfigError(
                    f"--shots {shots}: {split.name} has {len(clips)} training clips of class {data.names[label]!r}; "
                    f"expected 1 to {len(clips)}"
                )
            clips = generator(seed, Stream.ORDER, SHOTS, label).permutation(clips)
            if data.groups is not None:
                clips = _round_robin(clips, data.groups[clips])
            drawn.append(clips[:shots])
        return np.sort(np.concatenate(drawn))

    return split._replace(train=draw(split.train), inner=[(draw(fit), valid) for fit, valid in split.inner])


def _round_robin(clips: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Order clips so that the groups take turns, and otherwise as they come."""
    turns = np.zeros(len(clips), dtype=int)
    for group in np.unique(groups):
        turns[groups == group] = np.arange(np.count_nonzero(groups == group))
    return clips[np.argsort(turns, kind="stable")]
