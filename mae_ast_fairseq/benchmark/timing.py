"""Times rows in turns, so that whatever else the machine does hits all alike, and the machine's own matrix products."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.benchmark import Timer
from tqdm import tqdm

from mae_ast_fairseq.benchmark.memory import or_error

Measurement = dict[str, float]
Rounds = list[Measurement] | str
"""The measurements of one row, in the order of rounds, or why there are none."""

MIN_PRODUCT_SECONDS = 0.1  # of one measurement of a matrix product


class Product(NamedTuple):
    """A matrix product [m, k] x [k, n]."""

    m: int
    k: int
    n: int


def spread(values: Sequence[float]) -> Measurement:
    """Return the median and quartiles of repeated measurements."""
    q1, median, q3 = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": median, "q1": q1, "q3": q3}


def round_robin(
    rows: Mapping[Any, Callable[[], Measurement]], *, num_rounds: int, num_warm_up: int
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


def time_product(product: Product, dtype: torch.dtype, device: torch.device) -> Measurement:
    """Return the floating-point operations a second that a linear layer of this size reaches."""
    tensors = {
        "source": torch.ones(product.m, product.k, dtype=dtype, device=device),
        "weight": torch.ones(product.n, product.k, dtype=dtype, device=device),
    }
    timer = Timer(
        "linear(source, weight)", globals={"linear": F.linear, **tensors}, num_threads=torch.get_num_threads()
    )
    seconds = timer.blocked_autorange(min_run_time=MIN_PRODUCT_SECONDS).median
    return {"flops_per_second": 2 * product.m * product.k * product.n / seconds}
