"""Intervals are as wide as theory says, and tables of classes are scikit-learn's."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from mae_ast_fairseq.evaluation.metrics import METRICS, Metric, evaluate
from mae_ast_fairseq.evaluation.scores import bootstrap, class_metrics, confusion


@pytest.fixture
def single() -> tuple[np.ndarray, np.ndarray]:
    """Scores and class numbers of 200 clips, of which 150 are told right; none is of the last class."""
    rng = np.random.default_rng(0)
    targets = np.arange(200) % 4
    predicted = np.where(np.arange(200) < 150, targets, (targets + 1) % 4)
    return rng.random((200, 5)) + 2 * np.eye(5)[predicted], targets


def test_the_interval_of_an_accuracy_is_that_of_a_binomial(single) -> None:
    value, low, high = bootstrap(*single, False, 2_000, np.random.default_rng(0))["accuracy"]
    std = np.sqrt(0.75 * 0.25 / 200)
    assert value == 0.75
    assert (low, high) == pytest.approx((0.75 - 1.96 * std, 0.75 + 1.96 * std), abs=0.01)


def test_every_metric_has_its_value_inside_an_interval_that_follows_from_the_draws(single) -> None:
    first, again, other = (bootstrap(*single, False, 50, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert {name: estimate.value for name, estimate in first.items()} == evaluate(*single, False)
    assert all(estimate.low < estimate.value < estimate.high for estimate in first.values())


def test_an_added_metric_has_an_interval_too(single, monkeypatch) -> None:
    monkeypatch.setitem(METRICS, "error", Metric(lambda *some: 1 - METRICS["accuracy"].function(*some), maximize=False))
    found = bootstrap(*single, False, 50, np.random.default_rng(0))
    assert found["error"] == pytest.approx((0.25, 1 - found["accuracy"].high, 1 - found["accuracy"].low))


def test_what_is_undefined_is_nan_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap(np.ones((3, 1)), np.ones((3, 1)), True, 5, np.random.default_rng(0))
        (row,) = class_metrics(np.ones((3, 1)), np.zeros((3, 1)), True)
    assert np.isnan(found["macro_auc"]).all()
    assert found["accuracy"] == (1, 1, 1)
    assert row["clips"] == 0
    assert np.isnan(row["AP"])


def test_classes_of_single_labels_have_scikit_learns_precision_recall_and_f1(single) -> None:
    scores, targets = single
    table = class_metrics(scores, targets, False)
    assert [row["clips"] for row in table] == [50, 50, 50, 50, 0]
    for name, score in (("precision", precision_score), ("recall", recall_score), ("F1", f1_score)):
        expected = score(targets, scores.argmax(1), average=None)
        assert [row[name] for row in table[:4]] == pytest.approx(expected.tolist())
        assert np.isnan(table[4][name])


def test_classes_of_many_labels_have_scikit_learns_average_precision(single) -> None:
    scores, targets = single
    labels = np.stack([targets == 0, targets >= 2, targets >= 1, targets % 2 == 0, targets > 9], axis=1)
    table = class_metrics(scores, labels, True)
    expected = average_precision_score(labels[:, :4], scores[:, :4], average=None)
    assert [row["AP"] for row in table[:4]] == pytest.approx(expected.tolist())
    assert [row["clips"] for row in table] == labels.sum(0).tolist()


def test_rows_of_the_confusion_are_what_clips_are(single) -> None:
    counts = confusion(*single)
    assert counts.sum(1).tolist() == [50, 50, 50, 50, 0]
    assert counts.trace() == 150
    assert counts[3, 0] == 13
