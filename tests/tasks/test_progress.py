"""What a person sees of a run: where it is, its figures, validations and checkpoints; and the log for programs."""

import io
import logging
import sys
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from fairseq.logging import metrics
from fairseq.logging.progress_bar import NoopProgressBar
from omegaconf import OmegaConf
from torch import nn

from mae_ast_fairseq.figures import read_figures
from mae_ast_fairseq.tasks import progress
from mae_ast_fairseq.tasks.patches import _follow
from mae_ast_fairseq.tasks.progress import FollowedBar, RunProgress, as_number, describe
from tests.training import config


class Trainer:
    """Counts updates, as fairseq's trainer does."""

    def __init__(self, num_updates=0):
        self.num_updates = num_updates
        self.model = nn.Linear(3, 2)

    def get_num_updates(self):
        return self.num_updates

    def cumulative_training_time(self):
        return torch.tensor(10.0 * self.num_updates)  # as of several processes


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def meters():
    metrics.reset()
    yield
    metrics.reset()
    progress._current.clear()


def a_run(clock, trainer, log_format=None, max_update=20, log_interval=100):
    cfg = OmegaConf.create(
        {
            "common": {"log_format": log_format, "log_interval": log_interval, "no_progress_bar": False},
            "optimization": {"max_update": max_update},
            "checkpoint": {"best_checkpoint_metric": "loss"},
        }
    )
    return RunProgress(cfg, trainer, clock)


def update(run, clock, seconds, epoch_batches, seen=lambda: None):
    """Train an epoch of some batches, each of which takes some seconds."""
    bar = FollowedBar(NoopProgressBar(epoch_batches), run, epoch_batches, epoch=1, is_validation=False)
    for _ in bar:
        with metrics.aggregate("train_inner"):
            metrics.log_scalar("loss", 2.5)
        clock.now += seconds
        run.trainer.num_updates += 1
    return bar


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == progress.__name__]


def test_the_first_update_is_shown_and_then_one_now_and_then(clock, caplog):
    caplog.set_level(logging.INFO)
    update(a_run(clock, Trainer()), clock, 4, range(10))
    lines = said(caplog)
    assert [line.partition(",")[0] for line in lines] == [f"update {number} of 20" for number in (1, 4, 7, 10)]
    assert lines[0] == "update 1 of 20, epoch 1: loss 2.5"
    assert lines[-1] == "update 10 of 20, epoch 1: loss 2.5, 0.25 updates/s, 00:40 left"


def test_pauses_grow_with_the_run_up_to_ten_minutes(clock, caplog):
    caplog.set_level(logging.INFO)
    update(a_run(clock, Trainer(), max_update=10**6), clock, 60, range(5000))
    times = [int(line.split()[1]) for line in said(caplog)]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] == 1 and pauses[-1] == 10 and sorted(pauses) == pauses
    assert len(pauses) < 600


def test_a_run_without_max_update_counts_the_epochs_updates(clock, caplog):
    caplog.set_level(logging.INFO)
    run = a_run(clock, Trainer(30), max_update=0)
    iterator = type("Resumed", (list,), {"n": 3})(range(10))  # three of ten were done before
    update(run, clock, 10, iterator)
    assert said(caplog)[1] == "update 32, epoch 1: loss 2.5, 0.1 updates/s, 00:50 of the epoch left"


@pytest.mark.parametrize(("max_update", "shown"), [(0, "6/10"), (40, "33/40")])
def test_a_bar_stands_where_the_run_does(clock, monkeypatch, max_update, shown):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run = a_run(clock, Trainer(30), max_update=max_update)
    iterator = type("Resumed", (list,), {"n": 3})(range(10))
    bar = FollowedBar(NoopProgressBar(iterator), run, iterator, epoch=2, is_validation=False)
    for _, _ in zip(range(4), bar, strict=False):
        clock.now += 2
        run.trainer.num_updates += run.trainer.num_updates < 33
    run._bar.refresh()
    assert shown in terminal.getvalue().split("\r")[-1]
    assert terminal.getvalue().split("\r")[-1].startswith("epoch 2:")
    run.close()


def test_a_bar_shows_figures_and_takes_the_place_of_lines(clock, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run = a_run(clock, Trainer())
    update(run, clock, 4, range(10))
    run.close()
    assert "loss 2.5" in terminal.getvalue()
    assert said(caplog) == []


@pytest.mark.parametrize("log_format", ["json", "simple", "none"])
def test_a_format_of_fairseqs_is_shown_alone(clock, monkeypatch, caplog, log_format):
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run = a_run(clock, Trainer(), log_format)
    update(run, clock, 4, range(10))
    run.validated("valid", {"loss": 2})
    run.saved(Path("checkpoint_last.pt"))
    run.say()
    assert said(caplog) == []
    assert terminal.getvalue() == ""


def test_figures_that_fairseq_has_just_logged_are_shown_though_it_forgot_them(clock, caplog):
    caplog.set_level(logging.INFO)
    run = a_run(clock, Trainer(), log_interval=1)
    run.begin_epoch(1, 10, 0)
    run.trainer.num_updates = 1
    run.logged("train_inner", {"loss": 3.25})
    run.follow()
    assert said(caplog) == ["update 1 of 20, epoch 1: loss 3.25"]


def test_a_validation_and_its_checkpoints_are_one_line(clock, caplog):
    caplog.set_level(logging.INFO)
    run = a_run(clock, Trainer(16))
    run.validated("valid", {"loss": 2.12345, "token_spread": 0.5, "wps": 1000, "undefined": None})
    run.saved(Path("a/checkpoint_best.pt"))
    run.saved(Path("a/checkpoint_last.pt"))
    run.say()
    run.say()
    saved = "saved checkpoint_best.pt, checkpoint_last.pt (the best loss so far)"
    assert said(caplog) == [f"update 16, valid: loss 2.123, token_spread 0.5; {saved}"]


def test_several_validation_sets_are_a_line_each_and_a_checkpoint_without_one_too(clock, caplog):
    caplog.set_level(logging.INFO)
    run = a_run(clock, Trainer(16))
    run.validated("valid", {"loss": 2})
    run.validated("valid1", {"loss": 3})
    run.say()
    run.saved(Path("checkpoint_last.pt"))
    run.say()
    assert said(caplog) == [
        "update 16, valid: loss 2",
        "update 16, valid1: loss 3",
        "update 16: saved checkpoint_last.pt",
    ]


def test_fine_tuning_shows_its_accuracy_and_pretraining_one_beside_chance():
    assert describe({"loss": 1.5, "top1": 0.25, "bsz": 8}) == "loss 1.5, top1 0.25"
    figures = {"loss": 1.5, "info_nce_accuracy": 0.125, "info_nce_chance": 0.0112}
    assert describe(figures) == "loss 1.5, accuracy 0.125 (chance 0.0112)"
    assert describe({"loss": None}) == ""


def test_what_fairseq_logs_becomes_a_number():
    meter = metrics.AverageMeter(round=2)
    meter.update(1.234)
    assert [as_number(each) for each in (meter, nn.Parameter().new_tensor(2.5), 1_234_567)] == [1.23, 2.5, 1_234_567]


def test_the_log_has_figures_by_kind(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "run_folder", lambda cfg: tmp_path)
    run = a_run(clock, Trainer(), log_interval=1)
    bar = update(run, clock, 1, range(2))
    bar.log(OrderedDict(loss=2.5, num_updates=2, wall=9), tag="train_inner", step=2)
    bar.print(OrderedDict(loss=2.25), tag="train", step=2)
    FollowedBar(NoopProgressBar([1]), run, [1], 1, is_validation=True).print(
        OrderedDict(loss=2.0), tag="valid1", step=2
    )
    same = {"num_updates": 2, "epoch": 1, "wall": 20.0}
    assert read_figures(tmp_path / "log.jsonl") == [
        {"kind": "train_inner", **same, "loss": 2.5},
        {"kind": "train", **same, "loss": 2.25},
        {"kind": "valid", "subset": "valid1", **same, "loss": 2.0},
    ]


def test_the_config_is_written_with_all_fields_and_nothing_to_resolve(tmp_path):
    cfg = config("mae_ast_tiny")
    progress.write_config(cfg, tmp_path / "config.yaml")
    written = OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml"), resolve=False)
    assert written == OmegaConf.to_container(cfg)
    assert "${" not in (tmp_path / "config.yaml").read_text()
    assert written["optimizer"]["adam_betas"] and written["common"]["fp16_init_scale"] == 128


@pytest.mark.parametrize(("given", "expected"), [(None, "a"), ("mine", "checkpoints")])
def test_weights_and_biases_shows_a_run_by_the_name_of_its_folder(clock, tmp_path, monkeypatch, given, expected):
    monkeypatch.delenv("WANDB_NAME", raising=False)
    if given:
        monkeypatch.setenv("WANDB_NAME", given)
    monkeypatch.setattr(progress, "run_folder", lambda cfg: tmp_path / "a")
    names = []

    def progress_bar(iterator, log_format, *, wandb_run_name, **kwargs):
        names.append(wandb_run_name)
        return NoopProgressBar(iterator)

    progress._current[:] = [a_run(clock, Trainer())]
    _follow(progress_bar)([1], epoch=1, wandb_project="sounds", wandb_run_name="checkpoints")
    assert names == [expected]
