"""`mae-ast evaluate` from a labelled split to its metrics, classes and confusion matrix."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.evaluation import plots
from mae_ast_fairseq.evaluation.metrics import METRICS, evaluate
from mae_ast_fairseq.inference.predict import classify
from mae_ast_fairseq.report.results import read_results
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.cli.test_predict import LABELS, save_classifier
from tests.inference.test_predict import tiny_classifier
from tests.test_layers import HIDE_FAIRSEQ
from tests.test_layers import run as run_python

NUM_CLIPS, NUM_RIGHT = 40, 30


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model") / "tiny.pt")


@pytest.fixture(scope="module")
def probabilities(corpus: Path) -> np.ndarray:
    """[N, K] of the corpus' training clips."""
    manifest = read_manifest(corpus / "train.tsv")
    waveforms = [load_audio(manifest.path(row), expect_rate=None) for row in range(NUM_CLIPS)]
    return np.concatenate([classify(tiny_classifier(), [waveform]) for waveform in waveforms])


@pytest.fixture
def targets(probabilities: np.ndarray) -> np.ndarray:
    """[N] the class of the highest probability for three quarters of the clips, the next class for the others."""
    return (probabilities.argmax(1) + (np.arange(NUM_CLIPS) >= NUM_RIGHT)) % len(LABELS)


@pytest.fixture
def data(corpus: Path, targets: np.ndarray, tmp_path: Path) -> Path:
    """A folder of test.tsv and test.lbl."""
    shutil.copyfile(corpus / "train.tsv", tmp_path / "test.tsv")
    (tmp_path / "test.lbl").write_text("".join(f"{LABELS[target]}\n" for target in targets))
    return tmp_path


@pytest.fixture
def run(capsys, data: Path, checkpoint: Path):
    """A function that runs the command with --json and returns what it printed."""

    def summary(*argv: object, of: Path = checkpoint, code: int = 0) -> dict:
        given = ["evaluate", of, "--data", data, "--resamples", 50, *argv, "--json"]
        assert main(list(map(str, given))) == code
        return json.loads(capsys.readouterr().out)

    return summary


def test_metrics_are_those_of_the_models_probabilities(run, probabilities, targets) -> None:
    summary = run()
    found = {name: estimate["value"] for name, estimate in summary["metrics"].items()}
    assert found == pytest.approx(evaluate(probabilities, targets, False), abs=1e-6)
    assert found["accuracy"] == NUM_RIGHT / NUM_CLIPS
    for estimate in summary["metrics"].values():
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert (summary["split"], summary["num_clips"], summary["broken"]) == ("test", NUM_CLIPS, [])
    assert summary == run()


def test_a_report_of_the_run_shows_what_is_printed(run, tmp_path: Path) -> None:
    summary = run()
    (tmp_path / "evaluate.json").write_text(json.dumps(summary))
    found = read_results(tmp_path)
    (scores,) = found.scores.values()
    assert {name: score.value for name, score in scores.items()} == {
        name: estimate["value"] for name, estimate in summary["metrics"].items()
    }
    assert (scores["accuracy"].high, found.problems) == (summary["metrics"]["accuracy"]["high"], [])


def test_each_class_has_a_row(run, targets) -> None:
    classes = run()["classes"]
    assert [row["label"] for row in classes] == LABELS
    assert [row["clips"] for row in classes] == np.bincount(targets, minlength=4).tolist()
    assert sum(row["recall"] * row["clips"] for row in classes if row["clips"]) == pytest.approx(NUM_RIGHT)
    assert all((row["recall"] is None) == (row["clips"] == 0) for row in classes)  # JSON has no NaN


def test_the_order_of_the_datas_labels_does_not_matter(run, data: Path) -> None:
    expected = run()
    (data / "labels.txt").write_text("\n".join(reversed(LABELS)))
    assert run() == expected


def test_many_labels_have_average_precisions(run, data: Path, targets, tmp_path: Path, corpus: Path) -> None:
    labels = (data / "test.lbl").read_text().splitlines()
    (data / "test.lbl").write_text("\n".join(["", f"{LABELS[0]},{LABELS[1]}", *labels[2:], ""]))
    summary = run(of=save_classifier(tmp_path / "multi.pt", multi_label=True))
    assert summary["multi_label"]
    values = [row["AP"] for row in summary["classes"] if row["clips"]]
    assert np.mean(values) == pytest.approx(summary["metrics"]["mAP"]["value"])


def test_long_clips_get_the_mean_over_their_windows(run) -> None:
    whole, windows = run(), run("--window", 0.3)
    assert windows["metrics"] != whole["metrics"]
    assert windows["num_clips"] == NUM_CLIPS


def test_the_confusion_matrix_counts_the_clips(run, targets, tmp_path: Path, monkeypatch) -> None:
    run("--confusion", tmp_path / "new" / "a.png")
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
    drawn: list[dict] = []
    monkeypatch.setattr(plots, "save_confusion", lambda path, **shown: drawn.append(shown))
    run("--confusion", tmp_path / "a.png")
    (picture,) = drawn
    assert picture["counts"].sum(1).tolist() == np.bincount(targets, minlength=4).tolist()
    assert picture["counts"].trace() == NUM_RIGHT
    assert (list(picture["names"]), picture["title"]) == (LABELS, "tiny.pt on test, accuracy 75.0%")


def test_the_table_has_metrics_and_classes(data: Path, checkpoint: Path, capsys) -> None:
    assert main(["evaluate", str(checkpoint), "--data", str(data), "--resamples", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "40 clips of test; 95% intervals over clips"
    assert [line.split()[0] for line in lines[2:7]] == list(METRICS)
    assert lines[1].split() == ["metric", "value", "low", "high"]
    assert lines[2].split()[:2] == ["accuracy", "0.750"]
    assert lines[8].split() == ["label", "clips", "precision", "recall", "F1"]
    assert [line.split()[0] for line in lines[9:]] == LABELS


def test_it_goes_on_past_a_broken_file_and_lists_it(data: Path, checkpoint: Path, run, capsys) -> None:
    root, _, *others = (data / "test.tsv").read_text().splitlines()
    (data / "broken.wav").write_bytes(b"RIFF")
    lines = ["/", f"{data}/broken.wav\t9000", *(f"{root}/{line}" for line in others), ""]
    (data / "test.tsv").write_text("\n".join(lines))
    summary = run(code=1)
    assert summary["num_clips"] == NUM_CLIPS - 1
    (broken,) = summary["broken"]
    assert broken["file"] == f"{data}/broken.wav"
    assert summary["metrics"]["accuracy"]["value"] == (NUM_RIGHT - 1) / (NUM_CLIPS - 1)
    assert main(["evaluate", str(checkpoint), "--data", str(data), "--resamples", "20"]) == 1
    out, err = capsys.readouterr()
    assert f"test.tsv:2: {data}/broken.wav" in err
    assert "39 clips of test, 1 broken" in out


def test_without_a_clip_that_can_be_read_nothing_is_scored(data: Path, checkpoint: Path, capsys) -> None:
    (data / "test.tsv").write_text(f"{data}\ngone.wav\t9000\n")
    (data / "test.lbl").write_text("dog\n")
    assert main(["evaluate", str(checkpoint), "--data", str(data)]) == 2
    assert "gone.wav: there is no such file" in capsys.readouterr().err


# --- what a person gives


@pytest.fixture
def message(refusal, checkpoint: Path, data: Path):
    """A function that runs the command and returns the one line with which it refuses."""
    return lambda *argv, of=checkpoint: refusal("evaluate", of, "--data", data, *argv)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--resamples=0", "--resamples"),
        ("--window=0", "--window"),
        ("--window=0.1", "--window 0.1: it gives 0 tokens"),
        ("--device=abacus", "--device abacus: cannot be used"),
        ("--confusion=.", "--confusion .: this is a folder"),
    ],
)
def test_a_bad_option_is_named(message, option: str, expected: str) -> None:
    assert message(option).startswith(expected)


def test_a_split_that_is_not_there_is_named(message, data: Path) -> None:
    assert message("--split", "eval").startswith(f"{data}/eval.tsv: there is no such file")


def test_a_label_that_the_model_does_not_know_is_named(message, data: Path) -> None:
    labels = (data / "test.lbl").read_text().splitlines()
    (data / "test.lbl").write_text("\n".join([*labels[:6], "violin", *labels[7:], ""]))
    assert message().startswith(f"{data}/test.lbl:7: the label 'violin' is unknown")


def test_labels_of_another_length_are_named(message, data: Path) -> None:
    (data / "test.lbl").write_text("dog\n" * (NUM_CLIPS - 1))
    assert message().startswith(f"{data}/test.lbl:40: the file ends after 39 lines")


def test_a_checkpoint_without_labels_is_refused(message, tmp_path: Path) -> None:
    assert "which knows no labels" in message(of=save_tiny_checkpoint(tmp_path / "a.pt"))


def test_many_labels_have_no_confusion_matrix(message, tmp_path: Path) -> None:
    of = save_classifier(tmp_path / "multi.pt", multi_label=True)
    assert message("--confusion", tmp_path / "a.png", of=of).startswith("--confusion: with many labels")


def test_it_works_without_fairseq(data: Path, checkpoint: Path) -> None:
    argv = ["evaluate", str(checkpoint), "--data", str(data), "--resamples", "5"]
    result = run_python(f"{HIDE_FAIRSEQ}\nfrom mae_ast_fairseq.cli import main\nsys.exit(main({argv!r}))")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("40 clips of test")
