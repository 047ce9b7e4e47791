"""A run's processes: which one this is, as torchrun or Slurm says, and that all run the same command."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional

import torch
from omegaconf import DictConfig, OmegaConf

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.tasks.launch import is_first_process, is_on_cpu
from mae_ast_fairseq.training_error import TrainingError, without_traceback

TORCHRUN = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK")
SLURM = ("SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_NTASKS")
"""What `srun` says to each process that it starts, and `sbatch` alone does not."""

_GONE = (
    r"connection (closed|reset)|broken pipe|connection refused|remote process exited|failed to recv|timed out waiting"
)
"""What gloo, NCCL and torch's store say where the other end of a connection is no more."""

FIRST_PORT, NUM_PORTS = 10_000, 50_000
OF_THE_FIRST = ("checkpoint.save_dir", "common.tensorboard_logdir", "common.bf16")
"""Fields that all take from the first process: hydra names folders by the second, and machines differ in speed."""

OF_A_PROCESS = (
    *("distributed_training.distributed_rank", "distributed_training.device_id"),
    *("distributed_training.distributed_num_procs", "common.user_dir", "common.log_file"),
)
"""Fields that may differ between the processes of a run."""


class Place(NamedTuple):
    """Where a process stands in a run."""

    rank: int
    world_size: int
    device: int
    init_method: str
    spawns: bool = False
    """whether fairseq starts a process for each of the machine's GPUs, of which this rank is the first one's"""


def find_place(environment: Mapping[str, str], num_devices: int, port: int = 0) -> Optional[Place]:
    """Return what torchrun or `srun` says of this process; None where neither has started several.

    Args:
        environment: of the process.
        num_devices: GPUs that it sees.
        port: of the first process, under Slurm; 0: one that follows from the job's number.

    Raises:
        ConfigError: Slurm does not say which machine the first process is on.
    """
    if _has(environment, TORCHRUN):
        rank, world_size, local_rank = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        return Place(rank, world_size, local_rank % max(1, num_devices), "env://")
    if not _has(environment, SLURM):
        return None
    rank, num_tasks = int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"])
    num_nodes = int(environment.get("SLURM_NNODES", 1))
    if num_tasks == num_nodes == 1:
        return None
    port = port if port > 0 else FIRST_PORT + _step_number(environment) % NUM_PORTS
    init_method = f"tcp://{_first_host(environment['SLURM_STEP_NODELIST'])}:{port}"
    if num_tasks == num_nodes and num_devices > 1:  # one task a machine
        return Place(rank * num_devices, num_nodes * num_devices, 0, init_method, spawns=True)
    return Place(rank, num_tasks, int(environment.get("SLURM_LOCALID", 0)) % max(1, num_devices), init_method)


def _step_number(environment: Mapping[str, str]) -> int:
    """Return a number of a job's step, of which several may run beside each other."""
    job, step = (int(environment.get(f"SLURM_{name}_ID", 0)) for name in ("JOB", "STEP"))
    return job + 7_919 * step


def overrides_of_process(is_multirun: bool) -> list[str]:
    """Return what this process adds to a run's command, before it has met the others: all but the first write nothing.

    Raises ConfigError where several runs are asked of several processes.
    """
    group, name = (TORCHRUN, "RANK") if _has(os.environ, TORCHRUN) else (SLURM, "SLURM_PROCID")
    if not _has(os.environ, group):
        return []
    if is_multirun and find_place(os.environ, 0):
        raise ConfigError(
            "--multirun: several runs were asked of several processes; expected one run of them; start each run by "
            "itself, or outside of torchrun and srun with hydra/launcher=submitit_slurm"
        )
    return (
        [] if os.environ[name] == "0" else ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout"]
    )


def _has(environment: Mapping[str, str], names: Sequence[str]) -> bool:
    return all(environment.get(name) for name in names)


def _first_host(nodes: str) -> str:
    """Return the first of Slurm's machines, `node[01-04,07]`."""
    if not set("[,") & set(nodes):
        return nodes
    try:
        return subprocess.check_output(["scontrol", "show", "hostnames", nodes], text=True).split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ConfigError(
            f"distributed_training.distributed_init_method: null was given, and `scontrol show hostnames {nodes}` does "
            f"not say which machine is the first ({error}); expected tcp://MACHINE:PORT; set the field"
        ) from None


def settle_processes(cfg: DictConfig) -> dict[str, Callable[..., Any]]:
    """Write into a run's config, in place, which of its processes this is, unless it says how they are to meet.

    Returns what fairseq's `call_main` is to be given beside it. Recipes for a CPU run in one process where nothing has
    started several: fairseq would start as many as there are GPUs.
    """
    given = cfg.distributed_training
    on_cpu = is_on_cpu(cfg)
    num_devices = 0 if on_cpu else torch.cuda.device_count()
    if given.distributed_init_method is None:
        place = find_place(os.environ, num_devices, given.distributed_port)
        if place is not None:
            given.distributed_init_method = place.init_method
            given.distributed_rank, given.distributed_world_size = place.rank, place.world_size
            given.device_id, given.distributed_no_spawn = place.device, not place.spawns
        elif on_cpu:
            given.distributed_world_size = 1
    if on_cpu and given.distributed_backend == "nccl":
        given.distributed_backend = "gloo"
    return {} if given.distributed_init_method is None else {"after_distributed_init_fn": agree}


@without_traceback
def agree(cfg: DictConfig) -> DictConfig:
    """Return the run's config with the first process's folders; raises ConfigError where others were set otherwise."""
    own = _flat(cfg)
    everybodys: list[dict[str, Any]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everybodys, own)
    first = everybodys[0]
    for rank, settings in enumerate(everybodys):
        for name in dict.fromkeys([*first, *settings]):
            if name not in (*OF_THE_FIRST, *OF_A_PROCESS) and first.get(name) != settings.get(name):
                raise ConfigError(
                    f"{name}: process {rank} was given {settings.get(name)!r}; expected {first.get(name)!r}, as "
                    "process 0; start all of a run by the same command"
                )
    for name in OF_THE_FIRST:
        OmegaConf.update(cfg, name, first[name])
    if not is_first_process():
        cfg.common.log_file = None
    return cfg


def _flat(cfg: DictConfig) -> dict[str, Any]:
    """Return all fields of a run's sections by their full names."""
    plain = OmegaConf.to_container(cfg)
    assert isinstance(plain, dict)
    sections = {str(name): values for name, values in plain.items() if isinstance(values, dict)}
    sections.pop("job_logging_cfg", None)
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


@contextmanager
def partners_needed() -> Iterator[None]:
    """Say in one line where another process of the run has gone; without this each of those left says it in thirty."""
    try:
        yield
    except RuntimeError as error:
        if not (torch.distributed.is_initialized() and re.search(_GONE, str(error), re.IGNORECASE)):
            raise
        raise TrainingError(
            f"process {torch.distributed.get_rank()} of {torch.distributed.get_world_size()}: another process of this "
            "run has ended; its own output says why; start the same command again to go on from the last checkpoint"
        ) from error
