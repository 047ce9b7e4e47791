import sys
from pathlib import Path

import pytest
import torch

from mae_ast_fairseq.benchmark import limits
from mae_ast_fairseq.benchmark.limits import NotEnoughMemoryError, is_out_of_memory, require_memory
from tests.benchmark.small import CPU


def test_more_than_there_is_raises_and_less_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_bytes", lambda device: 2 * 2**30)
    require_memory(2 * 2**30, CPU)
    with pytest.raises(NotEnoughMemoryError, match=r"needs about 3\.0 GiB, 2\.0 GiB are free"):
        require_memory(3 * 2**30, CPU)


def test_where_the_system_does_not_say_anything_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_bytes", lambda device: None)
    assert require_memory(1e30, CPU) is None


def test_the_system_s_figure_is_in_bytes() -> None:
    available = limits.available_bytes(CPU)
    assert available is not None
    assert 2**26 < available < 2**50


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_goes_back_to_the_system() -> None:
    def resident() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    limits.release_memory()
    before = resident()
    tensors = [torch.ones(2**14) for _ in range(2_000)]  # 64 KiB each: from the heap, 125 MiB in all
    last = torch.ones(2**14)  # above them, so that the heap cannot shrink by itself
    del tensors
    limits.release_memory()
    assert resident() - before < 40 * 2**20
    assert last.sum() == 2**14


def test_the_allocator_s_own_error_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert limits.reason(caught.value).startswith("not enough memory: ")
    assert not is_out_of_memory(RuntimeError("shapes differ"))
