"""What is encoded together: long clips in chunks of whole token columns, chunks of like length in batches."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mae_ast_fairseq.data.audio import SAMPLE_RATE
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.tokens import TokenGrid

CHUNK_SECONDS = 60.0
BATCH_SECONDS = 120.0
MIN_LENGTH_RATIO = 0.9
"""The shortest chunk of a batch is at least so many times as long as its longest: less than 10 % is padding."""


class Chunks(NamedTuple):
    """The chunks of clips [K], longest first, so that what needs most memory comes first.

    A clip's chunks come in their order. Samples count at 16 kHz.
    """

    clips: np.ndarray
    """[K] the clip that it belongs to, counted from 0"""
    numbers: np.ndarray
    """[K] its number in the clip, counted from 0"""
    starts: np.ndarray
    """[K] its first sample"""
    num_samples: np.ndarray
    """[K] the clip's last chunk has all that is left, the others what their frames need"""
    first_tokens: np.ndarray
    """[K] the clip's tokens before it"""
    num_tokens: np.ndarray
    """[K] never 0: clips too short for one have no chunk"""


def plan_chunks(num_samples: np.ndarray, grid: TokenGrid, chunk_seconds: float = CHUNK_SECONDS) -> Chunks:
    """Cut clips of `num_samples` [N] at 16 kHz into chunks of at most `chunk_seconds`.

    A chunk begins and ends with a token column of the whole clip, and its frames are those of the whole clip: where
    their 25 ms windows reach over its border, so does its audio. All tokens together are thus as many, and at the same
    times, as if the clip were encoded at once. Raises ConfigError where a chunk is too short for a token.
    """
    columns_per_chunk = int(grid.num_columns(fbank.num_frames(int(min(chunk_seconds, 1e9) * SAMPLE_RATE))))
    if columns_per_chunk < 1:
        raise ConfigError(
            f"chunks of {chunk_seconds} s are too short for one token of the model; expected at least "
            f"{min_seconds(grid):.3f} s, and better as much as it was trained with"
        )
    columns = grid.num_columns(fbank.num_frames(num_samples))  # [N]
    num_chunks = -(-columns // columns_per_chunk)
    clips = np.repeat(np.arange(len(columns)), num_chunks)  # [K]
    numbers = np.arange(len(clips)) - np.repeat(num_chunks.cumsum() - num_chunks, num_chunks)
    first_columns = numbers * columns_per_chunk
    own_columns = np.minimum(columns[clips] - first_columns, columns_per_chunk)
    starts = first_columns * grid.stride[1] * fbank.FRAME_SHIFT
    is_last = numbers == num_chunks[clips] - 1
    own_samples = np.where(is_last, num_samples[clips] - starts, _samples_of_columns(own_columns, grid))
    order = np.lexsort((numbers, clips, -own_columns))
    values = (clips, numbers, starts, own_samples, first_columns * grid.rows, own_columns * grid.rows)
    return Chunks(*(value[order] for value in values))


def plan_batches(num_tokens: np.ndarray, max_tokens: int, first: int = 0) -> Iterator[slice]:
    """Cut chunks of `num_tokens` [K], longest first, into batches, from chunk `first` on.

    A batch has at most `max_tokens` tokens with its padding, or is one chunk alone, and less than 10 % is padding.
    """
    rising = -num_tokens
    while first < len(num_tokens):
        longest = int(num_tokens[first])
        end_alike = int(np.searchsorted(rising, -math.ceil(longest * MIN_LENGTH_RATIO), side="right"))
        end = max(first + 1, min(first + max_tokens // longest, end_alike))
        yield slice(first, end)
        first = end


def tokens_of(seconds: float, grid: TokenGrid) -> int:
    """Return how many tokens stand in for `seconds` of audio."""
    return max(1, int(seconds * SAMPLE_RATE / (grid.stride[1] * fbank.FRAME_SHIFT))) * grid.rows


def min_seconds(grid: TokenGrid, num_tokens: int = 1) -> float:
    """Return the length of the shortest clip that has so many tokens."""
    return int(_samples_of_columns(np.array(-(-num_tokens // grid.rows)), grid)) / SAMPLE_RATE


def _samples_of_columns(columns: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """Count the samples that the frames of so many token columns need."""
    num_frames = grid.kernel[1] + (columns - 1) * grid.stride[1]
    return (num_frames - 1) * fbank.FRAME_SHIFT + fbank.FRAME_LENGTH


def shard_rows(num_rows: int, rank: int, num_shards: int) -> range:
    """Return the rows of a shard, as HuBERT cuts a manifest: consecutive, and the shards in order are all rows."""
    return range(round(num_rows / num_shards * rank), round(num_rows / num_shards * (rank + 1)))
