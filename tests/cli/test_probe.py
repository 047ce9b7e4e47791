"""`mae-ast probe` from labelled clips to its table, JSON and picture, by splits, folds and groups."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.cli import main
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.evaluation import plots, probes, splits
from mae_ast_fairseq.evaluation.metrics import evaluate
from mae_ast_fairseq.inference.features import clip_features
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.readout import READOUTS, possible_readouts
from mae_ast_fairseq.report.results import read_results
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.test_layers import HIDE_FAIRSEQ
from tests.test_layers import run as run_python

PITCHES = {"high": 3_000.0, "low": 200.0, "middle": 800.0}
SPEAKERS = ("ann", "bob", "eve", "kim")
BY_SPEAKER = ("--group-pattern", "_([a-z]+)_", "--split", "train", "test")


def write_corpus(folder: Path, splits: dict[str, int]) -> Path:
    """Write tones of three pitches by four speakers, so many takes each, as {pitch}_{speaker}_{take}.wav."""
    rng = np.random.default_rng(0)
    for split, takes in splits.items():
        lines, labels = [str(folder)], []
        for name, pitch in PITCHES.items():
            for place, speaker in enumerate(SPEAKERS):
                for take in range(takes):
                    time = np.arange(int(rng.uniform(0.2, 0.3) * 16_000)) / 16_000
                    wave = 0.3 * np.sin(2 * np.pi * pitch * rng.uniform(0.95, 1.05) * time)
                    wave += 0.02 * (place + 1) * rng.standard_normal(len(time))
                    sf.write(folder / f"{name}_{speaker}_{split}{take}.wav", wave, 16_000)
                    lines.append(f"{name}_{speaker}_{split}{take}.wav\t{len(time)}")
                    labels.append(name)
        (folder / f"{split}.tsv").write_text("\n".join([*lines, ""]))
        (folder / f"{split}.lbl").write_text("\n".join([*labels, ""]))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of train (36 clips), valid (12) and test (12)."""
    return write_corpus(tmp_path_factory.mktemp("tones"), {"train": 3, "valid": 1, "test": 1})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny.pt")


@pytest.fixture
def run(capsys, data, checkpoint):
    """A function that runs the command with --json and returns what it printed."""

    def summary(*argv: object, folder: Path = data) -> dict:
        assert main(["probe", str(checkpoint), "--data", str(folder), *map(str, argv), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return summary


def by_row(summary: dict) -> dict[tuple[str, str, str, str], dict]:
    rows = {(row["features"], row["classifier"], row["readout"], row["layer"]): row for row in summary["results"]}
    assert len(rows) == len(summary["results"])
    return rows


def test_splits_give_a_row_for_each_kind_of_features_and_classifier(run) -> None:
    rows = by_row(run())
    assert list(rows) == [
        ("checkpoint", "linear", "mean", "best"),
        ("checkpoint", "knn", "mean", "best"),
        ("log-Mel", "linear", "best", "-"),
        ("log-Mel", "knn", "best", "-"),
        ("random weights", "linear", "mean", "best"),
        ("random weights", "knn", "mean", "best"),
    ]
    for row in rows.values():
        (only,) = row["runs"]
        assert (only["test"], only["num_train"], only["num_test"]) == ("test", 36, 12)
        assert row["accuracy"] == {"mean": only["accuracy"], "deviation": None}
    assert rows["checkpoint", "linear", "mean", "best"]["runs"][0]["readout"] == "mean"
    assert rows["log-Mel", "linear", "best", "-"]["accuracy"]["mean"] == 1.0


def test_the_table_tells_what_was_done(data, checkpoint, capsys) -> None:
    argv = ["probe", str(checkpoint), "--data", str(data), *BY_SPEAKER, "--classifier", "knn", "--no-baselines"]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "48 clips of 3 classes, tested on ann, bob, eve, kim; seeds 1337"
    metrics = ["accuracy", "balanced_accuracy", "macro_auc"]
    assert lines[1].split() == ["features", "classifier", "readout", "layer", *metrics]
    assert lines[2].split()[:4] == ["checkpoint", "knn", "mean", "best:"]
    assert "%" in lines[2]
    assert lines[3:] == ["mean ± standard deviation between tests"]


def test_a_report_of_the_run_shows_what_is_printed(run, tmp_path: Path) -> None:
    summary = run("--classifier", "ridge")
    (tmp_path / "probe.json").write_text(json.dumps(summary))
    found = read_results(tmp_path)
    shown = [(scores["accuracy"].value, scores["macro_auc"].deviation) for scores in found.scores.values()]
    assert shown == [(row["accuracy"]["mean"], row["macro_auc"]["deviation"]) for row in summary["results"]]
    assert found.problems == []


def test_the_split_that_was_tested_is_named(run) -> None:
    summary = run("--test", "valid", "--layer", 1, "--classifier", "ridge", "--no-baselines")
    assert summary["tested"] == [summary["results"][0]["runs"][0]["test"]] == ["valid"]


@pytest.mark.parametrize(
    ("classifier", "readout", "layer"),
    [
        ("linear", "mean+std", "2"),
        ("ridge", "bands+max", "all"),
        ("knn", "bands", "3,1"),
        ("ridge", "mean+max", "best"),
    ],
)
def test_results_are_the_librarys(run, data, checkpoint, classifier: str, readout: str, layer: str) -> None:
    summary = run("--classifier", classifier, "--no-baselines", "--readout", readout, "--layer", layer)
    manifests = [read_manifest(data / f"{split}.tsv") for split in ("train", "test", "valid")]
    model = build_model(read_checkpoint(checkpoint))
    features = [clip_features(model, m, [readout])[readout] for m in manifests]
    targets = np.array([0] * 12 + [1] * 12 + [2] * 12 + ([0] * 4 + [1] * 4 + [2] * 4) * 2)
    probed = splits.ProbeData(targets, list(PITCHES))
    train, test, valid = np.split(np.arange(60), [36, 48])
    split = splits.given_split(probed, train, valid, test, 1337)
    layers = ["1", "2", "3", "all"] if layer == "best" else [layer]
    candidates = probes.candidates_of({readout: np.concatenate(features)}, layers)
    choice = probes.best(probes.compare(candidates, probed, split, classifier))
    scores = probes.test_scores(candidates[choice.candidate], probed, split, classifier, choice)
    (row,) = summary["results"]
    (found,) = row["runs"]
    symbol = probes.CLASSIFIERS[classifier].symbol
    assert (row["classifier"], row["readout"], row["layer"]) == (classifier, readout, layer)
    assert (found["readout"], found["layer"]) == choice.candidate
    assert (found["floor"], found[symbol], found["validation"]) == (*choice.setting, choice.score)
    expected = evaluate(scores, targets[test], False)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_each_layer_is_listed_and_last_is_the_last(run) -> None:
    argv = ("--classifier", "knn", "--no-baselines", "--layer")
    rows = by_row(run(*argv, "each"))
    assert [layer for _, _, _, layer in rows] == ["1", "2", "3", "all", "best"]
    assert [row["runs"][0]["layer"] for row in rows.values()][:4] == ["1", "2", "3", "all"]
    for layer, same in (("last", "3"), ("all", "all"), ("2", "2"), ("1,2,3", "all"), ("02", "2")):
        (found,) = run(*argv, layer)["results"]
        assert found["accuracy"] == rows["checkpoint", "knn", "mean", same]["accuracy"]
        assert found["layer"] == layer.lstrip("0")
    scores = {layer: row["runs"][0]["validation"] for (_, _, _, layer), row in rows.items()}
    assert scores["best"] == max(scores.values())


# --- readouts


@pytest.fixture(scope="module")
def every_readout(data, checkpoint) -> dict:
    """What `--readout all` prints of ridge regression, by row."""
    argv = ["probe", checkpoint, "--data", data, "--readout", "all", "--classifier", "ridge", "--json"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(list(map(str, argv))) == 0
    return by_row(json.loads(out.getvalue()))


def test_every_readout_has_a_row_and_there_is_a_best_of_them(every_readout) -> None:
    assert list(every_readout) == [
        *(("checkpoint", "ridge", readout, "best") for readout in [*READOUTS, "best"]),
        *(("log-Mel", "ridge", readout, "-") for readout in [*possible_readouts(1), "best"]),
        *(("random weights", "ridge", readout, "best") for readout in [*READOUTS, "best"]),
    ]
    for (_, _, readout, _), row in every_readout.items():
        (only,) = row["runs"]
        assert readout in ("best", only["readout"])


@pytest.mark.parametrize("features", ["checkpoint", "log-Mel", "random weights"])
def test_the_best_readout_is_the_one_with_the_best_validation(every_readout, features: str) -> None:
    rows = {key[2]: row["runs"][0] for key, row in every_readout.items() if key[0] == features}
    best = rows.pop("best")
    assert best["validation"] == max(row["validation"] for row in rows.values())
    assert best == rows[best["readout"]]


def test_one_readout_has_the_row_it_has_among_all(run, every_readout) -> None:
    rows = by_row(run("--readout", "bands+max", "--classifier", "ridge"))
    assert list(rows) == [
        ("checkpoint", "ridge", "bands+max", "best"),
        ("log-Mel", "ridge", "best", "-"),  # the baseline is always at its best
        ("random weights", "ridge", "bands+max", "best"),
    ]
    assert rows == {key: every_readout[key] for key in rows}


def test_nothing_is_chosen_on_test_clips(run, every_readout, data, tmp_path: Path) -> None:
    # With the test clips' labels turned round, what is chosen stays, and what is reached does not.
    for split in ("train", "valid", "test"):
        labels = (data / f"{split}.lbl").read_text()
        turned = {"high": "low", "low": "middle", "middle": "high"}
        labels = "\n".join(turned[label] for label in labels.split()) if split == "test" else labels
        (tmp_path / f"{split}.lbl").write_text(labels)
        (tmp_path / f"{split}.tsv").write_text((data / f"{split}.tsv").read_text())
    rows = by_row(run("--readout", "all", "--classifier", "ridge", folder=tmp_path))
    assert rows.keys() == every_readout.keys()
    for key, row in rows.items():
        for what in ("readout", "layer", "floor", "penalty", "validation"):
            assert row["runs"][0][what] == every_readout[key]["runs"][0][what]
    best = "checkpoint", "ridge", "best", "best"
    assert rows[best]["accuracy"]["mean"] < every_readout[best]["accuracy"]["mean"]


def test_the_table_names_the_readouts_that_were_chosen(data, checkpoint, capsys) -> None:
    argv = ["probe", str(checkpoint), "--data", str(data), "--readout", "all", "--layer", "all"]
    assert main([*argv, "--classifier", "ridge", "--no-baselines"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [words[:4] for words in lines[:-1]] == [["checkpoint", "ridge", readout, "all"] for readout in READOUTS]
    assert lines[-1][:3] == ["checkpoint", "ridge", "best:"]
    assert lines[-1][3] in READOUTS
    assert lines[-1][4] == "all"


def test_log_mel_frames_are_read_out_band_by_band(run, data, monkeypatch) -> None:
    compared = []
    original = probes.compare

    def spy(candidates, *args):
        compared.append(candidates)
        return original(candidates, *args)

    monkeypatch.setattr(probes, "compare", spy)
    run("--readout", "all", "--classifier", "ridge", "--layer", 1, "--max-seconds", 0.25)
    _, log_mel, _ = compared  # of the checkpoint, log-Mel frames and random weights
    statistics = {"mean": [np.mean], "mean+max": [np.mean, np.max], "mean+std": [np.mean, np.std]}
    assert list(log_mel) == [(name, "-") for name in statistics]
    manifest = read_manifest(data / "train.tsv")
    for row in (0, 20):
        frames = fbank.log_mel(torch.from_numpy(load_audio(manifest.path(row), num_samples=4_000))).double().numpy()
        for name, some in statistics.items():
            expected = np.concatenate([statistic(frames, axis=0) for statistic in some])
            np.testing.assert_allclose(log_mel[name, "-"][row], expected, rtol=1e-5, atol=1e-4)


def test_groups_from_a_file_and_from_the_paths_are_the_same(run, data, tmp_path: Path) -> None:
    names = [
        read_manifest(data / f"{split}.tsv").relative_path(row).split("_")[1]
        for split, count in (("train", 36), ("test", 12))
        for row in range(count)
    ]
    (tmp_path / "groups").write_text("\n".join(names))
    argv = ("--classifier", "knn", "--no-baselines")
    from_file = run("--groups", tmp_path / "groups", "--split", "train", "test", *argv)
    assert from_file == run(*BY_SPEAKER, *argv)
    assert from_file["tested"] == list(SPEAKERS)
    assert [run_["num_test"] for run_ in from_file["results"][0]["runs"]] == [12, 12, 12, 12]
    accuracies = [run_["accuracy"] for run_ in from_file["results"][0]["runs"]]
    mean = {"mean": pytest.approx(np.mean(accuracies)), "deviation": pytest.approx(np.std(accuracies, ddof=1))}
    assert from_file["results"][0]["accuracy"] == mean


def test_seeds_draw_other_shots_and_random_weights_and_give_a_deviation(run) -> None:
    summary = run(*BY_SPEAKER, "--classifier", "knn", "--shots", 2, "--seeds", 0, 1, 2)
    assert summary["deviation_over"] == "seeds"
    for row in summary["results"]:
        assert {run_["num_train"] for run_ in row["runs"]} == {6}
        assert [run_["seed"] for run_ in row["runs"]] == [0] * 4 + [1] * 4 + [2] * 4
        means = [np.mean([run_["accuracy"] for run_ in row["runs"] if run_["seed"] == seed]) for seed in range(3)]
        assert row["accuracy"]["deviation"] == pytest.approx(np.std(means, ddof=1))
    random = by_row(summary)["random weights", "knn", "mean", "best"]["runs"]
    assert random[:4] != [{**run_, "seed": 0} for run_ in random[4:8]]


def test_folds_are_of_the_training_split_and_follow_from_the_seed(run) -> None:
    argv = ("--folds", 3, "--classifier", "knn", "--no-baselines", "--layer", 1, "--seeds")
    first, again, other = run(*argv, 5), run(*argv, 5), run(*argv, 6)
    assert first == again
    assert first["tested"] == ["fold 1", "fold 2", "fold 3"]
    assert [(run_["num_train"], run_["num_test"]) for run_ in first["results"][0]["runs"]] == [(24, 12)] * 3
    assert first["results"] != other["results"]


def test_many_labels_are_scored_by_map(run, data, tmp_path: Path) -> None:
    for split in ("train", "test"):
        labels = (data / f"{split}.lbl").read_text().split()
        both = [f"{label},tone" if label == "low" else label for label in labels]
        (tmp_path / f"{split}.lbl").write_text("\n".join([*both[:-1], "", ""]))
        (tmp_path / f"{split}.tsv").write_text((data / f"{split}.tsv").read_text())
    argv = ("--multi-label", "--layer", 1, "--readout", "mean+std")
    summary = run(*argv, folder=tmp_path)
    assert {row["classifier"] for row in summary["results"]} == {"linear"}
    assert summary["num_classes"] == 4
    log_mel = by_row(summary)["log-Mel", "linear", "best", "-"]
    assert log_mel["mAP"]["mean"] > 0.9
    ridge = by_row(run(*argv, "--classifier", "ridge", folder=tmp_path))
    assert ridge["log-Mel", "ridge", "best", "-"]["mAP"]["mean"] > 0.9


def test_the_confusion_matrix_counts_the_tested_clips(run, tmp_path: Path, monkeypatch) -> None:
    drawn: list[dict] = []
    monkeypatch.setattr(plots, "save_confusion", lambda path, **shown: drawn.append({"path": path, **shown}))
    argv = (*BY_SPEAKER, "--classifier", "linear", "--layer", 1, "--no-baselines")
    summary = run(*argv, "--confusion", tmp_path / "new" / "a.png")
    (picture,) = drawn
    accuracy = summary["results"][0]["accuracy"]["mean"]
    assert picture["path"] == tmp_path / "new" / "a.png"
    assert picture["counts"].sum(1).tolist() == [16, 16, 16]
    assert picture["counts"].trace() == pytest.approx(48 * accuracy)
    assert picture["names"] == ("high", "low", "middle")
    assert picture["title"] == f"tiny.pt: linear probe, mean of layer 1, accuracy {accuracy:.1%}"


def test_the_confusion_matrix_names_the_layer_that_was_chosen(run, tmp_path: Path, monkeypatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(plots, "save_confusion", lambda path, *, title, **shown: titles.append(title))
    argv = (*BY_SPEAKER, "--classifier", "knn", "--layer", "best", "--no-baselines", "--confusion", tmp_path / "a.png")
    chosen = {one["layer"] for one in run(*argv)["results"][0]["runs"]}
    named = titles[0].partition("of layer best: ")[2].partition(",")[0]
    assert set(named.split()) == chosen


def test_a_picture_is_written(run, tmp_path: Path) -> None:
    run("--classifier", "knn", "--layer", 1, "--no-baselines", "--confusion", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_clips_too_short_are_left_out_and_counted(data, checkpoint, tmp_path: Path, capsys) -> None:
    sf.write(tmp_path / "short_ann_0.wav", np.zeros(1_000), 16_000)
    for split in ("train", "test"):
        root, *lines = (data / f"{split}.tsv").read_text().split("\n")[:-1]
        rows = [f"{tmp_path}/short_ann_0.wav\t1000", *(f"{root}/{line}" for line in lines)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(["/", *rows]))
        (tmp_path / f"{split}.lbl").write_text("low\n" + (data / f"{split}.lbl").read_text())
    argv = ["probe", str(checkpoint), "--data", str(tmp_path), "--layer", "1", "--classifier", "knn", "--no-baselines"]
    assert main([*argv, "--json"]) == 1
    out, err = capsys.readouterr()
    assert err.count(f"{tmp_path}/short_ann_0.wav: 0.062 s of it give 0 tokens of the model; expected at least 2") == 2
    assert len(json.loads(out)["broken"]) == 2
    (run_,) = json.loads(out)["results"][0]["runs"]
    assert (run_["num_train"], run_["num_test"]) == (36, 12)


def test_precision_is_that_of_the_model(run, data, monkeypatch) -> None:
    used = []
    original = clip_features

    def spy(model, clips, readouts, **how):
        used.append(next(model.parameters()).dtype)
        return original(model, clips, readouts, **how)

    monkeypatch.setattr("mae_ast_fairseq.cli.probe.clip_features", spy)
    run("--precision", "bfloat16", "--layer", 1, "--classifier", "knn", "--no-baselines")
    assert used == [torch.bfloat16]


def test_it_works_without_fairseq(data, checkpoint) -> None:
    argv = ["probe", str(checkpoint), "--data", str(data), "--layer", "1", "--classifier", "knn", "--no-baselines"]
    result = run_python(f"{HIDE_FAIRSEQ}\nfrom mae_ast_fairseq.cli import main\nsys.exit(main({argv!r}))")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("60 clips of 3 classes")
