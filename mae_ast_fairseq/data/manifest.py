"""The TSV manifest of wav2vec 2.0 and HuBERT: read, checked line by line, held compactly; and written.

Line 1 is the root folder, or `/` before absolute paths. Every other line is `path<TAB>samples`, with the
file's sample rate as a third column where it is not 16 kHz; `samples` counts at the file's own rate.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from mae_ast_fairseq.data.audio import SAMPLE_RATE, samples_at_16k
from mae_ast_fairseq.errors import ManifestError
from mae_ast_fairseq.files import atomic_write

MAX_SAMPLE_DIGITS = 14  # 10^14 samples are 198 years, and samples * 16000 stays inside int64
MAX_RATE_DIGITS = 9  # stays inside int32

# A chunk and its temporaries stay in the processor's cache: 4 MB take 1.5 times as long. At 1 MB and above malloc
# gives the temporaries back to the system after each chunk, which costs five times the page faults.
_CHUNK_BYTES = 1 << 19
_TAB, _NEWLINE, _RETURN, _SLASH, _DOT, _ZERO = b"\t\n\r/.0"
_BOM = b"\xef\xbb\xbf"
_REWRITE = "mend the line or write the manifest with `mae-ast manifest`"


class ManifestRow(NamedTuple):
    """What a manifest says of one file."""

    relative_path: str
    num_samples: int
    sample_rate: int = SAMPLE_RATE


@dataclass(frozen=True, eq=False)
class Manifest:
    """A manifest that was read: 16 bytes a row beside the file's own bytes, shared by forked workers.

    Rows count from 0. `num_samples` int64 [N] counts at each file's own rate, `sample_rates` int32 [N] in Hz.
    """

    file: Path
    root: str
    num_samples: np.ndarray
    sample_rates: np.ndarray
    _text: np.ndarray = field(repr=False)  # uint8, the whole file
    _starts: np.ndarray = field(repr=False)  # [N + 1] offsets in the text of each row, and of the end

    def __len__(self) -> int:
        return len(self.num_samples)

    @property
    def name(self) -> str:
        """Return the manifest's own path, for messages."""
        return str(self.file)

    @property
    def part_starts(self) -> np.ndarray:
        """Return [0, N], the first row and the end of the one manifest that this is; see ConcatManifest."""
        return np.array([0, len(self)])

    @property
    def num_samples_at_16k(self) -> np.ndarray:
        """Count each file's samples at 16 kHz: int64 [N], the ceiling of samples * 16000 / rate, exactly."""
        if (self.sample_rates == SAMPLE_RATE).all():
            return self.num_samples
        return samples_at_16k(self.num_samples, self.sample_rates)

    def path(self, row: int) -> str:
        """Return the path of a row's audio file, under the root."""
        return posixpath.join(self.root, self._written_path(row))

    def relative_path(self, row: int) -> str:
        """Return the path of a row's audio file relative to the root."""
        return self._written_path(row).removeprefix(self.root.rstrip("/") + "/")

    def line(self, row: int) -> int:
        """Return the number of a row's line in the manifest, where line 1 is the root."""
        return range(len(self))[row] + 2

    def where(self, row: int) -> str:
        """Name a row as `file:line`, for messages."""
        return f"{self.file}:{self.line(row)}"

    def _written_path(self, row: int) -> str:
        row = range(len(self))[row]  # rows from the end, and an IndexError past it
        line = self._text[self._starts[row] : self._starts[row + 1]].tobytes()
        return line[: line.index(b"\t")].decode()


class _Columns(NamedTuple):
    num_samples: np.ndarray
    sample_rates: np.ndarray


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest and check every line of it.

    A relative root is taken from the manifest's own folder. Accepted beside the plain form: a byte order
    mark, CRLF line ends, blank lines at the end or no newline there, files of 0 samples.
    Raises ManifestError, which names the file and its first bad line.
    """
    file = Path(path)
    text = _read_bytes(file)
    begin = len(_BOM) if text[: len(_BOM)].tobytes() == _BOM else 0
    end = _trimmed_end(text)
    if end <= begin:
        _refuse(f"{file}:1", "the file is empty", "the root folder", "write it with `mae-ast manifest`")
    root_end = _line_end(text, begin, end)
    root = _read_root(file, text[begin:root_end].tobytes())
    if root_end == end:
        _refuse(f"{file}:2", "nothing follows the root", "`path<TAB>samples`", "add the audio files")
    text = text[:end]
    starts, columns = _parse_rows(file, text, root_end + 1, root)
    for array in (text, starts, *columns):
        array.setflags(write=False)
    where = root if root.startswith("/") else posixpath.join(file.absolute().parent.as_posix(), root)
    return Manifest(file, where, *columns, text, starts)


def write_manifest(path: str | Path, root: str | Path, rows: Iterable[ManifestRow | tuple[str, int, int]]) -> None:
    """Write rows of (path relative to the root, samples, sample rate); the file appears whole or not at all.

    Raises ManifestError for a row that could not be read back, as with a tab in its path, and for no rows.
    """
    file = Path(path)
    root_text = Path(root).as_posix()
    if reason := unwritable(root_text):
        raise ManifestError(f"{file}: the root {root_text!r} {reason}; rename the folder")
    num_rows = 0
    with atomic_write(file) as stream:
        stream.write(f"{root_text}\n".encode())
        for relative_path, num_samples, sample_rate in rows:
            if reason := unwritable(relative_path):
                raise ManifestError(f"{file}: the path {relative_path!r} {reason}; rename the file or leave it out")
            rate = "" if sample_rate == SAMPLE_RATE else f"\t{sample_rate}"
            line = f"{relative_path}\t{num_samples}{rate}".encode()
            if fault := _fault(line, root_text):
                _refuse(str(file), *fault)
            stream.write(line + b"\n")
            num_rows += 1
        if num_rows == 0:
            _refuse(str(file), "no audio files to write", "at least one", "look at what was rejected")


def unwritable(relative_path: str) -> str | None:
    """Say why a path cannot stand in a manifest (tab, line end, bytes that are not UTF-8), or None."""
    if not relative_path:
        return "is empty"
    if any(character in relative_path for character in "\t\n\r\0"):
        return "holds a tab or a line end"
    try:
        relative_path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return None


def _refuse(where: str, found: str, expected: str, remedy: str = _REWRITE) -> NoReturn:
    raise ManifestError(f"{where}: {found}; expected {expected}; {remedy}")


def _read_bytes(file: Path) -> np.ndarray:
    try:
        return np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        if not file.parent.is_dir():
            _refuse(str(file), f"there is no folder {file.parent}", "a manifest", "correct the path (`task.data`)")
        if not file.exists():
            others = ", ".join(sorted(other.name for other in file.parent.glob("*.tsv"))) or "none"
            found = f"there is no such file (manifests in its folder: {others})"
            _refuse(str(file), found, "a manifest", "write it with `mae-ast manifest`")
        found = "this is a folder" if file.is_dir() else str(error.strerror or error)
        _refuse(str(file), found, "a manifest that can be read", "correct the path or its permissions")


def _trimmed_end(text: np.ndarray) -> int:
    """Return where the text ends without the line ends, or blank lines, that close it."""
    end = len(text)
    while end and text[end - 1] in (_NEWLINE, _RETURN):
        end -= 1
    return end


def _line_end(text: np.ndarray, begin: int, end: int) -> int:
    size = 4096
    while True:
        window = text[begin : min(begin + size, end)].tobytes()
        found = window.find(b"\n")
        if found >= 0:
            return begin + found
        if begin + size >= end:
            return end
        size *= 2


def _read_root(file: Path, line: bytes) -> str:
    line = line.removesuffix(b"\r")
    where = f"{file}:1"
    if b"\0" in line or line.startswith((b"\xff\xfe", b"\xfe\xff")):
        _refuse(where, "a NUL byte or the mark of UTF-16", "the root folder as UTF-8 text", "save it as UTF-8")
    try:
        root = line.decode()
    except UnicodeDecodeError:
        _refuse(where, f"{line[:80]!r} is not UTF-8", "the root folder as UTF-8 text", "save it as UTF-8")
    if not root:
        _refuse(where, "a blank line", "the root folder", "write the folder of the audio files, or `/`")
    if "\t" in root:
        _refuse(
            where,
            f"a tab in {root[:80]!r}",
            "the root folder alone",
            "put the folder of the audio files first",
        )
    return root


def _parse_rows(file: Path, text: np.ndarray, first: int, root: str) -> tuple[np.ndarray, _Columns]:
    """Parse the rows from `first` on, a chunk at a time, into row starts [N + 1] and columns [N]."""
    end = len(text)
    num_rows = 1 + sum(
        np.count_nonzero(text[i : i + _CHUNK_BYTES] == _NEWLINE) for i in range(first, end, _CHUNK_BYTES)
    )
    starts = np.empty(num_rows + 1, dtype=np.uint32 if end < 2**32 else np.int64)
    columns = _Columns(np.empty(num_rows, dtype=np.int64), np.empty(num_rows, dtype=np.int32))
    done = 0
    for offset, chunk in _line_chunks(text, first):
        chunk_starts, chunk_columns, suspects = _parse_chunk(chunk, root.encode())
        for row in suspects:
            begin = chunk_starts[row]
            line = chunk[begin : chunk.index(b"\n", begin)].removesuffix(b"\r")
            if fault := _fault(line, root):
                _refuse(f"{file}:{done + row + 2}", *fault)
        rows = slice(done, done + len(chunk_starts))
        starts[rows] = chunk_starts + offset
        for column, part in zip(columns, chunk_columns, strict=True):
            column[rows] = part
        done = rows.stop
    starts[done] = end
    return starts, columns


def _line_chunks(text: np.ndarray, begin: int) -> Iterator[tuple[int, bytes]]:
    """Cut the text from `begin` into (offset, whole lines)."""
    size = _CHUNK_BYTES
    while begin < len(text):
        chunk = text[begin : begin + size].tobytes()
        if begin + size < len(text):
            cut = chunk.rfind(b"\n")
            if cut < 0:  # a line longer than the chunk
                size *= 2
                continue
            chunk = chunk[: cut + 1]
        else:
            chunk += b"\n"  # which the end of the text was trimmed of
        yield begin, chunk
        begin += len(chunk)
        size = _CHUNK_BYTES


def _parse_chunk(chunk: bytes, root: bytes) -> tuple[np.ndarray, _Columns, list[int]]:
    """Parse whole lines into row starts [N], columns [N] and suspect rows, the first bad row among them."""
    text = np.frombuffer(chunk, dtype=np.uint8)
    marks = np.flatnonzero((text == _TAB) | (text == _NEWLINE))
    is_newline = text[marks] == _NEWLINE
    newlines = np.flatnonzero(is_newline)
    ends = marks[newlines]
    starts = np.concatenate([[0], ends[:-1] + 1])
    first_mark = np.concatenate([[0], newlines[:-1] + 1])
    num_tabs = newlines - first_mark
    path_ends = marks[first_mark]  # the first tab, or the line's end
    bare_ends = ends - ((ends > starts) & (text[ends - 1] == _RETURN)) if b"\r" in chunk else ends
    with_rate = np.flatnonzero(num_tabs == 2)
    count_ends = bare_ends.copy()
    count_ends[with_rate] = marks[first_mark[with_rate] + 1]

    num_samples, is_bad = _parse_digits(text, path_ends + 1, count_ends, MAX_SAMPLE_DIGITS)
    is_bad |= (num_tabs < 1) | (num_tabs > 2) | (path_ends == starts)
    sample_rates = np.full(len(starts), SAMPLE_RATE, dtype=np.int32)
    if len(with_rate):
        rates, bad_rates = _parse_digits(text, count_ends[with_rate] + 1, bare_ends[with_rate], MAX_RATE_DIGITS)
        is_bad[with_rate] |= bad_rates | (rates == 0)
        sample_rates[with_rate] = rates
    suspects = set(np.flatnonzero(is_bad)[:1].tolist())
    suspects.update(np.flatnonzero(_is_outside(text, starts, path_ends, root)).tolist())
    suspects.update(np.searchsorted(starts, _undecodable(chunk), side="right") - 1)
    suspects.update(np.searchsorted(starts, _parent_folders(text), side="right") - 1)
    return starts, _Columns(num_samples, sample_rates), sorted(suspects)


def _parse_digits(
    text: np.ndarray, begins: np.ndarray, ends: np.ndarray, max_digits: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read the decimal numbers at text[begins:ends]: int64 [N], and bool [N], True where there is none."""
    widths = ends - begins
    is_bad = (widths < 1) | (widths > max_digits)
    values = np.zeros(len(ends), dtype=np.int64)
    shortest = widths.min(initial=max_digits)
    for place in range(min(widths.max(initial=0), max_digits)):
        digits = text[np.maximum(ends - 1 - place, 0)] - _ZERO  # uint8: what stands before "0" wraps to above 9
        if place >= shortest:
            digits[widths <= place] = 0
        is_bad |= digits > 9
        values += digits * np.int64(10**place)
    return values, is_bad


def _is_outside(text: np.ndarray, starts: np.ndarray, ends: np.ndarray, root: bytes) -> np.ndarray:
    """Tell which of the paths text[starts:ends] are absolute and do not start with the root: bool [N]."""
    is_outside = (text[starts] == _SLASH) & (root != b"/")
    absolute = np.flatnonzero(is_outside)
    if len(absolute):
        prefix = root.rstrip(b"/") + b"/"
        is_below = ends[absolute] - starts[absolute] > len(prefix)
        for place, byte in enumerate(prefix):
            is_below &= text[np.minimum(starts[absolute] + place, len(text) - 1)] == byte
        is_outside[absolute] = ~is_below
    return is_outside


def _undecodable(chunk: bytes) -> list[int]:
    """Return the positions of the first NUL and of the first byte that is not UTF-8."""
    positions = [chunk.find(b"\0")] if b"\0" in chunk else []
    if not chunk.isascii():
        try:
            chunk.decode()
        except UnicodeDecodeError as error:
            positions.append(error.start)
    return positions


def _parent_folders(text: np.ndarray) -> np.ndarray:
    """Return the positions of `..` as a part of a path; searching bytes for them takes ten times as long."""
    is_dot = text == _DOT
    pairs = np.flatnonzero(is_dot[:-1] & is_dot[1:])
    before, after = text[np.maximum(pairs - 1, 0)], text[pairs + 2]  # a newline ends the text: no pair does
    begins = (pairs == 0) | (before == _SLASH) | (before == _NEWLINE)
    return pairs[begins & ((after == _SLASH) | (after == _TAB))]


def _fault(line: bytes, root: str) -> tuple[str, str] | None:
    """Say what is wrong with one line, without its line end, as (found, expected); None if nothing is."""
    text = line.decode(errors="replace")
    shown = repr(text if len(text) <= 160 else text[:160] + "...")
    path, *columns = text.split("\t")
    if not line:
        return "a blank line", "`path<TAB>samples`"
    if "\0" in text:
        return f"a NUL byte in {shown}", "UTF-8 text"
    if text.encode() != line:
        return f"bytes that are not UTF-8 in {shown}", "UTF-8 text"
    if not columns:
        return f"no tab in {shown}", "`path<TAB>samples`"
    if len(columns) > 2:
        return (
            f"{len(columns) + 1} columns in {shown}",
            "`path<TAB>samples`, or a sample rate as third column",
        )
    if not path:
        return f"an empty path in {shown}", "`path<TAB>samples`"
    if _escapes(path, root):
        return f"the path {path!r} leads out of the root {root!r}", "a path below the root"
    if not re.fullmatch(rf"[0-9]{{1,{MAX_SAMPLE_DIGITS}}}", columns[0]):
        return f"{columns[0][:80]!r} for the number of samples", f"digits only, at most {MAX_SAMPLE_DIGITS}"
    if len(columns) == 2 and not re.fullmatch(rf"(?=.*[1-9])[0-9]{{1,{MAX_RATE_DIGITS}}}", columns[1]):
        return f"{columns[1][:80]!r} for the sample rate", "a positive number of hertz, digits only"
    return None


def _escapes(path: str, root: str) -> bool:
    if root == "/":
        return ".." in path.split("/")
    if path.startswith("/"):
        return not posixpath.normpath(path).startswith(root.rstrip("/") + "/")
    return posixpath.normpath(path).split("/")[0] == ".."
