"""From measurements to the rows of the JSON: medians, fractions, and ratios to the baseline within the same rounds."""

from collections.abc import Iterable, Mapping
from typing import Any

from mae_ast_fairseq.benchmark.cases import Case
from mae_ast_fairseq.benchmark.timing import Rounds, spread

TIMES = ("forward", "backward", "forward_backward", "optimizer", "update", "inference")
COMPARED = ("forward_backward", "update", "inference")

Row = dict[str, Any]


def add_times(rows: Mapping[Case, Row], timed: Mapping[Case, Rounds], baseline: str) -> None:
    """Add `time` and `times_faster` to the rows; the latter is the median over rounds of their ratio."""
    for case, row in rows.items():
        own, base = timed[case], timed.get(case._replace(recipe=baseline))
        if isinstance(own, str):
            row["time"] = {"error": own}
            continue
        row["time"] = {name: spread([measured[name] for measured in own]) for name in TIMES}
        if isinstance(base, list):
            row["times_faster"] = {
                name: spread([theirs[name] / ours[name] for theirs, ours in zip(base, own, strict=True)])
                for name in COMPARED
            }


def add_rates(rows: Iterable[Row], rates: list[Row]) -> None:
    """Add to the rows which fraction they reach of the best matrix product's rate, and to the rates which is best."""
    best: dict[str, float] = {}
    for rate in rates:
        best[rate["precision"]] = max(best.get(rate["precision"], 0.0), rate["flops_per_second"]["median"])
    for rate in rates:
        rate["is_best"] = rate["flops_per_second"]["median"] == best[rate["precision"]]
    for row in rows:
        if "error" not in row["time"] and row["precision"] in best:
            row["share_of_rate"] = {
                part: row["operations"][flops] / row["time"][part]["median"] / best[row["precision"]]
                for part, flops in (("forward_backward", "step_flops"), ("inference", "inference_flops"))
            }


def add_ratio(rows: Mapping[Case, Row], baseline: str, name: str, part: str, field: str) -> None:
    """Add to the rows as `name` how many times the baseline has of their own `row[part][field]`."""
    for case, row in rows.items():
        base = rows.get(case._replace(recipe=baseline))
        if base is not None and field in base[part] and field in row[part]:
            row[name] = base[part][field] / max(1, row[part][field])
