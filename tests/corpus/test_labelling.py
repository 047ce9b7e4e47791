"""Labels from folders, file names and tables: which clip gets which, and what is refused."""

import csv
import io
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_fairseq.corpus.labelling import (
    JOINS,
    in_folder,
    labels_in_folders,
    labels_in_names,
    labels_in_table,
    read_columns,
    read_table,
    splits_in_folders,
)
from mae_ast_fairseq.errors import ConfigError, ManifestError, UserError

NAMES = ["a/dog_1.wav", "a/cat_2.flac", "b/c/cat_3.wav"]


@pytest.mark.parametrize(("level", "folder"), [(1, "x"), (2, "y"), (3, None), (-1, "y"), (-2, "x"), (-3, None)])
def test_levels_count_from_either_end(level, folder):
    assert in_folder("x/y/a.wav", level) == folder


def test_a_folder_labels_the_clips_in_it():
    assert labels_in_folders(NAMES, 1).labels == {name: (name[0],) for name in NAMES}
    assert labels_in_folders(NAMES, 2).labels == {"b/c/cat_3.wav": ("c",)}
    with pytest.raises(ConfigError, match=r"--label-folder 3: none of 3 files lies so deep, such as 'a/dog_1.wav'"):
        labels_in_folders(NAMES, 3)


def test_a_folder_divides_the_clips_in_it():
    names = ["x/Train/1.wav", "x/dev/1.wav", "y/eval/z/1.wav"]
    assert list(splits_in_folders(names, 2).values()) == ["train", "valid", "test"]
    with pytest.raises(ConfigError, match=r"--split-folder 1: 'x/Train/1.wav' is in no folder of a split there"):
        splits_in_folders(names, 1)
    with pytest.raises(ConfigError, match=r"'1.wav' is in no folder of a split"):
        splits_in_folders(["1.wav"], 1)


def test_a_pattern_looks_at_names_and_with_a_slash_at_paths():
    assert labels_in_names(NAMES, re.compile("^(?P<label>[a-z]+)_")).labels == dict(
        zip(NAMES, [("dog",), ("cat",), ("cat",)], strict=True)
    )
    assert labels_in_names(NAMES, re.compile("^(?P<label>[a-z]+)/c")).labels == {
        "a/cat_2.flac": ("a",),
        "b/c/cat_3.wav": ("b",),
    }


def test_a_pattern_that_finds_nothing_shows_a_name():
    with pytest.raises(ConfigError, match=r"none of 3 files matches, such as 'a/dog_1.wav'"):
        labels_in_names(NAMES, re.compile("(?P<label>cow)"))


def test_a_folder_that_can_be_no_label_is_named():
    with pytest.raises(ManifestError, match=r"--label-folder 1: ' x/1.wav'.*the name ' x'"):
        labels_in_folders([" x/1.wav"], 1)


@pytest.fixture
def read(tmp_path):
    """Read a table of some text: columns path and label."""

    def read_text(text, separator=None, split_column=None):
        path = tmp_path / "t.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(path, "path", "label", split_column, separator)

    return read_text


@pytest.mark.parametrize("mark", [",", "\t", ";", "|"])
def test_what_is_between_columns_follows_from_the_header(read, mark):
    text = f'\ufeff"label"{mark} path {mark}other\r\n"a,; b"{mark}x.wav{mark}1\r\n\r\n'.encode()
    (row,) = read(text).rows
    assert (row.line, row.clip, row.labels, row.split) == (2, "x.wav", ("a,; b",), None)


def test_several_labels_and_none(read):
    table = read("path,label\na,x; y;;x\nb,\n", separator=";")
    assert [row.labels for row in table.rows] == [("x", "y"), ()]
    assert [row.labels for row in read("path,label\na,x;y\nb, \n").rows] == [("x;y",), None]


def test_splits_go_by_the_names_that_tables_use(read):
    names = ["train", "Validation", "dev", "val", "eval", "test"]
    table = read("path,label,split\n" + "".join(f"{name},x,{name}\n" for name in names))
    assert [row.split for row in table.rows] == ["train", "valid", "valid", "valid", "test", "test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na,x\n", "t.csv:1: no column 'path' among 'file', 'label'"),
        ("path,label,path\na,x,b\n", "t.csv:1: the column 'path' is there 2 times"),
        ("path,label\n", "t.csv:2: nothing follows the header"),
        ("", "t.csv:1: no column 'path' among none"),
        ("path,label\na,x\nb,y,z\n", "t.csv:3: 3 columns; expected 2"),
        ("path,label\n,x\n", "t.csv:2: '' as 'path'; expected a path"),
        ("path,label\n/\0,x\n", "as 'path'; expected a path"),
        ("path,label,split\na,x,fold1\n", "t.csv:2: the split 'fold1'; expected one of train"),
        ('path,label\na,"x\n', "t.csv:2: unexpected end of data"),
        ("path,label\na,\x07\n", "t.csv:2: the name"),
        ("path,label\na,x\n".encode("utf-16"), "cannot be read"),
    ],
)
def test_a_bad_table_is_refused_with_its_line(read, text, message):
    with pytest.raises(ManifestError) as refused:
        read(text)
    assert message in str(refused.value)


def test_columns_are_found_by_their_names(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\tc\n1\t2\t3\n")
    assert list(read_columns(tmp_path / "t.tsv", ["c", "a"], optional=["b", "d"])) == [(2, ["3", "1", "2"])]
    with pytest.raises(ManifestError, match=r"t.tsv:1: no column 'd' among 'a', 'b', 'c'"):
        list(read_columns(tmp_path / "t.tsv", ["d"]))


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"none.csv: cannot be read \(No such file"):
        read_table(tmp_path / "none.csv", "path", "label", None, None)


def _labels(read, tmp_path, names, clips, join=None):
    table = read("path,label\n" + "".join(f"{clip},{number}\n" for number, clip in enumerate(clips)))
    return labels_in_table(names, table, tmp_path / "root", join)


@pytest.mark.parametrize(
    ("clips", "way"),
    [
        (["a/dog_1.wav", "./b//c/cat_3.wav"], "path"),
        (["ROOT/a/dog_1.wav", "ROOT/b/c/cat_3.wav"], "path"),
        (["root/a/dog_1.wav", "root/b/../b/c/cat_3.wav"], "path"),
        (["a\\dog_1.wav", "b\\c\\cat_3.wav"], "path"),
        (["dog_1.wav", "cat_3.wav"], "name"),
        (["x/dog_1.wav", "y/cat_3.wav"], "name"),
        (["dog_1", "cat_3"], "stem"),
        (["text/dog_1.txt", "text/cat_3.mp4"], "stem"),
    ],
)
def test_rows_find_their_clips(read, tmp_path, clips, way):
    found = _labels(read, tmp_path, NAMES, [clip.replace("ROOT", str(tmp_path / "root")) for clip in clips])
    assert found.labels == {"a/dog_1.wav": ("0",), "b/c/cat_3.wav": ("1",)}
    assert (found.joined_by, found.unused) == (way, [])


def test_a_link_to_the_root_is_the_root(read, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "root")
    assert _labels(read, tmp_path, NAMES, [f"{tmp_path}/link/a/dog_1.wav"]).labels == {"a/dog_1.wav": ("0",)}


def test_a_stem_may_have_dots(read, tmp_path):
    found = _labels(read, tmp_path, ["a.1.wav", "a.2.wav"], ["a.2", "a.1"])
    assert found.labels == {"a.2.wav": ("0",), "a.1.wav": ("1",)}


def test_accents_are_alike_in_both_of_unicodes_forms(read, tmp_path):
    name = unicodedata.normalize("NFD", "é.wav")
    assert _labels(read, tmp_path, [name], ["é.wav"]).labels == {name: ("0",)}


def test_rows_without_a_clip_are_returned_with_their_lines(read, tmp_path):
    found = _labels(read, tmp_path, NAMES, ["a/dog_1.wav", "a/cow_1.wav"])
    assert found.unused == [("a/cow_1.wav", f"{tmp_path / 't.csv'}:3")]


def test_a_way_to_join_that_was_chosen_stays(read, tmp_path):
    with pytest.raises(ManifestError, match=r"t.csv:2: this row's 'dog_1' is none of the 3 files"):
        _labels(read, tmp_path, NAMES, ["dog_1"], join="path")


def test_a_table_of_another_corpus_is_refused(read, tmp_path):
    with pytest.raises(ManifestError, match=r"'x.wav' is none of the 3 files, such as 'a/dog_1.wav', and so are"):
        _labels(read, tmp_path, NAMES, ["x.wav", "y.wav"])


@pytest.mark.parametrize("clip", ["/elsewhere/dog_1.wav", "../../dog_1.wav"])
def test_paths_outside_of_the_root_are_joined_by_name_unless_by_path_was_chosen(read, tmp_path, clip):
    for join in (None, "name"):
        found = _labels(read, tmp_path, NAMES, [clip, "a/cat_2.flac"], join=join)
        assert found.labels == {"a/dog_1.wav": ("0",), "a/cat_2.flac": ("1",)}
        assert found.joined_by == "name"
    with pytest.raises(ManifestError, match=r"t.csv:2: the path .* lies outside of the root"):
        _labels(read, tmp_path, NAMES, [clip], join="path")


def test_a_name_that_paths_of_another_folder_share_is_refused(read, tmp_path):
    with pytest.raises(ManifestError, match=r"'/elsewhere/a/1.wav' is the name of 2 files, 'a/1.wav' and 'b/1.wav'"):
        _labels(read, tmp_path, ["a/1.wav", "b/1.wav"], ["/elsewhere/a/1.wav"])


def test_a_name_of_several_clips_is_refused(read, tmp_path):
    with pytest.raises(ManifestError, match=r"'1' is the stem of 2 files, 'a/1.wav' and 'b/1.flac'"):
        _labels(read, tmp_path, ["a/1.wav", "b/1.flac"], ["1"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,x,train", "./a,y,train"], "t.csv:3: 'a' is 'y' in train, and 'x' in train in line 2"),
        (["a,x,train", "a,x,test"], "t.csv:3: 'a' is 'x' in test, and"),
        (["a,x,train", "a,,train"], "t.csv:3: 'a' is without a label"),
        (["a,x,train", "b,x,train", "a,x,train"], "t.csv:4: 'a' is 'x' in train, and 'x' in train in line 2"),
    ],
)
def test_a_second_row_of_a_clip_is_refused(read, tmp_path, rows, message):
    table = read("\n".join(["path,label,split", *rows]))
    with pytest.raises(ManifestError) as refused:
        labels_in_table(["a"], table, tmp_path)
    assert message in str(refused.value)


CELLS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=5).filter(
    lambda text: not text.startswith('"')
)


@settings(deadline=None)
@given(st.dictionaries(st.from_regex("[a-z]{1,6}", fullmatch=True), CELLS, min_size=1), st.sampled_from(",\t;|"))
def test_any_labels_are_found_again(tmp_path_factory, labels, mark):
    text = io.StringIO()
    csv.writer(text, delimiter=mark).writerows([("path", "label", "n"), *((*item, 1) for item in labels.items())])
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    table = read_table(path, "path", "label", None, None)
    found = labels_in_table([f"{stem}.wav" for stem in labels], table, path.parent)
    assert found.labels == {f"{stem}.wav": (label,) for stem, label in labels.items()}


ROWS = st.lists(st.text('ab/.\\";,é\0\r1', max_size=12)).map(lambda lines: "\n".join(lines).encode())


@settings(deadline=None, max_examples=200)
@given(ROWS | st.binary(max_size=60), st.sampled_from([None, *JOINS]))
def test_any_bytes_are_a_table_or_refused(tmp_path_factory, data, join):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_bytes(b"path,label\n" + data)
    try:
        table = read_table(path, "path", "label", None, None)
        found = labels_in_table(["a/b.wav", "a.wav", "b.wav"], table, path.parent, join)
    except UserError as error:
        message = str(error)
    else:
        message = f"{path}: {len(found.labels)} labels"
        assert len(found.labels) + len(found.unused) <= len(table.rows)
    assert message.startswith(str(path))
