"""Pretraining and fine-tuning in two processes, started one by one, by torchrun and as Slurm does it."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from mae_ast_fairseq.figures import read_figures
from mae_ast_fairseq.tasks.preemption import EXIT_SAVED
from tests.finetuning import QUICK as QUICK_FINETUNING
from tests.finetuning import write_tones
from tests.processes import ended, free_port, run_two, start_train, start_two, torchrun_says
from tests.training import EXAMPLES, SMALL, train

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


# --- one process and two


@pytest.mark.slow
def test_two_processes_give_the_losses_and_weights_of_one_with_twice_the_batches(corpus, tmp_path):
    # 28 batches an epoch and an odd one: into the second epoch, past an update that has one batch alone.
    same = (
        "common.bf16=false", "common.log_interval=1", "common.log_format=json", "common.cpu=true",
        "dataset.max_tokens=30000", "task.max_bad_fraction=0.2", "optimization.max_update=20",
        "lr_scheduler.warmup_updates=2", "checkpoint.no_save=false",
    )  # fmt: skip
    update = "optimization.update_freq=[2]", f"checkpoint.save_dir={tmp_path / 'one'}"
    one = train("mae_ast_tiny", f"task.data={corpus}", *SMALL, *same, *update)
    codes, outputs = run_two("mae_ast_tiny", corpus, tmp_path, *SMALL, *same, f"checkpoint.save_dir={tmp_path / 'two'}")
    assert codes == [0, 0], outputs[0][-2000:] + outputs[1][-2000:]
    two = [json.loads(found) for found in re.findall(r"\[train_inner\]\[INFO\] - (\{.*\})", outputs[0])]
    assert len(one.updates) == len(two) == 20
    for name in ("loss", "loss_recon", "loss_info_nce", "info_nce_accuracy", "gnorm", "wpb", "bsz", "epoch"):
        assert [each[name] for each in one.updates] == [float(each[name]) for each in two], name
    of_one, of_two = (weights_and_updates(tmp_path / folder)[0] for folder in ("one", "two"))
    for name, value in of_one.items():
        assert torch.allclose(value, of_two[name], rtol=0, atol=1e-6), name


@pytest.mark.slow
def test_a_run_that_goes_from_one_process_to_two_within_an_epoch_says_so(corpus, tmp_path):
    train("mae_ast_tiny", f"task.data={corpus}", *SMALL, *saving(tmp_path / "run"), "optimization.max_update=3")
    codes, outputs = train_two(
        corpus, tmp_path, *saving(tmp_path / "run"), "optimization.max_update=6", "task.on_changed_data=refuse",
        "dataset.max_tokens=100000",
    )  # fmt: skip
    assert 0 not in codes
    for output in outputs:
        assert "task.on_changed_data: refuse was given" in output
        assert "distributed_training.distributed_world_size: 1 -> 2" in output
        assert "Traceback" not in output


# --- fine-tuning


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("tones"))


def finetune_two(data, folder, *overrides):
    codes, outputs = run_two("finetune_fsdd", data, folder, *QUICK_FINETUNING, "common.cpu=true", *overrides)
    assert codes == [0, 0], outputs[0][-2000:] + outputs[1][-2000:]
    return outputs


@pytest.mark.slow
def test_fine_tuning_in_two_processes_goes_on_as_if_it_was_not_stopped(corpus, tones, tmp_path):
    train("mae_ast_tiny", f"task.data={corpus}", *SMALL, *saving(tmp_path / "pretrained"))
    pretrained = f"model.pretrained={tmp_path / 'pretrained' / 'checkpoint_last.pt'}"
    for folder, updates in (("one", 5), ("two", 3), ("two", 5)):  # two updates an epoch
        outputs = finetune_two(
            tones, tmp_path, pretrained, *saving(tmp_path / folder), f"optimization.max_update={updates}"
        )
    assert "accuracy" in outputs[0]
    (uninterrupted, _), (resumed, num_updates) = map(weights_and_updates, (tmp_path / "one", tmp_path / "two"))
    assert num_updates == 5
    assert all(torch.equal(resumed[name], value) for name, value in uninterrupted.items())


# --- launchers

RUN = (
    "mae_ast_tiny", *SMALL, "common.bf16=false", "common.log_interval=1", "dataset.max_tokens=100000",
    "dataset.num_workers=0", "task.max_bad_fraction=0.2", "lr_scheduler.warmup_updates=2",
)  # fmt: skip


def written(folder):
    """Return what a run left, without TensorBoard's files, whose names hold times and numbers of processes."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if "tensorboard" not in name)


OF_A_RUN = [
    *(".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"),
    *("checkpoints/checkpoint_best.pt", "checkpoints/checkpoint_last.pt", "config.yaml", "log.jsonl", "train.log"),
]


@pytest.mark.slow
def test_torchrun_starts_and_resumes_a_run_of_which_the_first_process_alone_writes(corpus, tmp_path):
    for updates in (3, 5):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
                *(f"--master_port={free_port()}", "-m", "mae_ast_fairseq.cli", "train", *RUN, f"task.data={corpus}"),
                *("hydra.run.dir=runs/a", f"optimization.max_update={updates}"),
            ],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}, text=True, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:]
    assert weights_and_updates(tmp_path / "runs" / "a" / "checkpoints")[1] == 5
    assert "Loaded checkpoint" in done.stdout
    assert written(tmp_path) == [f"runs/a/{name}" for name in OF_A_RUN]
    figures = read_figures(tmp_path / "runs" / "a" / "log.jsonl")
    assert [line["num_updates"] for line in figures if line["kind"] == "train_inner"] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_slurm_starts_a_run_in_a_folder_that_the_first_process_names(corpus, tmp_path):
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text("#!/bin/sh\necho 127.0.0.1\necho 127.0.0.2\n")
    scontrol.chmod(0o755)
    (tmp_path / "work").mkdir()
    same = {
        "PATH": f"{scontrol.parent}:{os.environ['PATH']}", "SLURM_STEP_NODELIST": "node[01-02]", "SLURM_NNODES": "2",
        "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7",
    }  # fmt: skip
    arguments = *RUN, f"task.data={corpus}", f"distributed_training.distributed_port={free_port()}"
    processes = [
        start_train(
            {**same, "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)},
            *arguments, "optimization.max_update=2", cwd=tmp_path / "work",
        )
        for rank in range(2)
    ]  # fmt: skip
    codes, outputs = ended(processes)
    assert codes == [0, 0], outputs[0][-2000:] + outputs[1][-2000:]
    (folder,) = (tmp_path / "work" / "outputs" / "mae_ast_tiny").iterdir()
    assert written(folder) == OF_A_RUN


@pytest.mark.slow
@pytest.mark.parametrize("gone", [0, 1])
def test_where_one_process_is_killed_the_other_ends_with_one_line(gone, corpus, tmp_path):
    port = free_port()
    arguments = (
        *RUN, f"task.data={corpus}", "hydra.run.dir=run", "optimization.max_update=5000", "common.log_format=simple",
    )  # fmt: skip
    processes = [start_train(torchrun_says(rank, port), *arguments, cwd=tmp_path) for rank in range(2)]
    for line in processes[0].stdout:
        if "num_updates=3," in line:
            break
    processes[gone].kill()
    codes, outputs = ended(processes)
    assert (codes[gone], codes[1 - gone]) == (-signal.SIGKILL, 2)
    assert outputs[1 - gone].splitlines()[-1].startswith(f"mae-ast train: process {1 - gone} of 2: another process")
    assert "Traceback" not in outputs[1 - gone]


@pytest.mark.slow
def test_processes_that_were_started_by_different_commands_are_refused_alike(corpus, tmp_path):
    port = free_port()
    arguments = *RUN, f"task.data={corpus}"
    processes = [
        start_train(torchrun_says(rank, port), *arguments, f"optimization.lr={lr}", cwd=tmp_path)
        for rank, lr in enumerate(("1e-3", "5e-4"))
    ]
    codes, outputs = ended(processes)
    assert codes == [2, 2]
    expected = "mae-ast train: optimization.lr: process 1 was given [0.0005]; expected [0.001], as process 0"
    assert all(output.splitlines()[-1].startswith(expected) for output in outputs)
