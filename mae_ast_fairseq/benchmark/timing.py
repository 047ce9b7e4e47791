"""Times rows in turns, so that whatever else the machine does hits all alike, and the machine's own matrix products."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from mae_ast_fairseq.benchmark.limits import is_out_of_memory, reason
from mae_ast_fairseq.benchmark.steps import BenchmarkModel

Clock = Callable[[], float]
Measurement = Mapping[str, float]

MIN_PRODUCT_FLOPS = 2e10  # of one measurement of a matrix product: more of them where one is too quick to time


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    q1: float
    q3: float


class Rounds(NamedTuple):
    """The measurements of one row, or why there are none."""

    measurements: list[Measurement]
    error: str | None = None

    def of(self, name: str) -> list[float]:
        """Return the measurements of one part, in the order of rounds."""
        return [measurement[name] for measurement in self.measurements]


class Product(NamedTuple):
    """A matrix product [m, k] x [k, n]."""

    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.m * self.k * self.n


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles; of one value, itself three times."""
    if len(values) < 2:
        return Spread(*[values[0]] * 3)
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(statistics.median(values), first, third)


def interleave(
    rows: Sequence[Callable[[], Measurement]],
    *,
    num_rounds: int,
    num_warm_up: int,
    advance: Callable[[], Any] = lambda: None,
) -> list[Rounds]:
    """Run every row once a round, in order, and return the measurements of each after the rounds of warm-up.

    A row that runs out of memory is left out from there on, and the reason kept; `advance` is called after each run.
    """
    results: list[list[Measurement]] = [[] for _ in rows]
    errors: list[str | None] = [None] * len(rows)
    for number in range(num_warm_up + num_rounds):
        for place, row in enumerate(rows):
            if errors[place] is None:
                try:
                    measurement = row()
                    if number >= num_warm_up:
                        results[place].append(measurement)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    errors[place] = reason(error)
            advance()
    return [Rounds([], error) if error else Rounds(found) for found, error in zip(results, errors, strict=True)]


def device_clock(device: torch.device) -> Clock:
    """Return a clock in seconds that waits for the device to have done what it was given."""
    if device.type != "cuda":
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def time_step(trainee: BenchmarkModel, sample: dict[str, Any], clock: Clock) -> Measurement:
    """Take one training step and one inference; return the seconds of each part."""
    trainee.forget_gradients()
    try:
        start = clock()
        loss = trainee.forward(sample)
        forward = clock()
        loss.backward()
        backward = clock()
        trainee.update(sample)
        end = clock()
        trainee.forget_gradients()
        before_inference = clock()
        trainee.infer(sample)
        inference = clock() - before_inference
    finally:
        trainee.forget_gradients()  # those of other rows' models need the memory
    return {
        "forward": forward - start,
        "backward": backward - forward,
        "forward_backward": backward - start,
        "optimizer": end - backward,
        "update": end - start,
        "inference": inference,
    }


def time_product(product: Product, dtype: torch.dtype, device: torch.device, clock: Clock) -> Measurement:
    """Return the floating-point operations a second that a linear layer of this size reaches."""
    left = torch.ones(product.m, product.k, dtype=dtype, device=device)
    right = torch.ones(product.n, product.k, dtype=dtype, device=device)
    F.linear(left, right)
    repeats = max(1, round(MIN_PRODUCT_FLOPS / product.flops))
    start = clock()
    for _ in range(repeats):
        F.linear(left, right)
    return {"flops_per_second": repeats * product.flops / (clock() - start)}
