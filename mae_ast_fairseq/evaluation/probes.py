"""Probes of frozen features: linear, ridge and nearest-neighbour classifiers, and the choice of their settings.

Pure functions over arrays. What a probe may choose, its readout, layers, whitening, and regularisation or number of
neighbours, is chosen on a division's validation rows.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Optional

import numpy as np
from scipy import linalg
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from mae_ast_fairseq.evaluation import metrics
from mae_ast_fairseq.evaluation.splits import Division, Task
from mae_ast_fairseq.nn.readout import ALL

FLOORS = (1e-6, 3e-5, 1e-2, 1.0)  # of the variances in whitening
REGULARISATIONS = (0.01, 0.1, 1.0)  # scikit-learn's C, the inverse of the penalty's weight
NEIGHBOURS = (1, 5, 10, 20)
PENALTIES = (
    1e-3,
    1e-2,
    0.03,
    0.1,
    0.3,
    1.0,
    10.0,
)  # of ridge regression, for each clip
MIN_VARIANCE = 1e-12  # beside the largest, of a direction that training clips have
MAX_ITERATIONS = 200  # of L-BFGS: with a small floor tens do, with a large one the last digits do not matter
MANY_FITS = 100_000  # classes times rows from which on one classifier a class is fitted in several processes


# --- classifiers


class Setting(NamedTuple):
    """What a probe chooses beside the features."""

    floor: Optional[float]
    """added to the variances that features are whitened by; None: they are only standardised"""
    value: float
    """C of a linear probe, the penalty of ridge regression, k of a nearest-neighbour probe"""


def whiten(
    train: np.ndarray, others: np.ndarray, floors: Sequence[Optional[float]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Standardise features, turn them to their principal components, and divide these by sqrt(variance + floor).

    A floor of 1 does little more than standardise. A small one makes all directions count alike, also those of little
    variance: what tells classes apart is often there, the larger variances being of speakers and channels. The probe
    stays linear in the features; and it converges in tens of steps instead of thousands.

    Args:
        train: [N, C] features, from which means and variances are taken.
        others: [M, C] features, treated alike.
        floors: beside variances whose mean is 1; None alone: standardise, and leave it at that.

    Returns:
        Both, float64, for each floor.
    """
    scaler = StandardScaler().fit(train)
    train, others = (scaler.transform(part).astype(np.float64) for part in (train, others))
    if list(floors) == [None]:
        return [(train, others)]
    if train.shape[1] <= len(train):
        variances, directions = np.linalg.eigh(train.T @ train / len(train))
    else:  # the same directions, as far as the training clips have any, by way of N x N inner products
        variances, mixtures = np.linalg.eigh(train @ train.T / len(train))
        is_real = variances > MIN_VARIANCE * variances[-1]
        is_real[-1] = True  # of constant features too, one remains
        variances = np.maximum(variances[is_real], np.finfo(float).tiny)
        directions = train.T @ (mixtures[:, is_real] / np.sqrt(variances * len(train)))
    train, others = train @ directions, others @ directions
    scales = [1 / np.sqrt(np.maximum(variances, 0) + floor) for floor in floors if floor is not None]
    return [(train * scale, others * scale) for scale in scales]


def linear_scores(
    train: np.ndarray, targets: np.ndarray, others: np.ndarray, num_classes: int, values: Sequence[float]
) -> list[np.ndarray]:
    """Fit logistic regression for each C of `values`.

    Args:
        train: [N, C] features to fit on.
        targets: [N] class numbers, or [N, K] bool for one classifier a class.
        others: [M, C] features to score.
        num_classes: K.
        values: the inverse weights of the L2 penalty, as scikit-learn counts it: beside a sum over the clips.

    Returns:
        Scores [M, K] for each value: probabilities, and 0 for a class without a training clip.
    """
    return [_fit_linear(train, targets, others, num_classes, value) for value in values]


def _fit_linear(
    train: np.ndarray, targets: np.ndarray, others: np.ndarray, num_classes: int, value: float
) -> np.ndarray:
    scores = np.zeros((len(others), num_classes))
    regression = LogisticRegression(C=value, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if targets.ndim == 2:
            learnable = np.flatnonzero(targets.any(0) & ~targets.all(0))
            jobs = -1 if len(train) * len(learnable) > MANY_FITS else None
            fitted = OneVsRestClassifier(regression, n_jobs=jobs).fit(train, targets[:, learnable].astype(int))
            # Of one class alone scikit-learn makes a binary problem, with a column for its absence.
            scores[:, learnable] = fitted.predict_proba(others)[:, -len(learnable) :]
        else:
            fitted = regression.fit(train, targets)
            scores[:, fitted.classes_] = fitted.predict_proba(others)
    return scores


def ridge_scores(
    train: np.ndarray, targets: np.ndarray, others: np.ndarray, num_classes: int, values: Sequence[float]
) -> list[np.ndarray]:
    """Fit ridge regression onto 1 for the classes of a clip and -1 for the others, for each penalty of `values`.

    Arguments as of `linear_scores`; the quickest of the probes, for one label a clip or many. A penalty counts for each
    clip. Where there are more features than clips, their inner products are solved instead. Scores [M, K] for each
    value lie about -1 and 1; -1 for a class without a training clip.
    """
    wanted = targets if targets.ndim == 2 else targets[:, None] == np.arange(num_classes)
    wanted = np.where(wanted, 1.0, -1.0)
    offset = wanted.mean(axis=0)
    is_dual = train.shape[1] > len(train)
    products = train @ train.T if is_dual else train.T @ train  # features have mean 0
    projected = others @ train.T if is_dual else others
    right = wanted - offset if is_dual else train.T @ (wanted - offset)
    scores = []
    for value in values:
        penalised = products + np.eye(len(products)) * (value * len(train))
        scores.append(projected @ linalg.solve(penalised, right, assume_a="pos") + offset)
    return scores


def neighbour_scores(
    train: np.ndarray, targets: np.ndarray, others: np.ndarray, num_classes: int, values: Sequence[float]
) -> list[np.ndarray]:
    """Let the k nearest clips vote for each k of `values`, by cosine similarity.

    Arguments and result as of `linear_scores`, for single labels; a score is the sum of 1 + similarity over those
    neighbours that have the class. More neighbours than clips are all clips.
    """
    count = min(int(max(values)), len(train))
    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(train)
    distances, indices = search.kneighbors(others)  # [M, count] each
    votes = np.zeros((len(others), num_classes))
    rows = np.arange(len(others))
    by_count: dict[int, np.ndarray] = {}
    wanted = {min(int(value), count) for value in values}
    for neighbour in range(count):
        votes[rows, targets[indices[:, neighbour]]] += 2 - distances[:, neighbour]  # 1 + similarity, not negative
        if neighbour + 1 in wanted:
            by_count[neighbour + 1] = votes.copy()
    return [by_count[min(int(value), count)] for value in values]


class Classifier(NamedTuple):
    """A kind of probe."""

    scores: Callable[[np.ndarray, np.ndarray, np.ndarray, int, Sequence[float]], list[np.ndarray]]
    values: Sequence[float]
    """what its C, penalty or k is chosen from"""
    symbol: str
    floors: Sequence[Optional[float]] = FLOORS
    """what the floor of whitening is chosen from"""


CLASSIFIERS: Mapping[str, Classifier] = {
    "linear": Classifier(linear_scores, REGULARISATIONS, "C"),
    "ridge": Classifier(ridge_scores, PENALTIES, "penalty", floors=(None,)),
    "knn": Classifier(neighbour_scores, NEIGHBOURS, "k"),
}


def score_settings(
    classifier: str, train: np.ndarray, targets: np.ndarray, others: np.ndarray, num_classes: int
) -> dict[Setting, np.ndarray]:
    """Score [M, C] features by a classifier of [N, C] ones with every setting: [M, K] each."""
    kind = CLASSIFIERS[classifier]
    return {
        Setting(floor, value): scores
        for floor, (fitted, scored) in zip(kind.floors, whiten(train, others, kind.floors), strict=True)
        for value, scores in zip(
            kind.values, kind.scores(fitted, targets, scored, num_classes, kind.values), strict=True
        )
    }


# --- choosing and testing


class Candidate(NamedTuple):
    """Features that a probe may choose."""

    readout: str
    layer: str
    """a number counted from 1; several, as `2,4`; `all`, one after another; `-` where there are none"""


class Choice(NamedTuple):
    """What was chosen on validation rows."""

    candidate: Candidate
    setting: Setting
    score: float
    """accuracy or mean average precision on the validation rows"""


def candidates_of(readouts: Mapping[str, np.ndarray], layers: Sequence[str]) -> dict[Candidate, np.ndarray]:
    """Return the features that a probe may choose from readouts [N, D, C] of D layers: [N, features] each.

    layers: `all` for the layers one after another, or numbers as `3` and `2,4`.
    """
    found = {}
    for readout, values in readouts.items():
        for layer in layers:
            numbers = range(values.shape[1]) if layer == ALL else [int(number) - 1 for number in layer.split(",")]
            parts = [values[:, number] for number in numbers]
            found[Candidate(readout, layer)] = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return found


def evaluate(scores: np.ndarray, task: Task, rows: np.ndarray) -> dict[str, float]:
    """Return the metrics of `metrics.evaluate` of scores [M, K] for the rows."""
    return metrics.evaluate(scores, task.targets[rows], task.is_multi_label)


def one_hot(task: Task, rows: np.ndarray) -> np.ndarray:
    """Return which classes each of the rows has: bool [M, K]."""
    targets = task.targets[rows]
    return targets if task.is_multi_label else targets[:, None] == np.arange(len(task.names))


def compare(
    candidates: Mapping[Candidate, np.ndarray], task: Task, division: Division, classifier: str
) -> list[Choice]:
    """Score features with every setting of a classifier on the division's validation rows.

    Args:
        candidates: [N, features] of every clip.
        task: what is predicted.
        division: its `inner` parts are used, the mean of the scores over them.
        classifier: a key of CLASSIFIERS.

    Returns:
        All choices, by candidate and setting.
    """
    score = metrics.mean_average_precision if task.is_multi_label else metrics.accuracy
    choices = []
    for candidate, values in candidates.items():
        totals: dict[Setting, float] = {}
        for fit, valid in division.inner:
            scores = score_settings(classifier, values[fit], task.targets[fit], values[valid], len(task.names))
            for setting, some in scores.items():
                totals[setting] = totals.get(setting, 0.0) + score(some, one_hot(task, valid))
        choices += [Choice(candidate, setting, total / len(division.inner)) for setting, total in totals.items()]
    return choices


def best(choices: Sequence[Choice], readout: Optional[str] = None, layer: Optional[str] = None) -> Choice:
    """Return the choice that scores highest, of a readout and layer or of all; of equal ones the first."""
    allowed = [
        choice
        for choice in choices
        if readout in (None, choice.candidate.readout) and layer in (None, choice.candidate.layer)
    ]
    return max(allowed, key=lambda choice: choice.score)


def test_scores(values: np.ndarray, task: Task, division: Division, classifier: str, choice: Choice) -> np.ndarray:
    """Fit the chosen classifier on the division's training rows of features [N, C] and score its test rows: [M, K]."""
    ((train, test),) = whiten(values[division.train], values[division.test], (choice.setting.floor,))
    scores = CLASSIFIERS[classifier].scores
    return scores(train, task.targets[division.train], test, len(task.names), [choice.setting.value])[0]
