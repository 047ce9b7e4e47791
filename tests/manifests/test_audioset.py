"""The script of AudioSet reads its lists, and finds files by their ids."""

import runpy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_fairseq.errors import ConfigError
from tests.manifests.conftest import SCRIPTS, write_silence


def test_audioset_finds_files_by_id_in_its_lists(run, tmp_path, warning):
    folder = write_silence(
        tmp_path / "as", "--PJHxphWEs.wav", "x/Y-0RWZT-miFs.wav", "zF8yoL0rkbI_30.000_40.000.wav", "a.wav"
    )
    head = "# Segments csv created Sun Mar  5 10:54:31 2017\n# YTID, start_seconds, end_seconds, positive_labels\n"
    (folder / "balanced_train_segments.csv").write_text(
        f'{head}--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n-0RWZT-miFs, 0.000, 10.000, "/m/012xff"\n'
    )
    (folder / "eval_segments.csv").write_text(f'{head}zF8yoL0rkbI, 30.000, 40.000, "/m/09x0r"\n')
    assert run("audioset.py", folder) == {
        "train": {"--PJHxphWEs.wav": "/m/09x0r,/t/dd00088", "x/Y-0RWZT-miFs.wav": "/m/012xff"},
        "test": {"zF8yoL0rkbI_30.000_40.000.wav": "/m/09x0r"},
    }
    assert (tmp_path / "out" / "labels.txt").read_text().split() == ["/m/012xff", "/m/09x0r", "/t/dd00088"]
    assert warning() == "a part of what was published: train 2 of 22,160, test 1 of 20,371 files"


def test_audioset_20k_is_the_balanced_list_alone(run, tmp_path):
    folder = write_silence(tmp_path / "as", "--PJHxphWEs.wav", "-0RWZT-miFs.wav")
    (folder / "balanced_train_segments.csv").write_text('--PJHxphWEs, 30.000, 40.000, "/m/09x0r"\n')
    (folder / "unbalanced_train_segments.csv").write_text('-0RWZT-miFs, 0.000, 10.000, "/m/012xff"\n')
    assert run("audioset.py", folder, "--balanced") == {"train": {"--PJHxphWEs.wav": "/m/09x0r"}}
    assert set(run("audioset.py", folder)["train"]) == {"--PJHxphWEs.wav", "-0RWZT-miFs.wav"}


def test_audioset_20k_needs_its_list(refusal, tmp_path):
    folder = write_silence(tmp_path / "as", "--PJHxphWEs.wav")
    (folder / "eval_segments.csv").write_text('--PJHxphWEs, 30.000, 40.000, "/m/09x0r"\n')
    message = refusal("audioset.py", folder, "--balanced")
    assert "balanced_train_segments.csv: not there, but '--PJHxphWEs.wav', 'eval_segments.csv' in" in message


def test_audiosets_classes_give_the_order_of_its_labels(run, refusal, tmp_path):
    folder, lists = write_silence(tmp_path / "as", "x/--PJHxphWEs.wav"), tmp_path / "lists"
    lists.mkdir()
    (lists / "balanced_train_segments.csv").write_text('--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n')
    head, speech = "index,mid,display_name\n", '0,/m/09x0r,"Speech, man"\n'
    (lists / "class_labels_indices.csv").write_text(head + speech)
    message = refusal("audioset.py", folder, "--lists", str(lists))
    assert "'/t/dd00088' is none of the corpus's 1 classes" in message
    (lists / "class_labels_indices.csv").write_text(f"{head}0,/t/dd00088,Gush\n{speech}")
    run("audioset.py", folder, "--lists", str(lists))
    assert (tmp_path / "out" / "labels.txt").read_text() == "/t/dd00088\n/m/09x0r\n"
    (lists / "class_labels_indices.csv").write_text(speech)
    assert run("audioset.py", folder, "--lists", str(lists), code=2) == {
        "train": {"x/--PJHxphWEs.wav": "/m/09x0r,/t/dd00088"}
    }


read_segments = runpy.run_path(str(SCRIPTS / "audioset.py"))["read_segments"]
HEAD = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=2, num_segs=2\n# YTID, start_seconds, end_seconds\n"
)
IDS = st.from_regex(r"[A-Za-z0-9_-]{11}", fullmatch=True)
MIDS = st.lists(st.from_regex(r"/[mtg]/[a-z0-9_]{2,8}", fullmatch=True), min_size=1, max_size=4).map(",".join)


@settings(deadline=None)
@given(
    st.lists(st.tuples(IDS, st.integers(0, 10**6), MIDS)), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", " "])
)
def test_any_segments_are_read_back(tmp_path_factory, segments, end, space):
    lines = [
        f'{name},{space}{start / 1000:.3f},{space}{start / 1000 + 10:.3f},{space}"{labels}"\n'
        for name, start, labels in segments
    ]
    path = tmp_path_factory.mktemp("lists") / "list.csv"
    path.write_bytes((HEAD + "".join(lines)).replace("\n", end).encode())
    assert list(read_segments(path)) == [(name, labels) for name, _, labels in segments]


GOOD = '--PJHxphWEs, 30.000, 40.000, "/m/09x0r"'


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_line_is_a_segment_or_refused_with_its_number(tmp_path_factory, data):
    place = data.draw(st.integers(0, len(GOOD)))
    text = data.draw(st.text('-aé,"\\ /.1\0\t#', max_size=5))
    line = GOOD[:place] + text + GOOD[place + data.draw(st.integers(0, 8)) :]
    path = tmp_path_factory.mktemp("lists") / "list.csv"
    path.write_text(f"{GOOD}\n{line}\n")
    try:
        first, *others = read_segments(path)
    except ConfigError as error:
        message = str(error)
    else:
        message = f"{path}:2: read"
        assert first == ("--PJHxphWEs", "/m/09x0r")
        assert [len(name) for name, _ in others] == ([] if line.startswith("#") or not line.strip() else [11])
        assert all(label.startswith("/") for _, labels in others for label in labels.split(","))
    assert message.startswith(f"{path}:2: ")


@pytest.mark.parametrize(
    "line", ["--PJHxphWEs", "<html>", '--PJHxphWE, 0.0, 1.0, "/m/09x0r"', '--PJHxphWEs, 0.0, 1.0, ""', f"{GOOD[:-1]}"]
)
def test_a_line_of_audiosets_lists_that_is_none_is_named(refusal, tmp_path, line):
    folder = write_silence(tmp_path / "as", "--PJHxphWEs.wav")
    (folder / "eval_segments.csv").write_text(f"{HEAD}{GOOD}\n{line}\n")
    assert "eval_segments.csv:5: " in refusal("audioset.py", folder)
