"""The clips that a model is run on, decoded in threads, some batches ahead of it, so that it does not wait."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from mae_ast_fairseq.corpus.scan import probe
from mae_ast_fairseq.data.audio import (
    MAX_RATE,
    MIN_RATE,
    SAMPLE_RATE,
    ClipList,
    decoding_fault,
    load_row,
    samples_at_16k,
)
from mae_ast_fairseq.errors import AudioError, one_line
from mae_ast_fairseq.inference.chunks import min_seconds
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.tokens import TokenGrid

BATCHES_AHEAD = 3
NUM_WORKERS = 2
MAX_SHOWN = 20  # broken files that are named on stderr

EXIT_BROKEN_FILES = 1
NO_FAULTS: Mapping[str, str] = MappingProxyType({})

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


class FileList:
    """Audio files by their paths, with the interface of a manifest.

    Args:
        paths: at least one; `archive.zip:offset:length` is understood. A file that is not there or not whole has 0
            samples, and an entry in `errors`.
        faults: by path, why what was given is no audio file, where that is known already.
    """

    def __init__(self, paths: Sequence[str], faults: Mapping[str, str] = NO_FAULTS):
        self.paths = list(paths)
        self._absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100 `a.zip:7:9` too
        self._folder = os.path.commonpath(map(os.path.dirname, self._absolute))
        self.errors: dict[int, AudioError] = {}
        self.num_samples = np.zeros(len(self.paths), dtype=np.int64)
        self.sample_rates = np.full(len(self.paths), SAMPLE_RATE, dtype=np.int32)
        for row, path in enumerate(self.paths):
            held = AudioError(f"{path}: {faults[path]}") if path in faults else _attempt(path, partial(probe, path))
            if isinstance(held, AudioError):
                self.errors[row] = held
            else:
                self.num_samples[row], self.sample_rates[row] = held

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


class BrokenFiles:
    """The files that a command cannot use: it goes on without them, names them on stderr, and ends with code 1.

    Where no file at all is good, that is an error of one line. So they are named once there is a good one.

    Args:
        command: of `mae-ast`, for messages.
        clips: of which they are rows.
    """

    def __init__(self, command: str, clips: ClipList):
        self.command = command
        self.clips = clips
        self.reasons: dict[int, str] = {}
        """by row"""
        self._num_shown = 0

    def add(self, row: int, error: Any) -> None:
        """Take in a broken file and what is wrong with it, which names it."""
        self.reasons[row] = str(error)

    def show(self) -> None:
        """Name on stderr those that were not named yet, up to MAX_SHOWN; there is a good file."""
        for reason in list(self.reasons.values())[self._num_shown : MAX_SHOWN]:
            tqdm.write(one_line(f"mae-ast {self.command}: {reason}"), file=sys.stderr)
            self._num_shown += 1

    def as_json(self) -> list[dict[str, str]]:
        """Return what stands under `broken` in the output of `--json`, by row."""
        return [{"file": self.clips.path(row), "reason": reason} for row, reason in sorted(self.reasons.items())]

    def require_good(self, num_good: int) -> None:
        """Raise AudioError where no file is good, but some are broken."""
        if self.reasons and not num_good:
            count = len(self.reasons)
            others = f"; none of the {count} files can be used, this is the first" if count > 1 else ""
            raise AudioError(f"{self.reasons[min(self.reasons)]}{others}")

    def exit_code(self, num_good: int) -> int:
        """Name what was not named yet and return the command's exit code; raises AudioError where no file is good."""
        self.require_good(num_good)
        self.show()
        if (num_more := len(self.reasons) - self._num_shown) > 0:
            print(f"mae-ast {self.command}: {num_more} more files are broken; --json lists all", file=sys.stderr)
        return EXIT_BROKEN_FILES if self.reasons else 0


def readable_samples(clips: ClipList) -> np.ndarray:
    """Count the samples at 16 kHz that each clip is to give: int64 [N]; none where its rate is none of audio.

    At 1 Hz a second would give 16,000 seconds, which nobody could compute.
    """
    return np.where(_has_rate(clips.sample_rates), clips.num_samples_at_16k, 0)


def _has_rate(sample_rates: np.ndarray) -> np.ndarray:
    return (sample_rates >= MIN_RATE) & (sample_rates <= MAX_RATE)


def load_part(clips: ClipList, row: int, start: int, num_samples: int) -> np.ndarray | AudioError:
    """Decode a part of a clip, float32 [S] at 16 kHz, or return the error that says what is wrong with it."""
    waveform = _attempt(clips.path(row), partial(load_row, clips, row, start, num_samples))
    return _located(clips, row, str(waveform)) if isinstance(waveform, AudioError) else waveform


def unusable(clips: ClipList, row: int, num_samples: int, grid: TokenGrid, min_tokens: int = 1) -> AudioError:
    """Say why a clip, of which `num_samples` at 16 kHz are read, cannot be used: it is broken, or too short."""
    if isinstance(clips, FileList) and row in clips.errors:
        return clips.errors[row]
    if not _has_rate(rate := clips.sample_rates[row]):
        found = f"{clips.path(row)}: a sample rate of {rate} Hz is stated; expected {MIN_RATE:,} to {MAX_RATE:,} Hz"
        return _located(clips, row, f"{found}; correct or leave out the file, then rewrite the manifest")
    num_tokens = int(grid.num_tokens(fbank.num_frames(num_samples)))
    return _located(
        clips,
        row,
        f"{clips.path(row)}: {num_samples / SAMPLE_RATE:.3f} s of it give {num_tokens} tokens of the model; expected "
        f"at least {min_tokens} ({min_seconds(grid, min_tokens):.3f} s); give a longer clip or read "
        "more of it, or leave it out",
    )


def _attempt(path: str, read: Callable[[], Loaded]) -> Loaded | AudioError:
    """Read a file, or return what is wrong with it: whatever a file does to a decoder, the others go on."""
    try:
        return read()
    except AudioError as error:
        return error
    except Exception as error:  # a lack of memory as well, for what a header states may be more than there is
        return AudioError(f"{path}: {decoding_fault(path, error)}; expected audio; convert it, or leave it out")


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
