"""Which of a run's processes this is, as torchrun and Slurm say it."""

import stat

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.tasks import distributed
from mae_ast_fairseq.tasks.distributed import (
    FIRST_PORT,
    SLURM,
    TORCHRUN,
    Place,
    find_place,
    overrides_of_process,
    partners_needed,
    settle_processes,
)
from mae_ast_fairseq.training_error import TrainingError

OF_TORCHRUN = {"MASTER_ADDR": "a", "MASTER_PORT": "29500", "WORLD_SIZE": "16", "RANK": "11", "LOCAL_RANK": "3"}
OF_SLURM = {
    "SLURM_JOB_ID": "123", "SLURM_STEP_NODELIST": "gpu7", "SLURM_NNODES": "1", "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5", "SLURM_LOCALID": "5",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def scontrol(monkeypatch, tmp_path):
    """A command `scontrol` that names two machines and notes what it was asked."""
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho node03\necho node04\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path / "asked"


@pytest.mark.parametrize(("num_devices", "device"), [(0, 0), (8, 3), (1, 0)])
def test_torchrun_says_rank_and_device(num_devices, device):
    assert find_place({**OF_SLURM, **OF_TORCHRUN}, num_devices) == Place(11, 16, device, "env://")


@pytest.mark.parametrize(("num_devices", "device"), [(0, 0), (8, 5), (1, 0)])
def test_a_task_of_slurm_has_a_gpu_of_its_machine_or_the_only_one_that_it_sees(num_devices, device):
    expected = Place(5, 8, device, f"tcp://gpu7:{FIRST_PORT + 123}")
    assert find_place(OF_SLURM, num_devices) == expected


def test_the_first_of_several_machines_is_where_processes_meet(scontrol):
    nodes = {**OF_SLURM, "SLURM_STEP_NODELIST": "node[03-04]", "SLURM_NNODES": "2", "SLURM_NTASKS": "16"}
    place = find_place({**nodes, "SLURM_PROCID": "13"}, 8, port=2345)
    assert place == Place(13, 16, 5, "tcp://node03:2345")
    assert scontrol.read_text() == "show hostnames node[03-04]\n"


def test_one_task_a_machine_leaves_its_gpus_to_fairseq(scontrol):
    nodes = {**OF_SLURM, "SLURM_STEP_NODELIST": "node[03-04]", "SLURM_NNODES": "2", "SLURM_NTASKS": "2"}
    place = find_place({**nodes, "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}, 8, port=2345)
    assert place == Place(8, 16, 0, "tcp://node03:2345", spawns=True)


def test_several_machines_without_scontrol_are_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"distributed_init_method: .*node\[03-04\].*tcp://MACHINE:PORT"):
        find_place({**OF_SLURM, "SLURM_STEP_NODELIST": "node[03-04]"}, 8)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_NODELIST": "gpu7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},  # of sbatch, outside of srun
        {**OF_SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        {"RANK": "3"},
    ],
)
def test_what_is_started_alone_is_alone(environment, monkeypatch):
    assert find_place(environment, 0) is None
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert overrides_of_process(is_multirun=True) == []


@given(st.integers(1, 16), st.integers(1, 8))
def test_processes_of_slurm_have_each_rank_once_and_each_gpu_of_a_machine_once(num_nodes, num_gpus):
    base = {**OF_SLURM, "SLURM_NNODES": str(num_nodes), "SLURM_NTASKS": str(num_nodes * num_gpus)}
    places = [
        find_place({**base, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % num_gpus)}, num_gpus)
        for rank in range(num_nodes * num_gpus)
    ]
    if num_nodes * num_gpus == 1:
        assert places == [None]
    else:
        assert {(place.rank, place.device) for place in places} == {
            (rank, rank % num_gpus) for rank in range(num_nodes * num_gpus)
        }


@pytest.mark.parametrize("environment", [OF_TORCHRUN, OF_SLURM])
def test_all_but_the_first_write_no_folder_of_hydra_and_one_run_at_a_time(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert set(overrides_of_process(False)) >= {"hydra.run.dir=.", "hydra.output_subdir=null"}
    with pytest.raises(ConfigError, match="--multirun: several runs"):
        overrides_of_process(True)
    monkeypatch.setenv("RANK" if "RANK" in environment else "SLURM_PROCID", "0")
    assert overrides_of_process(False) == []


def settings(**distributed_training):
    given = {"distributed_init_method": None, "distributed_backend": "nccl", "distributed_port": -1, "device_id": 0}
    given |= {"distributed_rank": 0, "distributed_world_size": 4, "distributed_no_spawn": False, **distributed_training}
    return OmegaConf.create({"common": {"cpu": True}, "distributed_training": given})


def test_a_cpu_has_one_process_unless_a_launcher_has_started_more(monkeypatch):
    cfg = settings()
    assert settle_processes(cfg) == {}
    assert cfg.distributed_training.distributed_world_size == 1
    for name, value in OF_TORCHRUN.items():
        monkeypatch.setenv(name, value)
    cfg = settings()
    assert settle_processes(cfg) == {"after_distributed_init_fn": distributed.agree}
    assert cfg.distributed_training == {
        "distributed_init_method": "env://", "distributed_backend": "gloo", "distributed_port": -1, "device_id": 0,
        "distributed_rank": 11, "distributed_world_size": 16, "distributed_no_spawn": True,
    }  # fmt: skip


def test_how_processes_meet_is_left_as_it_was_given(monkeypatch):
    for name, value in OF_TORCHRUN.items():
        monkeypatch.setenv(name, value)
    cfg = settings(distributed_init_method="tcp://b:1", distributed_rank=2)
    settle_processes(cfg)
    assert (cfg.distributed_training.distributed_rank, cfg.distributed_training.distributed_world_size) == (2, 4)


@pytest.mark.parametrize(
    ("text", "is_partner_s"),
    [
        ("[pair.cc:534] Connection closed by peer [127.0.0.1]:4711", True),
        ("NCCL communicator was aborted: remote process exited or there was a network error", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_a_connection_that_is_lost_is_one_line_and_nothing_else_is(monkeypatch, text, is_partner_s):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(TrainingError if is_partner_s else RuntimeError) as caught, partners_needed():
        raise RuntimeError(text)
    assert isinstance(caught.value, TrainingError) == is_partner_s


def test_two_steps_of_a_slurm_job_meet_at_ports_of_their_own():
    said = {"SLURM_STEP_NODELIST": "node1", "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "77"}
    places = [find_place({**said, "SLURM_STEP_ID": step}, 0) for step in ("0", "1")]
    assert len({place.init_method for place in places}) == 2
