"""Figures are those of the whole set, however it was cut into batches and shared out among processes."""

import logging
import math
import re

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mae_ast_fairseq.errors import UserError
from mae_ast_fairseq.evaluation.collapse import effective_rank, token_moments, token_spread
from mae_ast_fairseq.evaluation.metrics import METRICS
from mae_ast_fairseq.nn.autoencoder import SwappedErrors
from mae_ast_fairseq.nn.encoder import Features
from mae_ast_fairseq.tasks.validation import TokenHealth, ValidationScores, gather
from tests.finetuning import QUICK, RECIPE, finetune, write_tones
from tests.processes import run_two
from tests.training import SMALL, build, train

RNG = np.random.default_rng(0)
SCORES = torch.from_numpy(RNG.random((20, 4), dtype=np.float32))
TARGETS = torch.from_numpy((RNG.random((20, 4)) < 0.3).astype(np.float32))


def whole_set(*batches):
    collected = ValidationScores(multi_label=True, num_batches=len(batches))
    for rows in batches:
        rows = torch.tensor(rows)
        collected.add(rows, SCORES[rows], TARGETS[rows])
    return collected


def test_the_mean_average_precision_is_scikit_learns_over_all_clips():
    figures = whole_set(range(7), range(7, 20)).figures()
    assert figures["mAP"] == pytest.approx(average_precision_score(TARGETS, SCORES, average="macro"))
    assert list(figures) == list(METRICS)


def test_clips_that_come_twice_count_once():
    expected = whole_set(range(20)).figures()
    assert whole_set(range(15, 20), range(15), range(15, 20), [3]).figures() == expected


def test_figures_stay_until_scores_are_added():
    collected = whole_set(range(10))
    first = collected.figures()
    assert collected.figures() is first
    collected.add(torch.arange(20), SCORES, TARGETS)
    assert collected.figures() == whole_set(range(20)).figures()


def test_the_last_batch_completes_them():
    collected = ValidationScores(multi_label=True, num_batches=2)
    for is_last in (False, True):
        assert not collected.has_all
        collected.add(torch.arange(20), SCORES, TARGETS)
        assert collected.has_all == is_last


def test_figures_are_plain_numbers_that_a_checkpoint_may_hold():
    assert {type(value) for value in whole_set(range(20)).figures().values()} == {float}


def test_one_process_gathers_its_own():
    assert gather(SCORES) is SCORES


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path):
    # 9 clips in batches of 2: the first process has three of five batches, the second two and a filler.
    data = write_tones(tmp_path / "data", num_valid=9)
    for kind in ("tsv", "lbl"):
        (data / f"other.{kind}").write_text((data / f"train.{kind}").read_text())
    settings = (
        "dataset.batch_size=4", "dataset.batch_size_valid=2", "dataset.valid_subset='valid,other'",
        "optimization.max_update=1", "optimization.lr=[0]", "task.roll_seconds=0",
    )  # fmt: skip
    codes, outputs = run_two(RECIPE, data, tmp_path, "common.log_format=json", *QUICK, *settings)
    assert codes == [0, 0], outputs[0][-2000:] + outputs[1][-2000:]
    expected = finetune(data, *settings).logged
    for subset in ("valid", "other"):
        for name in METRICS:
            logged = re.findall(rf'"{subset}_{name}": "([^"]+)"', outputs[0])
            assert [float(value) for value in logged] == pytest.approx([expected[subset][0][name]], abs=1e-5), name


# --- whether the encoder has collapsed

TOKENS = torch.from_numpy(RNG.normal(0.5, 1, (6, 10, 8)).astype(np.float32))


def health(*batches, num_batches=2, has_gain=True):
    collected = TokenHealth(num_batches, len(batches), has_gain)
    for clips, swapped in batches:
        collected.add(Features(TOKENS[clips], None), swapped)
    return collected


def errors(own, swapped):
    return SwappedErrors(torch.tensor(own), torch.tensor(swapped))


def test_figures_of_tokens_are_those_of_all_batches_without_fillers():
    collected = health((slice(0, 2), errors(2.0, 3.0)), (slice(2, 6), errors(2.0, 4.0)), (slice(0, 2), None))
    assert collected.is_complete
    whole = token_moments(TOKENS)
    assert collected.figures() == {
        "token_spread": pytest.approx(token_spread(whole), abs=1e-4),
        "effective_rank": pytest.approx(effective_rank(whole), abs=1e-3),
        "content_gain": pytest.approx((7.0 - 4.0) / 4.0),
    }
    assert collected.max_rank == 8


def test_figures_of_tokens_are_complete_with_the_last_batch_shown_fillers_counted():
    collected = TokenHealth(num_batches=1, num_shown=2, has_gain=False)
    collected.add(Features(TOKENS[:2], None))
    assert not collected.is_complete
    collected.add(Features(TOKENS[:2], None))
    assert collected.is_complete


def test_a_process_without_a_batch_is_told_so(corpus):
    task, model, criterion = build("mae_ast_tiny", f"task.data={corpus}", *SMALL)
    with pytest.raises(UserError, match="validate in one process"):
        task.valid_step({}, model, criterion)


def test_a_process_without_a_batch_of_its_own_adds_nothing():
    assert health((slice(0, 2), None), num_batches=0).has_all
    filler = health((slice(0, 2), None), num_batches=0)
    filler.add(Features(TOKENS[2:4], None))
    assert not filler._sums.any()


def test_a_model_without_a_decoder_has_no_gain():
    assert list(health((slice(0, 6), None), has_gain=False).figures()) == ["token_spread", "effective_rank"]


def test_a_validation_without_two_clips_in_a_batch_says_once_that_it_has_no_gain(corpus, caplog):
    settings = ("optimization.max_update=8", "dataset.batch_size_valid=1", "dataset.validate_interval_updates=2")
    with caplog.at_level(logging.INFO, logger="mae_ast_fairseq"):
        runs = train("mae_ast_tiny", f"task.data={corpus}", *SMALL, *settings).validations
    assert len(runs) > 1
    assert all(run["valid_token_spread"] > 0 for run in runs)
    assert all(math.isnan(run["valid_content_gain"]) for run in runs)
    said = [record.getMessage() for record in caplog.records if "content_gain is not measured" in record.getMessage()]
    assert len(said) == 1
    assert "dataset.max_tokens_valid" in said[0]


@pytest.mark.parametrize(("num_updates", "is_said"), [(199, False), (200, True)])
def test_what_is_not_finite_is_said_and_ends_nothing_and_nothing_is_said_in_the_warm_up(
    corpus, caplog, num_updates, is_said
):
    overrides = ("lr_scheduler.warmup_updates=200", "optimization.max_update=1000")
    task, model, _ = build("mae_ast_tiny", f"task.data={corpus}", *SMALL, *overrides)
    task._health = TokenHealth(1, 1, has_gain=False)
    task._health.add(Features(TOKENS * torch.inf, None))
    for _ in range(2):
        task.post_validate(model, {"num_updates": num_updates}, None)
    said = [record.getMessage() for record in caplog.records if "not finite" in record.getMessage()]
    assert len(said) == is_said


@pytest.mark.slow
def test_two_processes_find_the_tokens_that_one_does(corpus, tmp_path):
    # 8 clips in batches of at most 3: the first process has two of three batches, the second one and a filler.
    settings = (
        "dataset.batch_size=4", "dataset.batch_size_valid=3", "optimization.max_update=1", "optimization.lr=[0]",
        "common.bf16=false", "dataset.max_tokens=100000", "common.log_interval=1",
    )  # fmt: skip
    codes, outputs = run_two(
        "mae_ast_tiny", corpus, tmp_path, "common.log_format=json", *SMALL, *settings, "dataset.num_workers=0"
    )
    assert codes == [0, 0], outputs[0][-2000:] + outputs[1][-2000:]
    expected = train("mae_ast_tiny", f"task.data={corpus}", *SMALL, *settings).validations[0]
    for name in ("token_spread", "effective_rank", "content_gain"):
        logged = re.findall(rf'"valid_{name}": "([^"]+)"', outputs[0])
        assert [float(value) for value in logged] == pytest.approx([expected[f"valid_{name}"]], abs=2e-3), name
