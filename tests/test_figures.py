import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.figures import FigureLog, read_figures


def lines(*updates):
    return [{"kind": "train_inner", "num_updates": update, "epoch": 1, "wall": 0.5, "loss": 2.5} for update in updates]


def write(path, updates, num_updates=0):
    log = FigureLog(path, num_updates)
    for line in lines(*updates):
        log.write(line)


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path):
    log = FigureLog(tmp_path / "log.jsonl", 0)
    for count, line in enumerate(lines(1, 2, 3), start=1):
        log.write(line)
        assert read_figures(log.path) == lines(*range(1, count + 1))


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_it_is_read(tmp_path):
    log = FigureLog(tmp_path / "log.jsonl", 0)
    log.write({"num_updates": 1, "loss": math.nan, "gnorm": math.inf})
    assert json.loads(log.path.read_text()) == {"num_updates": 1, "loss": None, "gnorm": None}
    assert all(math.isnan(read_figures(log.path)[0][name]) for name in ("loss", "gnorm"))


def test_a_run_that_goes_on_takes_out_what_it_does_again(tmp_path):
    path = tmp_path / "log.jsonl"
    write(path, [2, 4, 6, 8])
    path.write_bytes(path.read_bytes()[:-20])  # as a kill leaves it
    write(path, [6, 8, 10], num_updates=4)
    assert read_figures(path) == lines(2, 4, 6, 8, 10)
    assert path.read_bytes().count(b"\n") == 5


def test_a_line_whose_updates_are_no_number_is_passed_over(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"num_updates": true}\n{"num_updates": 1.5}\n{"num_updates": 2}\n')
    assert read_figures(path) == [{"num_updates": 2}]


def test_a_run_from_scratch_begins_its_log_anew(tmp_path):
    write(tmp_path / "log.jsonl", [2, 4])
    write(tmp_path / "log.jsonl", [3])
    assert read_figures(tmp_path / "log.jsonl") == lines(3)


@given(cut=st.integers(0, 400))
def test_a_log_that_is_cut_anywhere_gives_the_whole_lines_before(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "log.jsonl"
    write(path, range(1, 5))
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    num_whole = whole[: cut + 1].count(b"\n")  # a line that lacks its end alone is whole
    assert read_figures(path) == lines(*range(1, num_whole + 1))


@given(content=st.binary(max_size=60) | st.sampled_from([b"[1]", b"3", b'{"num_updates": "x"}', b"[" * 50]))
def test_any_bytes_can_be_read(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "log.jsonl"
    path.write_bytes(content + b"\n")
    write(path, [1])
    assert read_figures(path) == lines(1)


def test_a_log_that_cannot_be_written_is_warned_of_once(tmp_path, caplog):
    log = FigureLog(tmp_path / "gone" / "log.jsonl", 0)
    for line in lines(1, 2):
        log.write(line)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No such file" in caplog.text


@pytest.mark.parametrize("num_updates", [0, 7])
def test_there_need_be_no_log_yet(tmp_path, num_updates):
    write(tmp_path / "log.jsonl", [8], num_updates)
    assert read_figures(tmp_path / "log.jsonl") == lines(8)
