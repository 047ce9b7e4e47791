"""Whatever names of files and labels hold, no command prints what a terminal obeys, nor a line that a name forged."""

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.evaluation import plots
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.cli.test_predict import save_classifier

NUM_CLIPS = 12
EVIL = "a\x1b[2J\x85\u202eb"
FORGED = "good\n/data/forged.wav  bell 1.000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of an evil name with twelve clips and a broken one, test.tsv, its labels and two checkpoints."""
    folder = tmp_path / EVIL
    folder.mkdir()
    rng = np.random.default_rng(0)
    names = [f"{EVIL}_{number}.wav" for number in range(NUM_CLIPS)]
    for number, name in enumerate(names):
        sf.write(folder / name, (0.3, 0.01)[number % 2] * rng.uniform(-1, 1, 5_000), 16_000)
    (folder / f"{EVIL}_x.wav").write_text("no audio")
    rows = [f"{name}\t5000\n" for name in [*names, f"{EVIL}_x.wav"]]
    (folder / "test.tsv").write_text("".join([f"{folder}\n", *rows]))
    (folder / "test.lbl").write_text("dog\nrain\n" * (NUM_CLIPS // 2) + "dog\n")
    save_tiny_checkpoint(folder / "tiny.pt")
    content = torch.load(save_classifier(folder / "classifier.pt"), weights_only=True)
    content["cfg"]["model"]["labels"][0] = f"{EVIL}\n{FORGED}"
    content["cfg"]["model"]["labels"][3] = f"{EVIL}\tbell"
    torch.save(content, folder / "classifier.pt")
    return folder


def forge(folder: Path) -> None:
    """Put a file into the folder whose name would be another row."""
    (folder / "good\n").mkdir()
    (folder / "good\n" / "data").mkdir()
    shutil.copyfile(folder / f"{EVIL}_0.wav", folder / "good\n" / "data" / "forged.wav")


COMMANDS = {
    "predict": ["classifier.pt", "."],
    "extract": ["tiny.pt", ".", "--out", "features"],
    "reconstruct": ["tiny.pt", ".", "--out", "pictures"],
    "evaluate": ["classifier.pt", "--data", ".", "--split", "test", "--resamples", "20"],
    "probe": ["tiny.pt", "--data", ".", "--split", "test", "--folds", "2", "--layer", "1", "--classifier", "knn"],
    "stats": ["test.tsv"],
    "check": ["test.tsv", "--fix", "./fixed.tsv"],
    "manifest": [".", "--out", "lists", "--valid", "0"],
    "export": ["tiny.pt", "--out", "exported.pt", "--to", "released"],
    "average": ["tiny.pt", "tiny.pt", "--out", "mean.pt"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_all_lines_are_printable(command: str, folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(plots, "save_reconstruction", lambda path, **shown: None)
    forge(folder)
    monkeypatch.chdir(folder)
    argv = [str(folder / word) if "." in word else word for word in COMMANDS[command]]
    assert main([command, *argv]) in (0, 1)
    printed, err = capsys.readouterr()
    lines = [*printed.split("\n"), *err.replace("\r", "\n").split("\n")]
    assert len(lines) > 1
    assert [line for line in lines if not line.replace("\t", "").isprintable()] == []
    assert [line for line in lines if line.startswith(("/data/forged.wav", "b_", "b/"))] == []


def test_no_row_of_a_list_or_table_is_forged(folder: Path) -> None:
    forge(folder)
    assert main(["manifest", str(folder), "--out", str(folder / "lists"), "--valid", "0"]) == 0
    rejected = (folder / "lists" / "rejected.tsv").read_text().split("\n")
    assert len(rejected) == 3 and not rejected[-1]  # the one of no audio, and the one that no manifest can hold
    assert all(line.replace("\t", "").isprintable() for line in rejected)
    names = {"classifier.pt", "test.tsv", "a.csv"}
    words = ["predict", "classifier.pt", "--manifest", "test.tsv", "--csv", "a.csv"]
    assert main([str(folder / word) if word in names else word for word in words]) == 1
    table = (folder / "a.csv").read_text().split("\n")
    assert len(table) == 1 + NUM_CLIPS * 4 + 1
    assert all(line.isprintable() for line in table)


@pytest.mark.parametrize(
    "words", [["predict", EVIL, "x.wav"], ["extract", "tiny", EVIL], ["check", EVIL], ["stats", EVIL, "--clips", EVIL]]
)
def test_what_was_given_is_escaped_in_the_one_line_that_refuses_it(words: list[str], capsys) -> None:
    with suppress(SystemExit):  # argparse's
        assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.rstrip("\n").isprintable()
