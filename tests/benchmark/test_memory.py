import os
import subprocess
import sys

import pytest
import torch

from mae_ast_fairseq.benchmark.memory import or_error

ALLOCATE = """
import torch
from mae_ast_fairseq.benchmark import memory
memory._bytes_of = lambda file, name: 2**28 if name == "MemAvailable" else _bytes_of(file, name)
_bytes_of = lambda file, name: 2**29
with memory.limited_memory():
    print(memory.or_error(lambda: len(torch.ones(2**20))), memory.or_error(lambda: torch.empty(2**31)))
print(len(torch.empty(2**29)))
"""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_is_a_result(error: Exception) -> None:
    def fails() -> None:
        raise error

    assert or_error(fails)["error"].startswith("not enough memory")
    assert or_error(lambda: 5) == 5


def test_other_errors_are_not_hidden() -> None:
    def fails() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        or_error(fails)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_is_not_free_is_refused_for_a_while() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", ALLOCATE], env=environment, capture_output=True, text=True, check=True
    )
    limited, after = result.stdout.splitlines()
    assert limited.startswith("1048576 {'error': \"not enough memory: ")
    assert after == str(2**29)
