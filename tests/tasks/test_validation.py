"""Figures are those of the whole set, however it was cut into batches and shared out among processes."""

import re

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mae_ast_fairseq.metrics import METRICS
from mae_ast_fairseq.tasks.validation import Scored, WholeSet, gather
from tests.finetuning import QUICK, RECIPE, finetune, write_tones
from tests.processes import run_two

DRAWS = np.random.default_rng(0)
SCORES = torch.from_numpy(DRAWS.random((20, 4), dtype=np.float32))
TARGETS = torch.from_numpy((DRAWS.random((20, 4)) < 0.3).astype(np.float32))


def whole_set(*batches):
    collected = WholeSet(multi_label=True)
    for rows in batches:
        rows = torch.tensor(rows)
        collected.add(Scored(rows, SCORES[rows], TARGETS[rows]))
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
    collected.add(Scored(torch.arange(20), SCORES, TARGETS))
    assert collected.figures() == whole_set(range(20)).figures()


def test_figures_are_plain_numbers_that_a_checkpoint_may_hold():
    assert {type(value) for value in whole_set(range(20)).figures().values()} == {float}


def test_one_process_gathers_its_own():
    assert gather(SCORES, torch.device("cpu")) is SCORES


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
