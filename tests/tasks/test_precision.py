"""A run on a CPU trains in what the processor multiplies faster, and goes on in what it was begun in."""

import pytest
import torch
from omegaconf import OmegaConf

from mae_ast_fairseq.tasks import precision
from tests.training import SMALL, config, train


@pytest.fixture(params=["bfloat16", "float32"])
def fastest(request, monkeypatch):
    monkeypatch.setattr(precision, "fastest_on_cpu", lambda: request.param)
    return request.param


def settled(*overrides, given=(), content=None):
    cfg = config("mae_ast_tiny", "task.data=/data", *overrides)
    precision.settle_precision(cfg, frozenset(given), content)
    return cfg.common.bf16


def test_the_faster_is_taken_and_said(fastest, caplog):
    with caplog.at_level("INFO"):
        assert settled() == (fastest == "bfloat16")
    assert f"training in {fastest}, which this processor multiplies faster" in caplog.text


def test_a_persons_setting_wins(fastest):
    assert settled("common.bf16=true", given={"common.bf16"}) is True
    assert settled("common.bf16=false", given={"common.bf16"}) is False
    assert settled(content=OmegaConf.create({"common": {"bf16": False}})) is False
    assert settled(content=OmegaConf.create({"common": {"seed": 1}})) == (fastest == "bfloat16")
    assert settled("common.amp=true") is False


def test_on_a_gpu_the_recipe_says(fastest, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settled("common.cpu=false") is False


@pytest.mark.parametrize("bf16", [True, False])
def test_a_run_stays_in_the_precision_in_which_it_was_begun(corpus, tmp_path, fastest, bf16):
    saving = f"checkpoint.save_dir={tmp_path}", "checkpoint.no_save=false", "optimization.max_update=1"
    train("mae_ast_tiny", f"task.data={corpus}", *SMALL, *saving, f"common.bf16={str(bf16).lower()}")
    assert settled(*saving) is bf16
    warm = f"checkpoint.finetune_from_model={tmp_path}/checkpoint_last.pt", f"checkpoint.save_dir={tmp_path}/new"
    assert settled(*warm) == (fastest == "bfloat16")
