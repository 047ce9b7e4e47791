"""Pretraining in two processes."""

import re

import pytest

from tests.processes import run_two
from tests.training import SMALL

SPY_ON_STATISTICS = """
from mae_ast_fairseq.nn.normalization import InputNormalization

set_statistics = InputNormalization.set_statistics
def spy(self, *values):
    print("statistics", values, flush=True)
    set_statistics(self, *values)
InputNormalization.set_statistics = spy
"""


def train_two(data, folder, *overrides):
    return run_two("mae_ast_tiny", data, folder, "common.log_interval=1", *SMALL, *overrides, before=SPY_ON_STATISTICS)


@pytest.mark.slow
def test_processes_take_the_same_statistics_and_train_on(corpus, tmp_path):
    codes, outputs = train_two(corpus, tmp_path, "optimization.max_update=2", "common.bf16=false")
    assert codes == [0, 0], outputs[0][-2000:] + outputs[1][-2000:]
    statistics = [re.findall(r"statistics \(.*", output) for output in outputs]
    assert len(statistics[0]) == 1
    assert statistics[0] == statistics[1]
    assert "num_updates=2" in outputs[0]


@pytest.mark.slow
def test_the_share_of_broken_files_counts_over_all_processes(corpus, tmp_path):
    lines = (corpus / "train.tsv").read_text().splitlines()
    for line in (3, 9, 15, 21, 27, 33):
        lines[line] = f"gone{line}.wav\t16000"
    (tmp_path / "train.tsv").write_text("\n".join([*lines, ""]))
    (tmp_path / "valid.tsv").write_text((corpus / "valid.tsv").read_text())
    # Of 40 files 6 are broken: more than a tenth, of which each of two processes meets about half.
    codes, outputs = train_two(tmp_path, tmp_path, "optimization.max_update=40", "task.max_bad_fraction=0.13")
    assert 0 not in codes
    assert any("6 of 40 files (15.0%) are broken" in output for output in outputs), outputs[0][-1500:]
