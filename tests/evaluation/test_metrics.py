"""Metrics equal scikit-learn's where it has them, and are defined where it is not."""

import warnings

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from mae_ast_fairseq.evaluation.metrics import AUC_MARGIN, METRICS, Metric, evaluate


@pytest.fixture
def single():
    rng = np.random.default_rng(0)
    targets = rng.choice(5, size=400, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    return rng.standard_normal((400, 5)) + 1.5 * np.eye(5)[targets], targets


@pytest.fixture
def multi():
    rng = np.random.default_rng(1)
    targets = (rng.random((300, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.02]).astype(np.float32)
    return (rng.standard_normal((300, 6)) + targets).round(1), targets  # rounded: with ties


def test_single_label_metrics_are_scikit_learns(single):
    scores, targets = single
    values = evaluate(scores, targets, multi_label=False)
    one_hot = np.eye(5)[targets]
    assert values["accuracy"] == accuracy_score(targets, scores.argmax(1))
    assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(targets, scores.argmax(1)), abs=1e-12)
    assert values["mAP"] == pytest.approx(average_precision_score(one_hot, scores, average="macro"), abs=1e-12)
    assert values["macro_auc"] == pytest.approx(roc_auc_score(one_hot, scores, average="macro"), abs=1e-12)
    assert values["d_prime"] == pytest.approx(2**0.5 * norm.ppf(values["macro_auc"]), abs=1e-12)


def test_multi_label_metrics_are_scikit_learns(multi):
    scores, targets = multi
    values = evaluate(scores, targets, multi_label=True)
    assert values["mAP"] == pytest.approx(average_precision_score(targets, scores, average="macro"), abs=1e-12)
    assert values["macro_auc"] == pytest.approx(roc_auc_score(targets, scores, average="macro"), abs=1e-12)


def test_class_numbers_and_one_hot_targets_give_the_same(single):
    scores, targets = single
    assert evaluate(scores, targets, False) == evaluate(scores, np.eye(5)[targets], False)
    assert evaluate(scores, targets, False) == evaluate(scores, np.eye(5)[targets], True)


def test_only_the_order_of_scores_counts(multi):
    scores, targets = multi
    assert evaluate(scores, targets, True) == evaluate(1 / (1 + np.exp(-scores)), targets, True)


def test_multi_label_accuracy_asks_whether_the_best_class_is_one_of_the_clips_labels():
    scores = np.array([[3.0, 1, 2], [1, 2, 3], [3, 2, 1], [9, 1, 1]])
    targets = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    values = evaluate(scores, targets, True)
    assert values["accuracy"] == pytest.approx(2 / 3)  # the last clip has no label
    assert values["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)  # class 1: a hit; class 2: no clip


def test_classes_without_a_clip_are_left_out_of_the_means(multi):
    scores, targets = multi
    with_absent = np.insert(targets, 2, 0, axis=1), np.insert(scores, 2, -9.0, axis=1)
    assert evaluate(with_absent[1], with_absent[0], True) == pytest.approx(evaluate(scores, targets, True), abs=1e-12)


def test_a_class_of_all_clips_counts_for_map_and_not_for_auc(multi):
    scores, targets = multi
    values, without = (
        evaluate(np.insert(scores, 0, -9, 1), np.insert(targets, 0, 1, 1), True),
        evaluate(scores, targets, True),
    )
    assert values["macro_auc"] == pytest.approx(without["macro_auc"])
    assert values["mAP"] == pytest.approx((6 * without["mAP"] + 1) / 7)


def test_a_metric_is_added_by_an_entry(single, monkeypatch):
    def top3_error(scores, has_label):
        best = np.argsort(scores, axis=1)[:, -3:]
        return 1 - float(np.take_along_axis(has_label, best, axis=1).any(axis=1).mean())

    monkeypatch.setitem(METRICS, "top3_error", Metric(top3_error, maximize=False))
    scores, targets = single
    expected = 1 - top_k_accuracy_score(targets, scores, k=3)
    assert evaluate(scores, targets, False)["top3_error"] == pytest.approx(expected)


def test_perfect_and_reversed_scores_have_a_finite_d_prime():
    targets = np.array([0, 1, 0, 1])
    perfect = evaluate(np.eye(2)[targets], targets, False)
    assert [perfect[name] for name in METRICS if name != "d_prime"] == [1.0] * 4
    assert perfect["d_prime"] == pytest.approx(2**0.5 * norm.ppf(1 - AUC_MARGIN))
    assert evaluate(-np.eye(2)[targets], targets, False)["d_prime"] == pytest.approx(-perfect["d_prime"])


def test_chance_is_a_d_prime_of_zero():
    assert evaluate(np.zeros((4, 2)), np.array([0, 1, 0, 1]), False)["d_prime"] == 0.0


@pytest.mark.parametrize(
    ("scores", "targets", "undefined"),
    [
        (np.zeros((0, 3)), np.zeros((0, 3)), METRICS),  # no clips
        (np.ones((2, 3)), np.zeros((2, 3)), METRICS),  # no labels
        (np.ones((2, 1)), np.ones((2, 1)), ("macro_auc", "d_prime")),  # one class only
        (np.array([[0.0, np.nan], [1, 0]]), np.eye(2), METRICS),
        (np.array([[0.0, np.inf], [1, 0]]), np.eye(2), METRICS),
    ],
)
def test_what_is_undefined_is_nan_without_a_warning(scores, targets, undefined):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = evaluate(scores, targets, True)
    assert list(values) == list(METRICS)
    assert tuple(name for name, value in values.items() if np.isnan(value)) == tuple(undefined)
