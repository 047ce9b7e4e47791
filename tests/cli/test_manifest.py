"""`mae-ast manifest` from folder to files, and its errors."""

import json
import re
import zipfile

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.corpus.script import SPLITS
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.manifest import read_manifest
from tests.corpus.test_scan import write_noise


@pytest.fixture
def corpus(tmp_path):
    """Twenty files of a second at 16 kHz, one at 8 kHz, one too short, one broken."""
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    for index in range(20):
        sf.write(folder / "sub" / f"{index:02}.wav", np.zeros(16000), 16000)
    sf.write(folder / "slow.wav", np.zeros(16000), 8000)
    sf.write(folder / "short.wav", np.zeros(160), 16000)
    (folder / "broken.wav").write_text("hello" * 100)
    return folder


def _paths(path):
    manifest = read_manifest(path)
    return [manifest.relative_path(row) for row in range(len(manifest))]


def test_every_file_is_on_one_side(corpus, tmp_path):
    assert main(["manifest", str(corpus), "--out", str(tmp_path / "out"), "--valid", "0.3"]) == 0
    train, valid = _paths(tmp_path / "out" / "train.tsv"), _paths(tmp_path / "out" / "valid.tsv")
    assert sorted(train + valid) == ["slow.wav", *(f"sub/{index:02}.wav" for index in range(20))]
    assert valid


def test_a_corpus_s_own_table_is_not_written_over(corpus, tmp_path, capsys):
    table = corpus / "train.tsv"
    table.write_text("path\tgender\n" + "".join(f"sub/{index:02}.wav\t{'mf'[index % 2]}\n" for index in range(20)))
    before = table.read_bytes()
    for options in ([], ["--table", str(table), "--label-column", "gender"]):
        assert main(["manifest", str(corpus), "--out", str(corpus), "--valid", "0.3", *options]) == 2
        assert re.search(r"train\.tsv.*would be written over; expected .*another --out", capsys.readouterr().err)
    assert table.read_bytes() == before
    assert not (corpus / "valid.tsv").exists()


def test_a_file_keeps_its_side_when_others_come(corpus, tmp_path):
    argv = ["manifest", str(corpus), "--valid", "0.3", "--out"]
    main([*argv, str(tmp_path / "before")])
    for index in range(20, 30):
        sf.write(corpus / f"{index}.wav", np.zeros(16000), 16000)
    main([*argv, str(tmp_path / "after")])
    for split in ("train", "valid"):
        before, after = (set(_paths(tmp_path / run / f"{split}.tsv")) for run in ("before", "after"))
        assert before < after


def test_the_manifest_holds_what_the_files_hold(corpus, tmp_path):
    main(["manifest", str(corpus), "--out", str(tmp_path), "--valid", "0"])
    lines = (tmp_path / "train.tsv").read_text().splitlines()
    assert lines[:3] == [str(corpus.resolve()), "slow.wav\t16000\t8000", "sub/00.wav\t16000"]
    assert not (tmp_path / "valid.tsv").exists()


def test_rejected_files_have_their_reason(corpus, tmp_path):
    main(["manifest", str(corpus), "--out", str(tmp_path), "--valid", "0"])
    lines = (tmp_path / "rejected.tsv").read_text().splitlines()
    assert [re.split("[\t:]", line)[:2] for line in lines] == [["broken.wav", "unreadable"], ["short.wav", "too short"]]


def test_nothing_rejected_is_an_empty_file(corpus, tmp_path):
    main(["manifest", str(corpus / "sub"), "--out", str(tmp_path), "--valid", "0"])
    assert (tmp_path / "rejected.tsv").read_bytes() == b""


def test_a_list_chooses_the_validation_part(corpus, tmp_path):
    (tmp_path / "list.txt").write_text("sub/03.wav\r\nslow.wav\r\n")
    assert main(["manifest", str(corpus), "--out", str(tmp_path), "--valid", str(tmp_path / "list.txt")]) == 0
    assert _paths(tmp_path / "valid.tsv") == ["slow.wav", "sub/03.wav"]
    assert len(_paths(tmp_path / "train.tsv")) == 19


def test_the_summary_counts_files_and_hours(corpus, tmp_path, capsys):
    main(["manifest", str(corpus), "--out", str(tmp_path), "--valid", "0", "--json"])
    summary = json.loads(capsys.readouterr().out)
    assert summary["splits"] == {
        "train": {"files": 21, "hours": round(22 / 3600, 4), "sample_rates": {"8000": 1, "16000": 20}}
    }
    assert summary["rejected"] == {"unreadable": 1, "too short": 1}


def test_the_table_says_the_same(corpus, tmp_path, capsys):
    main(["manifest", str(corpus), "--out", str(tmp_path), "--valid", "0"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["train", "21", "0.01", "1", "at", "8000", "Hz,", "20", "at", "16000", "Hz"]
    assert lines[2] == ["rejected", "2", "1", "unreadable,", "1", "too", "short"]


@pytest.mark.parametrize("is_packed", [False, True])
def test_files_that_are_passed_over_are_counted_by_their_endings(corpus, tmp_path, capsys, is_packed):
    for name in ("a.txt", "b.TXT", "sub/c.docx", "sub/README", ".hidden.txt"):
        (corpus / name).touch()
    place = corpus
    if is_packed:
        place = corpus.with_name("corpus.zip")
        with zipfile.ZipFile(place, "w") as file:
            for path in sorted(corpus.rglob("*")):
                file.write(path, path.relative_to(corpus))
    argv = ["manifest", str(place), "--out", str(tmp_path), "--valid", "0"]
    main(argv)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[3][:5] == ["passed", "over", "4", "2", ".txt,"]
    assert {"1 .docx", "1 without an ending"} == set(" ".join(lines[3][5:]).split(", "))
    main([*argv, "--json"])
    assert json.loads(capsys.readouterr().out)["passed_over"] == {".txt": 2, ".docx": 1, "": 1}


def test_what_is_there_instead_of_audio_is_named(tmp_path, refusal):
    (tmp_path / "a.docx").touch()
    assert "no audio files below it, but 1 .docx; expected" in refusal("manifest", tmp_path, "--out", tmp_path / "out")


def test_a_missing_folder_is_named(tmp_path, refusal):
    message = refusal("manifest", tmp_path / "none", "--out", tmp_path)
    assert message.startswith(f"{tmp_path / 'none'}: nothing is there; expected a folder")


def test_a_folder_without_audio_is_named(tmp_path, refusal):
    assert f"{tmp_path}: no audio files below it" in refusal("manifest", tmp_path, "--out", tmp_path / "out")


def test_nothing_readable_is_an_error_that_tells_where_to_look(tmp_path, refusal):
    (tmp_path / "a.wav").write_text("hello" * 100)
    message = refusal("manifest", tmp_path, "--out", tmp_path / "out")
    assert "none of its 1 audio files can be trained on" in message
    assert (tmp_path / "out" / "rejected.tsv").read_text().startswith("a.wav\tunreadable")


@pytest.mark.parametrize("valid", ["1", "-0.1", "nan", "1.5"])
def test_a_fraction_outside_0_to_1_is_refused(corpus, tmp_path, capsys, valid):
    assert main(["manifest", str(corpus), "--out", str(tmp_path / "out"), f"--valid={valid}"]) == 2
    assert f"--valid {valid}: outside [0, 1)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_small_corpus_gets_a_clip_in_each_split(corpus, tmp_path):
    argv = ["manifest", str(corpus), "--out", str(tmp_path), "--valid", "0.000001", "--test", "0.000001"]
    assert main(argv) == 0
    assert [len((tmp_path / f"{split}.tsv").read_text().splitlines()) for split in SPLITS] == [1 + 19, 1 + 1, 1 + 1]


def test_an_empty_validation_part_says_what_to_do(tmp_path, refusal):
    write_noise(tmp_path / "audio" / "a.wav")
    message = refusal("manifest", tmp_path / "audio", "--out", tmp_path / "out", "--zip", tmp_path / "a.zip")
    assert "none of 1 files fell to valid.tsv" in message
    assert "--valid 0" in message
    assert not (tmp_path / "a.zip").exists()


def test_a_list_that_is_missing_is_named(corpus, tmp_path, refusal):
    assert "--valid none.txt: neither a number" in refusal("manifest", corpus, "--out", tmp_path, "--valid", "none.txt")


@pytest.mark.parametrize("bad", ["sub/99.wav", "", "/sub/01.wav"])
def test_an_unknown_name_in_a_list_is_named_with_its_line(corpus, tmp_path, refusal, bad):
    (tmp_path / "list.txt").write_text(f"sub/03.wav\n{bad}\n")
    message = refusal("manifest", corpus, "--out", tmp_path / "out", "--valid", tmp_path / "list.txt")
    assert f"{tmp_path / 'list.txt'}:2: no audio file {bad!r}" in message


SPEAKERS = ("ann", "bob", "cy", "dee", "eve", "flo")


@pytest.fixture
def speakers(tmp_path):
    """Ten files of each of six speakers, a folder each, of which half says yes and half no."""
    folder = tmp_path / "speakers"
    for speaker in SPEAKERS:
        (folder / speaker).mkdir(parents=True)
        for index in range(10):
            sf.write(folder / speaker / f"{'yes' if index % 2 else 'no'}_{index}.wav", np.zeros(1600), 16000)
    return folder


def _splits(folder):
    return {split: _paths(folder / f"{split}.tsv") for split in ("train", "valid", "test")}


def test_a_test_part_is_drawn_and_leaves_the_validation_part_as_it_was(speakers, tmp_path):
    main(["manifest", str(speakers), "--out", str(tmp_path / "two"), "--valid", "0.2"])
    assert main(["manifest", str(speakers), "--out", str(tmp_path / "three"), "--valid", "0.2", "--test", "0.3"]) == 0
    splits = _splits(tmp_path / "three")
    assert splits["valid"] == _paths(tmp_path / "two" / "valid.tsv")
    assert len(set().union(*splits.values())) == sum(map(len, splits.values())) == 60
    assert 8 < len(splits["test"]) < 28


def test_lists_choose_both_parts_and_fractions_are_of_the_others(speakers, tmp_path):
    (tmp_path / "list.txt").write_text("ann/no_0.wav\nbob/yes_1.wav\n")
    argv = ["manifest", str(speakers), "--out", str(tmp_path), "--valid", "0.5", "--test", str(tmp_path / "list.txt")]
    assert main(argv) == 0
    splits = _splits(tmp_path)
    assert splits["test"] == ["ann/no_0.wav", "bob/yes_1.wav"]
    assert not set(splits["test"]) & {*splits["train"], *splits["valid"]}


@pytest.mark.parametrize(
    "option", [["--group-folder", "1"], ["--group-folder", "-1"], ["--group-pattern", "^([a-z]+)/"]]
)
def test_all_files_of_a_group_go_to_one_split(speakers, tmp_path, option):
    assert main(["manifest", str(speakers), "--out", str(tmp_path), "--valid", "0.1", "--test", "0.1", *option]) == 0
    groups = {split: {name.split("/")[0] for name in names} for split, names in _splits(tmp_path).items()}
    assert {split: len(found) for split, found in groups.items()} == {"train": 4, "valid": 1, "test": 1}
    assert set().union(*groups.values()) == set(SPEAKERS)


def test_labels_are_written_and_alike_in_each_split(speakers, tmp_path, capsys):
    argv = ["manifest", str(speakers), "--out", str(tmp_path), "--valid", "0.1", "--test", "0.2", "--json"]
    assert main([*argv, "--label-pattern", "(?P<label>[a-z]+)_"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["labels"] == {split: {"no": n, "yes": n} for split, n in [("train", 21), ("valid", 3), ("test", 6)]}
    assert (tmp_path / "labels.txt").read_text() == "no\nyes\n"
    for split, names in _splits(tmp_path).items():
        expected = [name.split("/")[1].split("_")[0] for name in names]
        assert (tmp_path / f"{split}.lbl").read_text().splitlines() == expected


def test_a_table_says_labels_and_splits(speakers, tmp_path, capsys):
    rows = [f"{speaker}/no_0.wav,{speaker},{'train' if n < 4 else 'test'}\n" for n, speaker in enumerate(SPEAKERS)]
    (tmp_path / "t.csv").write_text("path,label,split\n" + "".join(rows) + "gone.wav,ann,test\n")
    assert main(["manifest", str(speakers), "--out", str(tmp_path / "out"), "--table", str(tmp_path / "t.csv")]) == 0
    printed, err = capsys.readouterr()
    assert _paths(tmp_path / "out" / "test.tsv") == ["eve/no_0.wav", "flo/no_0.wav"]
    assert (tmp_path / "out" / "train.lbl").read_text().split() == ["ann", "bob", "cy", "dee"]
    assert not (tmp_path / "out" / "valid.tsv").exists()
    lines = [line.split() for line in printed.splitlines()]
    assert ["no", "label", "54", "ann/no_2.wav,", "ann/no_4.wav,", "ann/no_6.wav,", "..."] in lines
    assert ["no", "clip", "1", "gone.wav"] in lines
    assert len((tmp_path / "out" / "unmatched.tsv").read_text().splitlines()) == 55
    assert "6 of 6 labels are not in every split: 'ann' (1 clip, none in test)" in err


def test_a_fraction_is_taken_of_what_a_table_has_in_train(speakers, tmp_path):
    rows = [
        f"{speaker}_{index},{speaker},{'test' if index > 7 else 'train'}" for speaker in SPEAKERS for index in range(10)
    ]
    for path in sorted(speakers.rglob("*.wav")):
        path.rename(path.with_name(f"{path.parent.name}_{path.stem[-1]}.wav"))
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]))
    argv = ["manifest", str(speakers), "--out", str(tmp_path), "--table", str(tmp_path / "t.csv"), "--valid", "0.25"]
    assert main(argv) == 0
    splits = _splits(tmp_path)
    assert {split: len(names) for split, names in splits.items()} == {"train": 36, "valid": 12, "test": 12}
    assert {name[-5] for name in splits["test"]} == set("89")
    assert (tmp_path / "valid.lbl").read_text().split() == [name for name in SPEAKERS for _ in range(2)]


def test_folders_say_splits(speakers, tmp_path, capsys, refusal):
    for speaker, split in zip(SPEAKERS, ["train", "train", "train", "val", "test", "test"], strict=True):
        (tmp_path / "divided" / split).mkdir(parents=True, exist_ok=True)
        (speakers / speaker).rename(tmp_path / "divided" / split / speaker)
    argv = ["manifest", str(tmp_path / "divided"), "--split-folder", "1", "--out"]
    assert main([*argv, str(tmp_path / "a"), "--group-folder", "2"]) == 0
    assert {split: len(names) for split, names in _splits(tmp_path / "a").items()} == {
        "train": 30,
        "valid": 10,
        "test": 20,
    }
    assert main([*argv, str(tmp_path / "b"), "--valid", "0.2", "--label-folder", "2"]) == 0
    assert {split: len(names) for split, names in _splits(tmp_path / "b").items()} == {
        "train": 24,
        "valid": 16,
        "test": 20,
    }
    assert (tmp_path / "b" / "test.lbl").read_text().split() == [*["eve"] * 10, *["flo"] * 10]
    (tmp_path / "t.csv").write_text("path,label,split\nno_0,a,train\ntrain/ann/no_0.wav,a,train\n")
    capsys.readouterr()
    assert "divides the files, too" in refusal(*argv, tmp_path / "c", "--table", tmp_path / "t.csv")


def test_a_name_that_no_manifest_can_hold_is_rejected_and_not_labelled(speakers, tmp_path):
    bad = bytes(speakers / "ann") + b"/b\xe9d_1.wav"
    with open(bad, "wb") as stream:  # noqa: PTH123
        stream.write((speakers / "ann" / "no_0.wav").read_bytes())
    argv = ["manifest", str(speakers), "--out", str(tmp_path), "--valid", "0", "--label-pattern", "(?P<label>.+)_"]
    assert main(argv) == 0
    assert (tmp_path / "labels.txt").read_text() == "no\nyes\n"
    assert "name: is not UTF-8" in (tmp_path / "rejected.tsv").read_text()


def test_labels_of_an_archive_go_by_the_names_in_it(speakers, tmp_path):
    argv = ["--valid", "0.2", "--label-folder", "1", "--zip", str(tmp_path / "a.zip")]
    assert main(["manifest", str(speakers), "--out", str(tmp_path / "one"), *argv]) == 0
    assert main(["manifest", str(tmp_path / "a.zip"), "--out", str(tmp_path / "two"), *argv[:4]]) == 0
    for name in ("train.tsv", "train.lbl", "valid.tsv", "valid.lbl", "labels.txt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one" / "valid.lbl").read_text().split() == [name for name in SPEAKERS for _ in range(2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--valid", "0.6", "--test", "0.4"], "--valid 0.6 --test 0.4: nothing would be left for train.tsv"),
        (["--test", "2"], "--test 2: outside [0, 1)"),
        (["--test", "none.txt"], "--test none.txt: neither a number nor a list"),
        (["--valid", "LIST", "--test", "LIST"], "list.txt:1: 'ann/no_0.wav' was given to another split too"),
        (["--valid", "LIST", "--group-folder", "1"], "group 'ann': 'ann/no_0.wav' was given to valid"),
        (["--group-folder", "2"], "--group-folder 2: finds nothing in 'ann/no_0.wav'"),
        (["--group-pattern", "(bob)"], "--group-pattern (bob): finds nothing in 'ann/no_0.wav'"),
        (["--group-pattern", "bob"], "--group-pattern: 'bob' was given; expected a regular expression with one pair"),
        (["--group-folder", "0"], "--group-folder: 0 was given; expected 1 for the first"),
        (["--group-folder", "1", "--valid", "0.4", "--test", "0.4", "--label-folder", "1"], "groups are not cut"),
        (["--label-pattern", "(yes)"], "--label-pattern: '(yes)' was given; expected"),
        (["--split-folder", "1"], "--split-folder 1: 'ann/no_0.wav' is in no folder of a split there"),
        (["--valid", "EMPTY"], "empty.txt: an empty list"),
        (["--label-folder", "5"], "--label-folder 5: none of 60 files lies so deep"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(speakers, tmp_path, refusal, options, message):
    (tmp_path / "list.txt").write_text("ann/no_0.wav\n")
    (tmp_path / "empty.txt").touch()
    files = {"LIST": str(tmp_path / "list.txt"), "EMPTY": str(tmp_path / "empty.txt")}
    options = [files.get(option, option) for option in options]
    assert message in refusal("manifest", speakers, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out" / "train.tsv").exists()


def test_labels_that_are_there_are_not_left_beside_other_clips(speakers, tmp_path, capsys, refusal):
    argv = ["manifest", str(speakers), "--out", str(tmp_path), "--valid", "0.1"]
    assert main([*argv, "--label-folder", "1"]) == 0
    capsys.readouterr()
    assert "train.lbl: holds labels of the clips" in refusal(*argv, "--seed", "5")


def test_manifests_that_stay_as_they_are_keep_their_labels(speakers, tmp_path):
    argv = ["manifest", str(speakers), "--out", str(tmp_path), "--valid", "0.1"]
    assert main(argv) == 0
    (tmp_path / "train.lbl").write_text("own\n")
    assert main(argv) == 0
    assert (tmp_path / "train.lbl").read_text() == "own\n"


def test_a_manifest_that_is_not_written_anew_is_not_left_beside_others(corpus, tmp_path, capsys, refusal):
    main(["manifest", str(corpus), "--out", str(tmp_path), "--valid", "0.3", "--zip", str(tmp_path / "a.zip")])
    capsys.readouterr()
    assert "valid.tsv: there from an earlier run" in refusal("manifest", corpus, "--out", tmp_path, "--valid", "0")
    (tmp_path / "valid.tsv").unlink()
    (tmp_path / "table.csv").write_text(
        "path,split\n" + "".join(f"{name.name},test\n" for name in corpus.glob("*.wav"))
    )
    table = "--table", tmp_path / "table.csv", "--label-column", "split"
    assert "train.tsv: there from an earlier run" in refusal("manifest", corpus, "--out", tmp_path, *table)


def test_a_stale_validation_manifest_is_not_left_beside_a_new_training_one(corpus, tmp_path, capsys, refusal):
    main(["manifest", str(corpus), "--out", str(tmp_path), "--valid", "0.3"])
    capsys.readouterr()
    assert "valid.tsv: there from an earlier run" in refusal("manifest", corpus, "--out", tmp_path, "--valid", "0")


@pytest.mark.parametrize("option", ["--workers=0", "--seed=-1", "--min-seconds=-1", "--min-seconds=nan"])
def test_numbers_out_of_range_are_refused(corpus, tmp_path, capsys, option):
    with pytest.raises(SystemExit, match="2"):
        main(["manifest", str(corpus), "--out", str(tmp_path / "out"), option])
    assert f"{option.partition('=')[0]}: " in capsys.readouterr().err


def test_an_out_that_is_a_file_is_named(corpus, tmp_path, refusal):
    (tmp_path / "out").touch()
    assert f"--out {tmp_path / 'out'}: cannot be made" in refusal("manifest", corpus, "--out", tmp_path / "out")


def _zip(corpus, compression=zipfile.ZIP_STORED):
    """An archive of all the corpus' files, as `zip` makes it."""
    archive = corpus.with_name("corpus.zip")
    with zipfile.ZipFile(archive, "w", compression) as file:
        for path in sorted(corpus.rglob("*.wav")):
            file.write(path, path.relative_to(corpus))
    return archive


def _clips(path):
    """Every clip of a manifest, loaded."""
    manifest = read_manifest(path)
    return [
        load_audio(manifest.path(row), expect_samples=int(samples), expect_rate=int(rate))
        for row, (samples, rate) in enumerate(zip(manifest.num_samples, manifest.sample_rates, strict=True))
    ]


def _make_distinct(corpus):
    for value, path in enumerate(sorted((corpus / "sub").iterdir())):
        sf.write(path, np.full(16000, value / 100), 16000)


def test_packed_files_are_on_their_own_side_and_sound_as_before(corpus, tmp_path):
    _make_distinct(corpus)
    argv = ["manifest", str(corpus), "--valid", "0.3", "--out"]
    assert main([*argv, str(tmp_path / "files")]) == 0
    assert main([*argv, str(tmp_path / "zip"), "--zip", str(tmp_path / "a.zip")]) == 0
    for split in ("train", "valid"):
        paths = [path.split(":")[0] for path in _paths(tmp_path / "zip" / f"{split}.tsv")]
        assert set(paths) == {"a.zip"}
        expected = _clips(tmp_path / "files" / f"{split}.tsv")
        for clip, own in zip(_clips(tmp_path / "zip" / f"{split}.tsv"), expected, strict=True):
            np.testing.assert_array_equal(clip, own)


def test_only_accepted_files_are_packed(corpus, tmp_path):
    main(["manifest", str(corpus), "--out", str(tmp_path), "--valid", "0", "--zip", str(tmp_path / "a.zip")])
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        assert file.namelist() == ["slow.wav", *(f"sub/{index:02}.wav" for index in range(20))]


def test_an_archive_gives_the_manifests_that_its_packing_gave(corpus, tmp_path):
    argv = ["--valid", "0.3", "--out"]
    main(["manifest", str(corpus), "--zip", str(tmp_path / "a.zip"), *argv, str(tmp_path / "packed")])
    assert main(["manifest", str(tmp_path / "a.zip"), *argv, str(tmp_path / "read")]) == 0
    for split in ("train.tsv", "valid.tsv"):
        assert (tmp_path / "read" / split).read_bytes() == (tmp_path / "packed" / split).read_bytes()


def test_a_list_names_the_files_in_an_archive(corpus, tmp_path):
    _make_distinct(corpus)
    (tmp_path / "list.txt").write_text("sub/03.wav\n")
    argv = ["manifest", str(_zip(corpus)), "--out", str(tmp_path), "--valid", str(tmp_path / "list.txt")]
    assert main(argv) == 0
    (clip,) = _clips(tmp_path / "valid.tsv")
    np.testing.assert_array_equal(clip, load_audio(corpus / "sub" / "03.wav"))


def test_what_an_archive_rejects_has_its_own_name(corpus, tmp_path):
    archive = _zip(corpus)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.write(corpus / "slow.wav", "packed.wav")
    main(["manifest", str(archive), "--out", str(tmp_path), "--valid", "0"])
    lines = (tmp_path / "rejected.tsv").read_text().splitlines()
    assert [re.split("[\t:]", line)[:2] for line in lines] == [
        ["broken.wav", "unreadable"],
        ["packed.wav", "compressed"],
        ["short.wav", "too short"],
    ]


def test_a_truncated_wav_in_an_archive_is_rejected(corpus, tmp_path):
    path = corpus / "sub" / "00.wav"
    path.write_bytes(path.read_bytes()[:20000])
    main(["manifest", str(_zip(corpus)), "--out", str(tmp_path), "--valid", "0"])
    assert "sub/00.wav\ttruncated: 12044 bytes less" in (tmp_path / "rejected.tsv").read_text()


def test_an_archive_that_is_all_compressed_says_how_to_repack(corpus, tmp_path, refusal):
    message = refusal("manifest", _zip(corpus, zipfile.ZIP_DEFLATED), "--out", tmp_path)
    assert "none of its 23 audio files can be trained on, the first for being compressed: deflate" in message
    assert "`zip -0" in message


def test_what_is_no_archive_is_named(tmp_path, refusal):
    (tmp_path / "a.zip").write_text("hello")
    assert f"{tmp_path / 'a.zip'}: cannot be read as a zip" in refusal(
        "manifest", tmp_path / "a.zip", "--out", tmp_path / "out"
    )


def test_an_archive_without_audio_is_named(tmp_path, refusal):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("notes.txt", "hello")
    assert "no audio files below it" in refusal("manifest", tmp_path / "a.zip", "--out", tmp_path / "out")


def test_an_archive_that_is_there_is_kept(corpus, tmp_path, refusal):
    archive = _zip(corpus)
    before = archive.read_bytes()
    assert "there already" in refusal("manifest", corpus, "--out", tmp_path / "out", "--zip", archive)
    assert archive.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "found"),
    [("a.tar", "ends in .zip"), ("a\tb.zip", "manifests can hold"), ("none/a.zip", "expected a folder to write in")],
)
def test_a_zip_that_could_not_be_used_is_refused_before_probing(corpus, tmp_path, refusal, name, found):
    assert found in refusal("manifest", corpus, "--out", tmp_path / "out", "--zip", tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_an_archive_is_not_packed_again(corpus, tmp_path, refusal):
    message = refusal("manifest", _zip(corpus), "--out", tmp_path / "out", "--zip", tmp_path / "b.zip")
    assert "leave --zip out for an archive" in message
