"""The manifest parser against a naive one, its messages line by line, and writing."""

import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_fairseq.data.manifest import ManifestRow, read_manifest, write_manifest
from mae_ast_fairseq.errors import ManifestError


def _write(folder, data):
    path = folder / "train.tsv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def _rows(manifest):
    columns = manifest.num_samples.tolist(), manifest.sample_rates.tolist()
    return [(manifest.relative_path(i), n, r) for i, (n, r) in enumerate(zip(*columns, strict=True))]


def _naive(data):
    """Parse a manifest line by line: a list of rows, or the number of the first bad line."""
    lines = data.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").split(b"\n")
    rows = []
    no_text = [not _is_utf8(line) for line in lines], [b"\0" in line for line in lines]
    for faults in no_text:  # of all lines, before anything else
        if any(faults):
            return 1 + faults.index(True)
    for number, line in enumerate(lines, start=1):
        text = line.removesuffix(b"\r").decode()
        if not text:
            return number
        if number == 1:
            root = text
            if "\t" in text:
                return number
            continue
        columns = text.split("\t")
        path = columns[0]
        absolute_outside = path.startswith("/") and root != "/" and not path.startswith(root + "/")
        if len(columns) not in (2, 3) or not path or _climbs_out(path, root) or absolute_outside:
            return number
        if not re.fullmatch("[0-9]{1,14}", columns[1]):
            return number
        if len(columns) == 3 and not (re.fullmatch("[0-9]{1,9}", columns[2]) and int(columns[2])):
            return number
        relative = path.removeprefix(root.rstrip("/") + "/")
        rows.append((relative, int(columns[1]), int(columns[2]) if len(columns) == 3 else 16000))
    return rows or len(lines) + 1


def _is_utf8(line):
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _climbs_out(path, root):
    """Follow a path part by part: below `/` no step up is allowed, elsewhere none above the root."""
    depth = 0
    for part in path.split("/"):
        if part == "..":
            depth -= 1
            if root == "/" or depth < 0:
                return True
        elif part not in ("", "."):
            depth += 1
    return False


def _parsed(path):
    try:
        return _rows(read_manifest(path))
    except ManifestError as error:
        return int(re.match(rf"{re.escape(str(path))}:(\d+): .+; expected .+; ", str(error))[1])


PATHS = st.sampled_from(
    ["a.wav", "b/c.flac", "é/ü..ogg", "x", "/data/y.wav", "a b", "\x0b", "\ufffd", "a/../b", "x/.."]
)
BAD_PATHS = st.sampled_from(["", "../a", "b/../../c", "..", "/elsewhere/z", "n\0", "/datax/y", "x/../.."])
COUNTS = st.integers(0, 10**14 - 1).map(str) | st.sampled_from(["0", "007"])
BAD_COUNTS = st.sampled_from(["", "-5", "16_000", "1.0", " 1", "1 ", "x", "٣", "1" * 15, "+1", "1\r"])
RATES = st.sampled_from(["8000", "44100", "999999999"])
BAD_RATES = st.sampled_from(["", "0", "000", "-1", "x", "1" * 10, "16000\t"])
GOOD_LINES = st.one_of(st.tuples(PATHS, COUNTS), st.tuples(PATHS, COUNTS, RATES)).map("\t".join)
BAD_LINES = st.one_of(
    st.tuples(BAD_PATHS, COUNTS),
    st.tuples(PATHS, BAD_COUNTS),
    st.tuples(PATHS, BAD_COUNTS, RATES),
    st.tuples(PATHS, COUNTS, BAD_RATES),
    st.tuples(PATHS),
    st.just(("",)),
).map("\t".join)
ANY_LINES = st.one_of(GOOD_LINES, GOOD_LINES, GOOD_LINES, BAD_LINES).map(str.encode)


class TestAgainstNaiveParser:
    @settings(deadline=None)
    @given(
        root=st.sampled_from([b"/data", b"/", b"clips"]),
        lines=st.lists(st.one_of(ANY_LINES, st.just(b"caf\xe9\t1")), max_size=6),
        newline=st.sampled_from([b"\n", b"\r\n"]),
        end=st.sampled_from([b"", b"\n", b"\r\n", b"\n\n"]),
        start=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    )
    def test_lines(self, tmp_path_factory, root, lines, newline, end, start):
        data = start + newline.join([root, *lines]) + end
        assert _parsed(_write(tmp_path_factory.mktemp("m"), data)) == _naive(data)

    @settings(deadline=None)
    @given(st.lists(st.sampled_from([b"\t", b"\n", b"\r", b"1", b"a", b"/", b".", b"\0", b"\xc3", b"\xa9"])))
    def test_random_bytes(self, tmp_path_factory, tokens):
        data = b"/r\n" + b"".join(tokens)
        assert _parsed(_write(tmp_path_factory.mktemp("m"), data)) == _naive(data)

    @settings(deadline=None)
    @given(st.binary())
    def test_any_bytes_name_a_line(self, tmp_path_factory, data):
        parsed = _parsed(_write(tmp_path_factory.mktemp("m"), data))
        assert isinstance(parsed, list) or 1 <= parsed <= data.count(b"\n") + 2


ROWS = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r\0/."), min_size=1),
        st.integers(0, 10**14 - 1),
        st.sampled_from([8000, 16000, 44100]),
    ),
    min_size=1,
)


@settings(deadline=None)
@given(ROWS)
def test_written_rows_are_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("m") / "train.tsv"
    write_manifest(path, "/data", rows)
    assert _rows(read_manifest(path)) == rows


def test_the_rate_is_written_only_where_it_is_not_16_khz(tmp_path):
    write_manifest(tmp_path / "train.tsv", "/data", [ManifestRow("a", 1), ManifestRow("b", 2, 8000)])
    assert (tmp_path / "train.tsv").read_bytes() == b"/data\na\t1\nb\t2\t8000\n"


@pytest.mark.parametrize("path", ["a\tb", "a\nb", "a\rb", "", "caf\udce9", "../a", "/elsewhere/a"])
def test_a_path_that_cannot_be_read_back_is_refused_and_nothing_remains(tmp_path, path):
    with pytest.raises(ManifestError, match=re.escape(repr(path))[1:-1] or "empty"):
        write_manifest(tmp_path / "train.tsv", "/data", [("good", 1, 16000), (path, 1, 16000)])
    assert list(tmp_path.iterdir()) == []


def test_a_refused_writing_leaves_the_older_manifest(tmp_path):
    path = _write(tmp_path, "/data\na\t1\n")
    with pytest.raises(ManifestError, match="no audio files"):
        write_manifest(path, "/data", [])
    assert path.read_text() == "/data\na\t1\n"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", "a blank line"),
        *((line, repr(line)) for line in ("a.wav", "a\t1\t2\t3", "a\t16_000", "a\t-5", "a\t16000.0", "a\t 16000")),
        *((line, repr(line)) for line in ("a\t", "a\t1\t0", "a\t1\t16k", "\t1")),
        ("../a\t1", "leads out of the root '/data'"),
        ("/other/a\t1", "leads out of the root '/data'"),
        ("a\0\t1", "'a\\x00', whose last byte is no UTF-8 text"),
        (b"caf\xe9\t1", "'caf\\xe9', whose last byte is no UTF-8 text"),
    ],
)
def test_a_bad_line_is_named_with_what_was_found(tmp_path, line, found):
    line = line if isinstance(line, bytes) else line.encode()
    path = _write(tmp_path, b"/data\ngood\t1\n" + line + b"\nlast\t1\n")
    with pytest.raises(ManifestError, match=re.escape(f"{path}:3: ") + ".*" + re.escape(found)):
        read_manifest(path)


@pytest.mark.parametrize(
    ("data", "where", "found"),
    [
        (b"", ":1: ", "an empty file"),
        (b"\xef\xbb\xbf\n", ":1: ", "an empty file"),
        (b"/data\n", ":2: ", "nothing follows the root"),
        (b"a.wav\t16000\n", ":1: ", "'a.wav\\t16000'; expected the root folder alone"),
        ("/data\na\t1\n".encode("utf-16"), ":1: ", "UTF-8"),
    ],
)
def test_a_bad_head_is_named(tmp_path, data, where, found):
    path = _write(tmp_path, data)
    with pytest.raises(ManifestError, match=re.escape(str(path) + where) + ".*" + re.escape(found)):
        read_manifest(path)


def test_a_missing_manifest_names_those_that_are_there(tmp_path):
    _write(tmp_path, "/data\na\t1\n")
    with pytest.raises(ManifestError, match=r"trian\.tsv: there is no such file .*train\.tsv"):
        read_manifest(tmp_path / "trian.tsv")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ManifestError, match="there is no folder"):
        read_manifest(tmp_path / "none" / "train.tsv")


@pytest.mark.parametrize(
    ("root", "line", "path", "relative"),
    [
        ("/data", "b/a", "/data/b/a", "b/a"),
        ("/data/", "b/a", "/data/b/a", "b/a"),
        ("/data", "/data/b/a", "/data/b/a", "b/a"),
        ("/", "/data/b/a", "/data/b/a", "data/b/a"),
        ("/", "data/b/a", "/data/b/a", "data/b/a"),
    ],
)
def test_paths_are_joined_with_the_root(tmp_path, root, line, path, relative):
    manifest = read_manifest(_write(tmp_path, f"{root}\n{line}\t1\n"))
    assert (manifest.path(0), manifest.relative_path(0)) == (path, relative)


def test_a_relative_root_counts_from_the_manifests_folder(tmp_path):
    manifest = read_manifest(_write(tmp_path, "clips\na\t1\n"))
    assert manifest.path(0) == str(tmp_path / "clips" / "a")


def test_a_bad_line_behind_an_absolute_path_that_is_fine_is_found(tmp_path):
    path = _write(tmp_path, "/data\n/./data/a\t1\nb\tx\n")
    with pytest.raises(ManifestError, match=r"train\.tsv:3: "):
        read_manifest(path)


def test_a_row_knows_its_line(tmp_path):
    manifest = read_manifest(_write(tmp_path, "/data\na\t1\nb\t2\n"))
    assert [manifest.where(row) for row in (0, 1)] == [f"{tmp_path}/train.tsv:{line}" for line in (2, 3)]


def test_a_row_past_the_end_is_an_index_error(tmp_path):
    with pytest.raises(IndexError):
        read_manifest(_write(tmp_path, "/data\na\t1\n")).path(1)


def test_samples_at_16k_are_the_exact_ceiling(tmp_path):
    counts = [0, 1, 441, 442, 10**14 - 1]
    lines = "".join(f"a\t{count}\t44100\nb\t{count}\n" for count in counts)
    manifest = read_manifest(_write(tmp_path, f"/data\n{lines}"))
    expected = [total for count in counts for total in (-(-count * 16000 // 44100), count)]
    assert manifest.num_samples_at_16k.tolist() == expected


def test_what_is_held_is_the_file_and_16_bytes_a_row(tmp_path):
    data = b"/data\n" + b"".join(b"folder/%06d.flac\t160000\n" % i for i in range(1000))
    pickled = pickle.dumps(read_manifest(_write(tmp_path, data)))
    assert len(data) + 16 * 1000 < len(pickled) < len(data) + 16 * 1000 + 1500


@pytest.mark.parametrize("rate", ["", "\t44100"])
def test_the_arrays_take_at_most_20_bytes_a_row(tmp_path, rate):
    path = _write(tmp_path, "/data\n" + "".join(f"folder/{i:06}.flac\t160000{rate}\n" for i in range(1000)))
    arrays = [value for value in vars(read_manifest(path)).values() if isinstance(value, np.ndarray)]
    assert len(arrays) == 3
    assert sum(array.nbytes for array in arrays) <= 20 * 1000


def test_counts_at_16k_are_no_copy_where_all_files_have_that_rate(tmp_path):
    manifest = read_manifest(_write(tmp_path, "/data\na\t1\nb\t2\n"))
    assert manifest.num_samples_at_16k is manifest.num_samples


def test_a_path_into_an_archive_is_joined_with_the_root(tmp_path):
    manifest = read_manifest(_write(tmp_path, "/data\nsub/a.zip:4294967296:3000\t1\n"))
    assert manifest.path(0) == "/data/sub/a.zip:4294967296:3000"


def test_two_dots_inside_a_name_are_no_parent_folder(tmp_path):
    paths = ["..a/b..", "a/..b/c", "a/b../...", "...", "x..y.wav"]
    manifest = read_manifest(_write(tmp_path, "/data\n" + "".join(f"{path}\t1\n" for path in paths)))
    assert [manifest.relative_path(row) for row in range(len(manifest))] == paths


def test_a_manifest_survives_pickling(tmp_path):
    manifest = read_manifest(_write(tmp_path, "/data\na\t1\nb\t2\t8000\n"))
    assert _rows(pickle.loads(pickle.dumps(manifest))) == [("a", 1, 16000), ("b", 2, 8000)]


def test_columns_have_their_types_and_are_read_only(tmp_path):
    manifest = read_manifest(_write(tmp_path, "/data\na\t1\n"))
    assert (manifest.num_samples.dtype, manifest.sample_rates.dtype) == (np.int64, np.int32)
    with pytest.raises(ValueError, match="read-only"):
        manifest.num_samples[0] = 2


SAME = "/data\na/x.wav\t16000\nb.wav\t7\t8000\n"


@pytest.mark.parametrize(
    "text",
    [
        "/data/\r\na/x.wav\t016000\t16000\r\nb.wav\t7\t08000\n\n",  # the same numbers
        "/moved\na/x.wav\t16000\nb.wav\t7\t8000\n",
        "/data\n/data/a/x.wav\t16000\nb.wav\t7\t8000\n",
    ],
)
def test_the_same_files_have_one_fingerprint_however_they_are_written(tmp_path, text):
    fingerprint = read_manifest(_write(tmp_path, SAME)).fingerprint
    assert read_manifest(_write(tmp_path, text)).fingerprint == fingerprint


@pytest.mark.parametrize(
    "text",
    [
        "/data\nb.wav\t7\t8000\na/x.wav\t16000\n",  # another order
        "/data\na/x.wav\t16000\nb.wav\t7\n",
        "/data\na/x.wav\t1600\nb.wav\t7\t8000\n",
        "/data\na/y.wav\t16000\nb.wav\t7\t8000\n",
        "/data\na/x.wa\t16000\nvb.wav\t7\t8000\n",
        "/data\na/x.wav\t16000\n",
    ],
)
def test_other_files_have_another_fingerprint(tmp_path, text):
    fingerprint = read_manifest(_write(tmp_path, SAME)).fingerprint
    assert read_manifest(_write(tmp_path, text)).fingerprint != fingerprint


def test_a_folder_called_as_a_relative_root_is_part_of_the_path(tmp_path):
    inner = read_manifest(_write(tmp_path, "data\ndata/x.wav\t1\n")).fingerprint
    assert read_manifest(_write(tmp_path, "data\nx.wav\t1\n")).fingerprint != inner
