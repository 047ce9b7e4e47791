from pathlib import Path
from typing import Any

import pytest
import torch

from mae_ast_fairseq.benchmark import loader, training
from mae_ast_fairseq.benchmark.training import NUM_WARM_UP, BenchmarkModel, summarize
from mae_ast_fairseq.errors import ConfigError
from tests.benchmark.small import small_case, small_config, small_model


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "NUM_FILES", 2)


@pytest.fixture
def fake_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the clock by one that advances by a second each time it is asked."""
    seconds = iter(range(1_000_000))
    monkeypatch.setattr(training, "timer", lambda: float(next(seconds)))


def test_fairseq_s_config_is_the_case_s_and_writes_nothing_elsewhere(tmp_path: Path) -> None:
    case = small_case(precision="bfloat16", mask_ratio=0.5, batch_size=7, attention_dropout=0.2)
    cfg = small_config(tmp_path, case)
    assert (cfg.common.bf16, cfg.common.fp16, cfg.common.cpu) == (True, False, True)
    assert (cfg.model.random_mask_prob, cfg.model.attention_dropout, cfg.model.encoder_layerdrop) == (0.5, 0.2, 0.0)
    assert (cfg.dataset.batch_size, cfg.task.max_sample_size) == (7, 16_000)
    assert (cfg.checkpoint.no_save, cfg.checkpoint.save_dir) == (True, str(tmp_path))
    assert cfg.common.tensorboard_logdir is None


def test_dropouts_are_the_case_s_or_else_the_recipe_s(tmp_path: Path) -> None:
    own = small_config(tmp_path, small_case(dropout=None, attention_dropout=None)).model
    assert (own.dropout, own.attention_dropout, own.dropout_input) == (0.1, 0.1, 0.1)
    changed = small_config(tmp_path, small_case(dropout=0.2, attention_dropout=0.0)).model
    assert (changed.dropout, changed.attention_dropout, changed.dropout_input) == (0.2, 0.0, 0.2)


@pytest.mark.parametrize(("ratio", "num_visible"), [(None, 12), (0.5, 24)])
def test_the_batch_has_the_case_s_size_and_masks(tmp_path: Path, ratio: float | None, num_visible: int) -> None:
    case = small_case(mask_ratio=ratio, batch_size=3)
    inputs = small_model(tmp_path, case)[1]["net_input"]
    assert inputs["source"].shape == (3, 98, 128)  # 48 tokens: 6 columns of 8 patches
    both = torch.cat([inputs["visible"], inputs["masked"]], dim=1)
    assert torch.equal(both.sort(dim=1).values, torch.arange(48).expand(3, -1))
    assert inputs["visible"].shape == (3, num_visible)


def test_the_model_is_in_its_precision_but_for_the_statistics(tmp_path: Path) -> None:
    model = small_model(tmp_path, small_case("ssast_patch", precision="bfloat16"))[0].model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.batch_norm.running_mean.dtype is torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_parts_of_an_update_are_timed_one_after_the_other(tmp_path: Path, fake_timer: None, precision: str) -> None:
    trained, sample = small_model(tmp_path, small_case(precision=precision))
    timed = trained.time(sample)
    # The optimiser's part is three calls: scaling and clipping gradients, and its step.
    expected = {"forward": 1, "backward": 1, "forward_backward": 2, "optimizer": 3, "update": 5, "inference": 1}
    assert {name: timed[name] for name in expected} == expected
    assert all(parameter.grad is None for parameter in trained.model.parameters())
    assert trained.trainer.get_num_updates() == 1


def test_the_time_of_an_update_is_split_without_a_rest() -> None:
    updates = [
        {"total": 10.0, "forward": 2.0, "backward": 3.0, "optimizer": 2.0, "wait": 1.0},
        {"total": 30.0, "forward": 8.0, "backward": 12.0, "optimizer": 5.0, "wait": 4.0},
    ]
    summary = summarize(updates)
    assert summary["seconds_of_parts"]["other"]["median"] == 1.5  # of 2 and 1
    assert summary["seconds_of_parts"]["forward_backward"]["median"] == 12.5
    assert summary["other_share"] == 3 / 40
    assert summary["wait_share"] == 5 / 40
    assert summary["seconds_of_parts"]["total"] == {"median": 20.0, "q1": 15.0, "q3": 25.0}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fairseq_s_loop_runs_on_one_batch(tmp_path: Path, fake_timer: None, precision: str) -> None:
    trained, sample = small_model(tmp_path, small_case(precision=precision))
    asked: list[Any] = []

    def batches() -> Any:
        while True:
            asked.append(None)
            yield sample

    found = trained.run_loop(batches(), num_updates=3)
    assert (found["num_updates"], len(asked)) == (3, NUM_WARM_UP + 3)
    medians = {name: part["median"] for name, part in found["seconds_of_parts"].items()}
    assert (medians["forward_backward"], medians["optimizer"], medians["wait"]) == (2, 3, 1)
    assert medians["other"] == medians["total"] - 6
    assert found["wait_share"] == 1 / medians["total"]


def test_the_loader_feeds_fairseq_s_loop_and_is_timed_alone(tmp_path: Path) -> None:
    case = small_case(seconds=0.5)
    manifest = loader.synthetic_manifest(tmp_path, case, num_clips=12)
    assert len(manifest.read_text().splitlines()) == 13
    trained = BenchmarkModel(small_config(tmp_path, case, manifest=manifest, num_workers=1))
    assert loader.clips_per_second(trained.batches(), num_batches=4) > 0
    assert trained.run_loop(trained.batches(), num_updates=20)["num_updates"] == 6 - NUM_WARM_UP


def test_a_manifest_too_short_to_time_is_refused() -> None:
    with pytest.raises(ConfigError, match="gives no more than 2 batches"):
        loader.clips_per_second([{"nsentences": 2}] * 2, num_batches=4)


def test_memory_that_runs_out_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, sample = small_model(tmp_path, small_case())

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(trained.task, "train_step", fails)
    with pytest.raises(RuntimeError, match="out of memory"):  # which fairseq passes over
        trained.time(sample)
