"""Label files: what is read, what is refused and how it is said, and what is counted."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_fairseq.data.labels import (
    Vocabulary,
    as_line,
    balanced_weights,
    check_each_has_example,
    collect_vocabulary,
    find_vocabulary,
    join_labels,
    read_labels,
    read_vocabulary,
)
from mae_ast_fairseq.errors import ManifestError

ANIMALS = Vocabulary(("cat", "dog", "Owl, hooting"))


def read(folder, text, num_rows, multi_label=True, vocabulary=ANIMALS):
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "train.lbl").write_bytes(data)
    return read_labels(folder / "train.lbl", vocabulary, num_rows, multi_label)


def rows_of(labels):
    return [labels.indices[labels.starts[row] : labels.starts[row + 1]].tolist() for row in range(len(labels))]


def test_lines_become_class_numbers_in_the_vocabularys_order(tmp_path):
    labels = read(tmp_path, 'dog,cat\n"Owl, hooting"\n\ncat\n', 4)
    assert rows_of(labels) == [[1, 0], [2], [], [0]]
    expected = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=np.float32)
    assert labels.targets(range(4)).dtype == np.float32
    assert np.array_equal(labels.targets(range(4)), expected)
    assert np.array_equal(labels.targets([3, 1, 3]), expected[[3, 1, 3]])
    assert labels.counts().tolist() == [2, 1, 1]
    assert labels.counts(np.array([0, 2])).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    "data",
    [b"\xef\xbb\xbfdog\ncat\n", b"dog\r\ncat\r\n", b"dog\ncat", b"dog\ncat\n\n\n", b'"dog"\ncat\n'],
    ids=["byte order mark", "CRLF", "no newline at the end", "blank lines at the end", "quotes without need"],
)
@pytest.mark.parametrize("multi_label", [False, True])
def test_harmless_forms_are_read(tmp_path, data, multi_label):
    assert rows_of(read(tmp_path, data, 2, multi_label)) == [[1], [0]]


def test_with_many_labels_the_last_row_may_have_none(tmp_path):
    assert rows_of(read(tmp_path, "cat\n\n", 2)) == [[0], []]


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("cat\n", 2, "the file ends after 1 lines; expected 2 lines, one for each of train.tsv after its root"),
        ("", 1, "the file ends after 0 lines"),
        ("cat\ndog\n\ncat\n", 4, "one more line; expected 2 lines"),
        ("cat\ncow\n", 2, "the label 'cow' is unknown; expected one of the 3 known labels"),
        ("cat\ndog, cat\n", 2, "' cat'"),
        ("cat\ndog,,cat\n", 2, "''"),
        ("cat\ndog,\n", 2, "''"),
        ("cat\ndog,cat,dog\n", 2, "'dog,cat,dog'"),
        ("cat\nOwl, hooting\n", 2, "a name with commas stands in quotes"),
        ('cat\n"Owl, hooting\n', 2, "unexpected end of data"),
        ("cat\ndog\tcat\n", 2, r"'dog\tcat'"),
        (b"cat\nd\xf6g\n", 2, r"'d\udcf6g'"),
        ("dog\n".encode("utf-16"), 1, r"'\udcff\udcfe"),
        (b"cat\nd\0g\n", 2, r"'d\x00g'"),
    ],
)
@pytest.mark.parametrize("multi_label", [False, True])
def test_a_bad_line_is_named(tmp_path, text, where, message, multi_label):
    with pytest.raises(ManifestError) as refused:
        read(tmp_path, text, 2, multi_label)
    assert str(refused.value).startswith(f"{tmp_path / 'train.lbl'}:{where}: ")
    assert message in str(refused.value)


@pytest.mark.parametrize(("line", "found"), [("", "an empty line"), ("cat,dog", "'cat,dog'")])
def test_a_single_label_is_exactly_one(tmp_path, line, found):
    with pytest.raises(ManifestError, match=rf"train\.lbl:2: {found}; expected exactly one.*task\.multi_label=true"):
        read(tmp_path, f"cat\n{line}\ndog\n", 3, multi_label=False)


def test_a_label_file_that_cannot_be_looked_for_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"xx.lbl: File name too long; expected"):
        read_labels(tmp_path / f"{'x' * 300}.lbl", ANIMALS, 1, False)


def test_a_label_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.lbl: there is no such file; expected a list of labels"):
        read_labels(tmp_path / "none.lbl", ANIMALS, 1, False)
    with pytest.raises(ManifestError, match="expected a list of labels"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize("data", [b"b\na, c\n", b"\xef\xbb\xbfb\r\na, c\r\n\r\n"])
def test_a_vocabulary_keeps_the_order_of_its_lines(tmp_path, data):
    (tmp_path / "labels.txt").write_bytes(data)
    vocabulary = read_vocabulary(tmp_path / "labels.txt")
    assert vocabulary.names == ("b", "a, c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ncat\n", "labels.txt:2: 'cat' stands on line 1 too; expected each name once"),
        ("cat\n\ndog\n", "labels.txt:2: the name ''; expected a label's name"),
        ("cat\n dog\n", "labels.txt:2: the name ' dog'"),
        ('cat\n"dog"\n', "labels.txt:2: the name '\"dog\"'"),
        ("cat\nd\x07g\n", r"labels.txt:2: the name 'd\x07g'"),
        ("\n", "labels.txt:1: the file is empty"),
        (b"cat\n\xff\n", r"labels.txt:2: the name '\udcff'; expected a label's name as printable UTF-8"),
    ],
)
def test_a_bad_vocabulary_is_refused(tmp_path, text, message):
    (tmp_path / "labels.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ManifestError) as refused:
        read_vocabulary(tmp_path / "labels.txt")
    assert message in str(refused.value)


NAMES = st.text(min_size=1, max_size=12).filter(
    lambda name: name.strip() == name and name.isprintable() and not name.startswith('"')
)


@settings(max_examples=150, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=8, unique=True), st.data())
def test_what_is_written_with_csvs_quotes_is_read_back(tmp_path_factory, names, data):
    folder = tmp_path_factory.mktemp("labels")
    (folder / "labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    classes = st.lists(st.sampled_from(range(len(names))), unique=True)
    rows = data.draw(st.lists(classes, max_size=6))

    text = "".join(as_line([names[k] for k in row]) + "\n" for row in rows)
    vocabulary = read_vocabulary(folder / "labels.txt")
    assert vocabulary.names == tuple(names)
    assert rows_of(read(folder, text, len(rows), vocabulary=vocabulary)) == rows
    if any(rows):
        used = {names[k] for row in rows for k in row}
        assert collect_vocabulary([folder / "train.lbl"]).names == tuple(sorted(used))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text(alphabet='cat,dog" \n\r\t\ufeff').map(str.encode), st.booleans())
def test_any_bytes_are_read_or_refused_with_their_line(tmp_path_factory, data, multi_label):
    file = tmp_path_factory.mktemp("labels") / "train.lbl"
    file.write_bytes(data)
    labels, message = None, ""
    try:
        labels = read_labels(file, Vocabulary(("cat", "dog")), 2, multi_label)
    except ManifestError as error:
        message = str(error)
    if labels is None:
        assert message.startswith(f"{file}:")
        assert "\n" not in message
    else:
        assert len(labels) == 2
        assert multi_label or labels.targets(range(2)).sum(axis=1).tolist() == [1, 1]


def test_only_names_with_commas_or_quotes_are_quoted():
    assert as_line(["a b", "c, d", 'e"f']) == 'a b,"c, d","e""f"'
    assert as_line([]) == ""


def test_without_labels_txt_the_training_labels_are_the_classes_sorted(tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder, text in zip(folders, ("zebra\ncat\n", 'dog,"Owl, hooting"\n\n'), strict=True):
        folder.mkdir()
        (folder / "train.lbl").write_text(text)
    assert find_vocabulary(folders, "train").names == ("Owl, hooting", "cat", "dog", "zebra")
    (folders[1] / "labels.txt").write_text("zebra\ncat\ndog\n")
    assert find_vocabulary(folders, "train").names == ("zebra", "cat", "dog")
    (folders[0] / "labels.txt").write_text("cat\nzebra\ndog\n")
    with pytest.raises(ManifestError, match="expected the same classes in all folders"):
        find_vocabulary(folders, "train")


def test_label_files_without_a_label_are_refused(tmp_path):
    (tmp_path / "train.lbl").write_text("\n\n")
    with pytest.raises(ManifestError, match=r"train\.lbl: no labels; expected at least one"):
        find_vocabulary([tmp_path], "train")


def test_joined_labels_are_those_of_the_parts_in_order(tmp_path):
    first = read(tmp_path, "dog\ncat,dog\n", 2)
    second = read(tmp_path, '\n"Owl, hooting",cat\n', 2)
    joined = join_labels([first, second])
    assert rows_of(joined) == [[1], [0, 1], [], [2, 0]]
    assert join_labels([first]) is first
    assert rows_of(joined.select(np.array([3, 2, 0]))) == [[2, 0], [], [1]]


def test_a_label_without_an_example_is_an_error_that_names_its_line(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\ncow\n")
    labels = read(tmp_path, "cat\ndog\ncat\n", 3, vocabulary=read_vocabulary(tmp_path / "labels.txt"))
    with pytest.raises(ManifestError, match=r"labels\.txt:3: no clip of .*train\.lbl has the label 'cow'"):
        check_each_has_example(labels)
    with pytest.raises(ManifestError, match=r"labels\.txt:2: .* the 2 that can be trained on .* 'dog', 'cow'"):
        check_each_has_example(labels, np.array([0, 2]))
    check_each_has_example(read(tmp_path, "cat\ndog\n", 2, vocabulary=Vocabulary(("cat", "dog"))))


def test_balanced_weights_give_every_class_the_same_chance(tmp_path):
    labels = read(tmp_path, "cat\n" * 6 + "dog\n" * 3 + '"Owl, hooting"\n' + "\n\n", 12)
    weights = balanced_weights(labels)
    assert np.allclose(weights, [1 / 6] * 6 + [1 / 3] * 3 + [1] + [1 / 2] * 2)
    assert balanced_weights(read(tmp_path, "cat,dog\ncat\n", 2)).tolist() == [1.5, 0.5]


def test_labels_take_a_few_bytes_a_row_and_survive_pickling(tmp_path):
    labels = read(tmp_path, "cat,dog\n" * 1_000, 1_000)
    assert labels.starts.dtype == labels.indices.dtype == np.int32
    assert labels.starts.nbytes + labels.indices.nbytes == 4 * (1_001 + 2_000)
    assert rows_of(pickle.loads(pickle.dumps(labels))) == rows_of(labels)
