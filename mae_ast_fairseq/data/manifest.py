"""The TSV manifest of wav2vec 2.0 and HuBERT: read, checked line by line, held compactly; and written.

Line 1 is the root folder, or `/` before absolute paths. Every other line is `path<TAB>samples`, with the
file's sample rate as a third column where it is not 16 kHz; `samples` counts at the file's own rate.
"""

import posixpath
import re
from collections.abc import Iterable
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
_TAB, _NEWLINE, _SLASH, _DOT, _ZERO = b"\t\n/.0"
_BOM = b"\xef\xbb\xbf"
_REWRITE = "fix the line or write the manifest with `mae-ast manifest`"


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
    _text: bytes = field(repr=False)  # the whole file
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
        line = self._text[self._starts[row] : self._starts[row + 1]]
        return line[: line.index(b"\t")].decode()


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest and check every line of it.

    A relative root is taken from the manifest's own folder. Accepted beside the plain form: a byte order
    mark, CRLF line ends, blank lines at the end or no newline there, files of 0 samples.
    Raises ManifestError, which names the file and its first bad line.
    """
    file = Path(path)
    text = _read_bytes(file).removeprefix(_BOM).rstrip(b"\r\n") + b"\n"
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    if text == b"\n":
        _refuse(f"{file}:1", "the file is empty", "the root folder", "write it with `mae-ast manifest`")
    root_end = text.index(b"\n")
    root = _read_root(file, text[:root_end])
    if root_end + 1 == len(text):
        _refuse(f"{file}:2", "nothing follows the root", "`path<TAB>samples`", "add the audio files")
    starts, num_samples, sample_rates = _parse_rows(file, text, root)
    where = root if root.startswith("/") else posixpath.join(file.absolute().parent.as_posix(), root)
    return Manifest(file, where, num_samples, sample_rates, text, starts)


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


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        if not file.parent.is_dir():
            _refuse(str(file), f"there is no folder {file.parent}", "a manifest", "correct the path (`task.data`)")
        if not file.exists():
            others = ", ".join(sorted(other.name for other in file.parent.glob("*.tsv"))) or "none"
            found = f"there is no such file (manifests in its folder: {others})"
            _refuse(str(file), found, "a manifest", "write it with `mae-ast manifest`")
        found = "this is a folder" if file.is_dir() else str(error.strerror or error)
        _refuse(str(file), found, "a manifest that can be read", "correct the path or its permissions")


def _read_root(file: Path, line: bytes) -> str:
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
        found = f"a tab in {root[:80]!r}"
        _refuse(where, found, "the root folder alone", "put the folder of the audio files first")
    return root


class _Rows(NamedTuple):
    starts: np.ndarray
    num_samples: np.ndarray
    sample_rates: np.ndarray


def _parse_rows(file: Path, text: bytes, root: str) -> _Rows:
    """Parse the lines after the first into row starts [N + 1] and columns [N], all read-only."""
    begin, line, parts = text.index(b"\n") + 1, 2, []
    while begin < len(text):
        end = text.find(b"\n", begin + _CHUNK_BYTES) + 1 or len(text)
        chunk = text[begin:end]
        rows = _parse_lines(chunk)
        if rows is None or _may_be_refused(chunk, rows, root):
            for number, written in enumerate(chunk.removesuffix(b"\n").split(b"\n"), start=line):
                if fault := _fault(written, root):
                    _refuse(f"{file}:{number}", *fault)
        assert rows is not None, "lines that cannot be parsed have a fault"
        parts.append(rows._replace(starts=rows.starts + begin))
        begin, line = end, line + len(rows.starts)
    starts, num_samples, sample_rates = map(np.concatenate, zip(*parts, strict=True))
    offset_type = np.uint32 if len(text) < 2**32 else np.int64
    rows = _Rows(np.append(starts, len(text)).astype(offset_type), num_samples, sample_rates)
    for array in rows:
        array.setflags(write=False)
    return rows


def _parse_lines(chunk: bytes) -> _Rows | None:
    """Parse whole lines; None where one of them is not a path and one or two numbers between tabs."""
    text = np.frombuffer(chunk, dtype=np.uint8)
    marks = np.flatnonzero((text == _TAB) | (text == _NEWLINE))
    newlines = np.flatnonzero(text[marks] == _NEWLINE)
    ends = marks[newlines]
    starts = np.concatenate([[0], ends[:-1] + 1])
    first_mark = np.concatenate([[0], newlines[:-1] + 1])
    num_tabs = newlines - first_mark
    path_ends = marks[first_mark]
    if num_tabs.min() < 1 or num_tabs.max() > 2 or (path_ends == starts).any():
        return None
    count_ends = marks[first_mark + 1]
    num_samples = _parse_digits(text, path_ends + 1, count_ends, MAX_SAMPLE_DIGITS)
    with_rate = np.flatnonzero(num_tabs == 2)
    rates = _parse_digits(text, count_ends[with_rate] + 1, ends[with_rate], MAX_RATE_DIGITS)
    if num_samples is None or rates is None or 0 in rates:
        return None
    sample_rates = np.full(len(starts), SAMPLE_RATE, dtype=np.int32)
    sample_rates[with_rate] = rates
    return _Rows(starts, num_samples, sample_rates)


def _parse_digits(text: np.ndarray, begins: np.ndarray, ends: np.ndarray, max_digits: int) -> np.ndarray | None:
    """Read the decimal numbers at text[begins:ends]: int64 [N], or None where one of them is no number."""
    widths = ends - begins
    shortest, longest = widths.min(initial=max_digits), widths.max(initial=0)
    if shortest < 1 or longest > max_digits:
        return None
    values = np.zeros(len(ends), dtype=np.int64)
    for place in range(longest):
        digits = text[ends - 1 - place] - _ZERO  # uint8: what stands before "0" wraps to above 9
        if place >= shortest:
            digits[widths <= place] = 0
        if digits.max() > 9:
            return None
        values += digits * np.int64(10**place)
    return values


def _may_be_refused(chunk: bytes, rows: _Rows, root: str) -> bool:
    """Return whether parsed lines have to be looked at one by one, which takes ten times as long as parsing them."""
    text = np.frombuffer(chunk, dtype=np.uint8)
    is_dot = text == _DOT
    has_two_dots = (is_dot[:-1] & is_dot[1:]).any()
    has_absolute_path = root != "/" and (text[rows.starts] == _SLASH).any()
    try:
        chunk.decode()
    except UnicodeDecodeError:
        return True
    return bool(has_two_dots or has_absolute_path or b"\0" in chunk)


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
