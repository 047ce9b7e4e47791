"""Mean and deviation of log-Mel values over a dataset, for `normalization=dataset`."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae_ast_fairseq.errors import AudioError, ConfigError

FILE_NAME = "stats.json"


class Statistics(NamedTuple):
    """Mean and standard deviation over all log-Mel values of a dataset, natural logarithm."""

    mean: float
    deviation: float


def measure(clips: Iterable[Tensor]) -> Statistics:
    """Return the statistics over clips of [T, F] log-Mel frames, one at a time, in float64.

    Raises AudioError where there is no clip.
    """
    count, total, total_square = 0, 0.0, 0.0
    for frames in clips:
        values = frames.double()
        count += values.numel()
        total += float(values.sum())
        total_square += float(values.square().sum())
    if count == 0:
        raise AudioError("none of the clips drawn to measure the data's mean and deviation could be read")
    mean = total / count
    return Statistics(mean, math.sqrt(max(total_square / count - mean**2, 0.0)))


def read_statistics(path: Path) -> Statistics:
    """Read the `mean` and `std` of a stats.json; raises ConfigError naming the file and what is wrong in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        statistics = Statistics(float(content["mean"]), float(content["std"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{path}: {error!r}; expected a JSON object with the numbers "mean" and "std"; '
            "mend it, or delete it to have them measured"
        ) from None
    if not (math.isfinite(statistics.mean) and math.isfinite(statistics.deviation) and statistics.deviation > 0):
        raise ConfigError(
            f"{path}: mean {statistics.mean} and std {statistics.deviation} were found; expected finite numbers "
            "and a std above 0; mend it, or delete it to have them measured"
        )
    return statistics


def sample_rows(num_rows: int, num_wanted: int, generator: np.random.Generator) -> np.ndarray:
    """Return `num_wanted` of the row numbers below `num_rows`, ascending; all of them where there are fewer."""
    if num_rows <= num_wanted:
        return np.arange(num_rows)
    return np.sort(generator.choice(num_rows, num_wanted, replace=False))


def as_tensor(statistics: Statistics, device: torch.device) -> Tensor:
    """Return [2] float64 of mean and deviation, to send to other processes."""
    return torch.tensor(statistics, dtype=torch.float64, device=device)
