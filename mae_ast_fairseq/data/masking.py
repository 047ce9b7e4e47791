"""Which tokens the encoder sees: masking strategies in NumPy, from a grid's size to token indices.

A strategy draws from the generator `rng` that it is given and from nothing else. Tokens are numbered time-major:
index = column * rows + row.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mae_ast_fairseq.errors import ConfigError

CHUNK_SIDES = (3, 4, 5)  # patches; one is drawn for each utterance


class Mask(NamedTuple):
    """One utterance's tokens in two parts, ascending int64 indices that together are range(L)."""

    visible: NDArray[np.int64]  # [V]
    masked: NDArray[np.int64]  # [M]


class BatchMask(NamedTuple):
    """The masks of a batch, ascending, padded with 0 on the right; no padding, no padding mask."""

    visible: NDArray[np.int64]  # [B, V]
    masked: NDArray[np.int64]  # [B, M]
    visible_padding_mask: NDArray[np.bool_] | None  # [B, V], True = padding
    masked_padding_mask: NDArray[np.bool_] | None  # [B, M], True = padding


def check_ratio(ratio: float) -> None:
    """Raise ConfigError for a fraction of masked tokens outside the open interval (0, 1)."""
    if not 0 < ratio < 1 or 1 - ratio == 1:
        raise ConfigError(
            f"model.random_mask_prob: found {ratio}, expected a fraction of masked tokens above 0 and below 1; "
            "the recipes mask 0.75"
        )


def num_visible(num_tokens: int, ratio: float) -> int:
    """Count the visible tokens of an utterance (V), to the bit as the released models did: nothing else computes it."""
    return max(1, int((1 - ratio) * num_tokens))


def random_mask(rows: int, columns: int, ratio: float, rng: np.random.Generator, span_length: int = 10) -> Mask:
    """Mask tokens drawn uniformly without replacement."""
    return _mask_smallest(rng.random(rows * columns), ratio)


def chunk_mask(rows: int, columns: int, ratio: float, rng: np.random.Generator, span_length: int = 10) -> Mask:
    """Mask overlapping chunks: squares of patches, or spans of `span_length` tokens where there is one row.

    The side of the squares is drawn once from CHUNK_SIDES. A chunk's first corner is uniform over every
    place where it overlaps the grid, [1 - side, N - 1] on each axis, and what hangs over an edge is cut off:
    a token at the edge is covered as often as one in the middle. Chunks are added until the masked
    count is reached; what the last one covers too many is removed from it at random. (Section 2.2 of the
    paper, with corners that may lie outside so that coverage is even.)
    """
    width = height = int(rng.integers(CHUNK_SIDES[0], CHUNK_SIDES[-1] + 1))
    if rows == 1:
        # A span longer than half the clip would favour its middle, once its surplus is removed at random.
        width, height = min(span_length, max(1, columns // 2)), 1
    num_masked = rows * columns - num_visible(rows * columns, ratio)
    num_corners = (columns + width - 1) * (rows + height - 1)
    # Enough for nearly every draw: k chunks leave a fraction (1 - area / corners) ** k of the tokens uncovered.
    expected = math.log(1 - ratio) / math.log(1 - width * height / (num_corners + 1))
    num_chunks = int(1.2 * expected) + 8
    corners = rng.integers(num_corners, size=num_chunks)
    order = _first_cover(rows, columns, width, height, corners)
    while np.count_nonzero(order < len(corners)) < num_masked:
        corners = np.concatenate([corners, rng.integers(num_corners, size=len(corners))])
        order = _first_cover(rows, columns, width, height, corners)
    # Chunks in the order drawn, the tokens of one chunk in random order: the last one fills up the count.
    return _mask_smallest(order + rng.random(rows * columns), ratio)


def _first_cover(rows: int, columns: int, width: int, height: int, corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the first chunk that covers each token, [L]; len(corners) where there is none.

    corners: where chunks begin, [chunks], numbered over (columns + width - 1) * (rows + height - 1) places.
    """
    # A border as wide as a chunk can hang over takes what is cut off: nothing wraps into the next column.
    padded_rows = rows + 2 * (height - 1)
    first = np.full((columns + 2 * (width - 1), padded_rows), len(corners))
    column, row = np.divmod(corners, rows + height - 1)
    inside = np.arange(width)[:, None] * padded_rows + np.arange(height)  # [width, height]
    cells = (column * padded_rows + row)[:, None] + inside.ravel()  # [chunks, width * height]
    # Not a fancy assignment: which of repeated indices wins there depends on NumPy's order of iteration.
    np.minimum.at(first.reshape(-1), cells.reshape(-1), np.repeat(np.arange(len(corners)), width * height))
    return first[width - 1 : width - 1 + columns, height - 1 : height - 1 + rows].ravel()


def _mask_smallest(order: NDArray[np.float64], ratio: float) -> Mask:
    """Mask the tokens that come first in `order` [L], as many as the ratio asks for."""
    num_tokens = len(order)
    assert num_tokens >= 2, f"{num_tokens} tokens cannot be split into visible and masked ones"
    num_masked = num_tokens - num_visible(num_tokens, ratio)
    is_masked = np.zeros(num_tokens, dtype=bool)
    is_masked[np.argpartition(order, num_masked - 1)[:num_masked]] = True
    return Mask(visible=np.flatnonzero(~is_masked), masked=np.flatnonzero(is_masked))


class Strategy(NamedTuple):
    """A way to choose the tokens of a clip that are masked."""

    draw: Callable[[int, int, float, np.random.Generator, int], Mask]
    """(rows, columns, ratio, rng, span_length) -> Mask"""
    shared: bool = False
    """in training, all clips of a batch have one mask, drawn for the first; they must be of one length"""


STRATEGIES = {
    "random_mask": Strategy(random_mask),
    "random_mask_batched": Strategy(random_mask, shared=True),
    "chunk_mask": Strategy(chunk_mask),
}
"""The choices of `mask_type` for pretraining."""


class Masking(NamedTuple):
    """How tokens are masked: one value, built from the fields `mask_type`, `random_mask_prob` and `mask_length`."""

    type: str
    """a key of STRATEGIES"""
    ratio: float
    """fraction of masked tokens, inside (0, 1)"""
    length: int = 10
    """tokens of a masked span of frame tokens"""

    @property
    def shared(self) -> bool:
        """Whether the clips of a training batch have one mask."""
        return STRATEGIES[self.type].shared

    def draw(self, rows: int, columns: int, rng: np.random.Generator) -> Mask:
        """Mask a clip of `rows` x `columns` tokens."""
        return STRATEGIES[self.type].draw(rows, columns, self.ratio, rng, self.length)


def collate(masks: Sequence[Mask]) -> BatchMask:
    """Stack the masks of a batch, padded with 0 to the longest."""
    visible, visible_padding_mask = _pad([mask.visible for mask in masks])
    masked, masked_padding_mask = _pad([mask.masked for mask in masks])
    return BatchMask(visible, masked, visible_padding_mask, masked_padding_mask)


def _pad(indices: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Stack index arrays into [B, longest]; the padding mask is None where all are equally long."""
    lengths = np.array([len(row) for row in indices])
    padding_mask = np.arange(lengths.max()) >= lengths[:, None]  # [B, longest]
    padded = np.zeros(padding_mask.shape, dtype=np.int64)
    padded[~padding_mask] = np.concatenate(indices)
    return padded, padding_mask if padding_mask.any() else None
