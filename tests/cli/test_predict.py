"""`mae-ast predict` from files to labels with probabilities, as table, JSON and CSV."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.config.pretraining import ClassifierFields
from mae_ast_fairseq.data.audio import load_audio
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.inference.test_predict import tiny_classifier
from tests.test_layers import HIDE_FAIRSEQ
from tests.test_layers import run as run_python

LABELS = ["bell", "dog", "rain", "siren"]


def save_classifier(path: Path, multi_label: bool = False) -> Path:
    """Save `tiny_classifier` in the layout of fairseq and return the path."""
    model = tiny_classifier(multi_label)
    sizes = {"encoder_layers": 2, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 96, "encoder_attention_heads": 4}
    kernel = {f"ast_kernel_{what}_{axis}": 16 for what in ("size", "stride") for axis in ("chan", "time")}
    fields = ClassifierFields(**sizes, **kernel, max_token_length=256, labels=LABELS, multi_label=multi_label)
    cfg = {
        "model": {"_name": "mae_ast_classifier", **vars(fields)},
        "task": {"_name": "mae_ast_classification", "feature_dim": 128},
    }
    torch.save({"cfg": cfg, "model": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("model") / "tiny.pt")


@pytest.fixture
def run(capsys, checkpoint):
    """A function that runs the command with --json and returns what it printed."""

    def summary(*argv: object, code: int = 0) -> dict:
        assert main(["predict", str(checkpoint), *map(str, argv), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return summary


@pytest.fixture
def message(refusal, checkpoint):
    """A function that runs the command and returns the one line with which it refuses."""
    return lambda *argv, of=checkpoint: refusal("predict", of, *argv)


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    """A file of 2.5 s that changes."""
    time = np.arange(40_000) / 16_000
    sf.write(tmp_path / "long.wav", 0.3 * np.sin(2 * np.pi * (200 + 1_000 * time) * time), 16_000)
    return tmp_path / "long.wav"


def test_labels_are_the_models_by_falling_probability(corpus: Path, run) -> None:
    files = [corpus / f"{number:02}.wav" for number in range(10)]
    summary = run(*files, "--top", 4)
    assert [file["file"] for file in summary["files"]] == list(map(str, files))
    for file in summary["files"]:
        waveform = torch.from_numpy(load_audio(file["file"], expect_rate=None))
        with torch.no_grad():
            expected = tiny_classifier()(waveform[None]).softmax(-1)[0]
        found = {entry["label"]: entry["probability"] for entry in file["labels"]}
        assert found == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert file["seconds"] == len(waveform) / 16_000
        assert len(file["windows"]) == 1


def test_many_labels_have_probabilities_of_their_own(corpus: Path, tmp_path: Path, capsys) -> None:
    path = save_classifier(tmp_path / "multi.pt", multi_label=True)
    assert main(["predict", str(path), str(corpus / "00.wav"), "--top", "9", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    waveform = torch.from_numpy(load_audio(corpus / "00.wav", expect_rate=None))
    with torch.no_grad():
        expected = tiny_classifier()(waveform[None]).sigmoid()[0]
    found = {entry["label"]: entry["probability"] for entry in summary["files"][0]["labels"]}
    assert summary["multi_label"]
    assert found == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-5)


def test_the_table_has_a_line_a_file(corpus: Path, checkpoint, run, capsys) -> None:
    files = [str(corpus / "00.wav"), str(corpus / "01.wav")]
    summary = run(*files, "--top", 2)
    assert main(["predict", str(checkpoint), *files, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["file", "seconds"]
    for line, file in zip(lines[1:], summary["files"], strict=True):
        labels = [word for entry in file["labels"] for word in (entry["label"], f"{entry['probability']:.3f}")]
        assert line.split() == [file["file"], f"0.00-{file['seconds']:.2f}", *labels]


def test_long_files_are_windows_with_their_times_and_their_mean(long_file: Path, run) -> None:
    (file,) = run(long_file, "--window", 1, "--hop", 0.5, "--top", 4)["files"]
    times = [(window["start"], window["end"]) for window in file["windows"]]
    assert times == [(0, 1), (0.5, 1.5), (1, 2), (1.5, 2.5)]
    waveform = torch.from_numpy(load_audio(long_file))
    for window in file["windows"]:
        part = waveform[int(window["start"] * 16_000) : int(window["end"] * 16_000)]
        with torch.no_grad():
            expected = tiny_classifier()(part[None]).softmax(-1)[0].tolist()
        found = {entry["label"]: entry["probability"] for entry in window["labels"]}
        assert found == pytest.approx(dict(zip(LABELS, expected, strict=True)), abs=1e-5)
    for entry in file["labels"]:
        values = [
            w["probability"] for window in file["windows"] for w in window["labels"] if w["label"] == entry["label"]
        ]
        assert entry["probability"] == pytest.approx(np.mean(values))


def test_windows_follow_each_other_where_no_hop_is_given(long_file: Path, run) -> None:
    (file,) = run(long_file, "--window", 1)["files"]
    assert [window["start"] for window in file["windows"]] == [0, 1, 1.5]


def test_the_table_shows_windows_below_their_file(long_file: Path, checkpoint, capsys) -> None:
    assert main(["predict", str(checkpoint), str(long_file), "--window", "1", "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == [str(long_file), "0.00-1.00", "1.00-2.00", "1.50-2.50"]
    assert lines[1].split()[1] == "0.00-2.50"
    assert lines[5] == "the first line of a long file is the mean over its windows, which follow"


def test_csv_holds_the_same_as_json(corpus: Path, long_file: Path, run, tmp_path: Path) -> None:
    summary = run(corpus / "00.wav", long_file, "--window", 1.6, "--top", 2, "--csv", tmp_path / "new" / "a.csv")
    with (tmp_path / "new" / "a.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["part"], row["rank"]) for row in rows] == [("file", "1"), ("file", "2")] * 2 + [
        ("window", "1"),
        ("window", "2"),
    ] * 2
    entries = summary["files"][0]["labels"] + summary["files"][1]["labels"]
    entries += [entry for window in summary["files"][1]["windows"] for entry in window["labels"]]
    assert [row["label"] for row in rows] == [entry["label"] for entry in entries]
    assert [float(row["probability"]) for row in rows] == pytest.approx([e["probability"] for e in entries], abs=1e-6)
    assert [(float(row["start"]), float(row["end"])) for row in rows[4::2]] == [(0, 1.6), (0.9, 2.5)]


def test_folders_archives_and_manifests_are_read(corpus: Path, run, tmp_path: Path) -> None:
    folder = run(corpus)["files"]
    assert [file["file"] for file in folder] == [str(path) for path in sorted(corpus.glob("*.wav"))]
    manifest = run("--manifest", corpus / "train.tsv")["files"]
    assert [file["file"] for file in manifest] == [file["file"] for file in folder[:40]]
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for path in sorted(corpus.glob("*.wav"))[:5]:
            archive.write(path, path.name)
    zipped = run(tmp_path / "some.zip")["files"]
    assert [file["seconds"] for file in zipped] == [file["seconds"] for file in folder[:5]]
    for found in (manifest, zipped):
        for one, other in zip(found, folder, strict=False):
            assert one["labels"][0]["probability"] == pytest.approx(other["labels"][0]["probability"], abs=1e-5)


def test_broken_files_are_reported_and_the_others_go_on(corpus: Path, checkpoint, tmp_path: Path, capsys) -> None:
    (tmp_path / "noise.wav").write_bytes(b"no audio")
    argv = [str(tmp_path / "noise.wav"), str(corpus / "00.wav"), str(tmp_path / "no.wav"), "--json"]
    assert main(["predict", str(checkpoint), *argv]) == 1
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert [file["file"] for file in summary["files"]] == [str(corpus / "00.wav")]
    assert [broken["file"] for broken in summary["broken"]] == [argv[0], argv[2]]
    assert [line.split(": ")[1] for line in err.splitlines() if line.startswith("mae-ast")] == [argv[0], argv[2]]


def test_nothing_but_broken_files_is_an_error(tmp_path: Path, message) -> None:
    assert message(tmp_path / "no.wav").startswith(f"{tmp_path / 'no.wav'}: ")


def test_it_works_without_fairseq(corpus: Path, checkpoint) -> None:
    argv = ["predict", str(checkpoint), str(corpus / "00.wav")]
    result = run_python(f"{HIDE_FAIRSEQ}\nfrom mae_ast_fairseq.cli import main\nsys.exit(main({argv!r}))")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 2


# --- bad input


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--top=0", "--top: 0 was given; expected a whole number of at least 1"),
        ("--window=0", "--window: 0 was given; expected seconds above 0"),
        ("--window=nan", "--window: nan was given; expected seconds above 0"),
        ("--window=0.1", "--window 0.1: it gives 0 tokens of the model; expected at least 2"),
        ("--hop=-1", "--hop: -1 was given; expected seconds above 0"),
        ("--hop=11", "--hop 11.0: longer than the window of 10.0 s"),
        ("--precision=int8", "--precision: invalid choice: 'int8'"),
        ("--device=abacus", "--device abacus: cannot be used ("),
        ("--csv=.", "--csv .: this is a folder"),
    ],
)
def test_a_bad_option_is_named(corpus: Path, message, option: str, expected: str) -> None:
    assert message(corpus / "00.wav", option).startswith(expected)


def test_a_checkpoint_of_pretraining_is_named(corpus: Path, message, tmp_path: Path) -> None:
    path = save_tiny_checkpoint(tmp_path / "a.pt")
    text = message(corpus / "00.wav", of=path)
    assert text.startswith(
        f"{path}: it holds a pretrained mae_ast, which knows no labels; expected a mae_ast_classifier"
    )


def test_a_checkpoint_that_is_not_there_is_named(corpus: Path, message, tmp_path: Path) -> None:
    assert message(corpus / "00.wav", of=tmp_path / "no.pt").startswith(f"{tmp_path / 'no.pt'}: there is no such file")
