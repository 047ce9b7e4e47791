"""Figures of a whole validation set, gathered from all processes, each clip counted once."""

from typing import Optional

import numpy as np
import torch
from torch import Tensor

from mae_ast_fairseq.evaluation.collapse import TokenMoments, effective_rank, token_moments, token_spread
from mae_ast_fairseq.evaluation.metrics import evaluate
from mae_ast_fairseq.nn.autoencoder import SwappedErrors
from mae_ast_fairseq.nn.encoder import Features


class ValidationScores:
    """Collects what the batches of one validation give, and measures it when it is asked.

    fairseq shows a process that has run out of batches its first one again, as a filler, and a broken clip is replaced
    by another of the set: so the same clip may come several times.

    Args:
        multi_label: whether a clip may have several labels or none.
        num_batches: that each process will be shown, fillers counted.
    """

    def __init__(self, multi_label: bool, num_batches: int):
        self.multi_label = multi_label
        self.num_batches = num_batches
        self._batches: list[tuple[Tensor, ...]] = []
        self._figures: Optional[dict[str, float]] = None

    @property
    def has_all(self) -> bool:
        """Return whether the last batch has come, in this process as in all others."""
        return len(self._batches) >= self.num_batches

    def add(self, rows: Tensor, scores: Tensor, targets: Tensor) -> None:
        """Take a batch: its clips' rows in their manifest [N], scores [N, K], and targets [N, K], 0 or 1."""
        self._batches.append((rows.cpu(), scores.cpu(), targets.cpu()))
        self._figures = None

    def figures(self) -> dict[str, float]:
        """Return the metrics over all clips of all processes, by name; all processes must ask."""
        if self._figures is None:
            parts = map(torch.cat, zip(*self._batches, strict=True))
            rows, scores, targets = (gather(part).numpy() for part in parts)
            _, first = np.unique(rows, return_index=True)
            self._figures = evaluate(scores[first], targets[first], self.multi_label)
        return self._figures


class TokenHealth:
    """Collects what the encoder gives in one validation, and measures it when it is asked (see `collapse.py`).

    Only sums are kept and sent, of C x C values, however many clips there are.

    Args:
        num_batches: of this process; what comes after them are fillers, which another process has counted.
        num_shown: batches that each process will be shown, fillers counted.
        has_gain: whether the model has a decoder that learns to reconstruct, which `content_gain` is of.
    """

    def __init__(self, num_batches: int, num_shown: int, has_gain: bool):
        self.names = ("token_spread", "effective_rank", *(["content_gain"] if has_gain else []))
        self.num_batches = num_batches
        self.num_shown = num_shown
        self.num_swapped = 0
        """batches whose clips have swapped what the encoder gave"""
        self.max_rank = 0
        """once measured: the smaller of the encoder's width and the number of tokens"""
        self._num_seen = 0
        self._width = 0
        self._sums: Optional[Tensor] = None
        self._figures: Optional[dict[str, float]] = None

    @property
    def has_all(self) -> bool:
        """Return whether what comes next is a filler."""
        return self._num_seen >= self.num_batches

    @property
    def is_complete(self) -> bool:
        """Return whether the last batch has come, in this process as in all others."""
        return self._num_seen >= self.num_shown

    def add(self, encoded: Features, swapped: Optional[SwappedErrors] = None) -> None:
        """Take what the encoder gave of a batch, and the errors where its clips swapped it; nothing of a filler."""
        moments = token_moments(*encoded)
        errors = [moments.energy.new_zeros(())] * 2 if swapped is None else [error.double() for error in swapped]
        sums = torch.cat([moments.scatter.flatten(), torch.stack([moments.energy, moments.num_tokens, *errors])])
        if self.has_all:
            sums = torch.zeros_like(sums)
        self._sums = sums if self._sums is None else self._sums + sums
        self._width = encoded.features.shape[-1]
        self._num_seen += 1
        self.num_swapped += swapped is not None
        self._figures = None

    def figures(self) -> dict[str, float]:
        """Return the figures over all clips of all processes, by name; all processes must ask.

        The gain is NaN where no batch had two clips to swap.
        """
        if self._figures is None:
            assert self._sums is not None, "a batch comes before its figures"
            sums = self._sums.clone()
            if torch.distributed.is_initialized():
                torch.distributed.all_reduce(sums)
            scatter, (energy, num_tokens, own, swapped) = sums[:-4].view(self._width, self._width), sums[-4:]
            moments = TokenMoments(scatter, energy, num_tokens)
            self.max_rank = min(self._width, int(num_tokens))
            values = (token_spread(moments), effective_rank(moments), float((swapped - own) / own))
            self._figures = {name: round(value, 4) + 0.0 for name, value in zip(self.names, values, strict=False)}
        return self._figures


def gather(values: Tensor) -> Tensor:
    """Concatenate the [n, ...] CPU tensors of all processes, of which each may have its own n."""
    if not torch.distributed.is_initialized():
        return values
    parts: list[Tensor] = [values] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, values)
    return torch.cat(parts)
