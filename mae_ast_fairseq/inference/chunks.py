"""What is computed together: clips in chunks of whole token columns or in windows, those of like length in batches."""

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
BATCHES_SORTED = 5
"""Chunks of like length are looked for among those that fill so many batches, which are then held in memory."""


class Chunks(NamedTuple):
    """The parts of clips that are computed one by one [K], clip by clip in their order; samples count at 16 kHz."""

    clips: np.ndarray
    """[K] the clip that it belongs to, counted from 0"""
    starts: np.ndarray
    """[K] its first sample"""
    num_samples: np.ndarray
    """[K] samples of it"""
    num_tokens: np.ndarray
    """[K] never 0: clips too short for one have no chunk"""


class Window(NamedTuple):
    """A part of a file, in samples at 16 kHz."""

    start: int
    stop: int


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
    return Chunks(clips, starts, own_samples, own_columns * grid.rows)


def cut_windows(num_samples: int, length: int, hop: int) -> list[Window]:
    """Cut a file into windows of one length, `hop` apart; the last one ends where the file ends.

    A file of at most that length is one window. All counts are of samples at 16 kHz.
    """
    if num_samples <= length:
        return [Window(0, num_samples)]
    starts = [*range(0, num_samples - length, hop), num_samples - length]
    return [Window(start, start + length) for start in starts]


def plan_windows(num_samples: np.ndarray, grid: TokenGrid, length: int, hop: int, min_tokens: int = 1) -> Chunks:
    """Cut clips of `num_samples` [N] at 16 kHz by `cut_windows`; those of too few tokens have no window."""
    windows = [
        (clip, window.start, window.stop)
        for clip, total in enumerate(num_samples.tolist())
        for window in cut_windows(total, length, hop)
    ]
    clips, starts, stops = np.array(windows, dtype=np.int64).reshape(-1, 3).T
    num_tokens = grid.num_tokens(fbank.num_frames(stops - starts))
    is_enough = num_tokens >= min_tokens
    return Chunks(*(values[is_enough] for values in (clips, starts, stops - starts, num_tokens)))


def plan_batches(num_tokens: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Put chunks of `num_tokens` [K] into batches, and yield the indices of each.

    A batch has at most `max_tokens` tokens with its padding, or is one chunk alone, and less than 10 % is padding. Its
    chunks are near each other: every BATCHES_SORTED batches all before are done.
    """
    groups = (num_tokens.cumsum() - num_tokens) // (BATCHES_SORTED * max_tokens)
    for group in np.split(np.arange(len(groups)), np.flatnonzero(np.diff(groups)) + 1):
        longest_first = group[np.argsort(-num_tokens[group], kind="stable")]
        lengths = num_tokens[longest_first]
        first = 0
        while first < len(group):
            longest = int(lengths[first])
            end_alike = int(np.searchsorted(-lengths, -math.ceil(longest * MIN_LENGTH_RATIO), side="right"))
            end = max(first + 1, min(first + max_tokens // longest, end_alike))
            yield longest_first[first:end]
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
