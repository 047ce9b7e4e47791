"""Audio decoded in threads, some batches ahead of the model, so that it does not wait."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np

from mae_ast_fairseq.corpus.scan import probe
from mae_ast_fairseq.data.audio import load_row, samples_at_16k
from mae_ast_fairseq.errors import AudioError

BATCHES_AHEAD = 3
NUM_WORKERS = 2

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


class Clips(Protocol):
    """What encoding asks of a Manifest, a ConcatManifest or a FileList; rows count from 0."""

    @property
    def num_samples(self) -> np.ndarray:
        """Count each clip's samples at its own rate: int64 [N]."""

    @property
    def sample_rates(self) -> np.ndarray:
        """Return each clip's rate in Hz: int32 [N]."""

    def __len__(self) -> int: ...

    @property
    def num_samples_at_16k(self) -> np.ndarray:
        """Count each clip's samples at 16 kHz: int64 [N]."""

    def path(self, row: int) -> str:
        """Return the path of a clip's file."""

    def where(self, row: int) -> str:
        """Name a row for messages."""


class FileList:
    """Audio files by their paths, with the interface of a manifest.

    Args:
        paths: at least one; `archive.zip:offset:length` is understood.

    Raises:
        AudioError: a file that is not there, or not whole.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = list(paths)
        found = [probe(path) for path in self.paths]
        self.num_samples = np.array([info.num_samples for info in found], dtype=np.int64)
        self.sample_rates = np.array([info.sample_rate for info in found], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_samples_at_16k(self) -> np.ndarray:
        """Count each file's samples at 16 kHz: int64 [N]."""
        return samples_at_16k(self.num_samples, self.sample_rates)

    def path(self, row: int) -> str:
        """Return the path of a file."""
        return self.paths[row]

    def where(self, row: int) -> str:
        """Name a file by its place among the arguments."""
        return f"file {row + 1} of {len(self)}"


def load_part(clips: Clips, row: int, start: int, num_samples: int) -> np.ndarray | AudioError:
    """Decode a part of a clip, float32 [S] at 16 kHz, or return the error that says what is wrong with it."""
    try:
        return load_row(clips, row, start, num_samples)
    except AudioError as error:
        return AudioError(f"{clips.where(row)}: {error}")


def load_ahead(
    load: Callable[[Item], Loaded], batches: Iterable[Sequence[Item]], num_workers: int = NUM_WORKERS
) -> Iterator[list[Loaded]]:
    """Load the items of batches in `num_workers` threads, at most BATCHES_AHEAD batches ahead; 0: when asked for.

    Threads, not processes: decoding and resampling let go of Python's lock. The order is that of the batches.
    """
    if num_workers == 0:
        for batch in batches:
            yield [load(item) for item in batch]
        return
    executor = ThreadPoolExecutor(num_workers, thread_name_prefix="load")
    try:
        pending: deque = deque()
        for batch in batches:
            pending.append([executor.submit(load, item) for item in batch])
            if len(pending) > BATCHES_AHEAD:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
