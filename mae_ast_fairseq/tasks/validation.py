"""Scores of a whole validation set, gathered from all processes, each clip counted once."""

from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from mae_ast_fairseq.metrics import evaluate


class Scored(NamedTuple):
    """Scored clips."""

    rows: Tensor
    """[N] int64, the clips' rows in their manifest"""
    scores: Tensor
    """[N, K] float32"""
    targets: Tensor
    """[N, K] float32, 0 or 1"""


class WholeSet:
    """Collects what the batches of one validation give, and measures it when it is asked.

    fairseq shows a process that has run out of batches its first one again, as a filler, and a broken clip is replaced
    by another of the set: so the same clip may come several times.
    """

    def __init__(self, multi_label: bool):
        self.multi_label = multi_label
        self._batches: list[Scored] = []
        self._device = torch.device("cpu")
        self._figures: Optional[dict[str, float]] = None

    def add(self, scored: Scored) -> None:
        """Take the scores of a batch."""
        self._device = scored.scores.device
        self._batches.append(Scored(*(part.cpu() for part in scored)))
        self._figures = None

    def figures(self) -> dict[str, float]:
        """Return the metrics over all clips of all processes, by name; all processes must ask.

        The scores are let go; until more are added, the figures stay.
        """
        if self._figures is None:
            parts = (torch.cat(part) for part in zip(*self._batches, strict=True))
            rows, scores, targets = (gather(part, self._device).numpy() for part in parts)
            _, first = np.unique(rows, return_index=True)
            self._figures = evaluate(scores[first], targets[first], self.multi_label)
            self._batches = []
        return self._figures


def gather(values: Tensor, device: torch.device) -> Tensor:
    """Concatenate the [n, ...] tensors of all processes, of which each may have its own n; on the CPU.

    `device` is one that the processes' backend can send from.
    """
    if not torch.distributed.is_initialized():
        return values
    num_processes = torch.distributed.get_world_size()
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(num_processes)]
    torch.distributed.all_gather(counts, torch.tensor([len(values)], device=device))
    padded = values.new_zeros(int(max(counts)), *values.shape[1:], device=device)
    padded[: len(values)] = values.to(device)
    parts = [torch.empty_like(padded) for _ in range(num_processes)]
    torch.distributed.all_gather(parts, padded)
    return torch.cat([part[: int(count)].cpu() for part, count in zip(parts, counts, strict=True)])
