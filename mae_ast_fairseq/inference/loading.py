"""The clips that a model is run on, decoded in threads, some batches ahead of it, so that it does not wait."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from mae_ast_fairseq.corpus.scan import probe
from mae_ast_fairseq.data.audio import SAMPLE_RATE, ClipList, load_row, samples_at_16k
from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.inference.chunks import min_seconds
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.tokens import TokenGrid

BATCHES_AHEAD = 3
NUM_WORKERS = 2

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


class FileList:
    """Audio files by their paths, with the interface of a manifest.

    Args:
        paths: at least one; `archive.zip:offset:length` is understood. A file that is not there or not whole has 0
            samples, and an entry in `errors`.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = list(paths)
        self._absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100 `a.zip:7:9` too
        self._folder = os.path.commonpath(map(os.path.dirname, self._absolute))
        self.errors: dict[int, AudioError] = {}
        self.num_samples = np.zeros(len(self.paths), dtype=np.int64)
        self.sample_rates = np.full(len(self.paths), SAMPLE_RATE, dtype=np.int32)
        for row, path in enumerate(self.paths):
            try:
                self.num_samples[row], self.sample_rates[row] = probe(path)
            except AudioError as error:
                self.errors[row] = error

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_samples_at_16k(self) -> np.ndarray:
        """Count each file's samples at 16 kHz: int64 [N]."""
        return samples_at_16k(self.num_samples, self.sample_rates)

    def path(self, row: int) -> str:
        """Return the path of a file."""
        return self.paths[row]

    def relative_path(self, row: int) -> str:
        """Return the path of a file relative to the deepest folder that all files are in."""
        return os.path.relpath(self._absolute[row], self._folder)

    def where(self, row: int) -> str:
        """Return nothing: the path says all."""
        return ""


def load_part(clips: ClipList, row: int, start: int, num_samples: int) -> np.ndarray | AudioError:
    """Decode a part of a clip, float32 [S] at 16 kHz, or return the error that says what is wrong with it."""
    try:
        return load_row(clips, row, start, num_samples)
    except AudioError as error:
        return _located(clips, row, str(error))


def unusable(clips: ClipList, row: int, num_samples: int, grid: TokenGrid, min_tokens: int = 1) -> AudioError:
    """Say why a clip, of which `num_samples` at 16 kHz are read, cannot be used: it is broken, or too short."""
    if isinstance(clips, FileList) and row in clips.errors:
        return clips.errors[row]
    num_tokens = int(grid.num_tokens(fbank.num_frames(num_samples)))
    return _located(
        clips,
        row,
        f"{clips.path(row)}: {num_samples / SAMPLE_RATE:.3f} s of it give {num_tokens} tokens of the model; expected "
        f"at least {min_tokens} ({min_seconds(grid, min_tokens):.3f} s); give a longer clip or read "
        "more of it, or leave it out",
    )


def _located(clips: ClipList, row: int, message: str) -> AudioError:
    """Put the line of a manifest before a message."""
    return AudioError(": ".join(filter(None, (clips.where(row), message))))


def load_ahead(
    load: Callable[[Item], Loaded], batches: Iterable[Sequence[Item]], num_workers: int = NUM_WORKERS
) -> Iterator[list[Loaded]]:
    """Load the items of batches in `num_workers` threads, at most BATCHES_AHEAD batches ahead; 0: in one, none ahead.

    Threads, not processes: decoding and resampling let go of Python's lock. The order is that of the batches.
    """
    num_ahead = BATCHES_AHEAD if num_workers else 0
    executor = ThreadPoolExecutor(max(1, num_workers), thread_name_prefix="load")
    try:
        pending: deque = deque()
        for batch in batches:
            pending.append([executor.submit(load, item) for item in batch])
            if len(pending) > num_ahead:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
