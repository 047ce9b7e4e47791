"""Probes find what is in features, choose what validation says, and are scikit-learn's own classifiers."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from mae_ast_fairseq.evaluation import probes
from mae_ast_fairseq.evaluation.probes import CLASSIFIERS, Candidate, Choice, Setting
from mae_ast_fairseq.evaluation.splits import ProbeData, Split

RNG = np.random.default_rng(0)
ONE = Candidate("mean", "1")


def clusters(num_clips: int, noise: float, seed: int, num_classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Return features [N, 12] around a centre for each class, and class numbers [N]."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((num_classes, 12))
    targets = np.arange(num_clips) % num_classes
    return (centres[targets] + noise * rng.standard_normal((num_clips, 12))).astype(np.float32), targets


def split(num_clips: int) -> Split:
    fit, valid, test = np.array_split(np.arange(num_clips), 3)
    return Split("test", np.concatenate([fit, valid]), test, [(fit, valid)])


# --- whitening


def test_without_a_floor_whitening_is_that_of_principal_components() -> None:
    train, _ = clusters(200, 1.0, 1)
    others, _ = clusters(30, 1.0, 2)
    ((_, ours),) = probes.whiten(train, others, [1e-12])
    scaler = StandardScaler().fit(train)
    theirs = PCA(whiten=True).fit(scaler.transform(train)).transform(scaler.transform(others))
    ratio = np.sqrt(200 / 199)  # PCA divides by N - 1
    np.testing.assert_allclose(np.sort(np.abs(ours), axis=1), ratio * np.sort(np.abs(theirs), axis=1), rtol=1e-3)


def test_a_large_floor_is_standardising() -> None:
    train, _ = clusters(200, 1.0, 1)
    ((ours, _),) = probes.whiten(train, train, [1e6])
    expected = StandardScaler().fit_transform(train) / 1e3
    np.testing.assert_allclose(ours @ ours.T, expected @ expected.T, rtol=1e-3, atol=1e-8)


def test_no_floor_alone_is_standardising() -> None:
    train, _ = clusters(200, 1.0, 1)
    others, _ = clusters(30, 1.0, 2)
    scaler = StandardScaler().fit(train.astype(np.float64))
    ((ours, theirs),) = probes.whiten(train, others, (None,))
    np.testing.assert_allclose(ours, scaler.transform(train.astype(np.float64)))
    np.testing.assert_allclose(theirs, scaler.transform(others.astype(np.float64)))
    assert ours.dtype == theirs.dtype == np.float64


def test_what_hides_in_small_variances_is_found_by_a_small_floor() -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(400) % 2
    loud = rng.standard_normal((400, 1))
    quiet = 0.02 * (2 * targets[:, None] - 1) + 0.005 * rng.standard_normal((400, 1))
    features = np.hstack([loud, loud + quiet])
    whole = probes.score_settings("linear", features[:200], targets[:200], features[200:], 2)
    accuracy = {setting: (scores.argmax(1) == targets[200:]).mean() for setting, scores in whole.items()}
    assert accuracy[Setting(3e-5, 0.1)] == 1.0
    assert accuracy[Setting(1.0, 0.01)] < 0.7


def test_more_features_than_clips_and_constant_ones_are_no_trouble() -> None:
    train, targets = clusters(8, 0.1, 1)
    train[:, 3] = 7.0
    for classifier in CLASSIFIERS:
        for scores in probes.score_settings(classifier, train, targets, train, 4).values():
            assert np.isfinite(scores).all()


# --- classifiers


def test_linear_scores_are_logistic_regressions() -> None:
    train, targets = clusters(120, 1.5, 1)
    others, _ = clusters(40, 1.5, 2)
    for value, scores in zip((0.01, 1.0), probes.linear_scores(train, targets, others, 4, (0.01, 1.0)), strict=True):
        expected = LogisticRegression(C=value, max_iter=1_000).fit(train, targets).predict_proba(others)
        np.testing.assert_allclose(scores, expected, atol=1e-3)


def many_features(num_clips: int, num_features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised features [N, D], clusters turned into a space of D dimensions with noise, and classes [N]."""
    values, targets = clusters(num_clips, 1.0, seed)
    turn = np.random.default_rng(7).standard_normal((12, num_features))
    values = values @ turn + np.random.default_rng(seed).standard_normal((num_clips, num_features)) + 5
    return StandardScaler().fit_transform(values), targets


@pytest.mark.parametrize("num_features", [3, 59, 60, 61, 400], ids="{} features".format)  # from 61 on dual
@pytest.mark.parametrize("is_multi_label", [False, True])
def test_ridge_scores_are_ridge_regressions(num_features: int, is_multi_label: bool) -> None:
    train, targets = many_features(60, num_features, 1)
    others, _ = many_features(40, num_features, 2)
    labels = targets[:, None] == np.arange(4)
    if is_multi_label:
        labels = np.stack([targets == 0, targets >= 2, targets >= 1, targets % 2 == 0], axis=1)
        targets = labels
    values = (1e-4, 0.1, 1.0)
    for value, scores in zip(values, probes.ridge_scores(train, targets, others, 4, values), strict=True):
        expected = Ridge(alpha=value * 60).fit(train, np.where(labels, 1.0, -1.0)).predict(others)
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6)


def test_settings_of_ridge_are_penalties_of_standardised_features() -> None:
    train, targets = clusters(120, 1.0, 1)
    others, _ = clusters(40, 1.0, 2)
    found = probes.score_settings("ridge", 3 * train + 7, targets, 3 * others + 7, 4)
    assert list(found) == [Setting(None, value) for value in probes.PENALTIES]
    scaler = StandardScaler().fit(train)
    for setting, scores in found.items():
        ridge = Ridge(alpha=setting.value * 120).fit(scaler.transform(train), 2 * np.eye(4)[targets] - 1)
        np.testing.assert_allclose(scores, ridge.predict(scaler.transform(others)), rtol=1e-4, atol=1e-4)


def test_neighbours_vote_as_scikit_learns_do() -> None:
    train, targets = clusters(120, 1.5, 1)
    others, _ = clusters(40, 1.5, 2)
    values = (1, 5, 20)
    for value, scores in zip(values, probes.neighbour_scores(train, targets, others, 4, values), strict=True):
        theirs = KNeighborsClassifier(value, metric="cosine", weights=lambda distance: 2 - distance)
        expected = theirs.fit(train, targets).predict_proba(others)
        np.testing.assert_allclose(scores / scores.sum(1, keepdims=True), expected, atol=1e-5)


def test_more_neighbours_than_clips_are_all_clips() -> None:
    train, targets = clusters(6, 0.5, 1, num_classes=3)
    five, many = probes.neighbour_scores(train, targets, train, 3, (6, 20))
    assert np.array_equal(five, many)
    assert (five > 0).all()


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_class_without_training_clips_scores_nothing(classifier: str) -> None:
    train, targets = clusters(60, 0.5, 1)
    kept = targets != 2
    nothing = -1 if classifier == "ridge" else 0  # what each fits to a clip that is not of a class
    for scores in probes.score_settings(classifier, train[kept], targets[kept], train, 4).values():
        assert (scores[:, 2] == nothing).all()
        assert (scores.argmax(1)[kept] == targets[kept]).mean() > 0.8


def test_many_labels_are_one_regression_a_label() -> None:
    train, targets = clusters(120, 1.0, 1)
    labels = np.stack([targets == 0, targets >= 2, targets >= 0, targets < 0], axis=1)  # the last two do not vary
    (scores,) = probes.linear_scores(train, labels, train, 4, [0.1])
    for column in (0, 1):
        expected = LogisticRegression(C=0.1, max_iter=1_000).fit(train, labels[:, column]).predict_proba(train)[:, 1]
        np.testing.assert_allclose(scores[:, column], expected, atol=1e-3)
    np.testing.assert_array_equal(scores[:, 2:], np.broadcast_to([1, 0], (120, 2)))
    (scores,) = probes.ridge_scores(train, labels, train, 4, [0.1])
    np.testing.assert_allclose(scores[:, 2:], np.broadcast_to([1.0, -1.0], (120, 2)), atol=1e-12)


def test_one_varying_label_is_learnt_right_way_round() -> None:
    train, targets = clusters(120, 0.3, 1)
    labels = np.stack([targets == 0, targets < 0], axis=1)
    for fit in (probes.linear_scores, probes.ridge_scores):
        (scores,) = fit(train, labels, train, 2, [1.0])
        assert scores[targets == 0, 0].min() > scores[targets != 0, 0].max()


# --- choosing


def test_candidates_are_layers_alone_several_and_all_one_after_another() -> None:
    values = {"mean": RNG.standard_normal((5, 3, 4)), "bands": RNG.standard_normal((5, 3, 8))}
    found = probes.candidates_of(values, ["1", "3", "all", "3,1"])
    assert list(found) == [Candidate(name, layer) for name in values for layer in ("1", "3", "all", "3,1")]
    for name, layers in values.items():
        assert np.array_equal(found[name, "1"], layers[:, 0])
        assert np.array_equal(found[name, "3"], layers[:, 2])
        assert np.array_equal(found[name, "all"], np.hstack([layers[:, 0], layers[:, 1], layers[:, 2]]))
        assert np.array_equal(found[name, "3,1"], np.hstack([layers[:, 2], layers[:, 0]]))


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_layer_that_knows_the_classes_is_chosen_and_tested(classifier: str) -> None:
    good, targets = clusters(180, 0.3, 1)
    noise = np.random.default_rng(0).standard_normal((180, 5, 12))
    features = {"mean": noise[:, :3], "bands": np.stack([noise[:, 3], good, noise[:, 4]], axis=1)}
    candidates = probes.candidates_of(features, ["1", "2", "3"])
    data, kind = ProbeData(targets, list("abcd")), CLASSIFIERS[classifier]
    choices = probes.compare(candidates, data, split(180), classifier)
    assert len(choices) == 6 * len(kind.floors) * len(kind.values)
    choice = probes.best(choices)
    assert (choice.candidate, choice.score) == (("bands", "2"), 1.0)
    assert probes.best(choices, readout="bands") == probes.best(choices, layer="2") == choice
    assert probes.best(choices, layer="3").score < 0.6
    assert probes.best(choices, readout="mean").score < 0.6
    assert probes.best(choices, readout="mean").candidate.readout == "mean"
    assert probes.best(choices, readout="mean", layer="2").candidate == ("mean", "2")
    scores = probes.test_scores(candidates[choice.candidate], data, split(180), classifier, choice)
    assert (scores.argmax(1) == targets[split(180).test]).all()


def test_what_layers_know_together_is_found_in_all_of_them() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (180, 2))
    layers = (2 * bits - 1)[:, :, None] + 0.2 * rng.standard_normal((180, 2, 3))
    data = ProbeData(2 * bits[:, 0] + bits[:, 1], list("abcd"))
    for classifier in CLASSIFIERS:
        candidates = probes.candidates_of({"mean": layers}, ["1", "2", "all"])
        choices = probes.compare(candidates, data, split(180), classifier)
        assert probes.best(choices).candidate == ("mean", "all")
        assert probes.best(choices, layer="all").score > probes.best(choices, layer="1").score + 0.2


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_choice_does_not_look_at_test_rows(classifier: str) -> None:
    features, targets = clusters(180, 1.5, 1)
    whole = split(180)
    spoilt = features.copy()
    spoilt[whole.test] = np.nan
    data = ProbeData(targets, list("abcd"))
    choices = probes.compare({ONE: features}, data, whole, classifier)
    assert choices == probes.compare({ONE: spoilt}, data, whole, classifier)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_chosen_classifier_is_fitted_on_the_training_rows(classifier: str) -> None:
    features, targets = clusters(180, 1.5, 1)
    data, whole = ProbeData(targets, list("abcd")), split(180)
    settings = probes.score_settings(classifier, features[whole.train], targets[whole.train], features[whole.test], 4)
    for setting, expected in settings.items():
        found = probes.test_scores(features, data, whole, classifier, Choice(ONE, setting, 0.5))
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_choices_are_scored_by_the_mean_over_the_inner_parts() -> None:
    features, targets = clusters(180, 1.5, 1)
    data, whole = ProbeData(targets, list("abcd")), split(180)
    first, second = whole.inner[0], whole.inner[0][::-1]
    both, one, other = (
        probes.compare({ONE: features}, data, whole._replace(inner=inner), "knn")
        for inner in ([first, second], [first], [second])
    )
    assert [choice.score for choice in both] == pytest.approx(
        [(a.score + b.score) / 2 for a, b in zip(one, other, strict=True)]
    )


def test_only_the_layers_asked_for_are_compared() -> None:
    features, targets = clusters(90, 1.0, 1)
    candidates = probes.candidates_of({"mean": np.stack([features] * 3, axis=1)}, ["3"])
    choices = probes.compare(candidates, ProbeData(targets, list("abcd")), split(90), "knn")
    assert {choice.candidate for choice in choices} == {("mean", "3")}


def test_of_equal_choices_the_first_is_taken() -> None:
    choices = [
        Choice(Candidate(readout, layer), Setting(1.0, value), 0.5)
        for readout in ("mean", "bands")
        for layer in ("1", "2")
        for value in (1, 5)
    ]
    assert probes.best(choices) == choices[0]
    assert probes.best(choices, layer="2") == choices[2]
    assert probes.best(choices, readout="bands") == choices[4]
    assert probes.best(choices, readout="bands", layer="2") == choices[6]


@pytest.mark.parametrize("classifier", ["linear", "ridge"])
def test_many_labels_are_chosen_by_mean_average_precision(classifier: str) -> None:
    features, targets = clusters(180, 0.3, 1)
    labels = np.stack([targets == 0, targets >= 2], axis=1)
    choice = probes.best(probes.compare({ONE: features}, ProbeData(labels, list("ab")), split(180), classifier))
    assert choice.score == pytest.approx(1.0)
