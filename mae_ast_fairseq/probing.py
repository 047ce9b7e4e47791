"""Probes of frozen features: a linear and a nearest-neighbour classifier, and the choice of their settings.

Pure functions over arrays. What a probe may choose, its layer, whitening, and regularisation or number of neighbours,
is chosen on a division's validation rows.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Optional

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from mae_ast_fairseq import metrics
from mae_ast_fairseq.divisions import Division, Task

FLOORS = (1e-6, 3e-5, 1e-2, 1.0)  # of the variances in whitening
REGULARISATIONS = (0.01, 0.1, 1.0)  # scikit-learn's C, the inverse of the penalty's weight
NEIGHBOURS = (1, 5, 10, 20)
MAX_ITERATIONS = 200  # of L-BFGS: with a small floor tens do, with a large one the last digits do not matter
MANY_FITS = 100_000  # classes times rows from which on one classifier a class is fitted in several processes


# --- classifiers


class Setting(NamedTuple):
    """What a probe chooses beside the layer."""

    floor: float
    """added to the variances that features are whitened by"""
    value: float
    """C of a linear probe, k of a nearest-neighbour probe"""


def whiten(train: np.ndarray, others: np.ndarray, floors: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Standardise features, turn them to their principal components, and divide these by sqrt(variance + floor).

    A floor of 1 does little more than standardise. A small one makes all directions count alike, also those of little
    variance: what tells classes apart is often there, the larger variances being of speakers and channels. The probe
    stays linear in the features; and it converges in tens of steps instead of thousands.

    Args:
        train: [N, C] features, from which means and variances are taken.
        others: [M, C] features, treated alike.
        floors: beside variances whose mean is 1.

    Returns:
        Both, float64, for each floor.
    """
    scaler = StandardScaler().fit(train)
    train, others = (scaler.transform(part).astype(np.float64) for part in (train, others))
    variances, directions = np.linalg.eigh(train.T @ train / len(train))
    train, others = train @ directions, others @ directions
    scales = [1 / np.sqrt(np.maximum(variances, 0) + floor) for floor in floors]
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
    """what its C or k is chosen from"""
    symbol: str


CLASSIFIERS: Mapping[str, Classifier] = {
    "linear": Classifier(linear_scores, REGULARISATIONS, "C"),
    "knn": Classifier(neighbour_scores, NEIGHBOURS, "k"),
}


def score_settings(
    classifier: str, train: np.ndarray, targets: np.ndarray, others: np.ndarray, num_classes: int
) -> dict[Setting, np.ndarray]:
    """Score [M, C] features by a classifier of [N, C] ones with every setting: [M, K] each."""
    kind = CLASSIFIERS[classifier]
    return {
        Setting(floor, value): scores
        for floor, (fitted, scored) in zip(FLOORS, whiten(train, others, FLOORS), strict=True)
        for value, scores in zip(
            kind.values, kind.scores(fitted, targets, scored, num_classes, kind.values), strict=True
        )
    }


# --- choosing and testing


class Choice(NamedTuple):
    """What was chosen on validation rows."""

    layer: int
    """counted from 1"""
    setting: Setting
    score: float
    """accuracy or mean average precision on the validation rows"""


def log_mel_statistics(frames: np.ndarray) -> np.ndarray:
    """Return mean and deviation of each band over a clip: [T, F] log-Mel frames to [2F], the plainest of features."""
    return np.concatenate([frames.mean(0), frames.std(0)])


def evaluate(scores: np.ndarray, task: Task, rows: np.ndarray) -> dict[str, float]:
    """Return the metrics of `metrics.evaluate` of scores [M, K] for the rows."""
    return metrics.evaluate(scores, task.targets[rows], task.is_multi_label)


def one_hot(task: Task, rows: np.ndarray) -> np.ndarray:
    """Return which classes each of the rows has: bool [M, K]."""
    targets = task.targets[rows]
    return targets if task.is_multi_label else targets[:, None] == np.arange(len(task.names))


def compare(
    features: np.ndarray, task: Task, division: Division, classifier: str, layers: Optional[Sequence[int]] = None
) -> list[Choice]:
    """Score layers and every setting of a classifier on the division's validation rows.

    Args:
        features: [N, D, C] of every clip and layer.
        task: what is predicted.
        division: its `inner` parts are used, the mean of the scores over them.
        classifier: a key of CLASSIFIERS.
        layers: counted from 1; None: all.

    Returns:
        All choices, by layer and setting.
    """
    score = metrics.mean_average_precision if task.is_multi_label else metrics.accuracy
    choices = []
    for layer in layers or range(1, features.shape[1] + 1):
        values = features[:, layer - 1]
        totals: dict[Setting, float] = {}
        for fit, valid in division.inner:
            scores = score_settings(classifier, values[fit], task.targets[fit], values[valid], len(task.names))
            for setting, some in scores.items():
                totals[setting] = totals.get(setting, 0.0) + score(some, one_hot(task, valid))
        choices += [Choice(layer, setting, total / len(division.inner)) for setting, total in totals.items()]
    return choices


def best(choices: Sequence[Choice], layer: Optional[int] = None) -> Choice:
    """Return the choice that scores highest, of one layer or of all; of equal ones the first."""
    return max((choice for choice in choices if layer in (None, choice.layer)), key=lambda choice: choice.score)


def test_scores(features: np.ndarray, task: Task, division: Division, classifier: str, choice: Choice) -> np.ndarray:
    """Fit the chosen classifier on the division's training rows and score its test rows: [M, K]."""
    train, test = features[division.train, choice.layer - 1], features[division.test, choice.layer - 1]
    ((train, test),) = whiten(train, test, [choice.setting.floor])
    scores = CLASSIFIERS[classifier].scores
    return scores(train, task.targets[division.train], test, len(task.names), [choice.setting.value])[0]
