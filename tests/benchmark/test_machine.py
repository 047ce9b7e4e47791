import platform
from pathlib import Path

import fairseq
import torch

from mae_ast_fairseq.benchmark import machine
from tests.benchmark.small import CPU


def test_the_machine_and_the_versions_are_named() -> None:
    found = machine.describe(CPU)
    assert found["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
    assert found["num_threads"] == torch.get_num_threads()
    assert found["fairseq"] == fairseq.__version__
    assert found["processor"]


def test_outside_a_clone_there_is_no_commit(tmp_path: Path) -> None:
    assert machine._commit(tmp_path) is None
