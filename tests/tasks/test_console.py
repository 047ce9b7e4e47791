import io
import logging
import os
import sys

import pytest
from tqdm import tqdm

from mae_ast_fairseq.tasks.console import Bar, is_for_a_person, settle_console


def record(name, level, message):
    return logging.LogRecord(name, level, "module.py", 1, message, (), None)


@pytest.mark.parametrize(
    ("name", "level", "message", "expected"),
    [
        ("mae_ast_fairseq.tasks.base", logging.INFO, "log-Mel mean", True),
        ("fairseq_cli.train", logging.INFO, "{'_name': None, 'common': {}}", False),
        ("fairseq.tasks.fairseq_task", logging.INFO, "can_reuse_epoch_itr = True", False),
        ("fairseq.trainer", logging.INFO, "Loaded checkpoint last.pt (epoch 2 @ 16 updates)", True),
        ("fairseq.trainer", logging.INFO, "No existing checkpoint found last.pt", False),
        ("fairseq_cli.train", logging.INFO, "early stop since valid performance hasn't improved", True),
        ("fairseq.trainer", logging.WARNING, "OOM: Ran out of memory", True),
        ("py.warnings", logging.WARNING, "dataloader.py:1102: UserWarning: 'pin_memory'", False),
        ("train_inner", logging.INFO, "epoch 001: 5 / 16 loss=6.9", False),
    ],
)
def test_a_person_is_shown_ours_warnings_and_little_else(name, level, message, expected):
    assert is_for_a_person(record(name, level, message)) == expected


@pytest.fixture
def console(monkeypatch, capsys):
    """A handler of the root logger, as hydra sets one up, after it was settled."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setLevel(logging.WARNING)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    settle_console(has_fairseqs_figures=False)
    yield handler
    logging.captureWarnings(False)


def test_what_is_for_a_person_goes_to_stderr_with_the_time_and_a_level_where_it_matters(console, capsys):
    for each in (
        record("mae_ast_fairseq.tasks.base", logging.INFO, "mean -7.7"),
        record("fairseq.trainer", logging.INFO, "noise"),
        record("fairseq.trainer", logging.ERROR, "bad"),
    ):
        console.handle(each)
    shown = capsys.readouterr()
    first, second = shown.err.splitlines()
    assert first[8:] == " mean -7.7"
    assert second[8:] == " error: bad"
    assert shown.out == ""


def test_a_bar_makes_room_for_a_line(console):
    with Bar(total=2, mininterval=0, ncols=60):
        console.handle(record("mae_ast_fairseq", logging.INFO, "said"))
        (line,) = (part for part in sys.stderr.getvalue().split("\r") if "said" in part)
        assert line[8:] == " said\n"
        assert sys.stderr.getvalue().endswith("?it/s]")


def test_a_loader_s_process_does_not_touch_the_bar(console):
    with Bar(total=2, mininterval=0, ncols=60):
        before = sys.stderr.getvalue()
        process = os.fork()
        if not process:
            console.handle(record("mae_ast_fairseq", logging.INFO, "said"))
            os._exit(sys.stderr.getvalue()[len(before) + 8 :] != " said\n")
        assert os.waitpid(process, 0)[1] == 0


def test_a_bar_has_no_thread_that_a_fork_could_catch_with_its_lock(monkeypatch):
    monkeypatch.setattr(tqdm, "monitor", None)  # which another test's bar may have started
    with Bar(total=2, file=io.StringIO()):
        assert Bar.monitor is None
