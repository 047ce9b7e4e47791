"""Where features are written: HuBERT's layout of one array for all clips, or one file a clip."""

import errno
import os
import posixpath
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Optional, Protocol

import numpy as np
from numpy.lib.format import open_memmap

from mae_ast_fairseq.data.archive import parse
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import atomic_write
from mae_ast_fairseq.inference.chunks import Chunks
from mae_ast_fairseq.nn.readout import merge_readouts

PARTIAL = ".partial"
"""Suffix of files that are not whole yet."""

_NO_ALLOCATION = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Units:
    """The rows [U] in which clips are computed: one for each token, or one for each chunk where they are read out.

    Args:
        chunks: the plan.
        num_clips: also those without a chunk.
        readout: of which a chunk gives one row; None: a row for each token.
    """

    def __init__(self, chunks: Chunks, num_clips: int, readout: Optional[str]):
        self.chunks = chunks
        self.readout = readout
        per_chunk = np.ones_like(chunks.num_tokens) if readout else chunks.num_tokens
        self.num_chunks = np.bincount(chunks.clips, minlength=num_clips)
        counts = np.bincount(chunks.clips, weights=per_chunk, minlength=num_clips).astype(np.int64)
        self.starts = np.concatenate([[0], counts.cumsum()])  # [clips + 1]
        self.in_clip = chunks.numbers if readout else chunks.first_tokens  # [K]
        self.tokens = np.empty(self.starts[-1] if readout else 0, dtype=np.int64)  # [U] if read out
        if readout:
            self.tokens[self.starts[chunks.clips] + chunks.numbers] = chunks.num_tokens

    def of_clip(self, clip: int) -> slice:
        """Return the rows of a clip."""
        return slice(int(self.starts[clip]), int(self.starts[clip + 1]))

    def is_last(self, chunk: int) -> bool:
        """Tell whether a chunk is the last of its clip."""
        return bool(self.chunks.numbers[chunk] == self.num_chunks[self.chunks.clips[chunk]] - 1)

    def merged(self, values: np.ndarray, clip: int) -> np.ndarray:
        """Merge what was read out of a clip's chunks, [K, ..., D], into one vector: [..., D]."""
        assert self.readout is not None
        return merge_readouts(self.readout, values, self.tokens[self.of_clip(clip)])


class Store(Protocol):
    """Takes the features of chunks in the order of their plan, and again where a run was stopped between."""

    width: int
    """length of a row"""

    def open(self, is_resumed: bool) -> None:
        """Begin, or go on where files are there already."""

    def write(self, chunk: int, values: np.ndarray) -> None:
        """Keep the features of a chunk, float32 [layers, rows, C]."""

    def discard(self, clip: int) -> None:
        """Forget what was written of a clip."""

    def flush(self) -> None:
        """Make sure that what was written is in the files."""

    def finish(self, bad: Collection[int]) -> None:
        """Put the whole files in their place, without the clips that are `bad`."""

    def files(self) -> list[Path]:
        """Return the files that are made in the end, as far as they are few."""

    def remove(self) -> None:
        """Delete what was written, whole or not."""


class HubertStore:
    """`{stem}.npy`, float32 [all tokens, C], and `{stem}.len`, the number of tokens of each clip, one a line.

    Args:
        folders: of each layer; made if absent.
        stem: `{split}_{rank}_{num_shards}`.
        units: the rows.
        width: C, or D if read out.
    """

    def __init__(self, folders: Sequence[Path], stem: str, units: Units, width: int):
        self.arrays = [folder / f"{stem}.npy" for folder in folders]
        self.units = units
        self.width = width
        self._maps: list[np.ndarray] = []

    def open(self, is_resumed: bool) -> None:
        """Map the arrays, whose sizes are known; raises ConfigError where the disk has no room or one is gone."""
        for path in self.arrays:
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (int(self.units.starts[-1]), self.width)
            self._maps.append(_map(_partial(path), shape, is_resumed))

    def write(self, chunk: int, values: np.ndarray) -> None:
        """Keep the features of a chunk, float32 [layers, rows, C]."""
        first = self.units.starts[self.units.chunks.clips[chunk]] + self.units.in_clip[chunk]
        for array, value in zip(self._maps, values, strict=True):
            array[first : first + len(value)] = value

    def discard(self, clip: int) -> None:
        """Do nothing: `finish` leaves the rows of bad clips out."""

    def flush(self) -> None:
        """Write what the arrays hold to disk."""
        for array in self._maps:
            array.flush()  # type: ignore[attr-defined]

    def finish(self, bad: Collection[int]) -> None:
        """Put arrays and lengths in their place; may be done again after it was interrupted."""
        self._maps.clear()
        is_good = np.ones(len(self.units.num_chunks), dtype=bool)
        is_good[list(bad)] = False
        lengths = is_good.astype(np.int64) if self.units.readout else is_good * np.diff(self.units.starts)
        is_final = lengths.sum() == self.units.starts[-1] > 0
        for path in self.arrays:
            if not _partial(path).exists() and path.exists():
                continue
            with atomic_write(path.with_suffix(".len")) as stream:
                stream.write("".join(f"{length}\n" for length in lengths.tolist()).encode())
            if is_final:
                _partial(path).replace(path)
            else:
                self._rewrite(path, is_good, lengths)

    def _rewrite(self, path: Path, is_good: np.ndarray, lengths: np.ndarray) -> None:
        """Copy the rows of good clips, or what was read out of their chunks merged, into a new array."""
        source = np.load(_partial(path), mmap_mode="r")
        whole = path.with_name(f"{path.name}.whole")
        target = _map(whole, (int(lengths.sum()), self.width), is_resumed=False)
        ends = lengths.cumsum()
        for clip in np.flatnonzero(is_good).tolist():
            rows = source[self.units.of_clip(clip)]
            if self.units.readout:
                target[ends[clip] - 1] = self.units.merged(rows, clip)
            else:
                target[ends[clip] - lengths[clip] : ends[clip]] = rows
        target.flush()  # type: ignore[attr-defined]
        del source, target
        whole.replace(path)
        _partial(path).unlink()

    def files(self) -> list[Path]:
        """Return the arrays."""
        return self.arrays

    def remove(self) -> None:
        """Delete what was written, whole or not."""
        self._maps.clear()
        for path in self.arrays:
            for file in (path, _partial(path), path.with_suffix(".len"), path.with_name(f"{path.name}.whole")):
                file.unlink(missing_ok=True)


class FileStore:
    """One `.npy` a clip: float32 [tokens, C], or [D] if read out; of several layers, with an axis before these.

    Args:
        paths: of each clip.
        units: the rows.
        has_layers: several layers, which have an axis of their own.
        width: C, or D if read out.
    """

    def __init__(self, paths: Sequence[Path], units: Units, has_layers: bool, width: int):
        self.paths = paths
        self.units = units
        self.has_layers = has_layers
        self.width = width

    def open(self, is_resumed: bool) -> None:
        """Do nothing: a clip's file is made when it is computed."""

    def write(self, chunk: int, values: np.ndarray) -> None:
        """Write a clip's file, or its chunk's part of a partial one, which the last chunk makes whole."""
        clip = int(self.units.chunks.clips[chunk])
        path = self.paths[clip]
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.units.num_chunks[clip] == 1:
            self._save(path, values[:, 0] if self.units.readout else values)
            return
        is_first = self.units.chunks.numbers[chunk] == 0
        if not is_first and not _partial(path).exists() and path.exists():
            return  # it was made whole just before an earlier run was stopped
        rows = self.units.of_clip(clip)
        array = _map(_partial(path), (len(values), rows.stop - rows.start, self.width), is_resumed=not is_first)
        first = int(self.units.in_clip[chunk])
        array[:, first : first + values.shape[1]] = values
        if self.units.is_last(chunk):
            whole = np.moveaxis(array, 0, 1)  # [rows, layers, C]
            self._save(path, self.units.merged(whole, clip) if self.units.readout else array)
            del array, whole
            _partial(path).unlink()

    def _save(self, path: Path, values: np.ndarray) -> None:
        with atomic_write(path) as stream:
            np.save(stream, values if self.has_layers else values[0])

    def discard(self, clip: int) -> None:
        """Delete what was written of a clip."""
        _partial(self.paths[clip]).unlink(missing_ok=True)
        self.paths[clip].unlink(missing_ok=True)

    def flush(self) -> None:
        """Do nothing: files are closed."""

    def finish(self, bad: Collection[int]) -> None:
        """Do nothing: every file took its place when it was whole."""

    def files(self) -> list[Path]:
        """Return none: there is one a clip."""
        return []

    def remove(self) -> None:
        """Delete the files of all clips."""
        for clip in range(len(self.paths)):
            self.discard(clip)


def mirrored_path(relative_path: str) -> str:
    """Return where a clip's features go below the output folder: its own path and `.npy`, never outside.

    A root, `.` and `..` are taken out of the path. What is in an archive goes into a folder of the archive's name:
    `a.zip:7:9` to `a.zip/7_9.npy`.
    """
    location = parse(relative_path)
    path = relative_path if location is None else f"{location.archive}/{location.offset}_{location.length}"
    parts = [part for part in posixpath.normpath("/" + path).split("/") if part]
    return "/".join(parts) + ".npy"


def _partial(path: Path) -> Path:
    return path.with_name(path.name + PARTIAL)


def _map(path: Path, shape: tuple[int, ...], is_resumed: bool) -> np.ndarray:
    """Map a float32 array in a file, a new one or one that is there."""
    if is_resumed:
        try:
            array = open_memmap(path, mode="r+")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path}: {error}; expected the array that an earlier run began; pass --overwrite to start anew"
            ) from None
        assert array.shape == shape and array.dtype == np.float32, "the journal belongs to another array"
        return array
    try:
        array = open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        _reserve(path)
    except OSError as error:
        raise ConfigError(
            f"{path}: {int(np.prod(shape)) * 4:,} bytes cannot be written ({error.strerror}); expected room for all "
            "features; free some, or write fewer layers, a --readout, or shards to several disks"
        ) from None
    return array


def _reserve(path: Path) -> None:
    """Take the room on disk: without it, writing to a mapped file kills the process instead of raising an error."""
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in _NO_ALLOCATION:
                raise
