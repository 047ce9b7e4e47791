import pytest
import torch

from mae_ast_fairseq import precision


@pytest.mark.parametrize(("bfloat16", "chosen"), [(0.2, "bfloat16"), (0.9, "float32"), (4.5, "float32")])
def test_the_faster_type_is_chosen_if_it_is_so_by_a_margin(monkeypatch, bfloat16, chosen):
    monkeypatch.setattr(precision, "_seconds", {torch.float32: 1.0, torch.bfloat16: bfloat16}.get)
    precision.fastest_on_cpu.cache_clear()
    assert precision.fastest_on_cpu() == precision.fastest(torch.device("cpu")) == chosen
    precision.fastest_on_cpu.cache_clear()


def test_a_process_asks_once(monkeypatch):
    precision.fastest_on_cpu.cache_clear()
    chosen = precision.fastest_on_cpu()
    monkeypatch.setattr(precision, "_seconds", lambda dtype: pytest.fail("asked again"))
    assert precision.fastest_on_cpu() == chosen in ("bfloat16", "float32")
    precision.fastest_on_cpu.cache_clear()
