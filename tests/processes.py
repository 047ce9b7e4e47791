"""Two processes on one machine, by gloo, as fairseq starts them."""

import socket
import subprocess
import sys
from pathlib import Path

from tests.training import EXAMPLES

# fairseq gathers small objects in a buffer that it wants on a GPU; without one, tests put it on the CPU.
CODE = """
import torch
from fairseq.distributed import utils
from fairseq_cli.hydra_train import cli_main
utils.all_gather_list._buffer = utils.all_gather_list._cpu_buffer = torch.ByteTensor(1 << 16)
{before}
cli_main()
"""


def start_two(recipe: str, data: Path, folder: Path, *overrides: str, before: str = "") -> list[subprocess.Popen[str]]:
    """Start the training of a recipe in two processes, each of which runs the code `before` first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [
                sys.executable, "-c", CODE.format(before=before), "--config-dir", EXAMPLES, "--config-name", recipe,
                f"task.data={data}", f"hydra.run.dir={folder}/{rank}", "checkpoint.no_save=true",
                "dataset.num_workers=0", "dataset.data_buffer_size=0",
                f"distributed_training.distributed_init_method=tcp://127.0.0.1:{port}",
                f"distributed_training.distributed_rank={rank}", "distributed_training.distributed_world_size=2",
                "distributed_training.distributed_no_spawn=true", "distributed_training.distributed_backend=gloo",
                *overrides,
            ],
            cwd=EXAMPLES.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


def ended(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Wait for processes; return exit codes and outputs."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def run_two(recipe: str, data: Path, folder: Path, *overrides: str, before: str = "") -> tuple[list[int], list[str]]:
    """Train a recipe in two processes as `start_two` does; return exit codes and outputs."""
    return ended(start_two(recipe, data, folder, *overrides, before=before))
