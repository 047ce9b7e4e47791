"""Two processes on one machine, by gloo, as fairseq starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.training import EXAMPLES

CODE = """
from fairseq_cli.hydra_train import cli_main
{before}
cli_main()
"""


def distributed(rank: int, port: int) -> list[str]:
    """Return the overrides that make a run one of two processes that meet at a port."""
    return [
        f"distributed_training.distributed_init_method=tcp://127.0.0.1:{port}",
        f"distributed_training.distributed_rank={rank}", "distributed_training.distributed_world_size=2",
        "distributed_training.distributed_no_spawn=true", "distributed_training.distributed_backend=gloo",
    ]  # fmt: skip


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_two(recipe: str, data: Path, folder: Path, *overrides: str, before: str = "") -> list[subprocess.Popen[str]]:
    """Start the training of a recipe in two processes, each of which runs the code `before` first."""
    port = free_port()
    return [
        subprocess.Popen(
            [
                sys.executable, "-c", CODE.format(before=before), "--config-dir", EXAMPLES, "--config-name", recipe,
                f"task.data={data}", f"hydra.run.dir={folder}/{rank}", "checkpoint.no_save=true",
                "dataset.num_workers=0", "dataset.data_buffer_size=0", "common.log_format=simple",
                *distributed(rank, port), *overrides,
            ],
            cwd=EXAMPLES.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


def start_train(environment: dict[str, str], *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start `mae-ast train` with what a launcher says of a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "mae_ast_fairseq.cli", "train", *map(str, arguments)],
        cwd=cwd, env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def torchrun_says(rank: int, port: int, world_size: int = 2) -> dict[str, str]:
    """Return the variables that torchrun sets, on one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in numbers.items()}}


def ended(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Wait for processes; return exit codes and outputs."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def run_two(recipe: str, data: Path, folder: Path, *overrides: str, before: str = "") -> tuple[list[int], list[str]]:
    """Train a recipe in two processes as `start_two` does; return exit codes and outputs."""
    return ended(start_two(recipe, data, folder, *overrides, before=before))
