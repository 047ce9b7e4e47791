"""Several manifests as one: rows are counted through them all, in the order given."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from mae_ast_fairseq.data.manifest import Manifest


class ConcatManifest:
    """The rows of several manifests one after another, with the interface of one.

    Args:
        parts: the manifests, at least one.
    """

    def __init__(self, parts: Sequence[Manifest]):
        self.parts = tuple(parts)
        self.part_starts = np.cumsum([0, *(len(part) for part in parts)])
        """[K + 1] first row of each manifest, and the number of all rows"""
        self.num_samples = np.concatenate([part.num_samples for part in parts])
        self.sample_rates = np.concatenate([part.sample_rates for part in parts])

    def __len__(self) -> int:
        return len(self.num_samples)

    @property
    def num_samples_at_16k(self) -> np.ndarray:
        """Count each file's samples at 16 kHz: int64 [N]."""
        return np.concatenate([part.num_samples_at_16k for part in self.parts])

    @property
    def fingerprint(self) -> str:
        """The manifests' fingerprints, in their order."""
        return " ".join(part.fingerprint for part in self.parts)

    @property
    def name(self) -> str:
        """Return the manifests' own paths, for messages."""
        return ", ".join(part.name for part in self.parts)

    def _locate(self, row: int) -> tuple[Manifest, int]:
        part = int(np.searchsorted(self.part_starts, row, side="right")) - 1
        return self.parts[part], row - int(self.part_starts[part])

    def path(self, row: int) -> str:
        """Return the path of a row's audio file."""
        part, row = self._locate(row)
        return part.path(row)

    def where(self, row: int) -> str:
        """Name a row as `file:line`, for messages."""
        part, row = self._locate(row)
        return part.where(row)


def join(parts: Sequence[Manifest]) -> Manifest | ConcatManifest:
    """Return several manifests as one; one alone as it is, without a copy."""
    return parts[0] if len(parts) == 1 else ConcatManifest(parts)


def draw_by_weight(
    rows: np.ndarray, starts: np.ndarray, weights: Sequence[float], order: np.ndarray, epoch: int
) -> np.ndarray:
    """Keep of each manifest's clips as many as its weight says, those that come first in `order`.

    Args:
        rows: [N] the rows of the clips, ascending.
        starts: [K + 1] first row of each manifest, and the number of all rows.
        weights: [K] fractions in (0, 1].
        order: [N] a permutation of the clips.
        epoch: counted from 1.

    Returns:
        The clips kept, at least one, in `order`.
    """
    parts = np.searchsorted(starts, rows[order], side="right") - 1
    keep = np.zeros(len(order), dtype=bool)
    sizes = np.bincount(parts, minlength=len(weights)).tolist()
    for part, count in enumerate(clips_in_epoch(sizes, weights, epoch)):
        keep[np.flatnonzero(parts == part)[:count]] = True
    return order[keep]


def clips_in_epoch(sizes: Sequence[int], weights: Sequence[float], epoch: int) -> list[int]:
    """Count the clips of each manifest in an epoch, counted from 1: what is left of a fraction, later epochs draw.

    After e epochs a manifest of n clips with weight w has given ceil(e w n) of them: one in the first epoch at least.
    An epoch that would be empty draws one clip more, of the manifest whose turn is next.

    Args:
        sizes: [K] clips of each manifest, some of them.
        weights: [K] fractions in (0, 1], as decimal numbers: 0.1 of 30 clips are 3 in each epoch.
    """
    rates = [Fraction(str(weight)) * size for weight, size in zip(weights, sizes, strict=True)]
    counts = [math.ceil(epoch * rate) - math.ceil((epoch - 1) * rate) for rate in rates]
    if not any(counts):
        turns = {part: math.ceil(epoch * rate) / rate for part, rate in enumerate(rates) if rate}
        counts[min(turns, key=turns.__getitem__)] = 1
    return counts
