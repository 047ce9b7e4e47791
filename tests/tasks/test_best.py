"""Which checkpoint is kept as the best, by any figure of either task."""

import math

import pytest
import torch
from omegaconf import OmegaConf

from mae_ast_fairseq.criterions.classification import ClassificationCriterion
from mae_ast_fairseq.errors import ConfigError, UserError
from mae_ast_fairseq.evaluation.metrics import METRICS, Metric
from mae_ast_fairseq.tasks.best import leave_out_nan, settle_direction
from tests.finetuning import finetune, set_up, write_tones
from tests.training import SMALL, build, train

DIRECTIONS = {"loss": False, "accuracy": True}


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    return write_tones(tmp_path_factory.mktemp("tones"))


def run_config(metric, maximize, **more):
    fields = {"best_checkpoint_metric": metric, "maximize_best_checkpoint_metric": maximize}
    cfg = OmegaConf.create({"checkpoint": fields, **more})
    OmegaConf.set_struct(cfg, True)
    return cfg


@pytest.mark.parametrize(("metric", "maximize"), DIRECTIONS.items())
def test_the_direction_follows_from_the_metric(metric, maximize):
    cfg = run_config(metric, False, lr_scheduler={"maximize_best_checkpoint_metric": False})
    settle_direction(cfg, DIRECTIONS)
    assert cfg.checkpoint.maximize_best_checkpoint_metric is maximize
    assert cfg.lr_scheduler.maximize_best_checkpoint_metric is maximize


def test_a_recipe_that_still_says_the_right_direction_goes_on_working():
    cfg = run_config("accuracy", True)
    settle_direction(cfg, DIRECTIONS)
    assert cfg.checkpoint.maximize_best_checkpoint_metric is True


def test_a_persons_contradiction_is_an_error_that_says_to_remove_it():
    with pytest.raises(ConfigError, match=r"maximize_best_checkpoint_metric: true was given .*=loss.*remove"):
        settle_direction(run_config("loss", True), DIRECTIONS)


def best_epoch(folder):
    """The epoch at whose end the best was kept, from 1, and its score."""
    state = torch.load(folder / "checkpoint_best.pt", weights_only=True)["extra_state"]
    return state["train_iterator"]["epoch"] - 1, state["best"]


EPOCHS = ("optimization.max_update=100", "optimization.max_epoch=3", "checkpoint.no_save=false")


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_fine_tuning_keeps_the_best_of_figures_of_either_direction(tones, tmp_path, metric):
    run = finetune(
        tones, *EPOCHS, f"checkpoint.save_dir={tmp_path}", f"checkpoint.best_checkpoint_metric={metric}",
        "optimization.lr=[0.01]",
    )  # fmt: skip
    values = [one[metric] for one in run.logged["valid"]]
    assert len(values) == 3
    epoch, best = best_epoch(tmp_path)
    assert best == pytest.approx((min if metric == "loss" else max)(values), abs=1e-4)
    assert values[epoch - 1] == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("metric", ["loss_recon", "content_gain"])
def test_pretraining_keeps_the_best_of_figures_of_either_direction(corpus, tmp_path, metric):
    run = train(
        "mae_ast_tiny", f"task.data={corpus}", *SMALL, *EPOCHS, f"checkpoint.save_dir={tmp_path}",
        f"checkpoint.best_checkpoint_metric={metric}", "dataset.max_tokens=300000",
    )  # fmt: skip
    values = [one[f"valid_{metric}"] for one in run.validations]
    assert len(values) == 3
    epoch, best = best_epoch(tmp_path)
    assert best == pytest.approx((min if metric == "loss_recon" else max)(values), abs=1e-4)
    assert values[epoch - 1] == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("values", [[0.5, 0.2, 0.9], [0.9, 0.5, 0.2]])
@pytest.mark.parametrize("maximize", [True, False])
def test_keeping_several_and_patience_heed_the_direction(tones, tmp_path, monkeypatch, values, maximize):
    said = iter(values)
    monkeypatch.setitem(METRICS, "fixed", Metric(lambda *_: next(said), maximize=maximize))
    run = finetune(
        tones, *EPOCHS, f"checkpoint.save_dir={tmp_path}", "checkpoint.best_checkpoint_metric=fixed",
        "checkpoint.keep_best_checkpoints=1", "checkpoint.patience=1",
    )  # fmt: skip
    improves = (lambda a, b: a > b) if maximize else (lambda a, b: a < b)
    num_validations = 1 + (2 if improves(values[1], values[0]) else 1)
    assert len(run.logged["valid"]) == num_validations
    best = (max if maximize else min)(values[:num_validations])
    (kept,) = tmp_path.glob("checkpoint.best_fixed_*.pt")
    assert f"_{best:.3f}" in kept.name


def test_patience_outlives_the_process(tones, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="mae_ast_fairseq.tasks.patches")
    said = iter([0.5, 0.4, 0.3, 0.9])
    monkeypatch.setitem(METRICS, "fixed", Metric(lambda *_: next(said), maximize=True))
    run = (
        tones, "optimization.max_update=100", "checkpoint.no_save=false", f"checkpoint.save_dir={tmp_path}",
        "checkpoint.best_checkpoint_metric=fixed", "checkpoint.patience=2",
    )  # fmt: skip
    for max_epoch, num_validations in ((2, 2), (10, 1), (10, 0)):
        assert len(finetune(*run, f"optimization.max_epoch={max_epoch}").logged["valid"]) == num_validations
    assert "this run is finished: 2 validations were no better, of checkpoint.patience=2" in caplog.text


@pytest.mark.parametrize("metric", ["acc", "num_updates", "content_gain", ""])
def test_a_misspelt_metric_is_refused_at_launch_with_those_there_are(tones, metric):
    with pytest.raises(UserError, match=r"best_checkpoint_metric: .*expected one of loss, top1, accuracy, .*d_prime"):
        finetune(tones, f"checkpoint.best_checkpoint_metric='{metric}'")


def test_a_figure_that_the_model_does_not_have_is_refused(corpus):
    without = (*SMALL, "criterion.reconstruction_weight=0")
    for recipe, small, fits in (
        ("mae_ast_tiny", SMALL, True),
        ("mae_ast_tiny", without, False),
        ("ssast_patch", SMALL[:4], False),
    ):
        fields = (f"task.data={corpus}", *small, "checkpoint.best_checkpoint_metric=content_gain")
        if fits:
            task, _, _ = build(recipe, *fields)
            assert task.cfg._get_root().checkpoint.maximize_best_checkpoint_metric is True
        else:
            with pytest.raises(UserError, match=r"'content_gain' .*effective_rank"):
                build(recipe, *fields)


def test_every_figure_that_is_offered_is_logged(tones, corpus):
    (logged,) = finetune(tones, "optimization.max_update=1").logged["valid"]
    assert set(ClassificationCriterion.maximize) | set(METRICS) <= set(logged)
    fields = ("mae_ast_tiny", f"task.data={corpus}", *SMALL)
    task, _, _ = build(*fields)
    (logged,) = train(*fields, "optimization.max_update=1").validations
    assert {f"valid_{name}" for name in task._directions} <= set(logged)


# --- a metric that is NaN


def test_a_nan_is_left_out_with_its_reason_and_what_is_finite():
    stats = {"loss": 1.0, "macro_auc": math.nan, "accuracy": 0.5, "num_updates": 3}
    said = leave_out_nan("macro_auc", stats, {"loss": False, "macro_auc": True, "accuracy": True}, {"macro_auc": "why"})
    assert stats["macro_auc"] is None
    assert "macro_auc is NaN (why)" in said
    assert "finite are loss, accuracy" in said
    assert leave_out_nan("accuracy", stats, DIRECTIONS, {}) is None
    assert stats["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("values", "best"), [([math.nan, 0.2, 0.4], 0.4), ([0.5, math.nan, 0.4], 0.5), ([math.nan, 0.6, math.nan], 0.6)]
)
@pytest.mark.parametrize("maximize", [True, False])
def test_a_nan_neither_becomes_the_best_nor_hides_a_finite_one(
    tones, tmp_path, monkeypatch, caplog, values, best, maximize
):
    said = iter(values if maximize else [-value for value in values])
    caplog.set_level("WARNING")
    monkeypatch.setitem(METRICS, "fixed", Metric(lambda *_: next(said), maximize=maximize, undefined="as it was made"))
    finetune(
        tones, *EPOCHS, f"checkpoint.save_dir={tmp_path}", "checkpoint.best_checkpoint_metric=fixed",
        "checkpoint.patience=1",
    )  # fmt: skip
    epoch, kept = best_epoch(tmp_path)
    assert abs(kept) == best
    assert epoch == values.index(best) + 1
    warnings = [record.getMessage() for record in caplog.records if "fixed is NaN" in record.getMessage()]
    assert len(warnings) == 1
    assert "as it was made" in warnings[0]


def test_a_validation_set_of_one_class_is_said_and_makes_no_best(tones, tmp_path, caplog):
    data = write_tones(tmp_path / "data", num_valid=1)
    finetune(
        data, *EPOCHS, f"checkpoint.save_dir={tmp_path}", "checkpoint.best_checkpoint_metric=macro_auc",
    )  # fmt: skip
    assert not (tmp_path / "checkpoint_best.pt").exists()
    assert (tmp_path / "checkpoint_last.pt").exists()
    assert "valid.tsv" in caplog.text
    assert "macro_auc is NaN (no label is on some of the clips and not on all of them)" in caplog.text


# --- nothing to learn


def test_training_clips_of_one_class_are_refused(tmp_path):
    data = write_tones(tmp_path)
    for split in ("train", "valid"):
        (data / f"{split}.lbl").write_text("low\n" * len((data / f"{split}.lbl").read_text().splitlines()))
    (data / "labels.txt").write_text("low\n")
    for multi_label in ((), ("task.multi_label=true", "criterion.loss=binary_cross_entropy")):
        task, _, _ = set_up(data, *multi_label)
        with pytest.raises(UserError, match=r"train\.lbl: each of the 24 clips .* \(low\); expected at least two"):
            task.load_dataset("train")
    (data / "train.lbl").write_text("\n".join(["low", *[""] * 23, ""]))
    task.load_dataset("train")  # some have the one label, others not
    assert len(task.dataset("train")) == 24
