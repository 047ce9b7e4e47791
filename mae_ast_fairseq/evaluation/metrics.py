"""How well classes are told apart: over all clips of a set at once, from gathered scores and targets.

One definition serves single and multi-label sets, so that a metric keeps its meaning: a clip has one label or several.
Scores may be logits or probabilities, since only their order counts: within a clip for the accuracies, within a class
for the others. Classes without a clip that has them are left out of every mean over classes, and classes that all
clips have out of the AUC; a metric that nothing is left for is NaN.
"""

import numpy as np
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

METRICS = ("accuracy", "balanced_accuracy", "mAP", "macro_auc", "d_prime")

AUC_MARGIN = 1e-6
"""d-prime takes the AUC no closer to 0 and 1, where it would be infinite: it stays within 6.73."""


def evaluate(scores: np.ndarray, targets: np.ndarray, multi_label: bool) -> dict[str, float]:
    """Compute all METRICS, by name.

    scores: [N, K] floating point. A NaN or infinite one makes every metric NaN: the model has diverged.
    targets: [N, K], 1 where a clip has a label; for a single label also [N], its number.
    multi_label: whether a clip may have several labels or none; else each has exactly one.
    """
    num_clips, num_classes = scores.shape
    if targets.ndim == 1:
        assert not multi_label, "several labels need targets [N, K]"
        targets = targets[:, None] == np.arange(num_classes)
    has_label = targets > 0.5  # [N, K]
    assert has_label.shape == scores.shape, f"targets {has_label.shape} for scores {scores.shape}"
    assert multi_label or (has_label.sum(axis=1) == 1).all(), "each clip has exactly one label"
    if num_clips == 0 or not np.isfinite(scores).all():
        return dict.fromkeys(METRICS, float("nan"))
    auc = macro_auc(scores, has_label)
    values = (
        accuracy(scores, has_label),
        balanced_accuracy(scores, has_label),
        mean_average_precision(scores, has_label),
        auc,
        d_prime(auc),
    )
    return dict(zip(METRICS, values, strict=True))


def accuracy(scores: np.ndarray, has_label: np.ndarray) -> float:
    """Return the share of the clips with a label whose best class, by scores [N, K], is a label of theirs."""
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
    """Return the mean over classes of the area under the ROC curve, scikit-learn's, over scores [N, K]."""
    varies = has_label.any(axis=0) & ~has_label.all(axis=0)
    if not varies.any():
        return float("nan")
    return _mean([roc_auc_score(has_label[:, k], scores[:, k]) for k in np.flatnonzero(varies)])


def d_prime(auc: float) -> float:
    """Return the distance in deviations between two normal distributions that an AUC tells apart; 0 for 0.5."""
    return float(2**0.5 * norm.ppf(np.clip(auc, AUC_MARGIN, 1 - AUC_MARGIN)))


def _is_hit(scores: np.ndarray, has_label: np.ndarray) -> np.ndarray:
    return np.take_along_axis(has_label, scores.argmax(axis=1)[:, None], axis=1)[:, 0]


def _mean(values: np.ndarray | list[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
