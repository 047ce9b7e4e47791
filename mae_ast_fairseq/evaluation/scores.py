"""What a classifier's scores of a labelled split say: how sure its metrics are, and what becomes of each class."""

import warnings
from typing import NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support
from tqdm import tqdm

from mae_ast_fairseq.evaluation.metrics import METRICS, evaluate, one_hot

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A metric of a split, and the interval in which it lies for other clips of the same kind."""

    value: float
    low: float
    high: float


def bootstrap(
    scores: np.ndarray, targets: np.ndarray, multi_label: bool, num_resamples: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Return all METRICS with the percentiles of what they are over clips that are drawn with replacement.

    Args:
        scores: [N, K] floating point.
        targets: [N, K], 1 where a clip has a label; for a single label also [N], its number.
        multi_label: whether a clip may have several labels or none.
        num_resamples: draws of N clips; a metric that is undefined in some is left out of those.
        rng: draws the clips.
    """
    resampled = np.empty((num_resamples, len(METRICS)))
    for draw in tqdm(resampled, desc="bootstrap", unit=" draws", disable=None):
        rows = rng.integers(len(scores), size=len(scores))
        draw[:] = list(evaluate(scores[rows], targets[rows], multi_label).values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a metric that is undefined in all draws
        lows, highs = np.nanquantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    values = evaluate(scores, targets, multi_label)
    return {
        name: Estimate(value, float(low), float(high))
        for (name, value), low, high in zip(values.items(), lows, highs, strict=True)
    }


def class_metrics(scores: np.ndarray, targets: np.ndarray, multi_label: bool) -> list[dict[str, float]]:
    """Return of each class its number of clips, and how well it is told from the others.

    Scores and targets as of `bootstrap`. That is with many labels the average precision, else precision, recall and
    F1 of the best class of each clip; NaN where a class has no clip, or none was taken for it.
    """
    has_label = one_hot(targets, scores.shape[1])
    support = has_label.sum(axis=0).tolist()
    if multi_label:
        return [
            {"clips": clips, "AP": float(average_precision_score(has_label[:, k], scores[:, k])) if clips else np.nan}
            for k, clips in enumerate(support)
        ]
    precision, recall, f1, _ = precision_recall_fscore_support(
        has_label.argmax(axis=1), scores.argmax(axis=1), labels=range(len(support)), zero_division=np.nan
    )
    columns = zip(support, precision.tolist(), recall.tolist(), f1.tolist(), strict=True)
    return [dict(zip(("clips", "precision", "recall", "F1"), values, strict=True)) for values in columns]


def confusion(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Count the clips of the row's class taken for the column's: [K, K], from scores [N, K] and class numbers [N]."""
    return confusion_matrix(targets, scores.argmax(axis=1), labels=range(scores.shape[1]))
