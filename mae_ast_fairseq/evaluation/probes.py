"""Probes of frozen features: linear, ridge and nearest-neighbour classifiers, and the choice of their settings.

Functions over arrays. What a probe may choose, its readout, layers, whitening, and regularisation or number of
neighbours, is chosen on a split's validation rows.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from scipy import linalg
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from mae_ast_fairseq.data.audio import load_row
from mae_ast_fairseq.evaluation.metrics import METRICS, one_hot
from mae_ast_fairseq.evaluation.splits import ProbeData, Split
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.readout import ALL, possible_readouts, read_out

FLOORS = (1e-6, 3e-5, 1e-2, 1.0)  # of the variances in whitening
REGULARISATIONS = (0.01, 0.1, 1.0)  # scikit-learn's C, the inverse of the penalty's weight
NEIGHBOURS = (1, 5, 10, 20)
PENALTIES = (1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 10.0)  # of ridge regression, for each clip
MIN_VARIANCE = 1e-12  # beside the largest, of a direction that training clips have
MAX_ITERATIONS = 200  # of L-BFGS: with a small floor tens do, with a large one the last digits do not matter
MANY_FITS = 100_000  # classes times rows from which on one classifier a class is fitted in several processes
NO_LAYER = "-"
"""The layer of log-Mel frames."""


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
    scaler = StandardScaler().fit(train.astype(np.float64))  # float32 cannot centre silent bands
    train, others = (scaler.transform(part.astype(np.float64)) for part in (train, others))
    if list(floors) == [None]:
        return [(train, others)]
    pca = PCA(svd_solver="covariance_eigh" if train.shape[1] <= len(train) else "full").fit(train)
    variances = pca.explained_variance_ * (len(train) - 1) / len(train)
    is_real = variances > MIN_VARIANCE * variances[0]
    is_real[0] = True  # of constant features too, one remains
    train, others = (pca.transform(part)[:, is_real] for part in (train, others))
    scales = [1 / np.sqrt(variances[is_real] + floor) for floor in floors if floor is not None]
    return [(train * scale, others * scale) for scale in scales]


def linear_scores(
    train: np.ndarray, targets: np.ndarray, others: np.ndarray, num_classes: int, values: Sequence[float]
) -> list[np.ndarray]:
    """Fit logistic regression for each C of `values`, with many labels one for each label.

    Args:
        train: [N, C] features to fit on.
        targets: [N] class numbers, or [N, K] bool.
        others: [M, C] features to score.
        num_classes: K.
        values: the inverse weights of the L2 penalty, as scikit-learn counts it: beside a sum over the clips.

    Returns:
        Scores [M, K] for each value: probabilities, and 0 for a class without a training clip.
    """
    scores = np.zeros((len(values), len(others), num_classes))
    for place, value in enumerate(values):
        model: Any = LogisticRegression(C=value, max_iter=MAX_ITERATIONS)
        if targets.ndim == 2:
            model = OneVsRestClassifier(model, n_jobs=-1 if targets.size > MANY_FITS else None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what has not converged, and of labels that all clips have or none has
            model.fit(train, targets.astype(int))
        scores[place][:, model.classes_] = model.predict_proba(others)
    return list(scores)


def neighbour_scores(
    train: np.ndarray, targets: np.ndarray, others: np.ndarray, num_classes: int, values: Sequence[float]
) -> list[np.ndarray]:
    """Let the k nearest clips vote for each k of `values`, by cosine similarity, each with 1 + its similarity.

    Arguments and result as of `linear_scores`, for single labels. More neighbours than clips are all clips.
    """
    count = min(int(max(values)), len(train))
    search = NearestNeighbors(n_neighbors=count, metric="cosine").fit(train)
    distances, indices = search.kneighbors(others)  # [M, count] each, the nearest first
    rows = np.arange(len(others))[:, None]
    scores = np.zeros((len(values), len(others), num_classes))
    for votes, k in zip(scores, map(int, values), strict=True):
        np.add.at(votes, (rows, targets[indices[:, :k]]), 2 - distances[:, :k])
    return list(scores)


def ridge_scores(
    train: np.ndarray, targets: np.ndarray, others: np.ndarray, num_classes: int, values: Sequence[float]
) -> list[np.ndarray]:
    """Fit ridge regression onto 1 for the classes of a clip and -1 for the others, for each penalty of `values`.

    Arguments as of `linear_scores`; the quickest of the probes, for one label a clip or many. A penalty counts for each
    clip. Where there are more features than clips, their inner products are solved instead. Scores [M, K] for each
    value lie about -1 and 1; -1 for a class without a training clip.
    """
    wanted = np.where(one_hot(targets, num_classes), 1.0, -1.0)
    offset = wanted.mean(axis=0)
    is_dual = train.shape[1] > len(train)
    products = train @ train.T if is_dual else train.T @ train  # features have mean 0
    projected = others @ train.T if is_dual else others
    right = wanted - offset if is_dual else train.T @ (wanted - offset)
    penalised = (products + np.eye(len(products)) * (value * len(train)) for value in values)
    return [projected @ linalg.solve(some, right, assume_a="pos") + offset for some in penalised]


class Classifier(NamedTuple):
    """A kind of probe, and what its C, penalty or k, and the floor of whitening are chosen from."""

    scores: Callable[[np.ndarray, np.ndarray, np.ndarray, int, Sequence[float]], Sequence[np.ndarray]]
    values: Sequence[float]
    symbol: str
    floors: Sequence[Optional[float]] = FLOORS


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
    found: dict[Setting, np.ndarray] = {}
    for floor, (fitted, scored) in zip(kind.floors, whiten(train, others, kind.floors), strict=True):
        scores = kind.scores(fitted, targets, scored, num_classes, kind.values)
        found.update(zip([Setting(floor, value) for value in kind.values], scores, strict=True))
    return found


def log_mel_readouts(
    clips: Any,
    rows: Optional[Sequence[int]] = None,
    num_mel_bins: int = fbank.NUM_MEL_BINS,
    max_seconds: Optional[float] = None,
) -> dict[str, np.ndarray]:
    """Read the log-Mel frames of clips out, the plainest of features, in every way: [N, 1, D] by readout.

    clips: a manifest, or what has its `path`, `num_samples` and `sample_rates`.
    rows: which of them; None: all of them.
    """
    rows = range(len(clips)) if rows is None else rows
    num_samples = None if max_seconds is None else round(max_seconds * fbank.SAMPLE_RATE)
    values: dict[str, list[np.ndarray]] = {name: [] for name in possible_readouts(rows=1)}
    for row in tqdm(rows, desc="log-Mel", unit=" clips", disable=None):
        waveform = load_row(clips, row, num_samples=num_samples)
        frames = fbank.log_mel(torch.from_numpy(waveform), num_mel_bins=num_mel_bins)[None]
        for name, read in values.items():
            read.append(read_out(name, frames, None, rows=1).numpy())
    return {name: np.stack(some) for name, some in values.items()}


class Candidate(NamedTuple):
    """Features that a probe may choose."""

    readout: str
    layer: str
    """a number counted from 1; several, as `2,4`; `all`, one after another; `-` where there are none"""


def candidates_of(readouts: Mapping[str, np.ndarray], layers: Sequence[str]) -> dict[Candidate, np.ndarray]:
    """Return the features that a probe may choose, [N, features] each, from readouts [N, D, C] of D layers."""
    found = {}
    for readout, values in readouts.items():
        for layer in layers:
            every = layer in (ALL, NO_LAYER)
            chosen = slice(None) if every else [int(number) - 1 for number in layer.split(",")]
            found[Candidate(readout, layer)] = values[:, chosen].reshape(len(values), -1)
    return found


class Choice(NamedTuple):
    """What was chosen on validation rows."""

    candidate: Candidate
    setting: Setting
    score: float
    """accuracy or mean average precision on the validation rows"""


def compare(candidates: Mapping[Candidate, np.ndarray], data: ProbeData, split: Split, classifier: str) -> list[Choice]:
    """Score features with every setting of a classifier on the split's validation rows.

    Args:
        candidates: [N, features] of every clip.
        data: what is predicted.
        split: its `inner` parts are used, the mean of the scores over them.
        classifier: a key of CLASSIFIERS.

    Returns:
        All choices, by candidate and setting.
    """
    metric = METRICS["mAP" if data.is_multi_label else "accuracy"]
    choices = []
    for candidate, values in tqdm(candidates.items(), desc=classifier, unit=" features", leave=False, disable=None):
        found: dict[Setting, list[float]] = {}
        for fit, valid in split.inner:
            scores = score_settings(classifier, values[fit], data.targets[fit], values[valid], len(data.names))
            for setting, some in scores.items():
                found.setdefault(setting, []).append(metric.function(some, data.has_label(valid)))
        choices += [Choice(candidate, setting, float(np.mean(values))) for setting, values in found.items()]
    return choices


def best(choices: Sequence[Choice], readout: Optional[str] = None, layer: Optional[str] = None) -> Choice:
    """Return the choice that scores highest, of a readout and layer or of all; of equal ones the first."""
    allowed = [
        choice
        for choice in choices
        if readout in (None, choice.candidate.readout) and layer in (None, choice.candidate.layer)
    ]
    return max(allowed, key=lambda choice: choice.score)


def test_scores(values: np.ndarray, data: ProbeData, split: Split, classifier: str, choice: Choice) -> np.ndarray:
    """Fit the chosen classifier on the split's training rows of features [N, C] and score its test rows: [M, K]."""
    ((train, test),) = whiten(values[split.train], values[split.test], (choice.setting.floor,))
    scores = CLASSIFIERS[classifier].scores
    return scores(train, data.targets[split.train], test, len(data.names), [choice.setting.value])[0]
