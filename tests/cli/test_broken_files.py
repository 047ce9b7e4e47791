"""One policy: every command goes on past bad files, lists them alike, and says so by its exit code."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.evaluation import plots
from mae_ast_fairseq.inference import loading
from mae_ast_fairseq.inference.loading import BrokenFiles, FileList
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.cli.test_predict import save_classifier

NUM_GOOD = 12
COMMANDS = ("predict", "extract", "reconstruct", "probe", "stats", "evaluate")


def write_good(folder: Path) -> list[Path]:
    """Write noise of two levels, which a probe can tell apart, as good_NN.wav."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"good_{number:02}.wav" for number in range(NUM_GOOD)]
    for number, path in enumerate(paths):
        sf.write(path, (0.3, 0.01)[number % 2] * rng.uniform(-1, 1, 5_000 + 100 * number), 16_000)
    return paths


def write_bad(folder: Path) -> list[Path]:
    """Write, behind the good ones in their order, what can be wrong with a file; the last is not there."""
    names = ("x_empty", "x_folder", "x_nan", "x_short", "x_text", "x_truncated", "x_vanished")
    empty, directory, nan, short, text, truncated, gone = paths = [folder / f"{name}.wav" for name in names]
    empty.touch()
    directory.mkdir()
    sf.write(nan, np.full(8_000, np.nan), 16_000, subtype="FLOAT")
    sf.write(short, np.zeros(300), 16_000)
    text.write_text("no audio " * 100)
    sf.write(truncated, np.ones(8_000) / 9, 16_000)
    os.truncate(truncated, 9_000)
    if os.geteuid() != 0:
        secret = folder / "x_secret.wav"
        sf.write(secret, np.ones(8_000) / 9, 16_000)
        secret.chmod(0)
        paths.insert(4, secret)
    assert gone not in folder.iterdir()
    return paths


def write_manifest(folder: Path, good: list[Path], bad: list[Path]) -> Path:
    """Write train, test and a labelled manifest of all, whose lengths are those that the files had."""
    good_rows = [f"{path}\t{sf.info(path).frames}" for path in good]
    bad_rows = [f"{path}\t{300 if 'short' in path.name else 8_000}" for path in bad]
    labels = ["bell", "dog"] * NUM_GOOD
    (folder / "all.tsv").write_text("\n".join(["/", *good_rows, *bad_rows, ""]))
    (folder / "all.lbl").write_text("\n".join([*labels[: len(good + bad)], ""]))
    return folder / "all.tsv"


@pytest.fixture
def run(tmp_path: Path, capsys, monkeypatch):
    """A function that runs a command on files or a manifest with --json: its exit code, what it printed, stderr."""
    monkeypatch.setattr(plots, "save_reconstruction", lambda path, **shown: None)
    tiny, classifier = save_tiny_checkpoint(tmp_path / "tiny.pt"), save_classifier(tmp_path / "classifier.pt")

    def run(command: str, *paths: Path, manifest: Path | None = None, out: str = "out") -> tuple[int, dict, list[str]]:
        model = {"predict": [classifier], "evaluate": [classifier], "stats": []}.get(command, [tiny])
        clips = list(paths) if manifest is None else ["--manifest", manifest]
        if manifest is not None and command in ("probe", "evaluate"):
            clips = ["--data", manifest.parent, "--split", "all"]
        if command == "stats":
            clips = [manifest]
        more = {
            "extract": ["--out", tmp_path / out],
            "reconstruct": ["--out", tmp_path / out, "--clips", 99],
            "probe": ["--folds", 2, "--layer", 1, "--classifier", "knn"],
            "stats": ["--out", tmp_path / "stats.json"],
        }
        capsys.readouterr()
        code = main([command, *map(str, [*model, *clips, *more.get(command, [])]), "--json"])
        printed, err = capsys.readouterr()
        return code, json.loads(printed or "{}"), [line for line in err.splitlines() if line.startswith("mae-ast")]

    return run


def results(command: str, summary: dict) -> object:
    """Return what a command says of the good files."""
    names = {"predict": "files", "reconstruct": "clips", "probe": "results", "evaluate": "metrics", "stats": "mean"}
    return summary[names.get(command, "num_tokens")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_manifest_with_bad_files_gives_what_the_good_ones_alone_give(command: str, run, tmp_path: Path) -> None:
    good = write_good(tmp_path / "audio")
    alone = run(command, manifest=write_manifest(tmp_path, good, []), out="alone")
    bad = write_bad(tmp_path / "audio")
    code, summary, lines = run(command, manifest=write_manifest(tmp_path, good, bad), out="mixed")
    assert (alone[0], alone[1]["broken"], code) == (0, [], 1)
    assert [broken["file"] for broken in summary["broken"]] == list(map(str, bad))
    assert sorted(lines) == sorted(f"mae-ast {command}: {broken['reason']}" for broken in summary["broken"])
    assert all(broken["file"] in broken["reason"] for broken in summary["broken"])
    found, expected = results(command, summary), results(command, alone[1])
    assert json.loads(json.dumps(found).replace("/mixed/", "/alone/")) == _close(expected)


def _close(value: object) -> object:
    """Return a value to compare with, whose numbers are nearly so: padding shows in their last bits."""
    if isinstance(value, dict):
        return {key: _close(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_close(item) for item in value]
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


@pytest.mark.parametrize("command", ["predict", "extract", "reconstruct"])
def test_files_and_a_folder_with_bad_ones_give_what_the_good_ones_give(command: str, run, tmp_path: Path) -> None:
    good = write_good(tmp_path / "audio")
    alone = run(command, *good, out="alone")
    bad = write_bad(tmp_path / "audio")
    mixed = sorted([*good, *bad[::2]], reverse=True)  # the bad ones first
    code, summary, lines = run(command, *[*mixed[: len(bad[::2])], *good], out="mixed")
    assert code == 1
    assert [broken["file"] for broken in summary["broken"]] == list(map(str, bad[::2][::-1]))
    assert len(lines) == len(bad[::2])
    found = json.dumps(results(command, summary)).replace("/mixed/", "/alone/")
    assert json.loads(found) == _close(results(command, alone[1]))
    code, summary, _ = run(command, tmp_path / "audio", out="folder")
    in_folder = [str(path) for path in bad if path.is_file()]
    assert (code, [broken["file"] for broken in summary["broken"]]) == (1, in_folder)


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_but_bad_files_is_one_line(command: str, run, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    bad = write_bad(tmp_path / "audio")
    code, summary, lines = run(command, manifest=write_manifest(tmp_path, [], bad))
    assert (code, summary, len(lines)) == (2, {}, 1)
    if command in ("predict", "extract", "reconstruct"):
        code, summary, lines = run(command, *bad)
        assert (code, summary, len(lines)) == (2, {}, 1)


def test_a_lack_of_memory_in_one_file_ends_that_file_alone(run, tmp_path: Path, monkeypatch) -> None:
    def load_row(clips, row: int, *part: int) -> np.ndarray:
        if row == 1:
            raise MemoryError
        return original(clips, row, *part)

    original = loading.load_row
    monkeypatch.setattr(loading, "load_row", load_row)
    code, summary, _ = run("predict", *write_good(tmp_path / "audio"))
    assert (code, len(summary["files"]), len(summary["broken"])) == (1, NUM_GOOD - 1, 1)
    assert "MemoryError" in summary["broken"][0]["reason"]


def test_only_the_first_ones_are_named_on_stderr(tmp_path: Path, capsys) -> None:
    clips = FileList([str(tmp_path / f"{number}.wav") for number in range(30)])
    broken = BrokenFiles("predict", clips)
    for row in range(29):
        broken.add(row, clips.errors[row])
    assert capsys.readouterr().err == ""
    assert broken.exit_code(1) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == loading.MAX_SHOWN + 1
    assert lines[-1] == "mae-ast predict: 9 more files are broken; --json lists all"
    assert len(broken.as_json()) == 29
