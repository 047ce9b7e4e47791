"""Labelled clips that cannot be divided as was asked are refused in one line, before any feature is computed."""

import shutil
from pathlib import Path

import pytest

from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.cli.test_probe import write_corpus
from tests.tiny import FRAME


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_corpus(tmp_path_factory.mktemp("tones"), {"train": 2, "test": 1})
    save_tiny_checkpoint(folder / "tiny.pt")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Manifests and labels to be spoilt; the audio stays where it is."""
    for path in made.iterdir():
        if path.suffix in (".tsv", ".lbl", ".pt"):
            shutil.copyfile(path, tmp_path / path.name)
    return tmp_path


@pytest.fixture
def message(refusal, folder: Path, monkeypatch):
    """A function that runs the command and returns the one line with which it refuses."""
    monkeypatch.setattr("mae_ast_fairseq.cli.probe.clip_features", None)
    return lambda *argv: refusal("probe", folder / "tiny.pt", "--data", folder, *argv).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("--folds", 1), "--folds: 1 was given; expected a whole number of at least 2"),
        (("--folds", 9), "--folds 9: expected 2 to 8"),
        (("--folds", 3, "--group-pattern", "(a)"), "--group-pattern: not allowed with argument --folds"),
        (("--group-pattern", "("), "--group-pattern: '(' was given; expected a regular expression with one pair"),
        (("--group-pattern", "a"), "--group-pattern: 'a' was given; expected a regular expression with one pair"),
        (("--group-pattern", "(zoe)"), "train.tsv:2: --group-pattern finds nothing in 'high_ann_train0.wav'"),
        (("--shots", 0), "--shots: 0 was given; expected a whole number of at least 1"),
        (("--shots", 7), "--shots 7: test has 6 training clips of class 'high'; expected 1 to 6"),
        (("--shots", 1, "--multi-label"), "--shots: clips have many labels here"),
        (("--multi-label", "--classifier", "knn"), "--classifier knn: neighbours vote for one label"),
        (("--multi-label", "--confusion", "a.png"), "--confusion: with many labels"),
        (("--classifier", "forest"), "--classifier: invalid choice: 'forest'"),
        (("--readout", "max"), "--readout: invalid choice: 'max'"),
        (("--layer", 0), "--layer: 0 was given; the model has layers 1 to 3"),
        (("--layer", 4), "--layer: 4 was given; the model has layers 1 to 3"),
        (("--layer", "2,9"), "--layer: 2,9 was given; the model has layers 1 to 3"),
        (("--layer", "first"), "--layer: first was given; the model has layers 1 to 3"),
        (("--seeds", 1, 1), "--seeds 1 1: expected different ones"),
        (("--seeds", -1), "--seeds: -1 was given; expected a whole number from 0"),
        (("--max-seconds", 0), "--max-seconds: 0 was given; expected seconds above 0"),
        (("--max-seconds", 0.1), "train.tsv, test.tsv: none of its 36 clips has 2 tokens"),
        (("--test", "eval"), "--test eval: there is no eval.tsv; expected a split to test on"),
        (("--test", "train"), "splits train, train: one is named twice"),
        (("--valid", "dev"), "dev.tsv: there is no such file"),
        (("--split", "dev", "--folds", 2), "dev.tsv: there is no such file"),
        (("--split", "test"), "--split test: expected --folds, --groups or --group-pattern with it"),
        (("--precision", "int8"), "--precision: invalid choice: 'int8'"),
    ],
)
def test_a_bad_option_is_named(message, argv, expected: str) -> None:
    assert message(*argv).startswith(expected)


@pytest.mark.parametrize("readout", ["bands", "bands+max"])
def test_bands_of_frame_tokens_are_refused(message, folder: Path, readout: str) -> None:
    save_tiny_checkpoint(folder / "tiny.pt", **FRAME)
    assert message("--readout", readout).startswith(
        f"--readout: '{readout}' needs tokens of several bands, and the model's span all; expected one of mean, "
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("ann\n" * 23, "groups: found 23 lines; expected 24, one for each clip of"),
        ("ann\nbob\n\n" + "eve\n" * 21, "groups:3: a blank line; expected the clip's group"),
        ("ann\nbob\n" * 12, "groups: found 2 (ann, bob); expected at least 3"),
        (None, "groups: [Errno 2]"),
    ],
)
def test_a_group_file_that_cannot_be_used_is_named(message, folder: Path, names: str | None, expected: str) -> None:
    if names is not None:
        (folder / "groups").write_text(names)
    assert message("--groups", folder / "groups").startswith(expected)


def test_label_and_manifest_of_other_lengths_are_named(message, folder: Path) -> None:
    (folder / "test.lbl").write_text("low\n" * 11)
    assert message().startswith("test.lbl:12: the file ends after 11 lines; expected 12")


def test_a_label_that_training_does_not_have_is_named(message, folder: Path) -> None:
    (folder / "test.lbl").write_text("low\n" * 11 + "deep\n")
    assert message().startswith("test.lbl:12: the label 'deep' is unknown")


def test_labels_of_all_splits_count_where_they_are_divided(message, folder: Path) -> None:
    (folder / "test.lbl").write_text("low\n" * 11 + "deep\n")
    text = message("--split", "train", "test", "--folds", 2)
    assert text.startswith("class 'deep': found one clip to divide into training and other parts")


def test_one_class_alone_is_refused(message, folder: Path) -> None:
    for split, count in (("train", 24), ("test", 12)):
        (folder / f"{split}.lbl").write_text("low\n" * count)
    assert message().startswith("train.lbl, test.lbl: all clips have the same label; expected at least two classes")


def test_a_class_without_training_clips_is_named(message, folder: Path) -> None:
    (folder / "labels.txt").write_text("high\nlow\nmiddle\n")
    (folder / "train.lbl").write_text("low\n" * 12 + "high\n" * 12)
    assert message().startswith("test: there is no training clip of class 'middle', which its test part has")


def test_a_confusion_matrix_in_place_of_a_folder_is_refused(message, folder: Path) -> None:
    assert "this is a folder; expected a file to write" in message("--confusion", folder)
