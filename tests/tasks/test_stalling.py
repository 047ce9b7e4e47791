"""Reads that never end, in a loader process that sleeps and in one that was stopped."""

import os
import signal
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, get_worker_info

from mae_ast_fairseq.datasets import clips
from mae_ast_fairseq.errors import UserError
from tests.processes import start_train
from tests.training import SMALL, train


def stall(monkeypatch, *names):
    """Let loader processes read the clips of some names for ever."""
    load_row = clips.load_row

    def load(manifest, row, *args):
        if get_worker_info() is not None and Path(manifest.path(row)).name in names:
            time.sleep(3600)
        return load_row(manifest, row, *args)

    monkeypatch.setattr(clips, "load_row", load)


@pytest.fixture(autouse=True)
def handler_of_torch():
    """Torch's handler of ended processes: the end of a run takes it away, and no ended loader is left for it after."""
    list(DataLoader([0], num_workers=1))
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("name", ["07.wav", "43.wav"])
@pytest.mark.parametrize("data_buffer_size", [0, 10])
def test_a_clip_that_is_read_for_ever_is_named_in_training_and_validation(corpus, monkeypatch, name, data_buffer_size):
    stall(monkeypatch, name)
    with pytest.raises(UserError) as caught:
        train(
            "mae_ast_tiny", f"task.data={corpus}", *SMALL, "task.read_timeout_seconds=3", "dataset.num_workers=1",
            f"dataset.data_buffer_size={data_buffer_size}", "optimization.max_update=1000",
        )  # fmt: skip
    assert str(caught.value).startswith("task.read_timeout_seconds: no batch came within 3 seconds")
    assert f"being read: {corpus / name};" in str(caught.value)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_a_loader_process_that_was_stopped_does_not_keep_the_run_from_ending(corpus, tmp_path):
    process = start_train(
        {}, "tiny", f"task.data={corpus}", *SMALL, "common.bf16=false", "common.log_interval=1",
        "common.log_format=simple", "dataset.num_workers=2", "dataset.max_tokens=100000",
        "lr_scheduler.warmup_updates=2", "task.max_bad_fraction=0.2", "optimization.max_update=100000",
        "task.read_timeout_seconds=3", cwd=tmp_path,
    )  # fmt: skip
    for line in process.stdout:
        if "num_updates=3," in line:
            break
    for child in children(process.pid):
        os.kill(child, signal.SIGSTOP)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert output.splitlines()[-1].startswith("mae-ast train: task.read_timeout_seconds: no batch came")
    assert "Traceback" not in output
