"""Updates whose gradient is not finite."""

import math

import pytest
import torch

from mae_ast_fairseq.criterions.base import AudioCriterion
from mae_ast_fairseq.errors import UserError
from tests.training import SMALL, train


@pytest.fixture
def one_nan(monkeypatch):
    """Make the loss of some updates NaN, by their number from 1."""
    numbers, seen = set(), []
    forward = AudioCriterion.forward

    def spoilt(self, model, sample, *args, **kwargs):
        loss, *rest = forward(self, model, sample, *args, **kwargs)
        if model.training:
            seen.append(sample["id"].tolist())
            if len(seen) in numbers:
                loss = loss * math.nan
        return loss, *rest

    monkeypatch.setattr(AudioCriterion, "forward", spoilt)
    return numbers, seen


@pytest.mark.parametrize("bf16", ["false", "true"])
def test_an_update_of_nan_changes_no_weight_and_the_run_goes_on(corpus, tmp_path, one_nan, caplog, bf16):
    numbers, seen = one_nan
    numbers.add(3)

    def run(max_update):
        settings = (
            f"checkpoint.save_dir={tmp_path}",
            "checkpoint.no_save=false",
            f"optimization.max_update={max_update}",
        )
        train("mae_ast_tiny", f"task.data={corpus}", *SMALL, f"common.bf16={bf16}", *settings)
        return torch.load(tmp_path / "checkpoint_last.pt")["model"]

    before, after = run(2), run(3)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sum("update skipped" in record.getMessage() for record in caplog.records) == 1
    row = seen[2][0]
    assert (corpus / f"{row:02}.wav").name in caplog.text
    later = run(5)
    assert not torch.equal(later["final_proj_reconstruction.weight"], after["final_proj_reconstruction.weight"])
    assert all(torch.isfinite(value).all() for value in later.values())


def test_what_is_logged_of_the_others_stays_finite(corpus, one_nan):
    one_nan[0].add(2)
    run = train("mae_ast_tiny", f"task.data={corpus}", *SMALL)
    assert [math.isfinite(update.get("loss", math.nan)) for update in run.updates] == [True, False, True, True]
    assert run.updates[-1]["num_updates"] == 4


def test_a_run_that_only_skips_ends_with_one_line(corpus, one_nan):
    one_nan[0].update(range(1, 10))
    with pytest.raises(UserError, match=r"3 updates were skipped .* task\.max_skipped_updates=2"):
        train("mae_ast_tiny", f"task.data={corpus}", *SMALL, "task.max_skipped_updates=2")
