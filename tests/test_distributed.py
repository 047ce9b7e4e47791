"""Pretraining in two processes."""

import re
import signal

import pytest
import torch

from mae_ast_fairseq.tasks.preemption import EXIT_SAVED
from tests.processes import ended, run_two, start_two
from tests.training import SMALL, train

SPY_ON_STATISTICS = """
from mae_ast_fairseq.nn.normalization import InputNormalization

set_statistics = InputNormalization.set_statistics
def spy(self, *values):
    print("statistics", values, flush=True)
    set_statistics(self, *values)
InputNormalization.set_statistics = spy
"""


def train_two(data, folder, *overrides):
    return run_two("mae_ast_tiny", data, folder, "common.log_interval=1", *SMALL, *overrides, before=SPY_ON_STATISTICS)


@pytest.mark.slow
def test_processes_take_the_same_statistics_and_train_on(corpus, tmp_path):
    codes, outputs = train_two(corpus, tmp_path, "optimization.max_update=2", "common.bf16=false")
    assert codes == [0, 0], outputs[0][-2000:] + outputs[1][-2000:]
    statistics = [re.findall(r"statistics \(.*", output) for output in outputs]
    assert len(statistics[0]) == 1
    assert statistics[0] == statistics[1]
    assert "num_updates=2" in outputs[0]


@pytest.mark.slow
def test_the_share_of_broken_files_counts_over_all_processes(corpus, tmp_path):
    lines = (corpus / "train.tsv").read_text().splitlines()
    for line in (3, 9, 15, 21, 27, 33):
        lines[line] = f"gone{line}.wav\t16000"
    (tmp_path / "train.tsv").write_text("\n".join([*lines, ""]))
    (tmp_path / "valid.tsv").write_text((corpus / "valid.tsv").read_text())
    # Of 40 files 6 are broken: more than a tenth, of which each of two processes meets about half.
    codes, outputs = train_two(tmp_path, tmp_path, "optimization.max_update=40", "task.max_bad_fraction=0.13")
    assert 0 not in codes
    assert any("6 of 40 files (15.0%) are broken" in output for output in outputs), outputs[0][-1500:]


def saving(folder):
    return f"checkpoint.save_dir={folder}", "checkpoint.no_save=false", "common.bf16=false"


def weights_and_updates(folder):
    state = torch.load(folder / "checkpoint_last.pt", weights_only=True)
    return state["model"], state["optimizer_history"][-1]["num_updates"]


@pytest.mark.slow
def test_a_run_in_two_processes_goes_on_as_if_it_was_not_stopped(corpus, tmp_path):
    for folder, updates in (("one", 9), ("two", 6), ("two", 9)):  # into the second epoch
        last = f"optimization.max_update={updates}", "lr_scheduler.total_num_update=100"
        codes, outputs = train_two(corpus, tmp_path, *saving(tmp_path / folder), *last)
        assert codes == [0, 0], outputs[0][-2000:] + outputs[1][-2000:]
    (uninterrupted, _), (resumed, num_updates) = (
        weights_and_updates(tmp_path / "one"),
        weights_and_updates(tmp_path / "two"),
    )
    assert num_updates == 9
    assert all(torch.equal(resumed[name], value) for name, value in uninterrupted.items())


@pytest.mark.slow
def test_weights_are_handed_from_one_process_to_two_and_back(corpus, tmp_path):
    run = "mae_ast_tiny", f"task.data={corpus}", *SMALL
    train(*run, *saving(tmp_path / "one"))
    start = tmp_path / "one" / "checkpoint_last.pt"
    for folder, field in (("warm", "finetune_from_model"), ("on", "restore_file")):
        codes, outputs = train_two(
            corpus, tmp_path, *saving(tmp_path / folder), f"checkpoint.{field}={start}", "optimization.max_update=6"
        )
        assert codes == [0, 0], outputs[0][-2000:] + outputs[1][-2000:]
        assert weights_and_updates(tmp_path / folder)[1] == 6
    back = f"checkpoint.restore_file={tmp_path / 'on' / 'checkpoint_last.pt'}", "optimization.max_update=8"
    train(*run, *saving(tmp_path / "back"), *back)
    assert weights_and_updates(tmp_path / "back")[1] == 8


@pytest.mark.slow
def test_a_signal_to_one_process_ends_both_after_the_same_update(corpus, tmp_path):
    processes = start_two(
        "mae_ast_tiny", corpus, tmp_path, *SMALL, *saving(tmp_path / "run"), "common.log_interval=1",
        "optimization.max_update=2000",
    )  # fmt: skip
    for line in processes[0].stdout:  # the first alone logs; the other's pipe is read at the end
        if "num_updates=3," in line:
            break
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = ended(processes)
    assert codes == [EXIT_SAVED, EXIT_SAVED], outputs[0][-2000:] + outputs[1][-2000:]
    assert weights_and_updates(tmp_path / "run")[1] >= 3
