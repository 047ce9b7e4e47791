"""How the scripts of `manifests/` divide files, and what they write."""

import pytest

from mae_ast_fairseq.corpus import script
from mae_ast_fairseq.corpus.script import (
    Corpus,
    compare_with_published,
    describe_folder,
    read_lines,
    split_side,
    write_splits,
)
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.errors import AudioError, ConfigError
from tests.corpus.test_scan import write_noise


def test_a_manifest_of_an_earlier_run_is_refused_before_files_are_probed(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "scan", lambda *args, **kwargs: pytest.fail("probed"))
    write_noise(tmp_path / "a.wav")
    (tmp_path / "valid.tsv").touch()
    with pytest.raises(ConfigError, match=r"valid\.tsv: there from an earlier run"):
        write_splits(tmp_path, tmp_path, Corpus(lambda path: ("train", "")))


def test_sides_have_their_golden_values():
    names = [f"folder/{i}.flac" for i in range(40)]
    assert [i for i, name in enumerate(names) if split_side(name, 0.2, 1337) == "valid"] == [
        10,
        15,
        21,
        23,
        24,
        27,
        37,
        38,
    ]


def test_sides_have_the_fraction_asked_for():
    sides = [split_side(f"{i}.wav", 0.05, 1337) for i in range(20_000)]
    assert abs(sides.count("valid") - 1000) < 4 * (20_000 * 0.05 * 0.95) ** 0.5


def test_sides_depend_on_the_seed():
    valid = [{i for i in range(1000) if split_side(f"{i}.wav", 0.5, seed) == "valid"} for seed in (1, 2)]
    assert 150 < len(valid[0] & valid[1]) < 350


def test_a_larger_fraction_holds_the_smaller():
    names = [f"{i}.wav" for i in range(1000)]
    small, large = ({n for n in names if split_side(n, fraction, 5) == "valid"} for fraction in (0.1, 0.3))
    assert small < large


def test_no_file_is_valid_at_fraction_0():
    assert {split_side(f"{i}.wav", 0.0, 1337) for i in range(1000)} == {"train"}


def test_splits_are_written_with_labels_in_line(tmp_path):
    for name in ("dog_0.wav", "cat_0.wav", "dog_1.wav", "noise.wav"):
        write_noise(tmp_path / "corpus" / name)
    out = tmp_path / "out"

    def place(name):
        label, _, take = name.removesuffix(".wav").partition("_")
        return ("train" if take == "0" else "valid", label) if take else None

    assert write_splits(tmp_path / "corpus", out, Corpus(place)) == ({"train": 2, "valid": 1},) * 2
    manifest = read_manifest(out / "train.tsv")
    assert [manifest.relative_path(row) for row in range(2)] == ["cat_0.wav", "dog_0.wav"]
    assert (out / "train.lbl").read_text() == "cat\ndog\n"
    assert (out / "valid.lbl").read_text() == "dog\n"
    assert (out / "labels.txt").read_text() == "cat\ndog\n"


def test_parts_are_counted_before_a_fraction_of_them_is_valid(tmp_path):
    for index in range(20):
        write_noise(tmp_path / "corpus" / f"part{index % 2}" / f"{index}.wav")
    corpus = Corpus(lambda path: ("train", ""), part=lambda path: path.split("/")[0])
    splits, parts = write_splits(tmp_path / "corpus", tmp_path / "out", corpus, valid_fraction=0.5)
    assert splits["train"] + splits["valid"] == 20
    assert splits["valid"] > 2
    assert parts == {"part0": 10, "part1": 10}


def test_a_corpus_that_is_another_is_an_error_that_shows_a_file(tmp_path):
    write_noise(tmp_path / "a.wav")
    with pytest.raises(AudioError, match=r"none of 1 audio files, such as 'a.wav', is the corpus's; expected x/1.wav"):
        write_splits(tmp_path, tmp_path / "out", Corpus(lambda name: None, layout="x/1.wav"))
    assert not (tmp_path / "out").exists()


def test_a_corpus_that_is_all_broken_is_an_error(tmp_path):
    (tmp_path / "a.wav").touch()
    with pytest.raises(AudioError, match=r"none of its 1 files can be used, the first for being empty"):
        write_splits(tmp_path, tmp_path / "out", Corpus(lambda name: ("train", "")))


def test_a_label_that_is_none_of_the_classes_is_an_error(tmp_path):
    write_noise(tmp_path / "a.wav")
    with pytest.raises(ConfigError, match="'y' is none of the corpus's 1 classes"):
        write_splits(tmp_path, tmp_path / "out", Corpus(lambda name: ("train", "x,y"), ["x"]))


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"train": 2700, "test": 300}, ""),
        ({"train": 2699, "test": 300}, "a part of what was published: train 2,699 of 2,700 files"),
        ({"train": 2700}, "a part of what was published: test 0 of 300 files"),
        ({"train": 2699, "test": 301}, "more than what was published: train 2,699 of 2,700, test 301 of 300 files"),
    ],
)
def test_what_is_there_is_compared_with_what_was_published(found, text):
    assert compare_with_published({"train": 2700, "test": 300}, found) == text


def test_lines_are_read_without_their_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffa\r\nb\u2028c \n\nd\r\n".encode())
    assert read_lines(tmp_path / "a.txt") == ["a", "b\u2028c ", "", "d"]
    (tmp_path / "b.txt").touch()
    assert read_lines(tmp_path / "b.txt") == []


@pytest.mark.parametrize("data", [None, b"\xff\n"])
def test_a_list_that_cannot_be_read_is_named(tmp_path, data):
    if data is not None:
        (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ConfigError, match=r"a.txt: .*; expected a list as UTF-8 text"):
        read_lines(tmp_path / "a.txt")


def test_a_folder_is_described_by_its_first_names(tmp_path):
    assert describe_folder(tmp_path) == f"but nothing in {tmp_path}"
    for index in range(7):
        (tmp_path / f"{index}.wav").touch()
    assert describe_folder(tmp_path, 2) == f"but '0.wav', '1.wav', 5 others in {tmp_path}"
    assert describe_folder(tmp_path / "none") == f"and {tmp_path / 'none'} is no folder"
