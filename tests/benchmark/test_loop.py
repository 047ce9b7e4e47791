import types
from pathlib import Path

import pytest

from mae_ast_fairseq.benchmark import loader
from mae_ast_fairseq.benchmark.loop import NUM_WARM_UP, Recorder, Update, fairseq_config, run_loop, summarize
from mae_ast_fairseq.errors import ConfigError
from tests.benchmark.small import CPU, small_case, small_recipes
from tests.benchmark.test_timing import FakeClock


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "NUM_FILES", 2)


def test_the_time_of_an_update_is_split_without_a_rest() -> None:
    update = Update(total=10.0, forward_backward=5.0, optimizer=2.0, wait=1.0)
    summary = summarize([update, Update(total=30.0, forward_backward=20.0, optimizer=5.0, wait=4.0)])
    assert update.other == 2.0
    assert summary["other_share"] == 3 / 40
    assert summary["wait_share"] == 5 / 40
    assert summary["seconds_of_parts"]["total"] == {"median": 20.0, "q1": 15.0, "q3": 25.0}


def test_the_recorder_times_what_the_trainer_calls() -> None:
    nothing = types.SimpleNamespace
    task = nothing(train_step=lambda: "loss", optimizer_step=lambda: None)
    trainer = nothing(clip_grad_norm=lambda: 1.0, optimizer=nothing(multiply_grads=lambda: None))

    def train_step() -> str:
        result = task.train_step()
        trainer.optimizer.multiply_grads()
        trainer.clip_grad_norm()
        task.optimizer_step()
        return result

    trainer.train_step = train_step
    recorder = Recorder(trainer, task, FakeClock())
    assert trainer.train_step() == "loss"
    # The clock is asked at the start, twice for each of the four parts, and at the end.
    assert recorder.updates == [Update(total=9.0, forward_backward=1.0, optimizer=3.0, wait=0.0)]
    assert recorder.updates[0].other == 5.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fairseq_s_loop_runs_on_a_synthetic_batch(precision: str) -> None:
    case = small_case(precision=precision)
    found = run_loop(small_recipes(case.recipe)[case.recipe], case, CPU, 3, None)
    seconds = found["seconds_of_parts"]
    assert found["num_updates"] == 3
    assert found["wait_share"] == 0
    assert 0 < found["other_share"] < 1
    assert all(seconds[part]["median"] > 0 for part in ("total", "forward_backward", "optimizer", "other"))


def test_the_loader_feeds_fairseq_s_loop_and_is_timed_alone() -> None:
    case = small_case(seconds=0.5)
    recipe = small_recipes(case.recipe)[case.recipe]
    with loader.synthetic_data(case.seconds, num_clips=12, num_workers=1) as data:
        assert len((data.folder / "train.tsv").read_text().splitlines()) == 13
        assert loader.clips_per_second(recipe, case, data, num_batches=4) > 0
        found = run_loop(recipe, case, CPU, 2, data)
    assert found["num_updates"] == 2
    assert found["seconds_of_parts"]["wait"]["median"] > 0
    assert not data.folder.exists()


def test_a_manifest_too_short_to_time_is_refused() -> None:
    case = small_case(seconds=0.5)
    with loader.synthetic_data(case.seconds, num_clips=4, num_workers=1) as made:
        data = loader.manifest_data(made.folder / "train.tsv", 1)
        assert data == made
        with pytest.raises(ConfigError, match=r"train\.tsv: gives 2 batches of 2 clips; expected more than 2"):
            loader.clips_per_second(small_recipes(case.recipe)[case.recipe], case, data, 4)


def test_fairseq_s_config_is_the_case_s_and_writes_nothing_elsewhere(tmp_path: Path) -> None:
    case = small_case(precision="bfloat16", mask_ratio=0.5, batch_size=7, attention_dropout=0.2)
    cfg = fairseq_config(small_recipes(case.recipe)[case.recipe], case, CPU, tmp_path, NUM_WARM_UP, None)
    assert (cfg.common.bf16, cfg.common.fp16, cfg.common.cpu) == (True, False, True)
    assert (cfg.model.random_mask_prob, cfg.model.attention_dropout, cfg.model.encoder_layerdrop) == (0.5, 0.2, 0.0)
    assert (cfg.dataset.batch_size, cfg.task.max_sample_size, cfg.optimization.max_update) == (7, 16_000, NUM_WARM_UP)
    assert (cfg.checkpoint.no_save, cfg.checkpoint.save_dir) == (True, str(tmp_path))
    assert cfg.common.tensorboard_logdir is None
