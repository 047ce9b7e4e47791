"""How well classes are told apart: over all clips of a set at once, from gathered scores and targets.

One definition serves single and multi-label sets, so that a metric keeps its meaning: a clip has one label or several.
Scores may be logits or probabilities, since only their order counts: within a clip for the accuracies, within a class
for the others. Classes without a clip that has them are left out of every mean over classes, and classes that all
clips have out of the AUC; a metric that nothing is left for is NaN.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata
from sklearn.metrics import average_precision_score

AUC_MARGIN = 1e-6
"""d-prime takes the AUC no closer to 0 and 1, where it would be infinite: it stays within 6.73."""


class Metric(NamedTuple):
    """A figure of a set of clips; an entry in METRICS is all that a new one needs."""

    function: Callable[[np.ndarray, np.ndarray], float]
    """finite scores [N, K], at least one, and has_label [N, K] bool -> the figure, NaN where it is undefined"""
    maximize: bool
    """whether more is better, by which the best checkpoint is chosen"""
    undefined: str = "it is undefined on this set"
    """when it is NaN though the scores are finite, in words"""


def evaluate(scores: np.ndarray, targets: np.ndarray, multi_label: bool) -> dict[str, float]:
    """Compute all METRICS, by name.

    scores: [N, K] floating point. A NaN or infinite one makes every metric NaN: the model has diverged.
    targets: [N, K], 1 where a clip has a label; for a single label also [N], its number.
    multi_label: whether a clip may have several labels or none; else each has exactly one.
    """
    has_label = one_hot(targets, scores.shape[1])
    assert has_label.shape == scores.shape, f"targets {has_label.shape} for scores {scores.shape}"
    assert multi_label or (has_label.sum(axis=1) == 1).all(), "each clip has exactly one label"
    if len(scores) == 0 or not np.isfinite(scores).all():
        return dict.fromkeys(METRICS, float("nan"))
    return {name: metric.function(scores, has_label) for name, metric in METRICS.items()}


def one_hot(targets: np.ndarray, num_classes: int) -> np.ndarray:
    """Return which labels clips have, bool [N, K], from their numbers [N] or from 0 and 1 [N, K]."""
    return targets > 0.5 if targets.ndim == 2 else targets[:, None] == np.arange(num_classes)


def accuracy(scores: np.ndarray, has_label: np.ndarray) -> float:
    """Return the fraction of the clips with a label whose best class, by scores [N, K], is a label of theirs."""
    is_labelled = has_label.any(axis=1)
    return _mean(_is_hit(scores, has_label)[is_labelled])


def balanced_accuracy(scores: np.ndarray, has_label: np.ndarray) -> float:
    """Return the mean over classes of `accuracy` over the clips [N, K] of a class: rare ones count as much."""
    hits = _is_hit(scores, has_label).astype(np.float64) @ has_label  # [K]
    num_clips = has_label.sum(axis=0)
    return _mean(hits[num_clips > 0] / num_clips[num_clips > 0])


def mean_average_precision(scores: np.ndarray, has_label: np.ndarray) -> float:
    """Return the mean over classes of the average precision, scikit-learn's, over scores [N, K]."""
    exists = has_label.any(axis=0)
    return float(average_precision_score(has_label[:, exists], scores[:, exists])) if exists.any() else float("nan")


def macro_auc(scores: np.ndarray, has_label: np.ndarray) -> float:
    """Return the mean over classes of the area under the ROC curve, over scores [N, K]."""
    num_with = has_label.sum(axis=0)  # [K]
    num_pairs = num_with * (len(scores) - num_with)  # of a clip with the label and one without
    ranks = (rankdata(scores, axis=0) * has_label).sum(axis=0)
    num_in_order = ranks - num_with * (num_with + 1) / 2
    return _mean(num_in_order[num_pairs > 0] / num_pairs[num_pairs > 0])


def d_prime(scores: np.ndarray, has_label: np.ndarray) -> float:
    """Return the distance in standard deviations of two normal distributions that `macro_auc` tells apart."""
    auc = macro_auc(scores, has_label)
    return float(2**0.5 * norm.ppf(np.clip(auc, AUC_MARGIN, 1 - AUC_MARGIN)))


NO_LABEL = "no clip has a label"
NO_PAIR = "no label is on some of the clips and not on all of them"
METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, maximize=True, undefined=NO_LABEL),
    "balanced_accuracy": Metric(balanced_accuracy, maximize=True, undefined=NO_LABEL),
    "mAP": Metric(mean_average_precision, maximize=True, undefined=NO_LABEL),
    "macro_auc": Metric(macro_auc, maximize=True, undefined=NO_PAIR),
    "d_prime": Metric(d_prime, maximize=True, undefined=NO_PAIR),
}
"""What is logged of a validation, what `mae-ast evaluate` prints, and `mae-ast probe --json`."""


def _is_hit(scores: np.ndarray, has_label: np.ndarray) -> np.ndarray:
    return np.take_along_axis(has_label, scores.argmax(axis=1)[:, None], axis=1)[:, 0]


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
