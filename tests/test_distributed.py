"""Two processes on one machine, by gloo, as fairseq starts them."""

import re
import socket
import subprocess
import sys

import pytest

from tests.training import EXAMPLES, SMALL

# fairseq gathers small objects in a buffer that it wants on a GPU; without one, tests put it on the CPU.
CODE = """
import torch
from fairseq.distributed import utils
from fairseq_cli.hydra_train import cli_main
from mae_ast_fairseq.nn.normalization import InputNormalization

set_statistics = InputNormalization.set_statistics
def spy(self, *values):
    print("statistics", values, flush=True)
    set_statistics(self, *values)
InputNormalization.set_statistics = spy
utils.all_gather_list._buffer = utils.all_gather_list._cpu_buffer = torch.ByteTensor(1 << 16)
cli_main()
"""


def run_two(data, folder, *overrides):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [
                sys.executable, "-c", CODE, "--config-dir", EXAMPLES, "--config-name", "mae_ast_tiny",
                f"task.data={data}", f"hydra.run.dir={folder}/{rank}", "checkpoint.no_save=true",
                "common.log_interval=1", "dataset.num_workers=0", "dataset.data_buffer_size=0",
                f"distributed_training.distributed_init_method=tcp://127.0.0.1:{port}",
                f"distributed_training.distributed_rank={rank}", "distributed_training.distributed_world_size=2",
                "distributed_training.distributed_no_spawn=true", "distributed_training.distributed_backend=gloo",
                *SMALL, *overrides,
            ],
            cwd=EXAMPLES.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [process.returncode for process in processes], outputs


@pytest.mark.slow
def test_processes_take_the_same_statistics_and_train_on(corpus, tmp_path):
    codes, outputs = run_two(corpus, tmp_path, "optimization.max_update=2", "common.bf16=false")
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
    codes, outputs = run_two(tmp_path, tmp_path, "optimization.max_update=40", "task.max_bad_fraction=0.13")
    assert 0 not in codes
    assert any("6 of 40 files (15.0%) are broken" in output for output in outputs), outputs[0][-1500:]
