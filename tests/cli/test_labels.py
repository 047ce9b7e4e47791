"""`mae-ast labels`: from manifests to label files, and what is refused."""

import json

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.corpus.synthetic import write_corpus
from mae_ast_fairseq.data.labels import read_labels, read_vocabulary
from mae_ast_fairseq.data.manifest import read_manifest

WORDS = ("no", "yes", "maybe, or not")


@pytest.fixture
def data(tmp_path, capsys):
    """Manifests of 30 files, ten of each word, whose name is their folder's and begins theirs."""
    for word in WORDS:
        (tmp_path / "audio" / word).mkdir(parents=True)
        for index in range(10):
            sf.write(tmp_path / "audio" / word / f"{word}_{index}.wav", np.zeros(1600), 16000)
    main(["manifest", str(tmp_path / "audio"), "--out", str(tmp_path / "data"), "--valid", "0.2", "--test", "0.2"])
    capsys.readouterr()
    return tmp_path / "data"


def _labelled(folder):
    """Return {split: {name: its labels}}, after checking that each line is that of a clip."""
    vocabulary = read_vocabulary(folder / "labels.txt")
    found = {}
    for path in sorted(folder.glob("*.lbl")):
        manifest = read_manifest(path.with_suffix(".tsv"))
        labels = read_labels(path, vocabulary, len(manifest), multi_label=True)
        found[path.stem] = {
            manifest.relative_path(row): [vocabulary.names[k] for k in np.flatnonzero(labels.targets([row])[0])]
            for row in range(len(manifest))
        }
    return found


def _write_table(folder, rows, header="path,label"):
    (folder / "t.csv").write_text("\n".join([header, *rows, ""]))
    return str(folder / "t.csv")


@pytest.mark.parametrize(
    "way", [["--label-folder", "1"], ["--label-folder", "-1"], ["--label-pattern", "^(?P<label>.+)_[0-9]"]]
)
def test_labels_come_beside_manifests_that_stay_as_they_are(data, way):
    before = {path.name: path.read_bytes() for path in data.glob("*.tsv")}
    assert main(["labels", str(data), *way]) == 0
    after = {path.name: path.read_bytes() for path in data.glob("*.tsv")}
    assert after == {**before, "unmatched.tsv": b""}
    labelled = _labelled(data)
    assert sorted(labelled) == ["test", "train", "valid"]
    assert all(labels == [name.split("/")[0]] for rows in labelled.values() for name, labels in rows.items())
    assert (data / "labels.txt").read_text() == "maybe, or not\nno\nyes\n"


def test_a_table_labels_some_clips_and_the_others_are_left_out(data, tmp_path, capsys):
    table = _write_table(tmp_path, ["no/no_1.wav,a", "yes/yes_2.wav,b", "yes/yes_3.wav,", "gone.wav,a"])
    assert main(["labels", str(data), "--out", str(tmp_path / "out"), "--table", table, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    labelled = _labelled(tmp_path / "out")
    assert {name: labels for rows in labelled.values() for name, labels in rows.items()} == {
        "no/no_1.wav": ["a"],
        "yes/yes_2.wav": ["b"],
    }
    assert summary["clips"] == {split: len(rows) for split, rows in labelled.items()}
    assert summary["joined_by"] == "path"
    assert {kind: found["number"] for kind, found in summary["unmatched"].items()} == {"no label": 28, "no clip": 1}
    lines = (tmp_path / "out" / "unmatched.tsv").read_text().splitlines()
    assert len(lines) == 29
    assert lines[-1] == f"gone.wav\tno clip: {table}:5"
    assert lines[0].endswith(f"no label: {data / 'train.tsv'}:2")


def test_splits_without_a_label_are_said_to_be_left_out(data, tmp_path, capsys):
    (train, *_) = _paths(data / "train.tsv")
    table = _write_table(tmp_path, [f'"{train}",a'])
    assert main(["labels", str(data), "--out", str(tmp_path / "out"), "--table", table]) == 0
    assert "warning: no clip of valid, test has a label: not written" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.lbl")) == ["train.lbl"]


def test_beside_the_manifests_each_clip_has_a_label(data, tmp_path, refusal):
    before = (data / "train.tsv").read_bytes()
    table = _write_table(tmp_path, ["no/no_1.wav,a"])
    message = refusal("labels", data, "--table", table)
    assert "29 of 30 clips have no label, such as" in message
    assert len((data / "unmatched.tsv").read_text().splitlines()) == 29
    assert (data / "train.tsv").read_bytes() == before
    assert not (data / "train.lbl").exists()


def test_a_table_divides_anew_and_a_split_that_it_lacks_goes(data, tmp_path):
    names = [name for split in ("train", "valid", "test") for name in _paths(data / f"{split}.tsv")]
    rows = [f"{name.rsplit('/')[-1]};{name[0]};{'dev' if name[-5] in '012' else 'training'}" for name in names]
    table = _write_table(tmp_path, rows, "file;class;part")
    columns = ["--path-column", "file", "--label-column", "class", "--split-column", "part"]
    assert main(["labels", str(data), "--table", table, *columns]) == 0
    labelled = _labelled(data)
    assert {split: len(rows) for split, rows in labelled.items()} == {"train": 21, "valid": 9}
    assert {name[-5] for name in labelled["valid"]} == set("012")
    assert not (data / "test.tsv").exists()


def test_a_clip_that_is_listed_twice_has_its_label_twice(data, tmp_path):
    line = (data / "train.tsv").read_text().splitlines()[1]
    with (data / "valid.tsv").open("a") as stream:
        stream.write(f"{line}\n")
    rows = [f"{word}/{word}_{index}.wav,x" for word in WORDS[:2] for index in range(10)]
    rows += [f'"{WORDS[2]}/{WORDS[2]}_{index}.wav",y' for index in range(10)]
    assert main(["labels", str(data), "--table", _write_table(tmp_path, rows)]) == 0
    labelled = _labelled(data)
    name = line.partition("\t")[0]
    assert labelled["valid"][name] == labelled["train"][name]


def test_several_labels_and_clips_that_have_none(data, tmp_path):
    table = _write_table(tmp_path, ["no_1,a;b", "no_2,", "no_3, b"])
    argv = ["labels", str(data), "--out", str(tmp_path / "out"), "--table", table, "--separator", ";"]
    assert main(argv) == 0
    found = {name[3:7]: labels for rows in _labelled(tmp_path / "out").values() for name, labels in rows.items()}
    assert found == {"no_1": ["a", "b"], "no_2": [], "no_3": ["b"]}


def test_labels_of_clips_in_an_archive_go_by_their_names_there(data, tmp_path):
    archive = tmp_path / "packed" / "a.zip"
    archive.parent.mkdir()
    main(
        [
            "manifest",
            str(tmp_path / "audio"),
            "--out",
            str(tmp_path / "packed"),
            "--valid",
            "0.2",
            "--zip",
            str(archive),
        ]
    )
    assert main(["labels", str(tmp_path / "packed"), "--label-folder", "1"]) == 0
    main(["manifest", str(tmp_path / "audio"), "--out", str(tmp_path / "plain"), "--valid", "0.2"])
    main(["labels", str(tmp_path / "plain"), "--label-folder", "1"])
    for name in ("train.lbl", "valid.lbl"):
        assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.parametrize("target", ["b.zip", "blob"])
def test_an_archive_under_a_link_has_its_labels(data, tmp_path, target):
    argv = ["--valid", "0.2", "--out"]
    main(
        ["manifest", str(tmp_path / "audio"), *argv, str(tmp_path / "plain"), "--zip", str(tmp_path / target) + ".zip"]
    )
    (tmp_path / f"{target}.zip").rename(tmp_path / target)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.zip").symlink_to(tmp_path / target)
    assert main(["manifest", str(tmp_path / "links" / "a.zip"), *argv, str(tmp_path / "linked")]) == 0
    assert main(["labels", str(tmp_path / "linked"), "--label-folder", "1"]) == 0
    assert (tmp_path / "linked" / "train.tsv").read_text().startswith(f"{tmp_path / 'links'}\na.zip:")
    assert {label for rows in _labelled(tmp_path / "linked").values() for (label,) in rows.values()} == set(WORDS)


@pytest.mark.parametrize("root", ["../audio", "./../audio/", "ABSOLUTE"])
def test_the_root_stays_as_it_is_written(data, tmp_path, root):
    root = root.replace("ABSOLUTE", f"{tmp_path}/./audio")
    for path in data.glob("t*.tsv"):
        path.write_text("\n".join([root, *path.read_text().splitlines()[1:], ""]))
    (data / "valid.tsv").unlink()
    assert main(["labels", str(data), "--label-folder", "1", "--out", str(tmp_path / "deep" / "out")]) == 0
    assert main(["labels", str(data), "--label-folder", "1"]) == 0
    assert (data / "train.tsv").read_text().splitlines()[0] == root
    for folder in (data, tmp_path / "deep" / "out"):
        manifest = read_manifest(folder / "test.tsv")
        assert sf.info(manifest.path(0)).frames == 1600
    assert _labelled(data) == _labelled(tmp_path / "deep" / "out")


def test_what_is_labelled_is_probed(tmp_path, capsys):
    write_corpus(tmp_path / "audio", num_clips=60, seconds=(0.3, 0.6))
    argv = ["manifest", str(tmp_path / "audio"), "--out", str(tmp_path / "data"), "--valid", "0.1", "--test", "0.2"]
    assert main([*argv, "--label-pattern", "(?P<label>[a-z_]+)_[0-9]+"]) == 0
    capsys.readouterr()
    argv = ["probe", "tiny", "--data", str(tmp_path / "data"), "--classifier", "ridge", "--no-baselines", "--json"]
    assert main(argv) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["num_clips"], summary["num_classes"]) == (60, 4)
    assert summary["results"][0]["runs"][0]["num_test"] == 12
    assert summary["results"][0]["accuracy"]["mean"] > 0.5


def test_a_class_that_a_split_lacks_is_warned_of(data, tmp_path, capsys):
    rows = [f"{word}/{word}_{index}.wav,{index}" for word in WORDS[:2] for index in range(10)]
    main(["labels", str(data), "--out", str(tmp_path / "out"), "--table", _write_table(tmp_path, rows)])
    err = capsys.readouterr().err
    assert err.startswith("mae-ast labels: warning: ")
    assert err.count("\n") == 1
    assert "'0' (2 clips, none in" in err


def _paths(path):
    manifest = read_manifest(path)
    return [manifest.relative_path(row) for row in range(len(manifest))]


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (["--label-folder", "0"], "--label-folder: 0 was given"),
        (["--label-folder", "3"], "none of 30 files lies so deep"),
        (["--label-pattern", "(?P<label>cow)"], "none of 30 files matches"),
        (["--label-pattern", "(cow)"], "expected a regular expression with a group named label"),
        (["--label-pattern", "(?P<label>"], "expected a regular expression with a group named label"),
        (["--table", "none.csv"], "none.csv: cannot be read (No such file or directory)"),
        (["--table", "T", "--label-column", "class"], "t.csv:1: no column 'class' among 'path', 'label'"),
        (["--table", "T", "--split-column", "part"], "t.csv:1: no column 'part' among"),
        (["--table", "T", "--join", "stem"], "t.csv:2: this row's 'no_x' is none of the 30 files"),
        (["--table", "T", "--separator", ""], "--separator '': expected a text that is not empty"),
        (
            ["--label-folder", "1", "--split-column", "a"],
            "--split-column 'a': expected a text that is not empty, together",
        ),
        (["--table", "EMPTY"], "no row that is a file's has a label in 'label'"),
        (["--label-folder", "1", "--table", "T"], "not allowed with argument"),
        ([], "one of the arguments --label-folder --label-pattern --table is required"),
    ],
)
def test_what_gives_no_labels_is_refused(data, tmp_path, refusal, way, message):
    table = _write_table(tmp_path, ["no_x,a"])
    (tmp_path / "empty.csv").write_text("path,label\nno_1.wav,\n")
    files = {"T": table, "EMPTY": str(tmp_path / "empty.csv")}
    assert message in refusal("labels", data, *(files.get(word, word) for word in way))
    assert not list(data.glob("*.lbl"))


def test_a_folder_without_manifests_is_named(tmp_path, refusal):
    assert f"{tmp_path / 'train.tsv'}: there is no such file" in refusal("labels", tmp_path, "--label-folder", "1")


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, refusal):
    # As one that may not be read, but for root too.
    message = refusal("labels", tmp_path / ("x" * 300), "--label-folder", "1")
    assert "train.tsv: File name too long; expected a manifest that can be read" in message


def test_manifests_of_several_roots_are_refused(data, tmp_path, refusal):
    lines = (data / "valid.tsv").read_text().splitlines()
    (data / "valid.tsv").write_text("\n".join([str(tmp_path), *lines[1:], ""]))
    assert "valid.tsv:1: the root is" in refusal("labels", data, "--label-folder", "1")


def test_a_manifest_of_another_split_is_not_left_beside_new_ones(data, tmp_path, refusal):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "test.tsv").write_bytes((data / "test.tsv").read_bytes())
    (data / "test.tsv").unlink()
    message = refusal("labels", data, "--out", tmp_path / "out", "--label-folder", "1")
    assert "test.tsv: there from an earlier run" in message
