"""A run that is asked to end by a signal saves first."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mae_ast_fairseq.tasks import preemption
from mae_ast_fairseq.tasks.preemption import EXIT_SAVED
from tests.training import EXAMPLES, SMALL, train


def start(corpus, folder, *arguments):
    command = Path(sys.executable).with_name("fairseq-hydra-train")
    return subprocess.Popen(
        [
            command, "--config-dir", EXAMPLES, "--config-name", "mae_ast_tiny", f"task.data={corpus}",
            f"hydra.run.dir={folder}", *SMALL, "common.bf16=false", "common.log_interval=1", "common.log_format=simple",
            "dataset.num_workers=1", "optimization.max_update=2000", *arguments,
        ],
        cwd=EXAMPLES.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(process, text):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
    pytest.fail("".join(lines[-20:]))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_after_the_running_update(corpus, tmp_path, number):
    process = start(corpus, tmp_path)
    wait_for(process, "num_updates=3,")
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)  # as a terminal does it
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == EXIT_SAVED, rest[-2000:]
    assert f"ended by {number.name}: saved" in rest
    assert "Traceback" not in rest
    state = torch.load(tmp_path / "checkpoints" / "checkpoint_last.pt", weights_only=True)
    assert state["optimizer_history"][-1]["num_updates"] >= 3


def test_a_run_that_was_asked_to_end_goes_on_as_if_it_was_not(corpus, tmp_path, monkeypatch):
    def run(folder, max_update=12):
        return train(
            "mae_ast_tiny", f"task.data={corpus}", *SMALL, "common.bf16=false", "checkpoint.no_save=false",
            f"checkpoint.save_dir={tmp_path / folder}", f"optimization.max_update={max_update}",
        ).losses  # fmt: skip

    uninterrupted = run("one")
    seen = []
    step = preemption.stop_if_asked

    def asked(device, save):
        seen.append(1)
        if len(seen) == 5:
            preemption._asked.append(signal.SIGTERM)
        step(device, save)

    monkeypatch.setattr("mae_ast_fairseq.tasks.patches.stop_if_asked", asked)
    with pytest.raises(SystemExit) as ended:
        run("two")
    assert ended.value.code == EXIT_SAVED
    preemption._asked.clear()
    assert run("two") == uninterrupted[5:]


def _signalled_twice(answers):
    preemption.listen()
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    answers.put([number.name for number in preemption._asked])


@pytest.mark.slow
def test_a_process_that_fairseq_starts_takes_what_its_parent_hands_on_as_the_same_request():
    processes = torch.multiprocessing.get_context("spawn")
    answers = processes.Queue()
    child = processes.Process(target=_signalled_twice, args=(answers,))
    child.start()
    assert answers.get(timeout=120) == ["SIGTERM"]
    child.join(timeout=60)
    assert child.exitcode == 0
