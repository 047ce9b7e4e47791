"""Features of many clips to disk, in HuBERT's layout of one array for all clips, or as one file a clip."""

import json
import math
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Optional

import numpy as np
from numpy.lib.format import write_array_header_1_0
from tqdm import tqdm

from mae_ast_fairseq.data.archive import parse
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.files import atomic_write, read_json
from mae_ast_fairseq.inference.features import Job, encode_clips
from mae_ast_fairseq.inference.loading import BrokenFiles
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder
from mae_ast_fairseq.nn.readout import LAST, Layers

FLOAT32 = np.dtype("<f4")
_NUM_SHOWN = 80  # characters of what a file holds
_REMEDY = "choose another folder, or pass --overwrite to start anew"


class HubertStore:
    """`{stem}.npy`, float32 [all tokens, C], and `{stem}.len`, the number of tokens of each clip, one a line.

    Args:
        paths: of each layer's array; folders are made if absent.
        rows: of clips, in the order in which they are written; those that are not written have length 0.
        width: C, or D if read out.
    """

    def __init__(self, paths: list[Path], rows: Sequence[int], width: int):
        self.paths = paths
        self.lengths = dict.fromkeys(rows, 0)
        self.width = width
        self._num_tokens = 0
        self._begin = 0
        self._streams: list[BinaryIO] = []

    def todo(self) -> list[int]:
        """Return the rows that no earlier run has done: all or none."""
        return [] if all(path.exists() for path in self.paths) else list(self.lengths)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Write arrays and lengths, which take their places at the end."""
        with ExitStack() as stack:
            for path in self.paths:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._streams.append(stack.enter_context(atomic_write(path)))
                self._begin = _write_header(self._streams[-1], (0, self.width))
            yield
            for path, stream in zip(self.paths, self._streams, strict=True):
                stream.truncate(self._begin + self._num_tokens * self.width * FLOAT32.itemsize)
                stream.seek(0)
                _write_header(stream, (self._num_tokens, self.width))  # as long as before: numpy leaves room for digits
                with atomic_write(path.with_suffix(".len")) as lengths:
                    lengths.write("".join(f"{length}\n" for length in self.lengths.values()).encode())

    def write(self, row: int, parts: Iterator[np.ndarray]) -> None:
        """Append a clip's features, float32 [layers, tokens, C] each; what is left of a broken one is written over."""
        end = self._num_tokens
        for part in parts:
            for stream, values in zip(self._streams, part, strict=True):
                _write_tokens(stream, self._begin, end, values)
            end += part.shape[1]
        self.lengths[row] = end - self._num_tokens
        self._num_tokens = end


class NpyStore:
    """One `.npy` a clip: float32 [tokens, C], or [D] if read out; of several layers, with an axis before these.

    Args:
        files: of each row, its path, whose folders are made if absent, and the shape of its array.
    """

    def __init__(self, files: Mapping[int, tuple[Path, tuple[int, ...]]]):
        self.files = files
        self.paths = [path for path, _ in files.values()]

    def todo(self) -> list[int]:
        """Return the rows of files that are not there."""
        return [row for row, (path, _) in self.files.items() if not path.exists()]

    def open(self) -> AbstractContextManager[None]:
        """Do nothing: each file takes its place by itself."""
        return nullcontext()

    def write(self, row: int, parts: Iterator[np.ndarray]) -> None:
        """Write a clip's file from features, float32 [layers, tokens, C] each; none where they raise AudioError."""
        path, shape = self.files[row]
        parts = chain([next(parts)], parts)  # so that no file is begun of a clip that cannot be read
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as stream:
            begin = _write_header(stream, shape)
            first = 0
            for part in parts:
                num_layers, num_tokens, width = part.shape
                tokens_per_layer = math.prod(shape) // (num_layers * width)
                for layer, values in enumerate(part):
                    _write_tokens(stream, begin, layer * tokens_per_layer + first, values)
                first += num_tokens


Store = HubertStore | NpyStore


def _write_header(stream: BinaryIO, shape: tuple[int, ...]) -> int:
    """Write the header of a `.npy`, and return where its values begin."""
    write_array_header_1_0(stream, {"descr": FLOAT32.str, "fortran_order": False, "shape": shape})
    return stream.tell()


def _write_tokens(stream: BinaryIO, begin: int, first: int, values: np.ndarray) -> None:
    """Write tokens [L, C] of an array from token `first` on; in a memory map a full disk would kill the process."""
    stream.seek(begin + first * values.shape[1] * FLOAT32.itemsize)
    stream.write(values.tobytes())


def extract(
    model: SpectrogramEncoder,
    job: Job,
    store: Store,
    broken: BrokenFiles,
    layers: Layers = LAST,
    readouts: Sequence[str] = (),
) -> None:
    """Encode the clips of a job into a store, in their order.

    `broken` takes in the clips without features, those that cannot be read or are too short. Raises AudioError, and
    leaves nothing, where no clip at all has features.
    """
    num_good = 0
    clips = encode_clips(model, job, layers, readouts)
    with store.open(), tqdm(total=len(job.rows), unit=" clips", desc="encoding", disable=None) as bar:
        for row, parts in zip(job.rows, clips, strict=True):
            try:
                store.write(row, parts)
                broken.show()
                num_good += 1
            except AudioError as error:
                broken.add(row, error)
            bar.update()
        if not any(path.exists() for path in store.paths):
            broken.require_good(num_good)  # inside, so that a store of nothing takes no place


def write_record(path: Path, settings: Mapping[str, Any], bad: Mapping[int, str]) -> None:
    """Write what features depend on, and the rows of clips without any."""
    with atomic_write(path) as stream:
        stream.write(json.dumps({"settings": settings, "bad": list(bad.items())}, indent=1).encode())


def begin_record(path: Path, settings: Mapping[str, Any], features: Sequence[Path]) -> dict[int, str]:
    """Write the record of a new extraction, or return the rows without features of the one that is continued.

    Raises ConfigError for one of other settings, and where there are `features` without a record.
    """
    if not path.exists():
        for other in features:
            if other.exists():
                raise ConfigError(f"{other}: it is there already, and nothing says how it was made; {_REMEDY}")
        write_record(path, settings, {})
    try:
        content = read_json(path)
        found = dict(content["settings"])
        bad = {int(row): str(reason) for row, reason in content["bad"]}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"[:_NUM_SHOWN]
        raise ConfigError(f"{path}: {reason}; expected the settings of an extraction; {_REMEDY}") from None
    for name, value in settings.items():
        before, now = str(found.get(name))[:16], str(value)[:16]
        if found.get(name) != value:
            raise ConfigError(f"{path}: the features there were begun with {name} {before}; now it is {now}; {_REMEDY}")
    return bad


def recorded_precision(path: Path) -> Optional[str]:
    """Return the precision of the extraction whose record this is; None where nothing says so."""
    try:
        return str(read_json(path)["settings"]["precision"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mirrored_path(relative_path: str) -> str:
    """Return where a clip's features go below the output folder: its own path and `.npy`, never outside.

    A root, `.` and `..` are taken out of the path. What is in an archive goes into a folder of the archive's name:
    `a.zip:7:9` to `a.zip/7_9.npy`.
    """
    location = parse(relative_path)
    path = relative_path if location is None else f"{location.archive}/{location.offset}_{location.length}"
    return posixpath.normpath("/" + path).strip("/") + ".npy"
