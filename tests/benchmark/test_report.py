import json
from pathlib import Path
from typing import Any

import pytest

from mae_ast_fairseq.benchmark.report import as_text, table

DOCS = Path(__file__).parents[2] / "docs" / "benchmark"


def committed(name: str) -> dict[str, Any]:
    return json.loads((DOCS / name).read_text())


def test_what_all_rows_share_is_said_once_and_a_failed_row_has_its_reason() -> None:
    same = {"recipe": "a", "precision": "float32", "seconds": 10.0, "batch_size": 2}
    fine = {**same, "time": {"update": {"median": 1.5, "q1": 1.25, "q3": 2.0}}}
    failed = {**same, "recipe": "longer", "time": {"error": "not enough memory"}}
    title, shared, *lines = table("what", [fine, failed]).splitlines()
    assert (title, shared) == ("what", "precision float32, seconds 10, batch_size 2")
    assert lines[-2].split() == ["a", "1.5", "(1.25-2)"]
    assert lines[-1].split() == ["longer", "not", "enough", "memory"]


def test_no_rows_no_table() -> None:
    assert table("what", []) == ""


@pytest.mark.parametrize(
    "figures",
    [
        ["2.73x (2.70x-2.88x)", "4.34x (3.90x-4.61x)", "5.78x"],  # times as fast as SSAST
        ["2.65x", "2.63x", "287.6 G", "1988"],  # operations
        ["74.3%", "71.6%"],  # of the best matrix product's rate
        ["961 MiB", "2312 MiB", "2.41x", "2.84x"],  # memory
        ["5.02 (4.97-5.08)", "2.0%"],  # the loop
        ["aten::_fused_adamw_", "56.4%"],  # operators
    ],
)
def test_the_committed_figures_are_shown(figures: list[str]) -> None:
    text = as_text(committed("full.json"))
    assert [figure for figure in figures if figure not in text] == []
