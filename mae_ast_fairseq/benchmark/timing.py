"""Times rows in turns, so that whatever else the machine does hits all alike, and compares them within a round."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.benchmark import Timer
from tqdm import tqdm

from mae_ast_fairseq.benchmark.cases import Case
from mae_ast_fairseq.benchmark.memory import or_error

Row = dict[str, Any]
Rounds = list[dict[str, float]] | str
"""The measurements of one row, in the order of rounds, or why there are none."""

TIMES = ("forward", "backward", "forward_backward", "optimizer", "update", "inference")
COMPARED = ("forward_backward", "update", "inference")
MIN_PRODUCT_SECONDS = 0.1  # of one measurement of a matrix product


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and quartiles of repeated measurements."""
    q1, median, q3 = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "q1": q1, "q3": q3}


def round_robin(
    rows: Mapping[Any, Callable[[], dict[str, float]]], *, num_rounds: int, num_warm_up: int
) -> dict[Any, Rounds]:
    """Run every row once a round, in order, and return the measurements of each after the rounds of warm-up.

    A row that runs out of memory is left out from there on, and the reason is its result.
    """
    rounds: dict[Any, Rounds] = {name: [] for name in rows}
    for _ in tqdm(range(num_warm_up + num_rounds), unit=" rounds", disable=None):
        for name, row in rows.items():
            so_far = rounds[name]
            if isinstance(so_far, list):
                found = or_error(row)
                rounds[name] = found.get("error", [*so_far, found])
    return {name: found if isinstance(found, str) else found[num_warm_up:] for name, found in rounds.items()}


def time_product(size: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Return the floating-point operations a second that a product [m, k] x [k, n] reaches as a linear layer."""
    m, k, n = size
    tensors = {
        "source": torch.ones(m, k, dtype=dtype, device=device),
        "weight": torch.ones(n, k, dtype=dtype, device=device),
    }
    timer = Timer(
        "linear(source, weight)", globals={"linear": F.linear, **tensors}, num_threads=torch.get_num_threads()
    )
    seconds = timer.blocked_autorange(min_run_time=MIN_PRODUCT_SECONDS).median
    return {"flops_per_second": 2 * m * k * n / seconds}


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
