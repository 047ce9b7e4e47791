"""Probes find what is in features, choose what validation says, and are scikit-learn's own classifiers."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from mae_ast_fairseq import probing
from mae_ast_fairseq.divisions import Division, Task
from mae_ast_fairseq.probing import CLASSIFIERS, Choice, Setting

DRAWS = np.random.default_rng(0)


def clusters(num_clips: int, noise: float, seed: int, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return features [N, 12] around a centre for each class, and class numbers [N]."""
    draws = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((num_classes, 12))
    targets = np.arange(num_clips) % num_classes
    return (centres[targets] + noise * draws.standard_normal((num_clips, 12))).astype(np.float32), targets


def division(num_clips: int) -> Division:
    fit, valid, test = np.array_split(np.arange(num_clips), 3)
    return Division("test", np.concatenate([fit, valid]), test, [(fit, valid)])


# --- whitening


def test_without_a_floor_whitening_is_that_of_principal_components() -> None:
    train, _ = clusters(200, 1.0, 1)
    others, _ = clusters(30, 1.0, 2)
    ((_, ours),) = probing.whiten(train, others, [1e-12])
    scaler = StandardScaler().fit(train)
    theirs = PCA(whiten=True).fit(scaler.transform(train)).transform(scaler.transform(others))
    ratio = np.sqrt(200 / 199)  # PCA divides by N - 1
    np.testing.assert_allclose(np.sort(np.abs(ours), axis=1), ratio * np.sort(np.abs(theirs), axis=1), rtol=1e-3)


def test_a_large_floor_is_standardising() -> None:
    train, _ = clusters(200, 1.0, 1)
    ((ours, _),) = probing.whiten(train, train, [1e6])
    expected = StandardScaler().fit_transform(train) / 1e3
    np.testing.assert_allclose(ours @ ours.T, expected @ expected.T, rtol=1e-3, atol=1e-8)


def test_what_hides_in_small_variances_is_found_by_a_small_floor() -> None:
    draws = np.random.default_rng(0)
    targets = np.arange(400) % 2
    loud = draws.standard_normal((400, 1))
    quiet = 0.02 * (2 * targets[:, None] - 1) + 0.005 * draws.standard_normal((400, 1))
    features = np.hstack([loud, loud + quiet])
    whole = probing.score_settings("linear", features[:200], targets[:200], features[200:], 2)
    accuracy = {setting: (scores.argmax(1) == targets[200:]).mean() for setting, scores in whole.items()}
    assert accuracy[Setting(3e-5, 0.1)] == 1.0
    assert accuracy[Setting(1.0, 0.01)] < 0.7


def test_more_features_than_clips_and_constant_ones_are_no_trouble() -> None:
    train, targets = clusters(8, 0.1, 1)
    train[:, 3] = 7.0
    for classifier in CLASSIFIERS:
        for scores in probing.score_settings(classifier, train, targets, train, 4).values():
            assert np.isfinite(scores).all()


# --- classifiers


def test_linear_scores_are_logistic_regressions() -> None:
    train, targets = clusters(120, 1.5, 1)
    others, _ = clusters(40, 1.5, 2)
    for value, scores in zip((0.01, 1.0), probing.linear_scores(train, targets, others, 4, (0.01, 1.0)), strict=True):
        expected = LogisticRegression(C=value, max_iter=1_000).fit(train, targets).predict_proba(others)
        np.testing.assert_allclose(scores, expected, atol=1e-3)


def test_neighbours_vote_as_scikit_learns_do() -> None:
    train, targets = clusters(120, 1.5, 1)
    others, _ = clusters(40, 1.5, 2)
    values = (1, 5, 20)
    for value, scores in zip(values, probing.neighbour_scores(train, targets, others, 4, values), strict=True):
        theirs = KNeighborsClassifier(value, metric="cosine", weights=lambda distance: 2 - distance)
        expected = theirs.fit(train, targets).predict_proba(others)
        np.testing.assert_allclose(scores / scores.sum(1, keepdims=True), expected, atol=1e-5)


def test_more_neighbours_than_clips_are_all_clips() -> None:
    train, targets = clusters(6, 0.5, 1, num_classes=3)
    five, many = probing.neighbour_scores(train, targets, train, 3, (6, 20))
    assert np.array_equal(five, many)
    assert (five > 0).all()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_class_without_training_clips_scores_nothing(classifier: str) -> None:
    train, targets = clusters(60, 0.5, 1)
    kept = targets != 2
    for scores in probing.score_settings(classifier, train[kept], targets[kept], train, 4).values():
        assert (scores[:, 2] == 0).all()
        assert (scores.argmax(1)[kept] == targets[kept]).mean() > 0.8


def test_many_labels_are_one_regression_a_label() -> None:
    train, targets = clusters(120, 1.0, 1)
    labels = np.stack([targets == 0, targets >= 2, targets >= 0, targets < 0], axis=1)  # the last two do not vary
    (scores,) = probing.linear_scores(train, labels, train, 4, [0.1])
    for column in (0, 1):
        expected = LogisticRegression(C=0.1, max_iter=1_000).fit(train, labels[:, column]).predict_proba(train)[:, 1]
        np.testing.assert_allclose(scores[:, column], expected, atol=1e-3)
    assert (scores[:, 2:] == 0).all()


def test_one_varying_label_is_learnt_right_way_round() -> None:
    train, targets = clusters(120, 0.3, 1)
    labels = np.stack([targets == 0, targets < 0], axis=1)
    (scores,) = probing.linear_scores(train, labels, train, 2, [1.0])
    assert scores[targets == 0, 0].min() > scores[targets != 0, 0].max()


# --- choosing


def test_the_layer_that_knows_the_classes_is_chosen_and_tested() -> None:
    good, targets = clusters(180, 0.3, 1)
    noise = DRAWS.standard_normal((180, 2, 12))
    features = np.stack([noise[:, 0], good, noise[:, 1]], axis=1)
    task = Task(targets, list("abcd"))
    for classifier in CLASSIFIERS:
        choices = probing.compare(features, task, division(180), classifier)
        assert len(choices) == 3 * len(probing.FLOORS) * len(CLASSIFIERS[classifier].values)
        choice = probing.best(choices)
        assert (choice.layer, choice.score) == (2, 1.0)
        assert probing.best(choices, layer=3).score < 0.6
        scores = probing.test_scores(features, task, division(180), classifier, choice)
        assert probing.evaluate(scores, task, division(180).test)["accuracy"] == 1.0


def test_the_choice_does_not_look_at_test_rows() -> None:
    features, targets = clusters(180, 1.5, 1)
    whole = division(180)
    spoilt = features.copy()
    spoilt[whole.test] = np.nan
    task = Task(targets, list("abcd"))
    assert probing.compare(features[:, None], task, whole, "linear") == probing.compare(
        spoilt[:, None], task, whole, "linear"
    )


def test_choices_are_scored_by_the_mean_over_the_inner_parts() -> None:
    features, targets = clusters(180, 1.5, 1)
    task, whole = Task(targets, list("abcd")), division(180)
    first, second = whole.inner[0], whole.inner[0][::-1]
    both, one, other = (
        probing.compare(features[:, None], task, whole._replace(inner=inner), "knn")
        for inner in ([first, second], [first], [second])
    )
    assert [choice.score for choice in both] == pytest.approx(
        [(a.score + b.score) / 2 for a, b in zip(one, other, strict=True)]
    )


def test_only_the_layers_asked_for_are_compared() -> None:
    features, targets = clusters(90, 1.0, 1)
    choices = probing.compare(np.stack([features] * 3, axis=1), Task(targets, list("abcd")), division(90), "knn", [3])
    assert {choice.layer for choice in choices} == {3}


def test_of_equal_choices_the_first_is_taken() -> None:
    choices = [Choice(layer, Setting(1.0, value), 0.5) for layer in (1, 2) for value in (1, 5)]
    assert probing.best(choices) == choices[0]
    assert probing.best(choices, layer=2) == choices[2]


def test_many_labels_are_chosen_by_mean_average_precision() -> None:
    features, targets = clusters(180, 0.3, 1)
    labels = np.stack([targets == 0, targets >= 2], axis=1)
    choice = probing.best(probing.compare(features[:, None], Task(labels, list("ab")), division(180), "linear"))
    assert choice.score == pytest.approx(1.0)


def test_log_mel_statistics_are_mean_and_deviation_of_each_band() -> None:
    frames = np.random.default_rng(0).normal([1.0, 5.0], [2.0, 0.5], (40_000, 2)).astype(np.float32)
    np.testing.assert_allclose(probing.log_mel_statistics(frames), [1.0, 5.0, 2.0, 0.5], atol=0.05)
