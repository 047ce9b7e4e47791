"""Dividing labelled clips for probes: what is learnt from, what is tested, and what choices are made by.

By given splits, stratified folds, or groups such as speakers; with few training clips of each class where wanted. Rows
that choices are made by are never test rows; where clips belong to groups, they are of groups that the compared
classifiers were not fitted on.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.rng import Stream, generator

VALIDATION_PARTS = 5  # a fifth of the training rows validates; of groups, each of at most five parts in turn
HOLD_OUT, FOLDS, SHOTS = range(3)  # places among the draws of a seed


class Task(NamedTuple):
    """What is to be predicted of N clips."""

    targets: np.ndarray
    """[N] int class numbers, or [N, K] bool where a clip may have many labels"""
    names: Sequence[str]
    """[K] the classes' names"""
    groups: Optional[np.ndarray] = None
    """[N] the group of each clip, such as its speaker; None where there are none"""

    @property
    def is_multi_label(self) -> bool:
        """Whether a clip may have many labels."""
        return self.targets.ndim == 2


class Division(NamedTuple):
    """One way to divide the rows: what is learnt from, what is tested on, and what choices are made by."""

    name: str
    train: np.ndarray
    """rows that the tested classifier is fitted on"""
    test: np.ndarray
    inner: list[tuple[np.ndarray, np.ndarray]]
    """(rows fitted on, rows validated on) for choosing, all outside of `test`"""


def divide_by_split(
    task: Task, train: np.ndarray, valid: Optional[np.ndarray], test: np.ndarray, seed: int
) -> list[Division]:
    """Return the one division that given splits make; without a validation part, one is held out of training.

    Where it is given, the tested classifier is fitted on `train` alone, as the field does it.
    """
    inner = _hold_out(task, train, seed) if valid is None else [(train, valid)]
    return _checked(task, [Division("test", train, test, inner)])


def divide_by_folds(task: Task, num_folds: int, seed: int) -> list[Division]:
    """Return a division for each of `num_folds` folds, alike in their shares of the classes where labels are single.

    Each is tested once; a part of the others is held out for choosing, and is then trained on as well.
    """
    rows = np.arange(len(task.targets))
    if num_folds > len(rows):
        raise ConfigError(f"--folds {num_folds}: there are {len(rows)} clips; expected at most as many folds")
    largest = int(_clips_by_class(task, rows).max())
    if not task.is_multi_label and num_folds > largest:
        raise ConfigError(
            f"--folds {num_folds}: no class has more than {largest} clips; expected at most {largest} folds, so that "
            "each tests a class"
        )
    divisions = [
        Division(f"fold {number}", train, test, _hold_out(task, train, seed, number))
        for number, (train, test) in enumerate(_folds(task, rows, num_folds, seed, FOLDS), start=1)
    ]
    return _checked(task, divisions)


def divide_by_groups(task: Task, seed: int) -> list[Division]:
    """Return a division for each group, which is tested; choices are made on other groups than were fitted on.

    Raises ConfigError for fewer than three groups: one to test, one to validate and one to fit.
    """
    assert task.groups is not None
    names = sorted(set(task.groups.tolist()))
    if len(names) < 3:
        raise ConfigError(
            f"groups: found {len(names)} ({', '.join(map(str, names))}); expected at least 3, one to test, one to "
            "choose by and one to learn from; use --folds"
        )
    divisions = []
    for number, name in enumerate(names):
        train, test = np.flatnonzero(task.groups != name), np.flatnonzero(task.groups == name)
        others = [group for group in names if group != name]
        others = generator(seed, Stream.ORDER, HOLD_OUT, number).permutation(others).tolist()
        parts = np.array_split(others, min(VALIDATION_PARTS, len(others)))
        is_valid = [np.isin(task.groups[train], part) for part in parts]
        divisions.append(Division(str(name), train, test, [(train[~chosen], train[chosen]) for chosen in is_valid]))
    return _checked(task, divisions)


def _hold_out(task: Task, rows: np.ndarray, seed: int, index: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divide training rows for choosing: (rows fitted on, rows validated on)."""
    return _folds(task, rows, VALIDATION_PARTS, seed, HOLD_OUT, index)[:1]


def _folds(
    task: Task, rows: np.ndarray, num_folds: int, seed: int, epoch: int, index: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (the others, the fold) of rows for each fold; raises ConfigError for a class of fewer clips than 2."""
    state = int(generator(seed, Stream.ORDER, epoch, index).integers(2**32))
    if task.is_multi_label:
        parts = list(KFold(min(num_folds, len(rows)), shuffle=True, random_state=state).split(rows))
    else:
        counts = np.bincount(task.targets[rows], minlength=len(task.names))
        if (counts == 1).any():
            name = task.names[int(np.argmax(counts == 1))]
            raise ConfigError(
                f"class {name!r}: found one clip to divide into training and other parts; expected at least 2; add "
                "clips, or leave the class out"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # fewer clips of a class than folds: some have none of it
            folds = StratifiedKFold(min(num_folds, int(counts.max())), shuffle=True, random_state=state)
            parts = list(folds.split(rows, task.targets[rows]))
    return [(rows[others], rows[fold]) for others, fold in parts]


def _checked(task: Task, divisions: list[Division]) -> list[Division]:
    """Raise ConfigError where a division lacks what it is to learn: two classes, and each that it is tested on."""
    for division in divisions:
        train = _clips_by_class(task, division.train)
        fewest = min([division.train, *(fit for fit, _ in division.inner)], key=lambda rows: _num_classes(task, rows))
        missing = np.flatnonzero((train == 0) & (_clips_by_class(task, division.test) > 0))
        if len(missing):
            raise ConfigError(
                f"{division.name}: there is no training clip of class {task.names[int(missing[0])]!r}, which its "
                "test part has; expected each class in both; add clips, use fewer folds, or leave the class out"
            )
        if _num_classes(task, fewest) < (1 if task.is_multi_label else 2):
            found = (
                ", ".join(task.names[place] for place in np.flatnonzero(_clips_by_class(task, fewest)).tolist())
                or "none"
            )
            raise ConfigError(
                f"{division.name}: a training part has too few classes ({found}); expected at least 2; check the label "
                "files, or divide otherwise"
            )
    return divisions


def _clips_by_class(task: Task, rows: np.ndarray) -> np.ndarray:
    """Count the rows of each class: [K]."""
    if task.is_multi_label:
        return task.targets[rows].sum(0)
    return np.bincount(task.targets[rows], minlength=len(task.names))


def _num_classes(task: Task, rows: np.ndarray) -> int:
    return int(np.count_nonzero(_clips_by_class(task, rows)))


# --- few shots


def few_shot(task: Task, division: Division, shots: int, seed: int) -> Division:
    """Keep `shots` training clips of each class, drawn by `seed`, in training and wherever is fitted on for choosing.

    Validation and test rows stay. Where rows belong to groups, a class' clips are spread over as many as can be.
    Raises ConfigError where a class has fewer clips, or clips may have many labels.
    """
    if task.is_multi_label:
        raise ConfigError("--shots: clips have many labels here; expected single labels, of which N clips can be drawn")
    inner = [(draw_shots(task, fit, shots, seed, division.name), valid) for fit, valid in division.inner]
    train = draw_shots(task, division.train, shots, seed, division.name)
    return division._replace(train=train, inner=inner)


def draw_shots(task: Task, rows: np.ndarray, shots: int, seed: int, name: str) -> np.ndarray:
    """Return `shots` of the rows for each class, ascending; `name` is the division's, for messages.

    The draw depends on the seed and the class; with more shots, those of fewer are among them.
    """
    drawn = []
    for label in np.unique(task.targets[rows]):
        clips = rows[task.targets[rows] == label]
        if len(clips) < shots:
            raise ConfigError(
                f"--shots {shots}: {name} has {len(clips)} training clips of class {task.names[int(label)]!r}; "
                f"expected at least {shots}; lower --shots to {len(clips)}"
            )
        draws = generator(seed, Stream.ORDER, SHOTS, int(label))
        clips = draws.permutation(clips)
        if task.groups is not None:
            clips = _round_robin(clips, task.groups[clips], draws)
        drawn.append(clips[:shots])
    return np.sort(np.concatenate(drawn))


def _round_robin(clips: np.ndarray, groups: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Order clips so that the groups take turns, in an order that is drawn."""
    names = draws.permutation(np.unique(groups))
    turn = np.zeros(len(clips), dtype=int)
    place = np.zeros(len(clips), dtype=int)
    for number, name in enumerate(names):
        of_group = np.flatnonzero(groups == name)
        turn[of_group], place[of_group] = np.arange(len(of_group)), number
    return clips[np.lexsort((place, turn))]
