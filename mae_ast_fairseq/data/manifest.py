"""The TSV manifest of wav2vec 2.0 and HuBERT: read, checked line by line, held compactly; and written.

Line 1 is the root folder, or `/` before absolute paths. Every other line is `path<TAB>samples`, with the
file's sample rate as a third column where it is not 16 kHz; `samples` counts at the file's own rate.
"""

import codecs
import hashlib
import os
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from mae_ast_fairseq.data.audio import SAMPLE_RATE, samples_at_16k
from mae_ast_fairseq.errors import ManifestError
from mae_ast_fairseq.files import atomic_write, open_regular

MAX_SAMPLE_DIGITS = 14  # 10^14 samples are 198 years, and samples * 16000 stays inside int64
MAX_RATE_DIGITS = 9  # stays inside int32

_ROW = re.compile(rf"[^\t]+\t[0-9]{{1,{MAX_SAMPLE_DIGITS}}}(?:\t(?!0+$)[0-9]{{1,{MAX_RATE_DIGITS}}})?")
_NUM_SHOWN = 80  # characters of a bad line
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
    _starts: np.ndarray = field(repr=False)  # [N] each row's offset in the text
    _text: bytes = field(repr=False)  # the whole file

    def __len__(self) -> int:
        return len(self.num_samples)

    @property
    def name(self) -> str:
        """Return the manifest's own path, for messages."""
        return str(self.file)

    @property
    def written_root(self) -> str:
        """Return line 1 as it stands: a relative root counts from the manifest's own folder."""
        return self._text[: self._text.index(b"\n")].decode()

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

    @cached_property
    def fingerprint(self) -> str:
        """A digest of every row's path below the root, length and rate, in order; where the root lies is not in it."""
        root = self.root.rstrip("/").encode()
        text = self._text[self._text.index(b"\n") :].replace(b"\n" + root + b"/", b"\n")
        paths = re.sub(rb"\t[^\n]*\n", b"\t", text[1:])  # each with the tab behind it
        digest = hashlib.blake2b(paths, digest_size=8)
        for column in (self.num_samples, self.sample_rates):
            digest.update(column.tobytes())
        return digest.hexdigest()

    def path(self, row: int) -> str:
        """Return the path of a row's audio file, under the root."""
        return posixpath.join(self.root, self._written_path(row))

    def relative_path(self, row: int) -> str:
        """Return the path of a row's audio file relative to the root."""
        return self._written_path(row).removeprefix(self.root.rstrip("/") + "/")

    def line(self, row: int) -> int:
        """Return the number of a row's line in the manifest, where line 1 is the root."""
        return row + 2

    def where(self, row: int) -> str:
        """Name a row as `file:line`, for messages."""
        return f"{self.file}:{self.line(row)}"

    def _written_path(self, row: int) -> str:
        start = int(self._starts[row])
        return self._text[start : self._text.index(b"\t", start)].decode()


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest and check every line of it.

    A relative root is taken from the manifest's own folder. Accepted beside the plain form: a byte order
    mark, CRLF line ends, blank lines at the end or no newline there, files of 0 samples.
    Raises ManifestError, which names the file and its first bad line.
    """
    file = Path(path)
    text = _read_text(file)
    root_end = text.index(b"\n")
    root = text[:root_end].decode()
    if not root or "\t" in root:
        found = repr(root[:_NUM_SHOWN]) if root else "a blank line, or an empty file"
        _refuse(f"{file}:1", found, "the root folder alone", "put the folder of the audio files first, or `/`")
    if root_end + 1 == len(text):
        _refuse(f"{file}:2", "nothing follows the root", "`path<TAB>samples`", "add the audio files")
    columns = _parse_columns(text)
    if columns is None or _may_escape(text, columns.starts, root):  # takes two times as long, or more
        for number, line in enumerate(text.decode().split("\n")[1:-1], start=2):
            if columns is None or ".." in line or line.startswith("/"):
                _check_row(f"{file}:{number}", line, root)
    assert columns is not None, "one of the lines was refused"
    for column in columns:
        column.setflags(write=False)
    return Manifest(file, posixpath.join(file.absolute().parent.as_posix(), root), *columns, text)


def write_manifest(path: str | Path, root: str | Path, rows: Iterable[ManifestRow | tuple[str, int, int]]) -> None:
    """Write rows of (path relative to the root, samples, sample rate); the file appears whole or not at all.

    Raises ManifestError for a row that could not be read back, as with a tab in its path, and for no rows.
    """
    file = Path(path)
    root_text = os.fspath(root)
    if reason := unwritable(root_text):
        raise ManifestError(f"{file}: the root {root_text!r} {reason}; rename the folder")
    num_rows = 0
    with atomic_write(file) as stream:
        stream.write(f"{root_text}\n".encode())
        for relative_path, num_samples, sample_rate in rows:
            if reason := unwritable(relative_path):
                raise ManifestError(f"{file}: the path {relative_path!r} {reason}; rename the file or leave it out")
            rate = "" if sample_rate == SAMPLE_RATE else f"\t{sample_rate}"
            line = f"{relative_path}\t{num_samples}{rate}"
            _check_row(str(file), line, root_text)
            stream.write(f"{line}\n".encode())
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


def _read_text(file: Path) -> bytes:
    """Return the lines of a manifest as they are to be parsed: UTF-8, every one ending in a newline alone."""
    try:
        with open_regular(file) as stream:
            text = stream.read()
    except OSError as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            found = "this is a folder" if isinstance(error, IsADirectoryError) else str(error.strerror or error)
            _refuse(str(file), found, "a manifest that can be read", "correct the path or its permissions")
        if not file.parent.is_dir():
            _refuse(str(file), f"there is no folder {file.parent}", "a manifest", "correct the path (`task.data`)")
        lists = "rejected", "unmatched", "left_out"  # which are no manifests
        names = [other.name for other in file.parent.glob("*.tsv") if not other.stem.endswith(lists)]
        others = ", ".join(sorted(names)) or "none"
        found = f"there is no such file (manifests in its folder: {others})"
        _refuse(str(file), found, "a manifest", "write it with `mae-ast manifest`")
    text = text.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n") + b"\n"
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    try:
        text.decode()
        place = text.find(b"\0")
    except UnicodeDecodeError as error:
        place = error.start
    if place >= 0:
        line = text[text.rfind(b"\n", 0, place) + 1 : place + 1][-_NUM_SHOWN:]
        number = text.count(b"\n", 0, place) + 1
        _refuse(
            f"{file}:{number}", f"{line!r}, whose last byte is no UTF-8 text", "UTF-8 text", "save the file as UTF-8"
        )
    return text


class _Columns(NamedTuple):
    num_samples: np.ndarray
    sample_rates: np.ndarray
    starts: np.ndarray


def _parse_columns(text: bytes) -> _Columns | None:
    """Parse the lines after the first; None where one of them is not a path and one or two numbers between tabs."""
    data = np.frombuffer(text, dtype=np.uint8)
    newlines, tabs = (np.flatnonzero(data == ord(mark)) for mark in "\n\t")
    starts, ends = newlines[:-1] + 1, newlines[1:]
    first_tab = np.searchsorted(tabs, starts)
    num_tabs = np.diff(first_tab, append=len(tabs))
    if num_tabs.min() < 1 or num_tabs.max() > 2 or (tabs[first_tab] == starts).any():
        return None
    with_rate = np.flatnonzero(num_tabs == 2)
    count_ends = ends.copy()
    count_ends[with_rate] = tabs[first_tab[with_rate] + 1]
    num_samples = _parse_numbers(data, tabs[first_tab] + 1, count_ends, MAX_SAMPLE_DIGITS)
    rates = _parse_numbers(data, count_ends[with_rate] + 1, ends[with_rate], MAX_RATE_DIGITS)
    if num_samples is None or rates is None or 0 in rates:
        return None
    sample_rates = np.full(len(starts), SAMPLE_RATE, dtype=np.int32)
    sample_rates[with_rate] = rates
    return _Columns(num_samples, sample_rates, starts.astype(np.uint32 if len(text) < 2**32 else np.int64))


def _parse_numbers(data: np.ndarray, begins: np.ndarray, ends: np.ndarray, max_digits: int) -> np.ndarray | None:
    """Read the decimal numbers at data[begins:ends]: int64 [N], or None where one of them is no number."""
    widths = ends - begins
    shortest, longest = widths.min(initial=max_digits), widths.max(initial=0)
    if shortest < 1 or longest > max_digits:
        return None
    values = np.zeros(len(ends), dtype=np.int64)
    for place in range(longest):
        digits = data[ends - 1 - place] - ord("0")  # uint8: what stands before "0" wraps to above 9
        digits[widths <= place] = 0
        if digits.max() > 9:
            return None
        values += digits * np.int64(10**place)
    return values


def _may_escape(text: bytes, starts: np.ndarray, root: str) -> bool:
    """Return whether a path may lead out of the root: for an absolute one below a root, or two dots, in any line."""
    data = np.frombuffer(text, dtype=np.uint8)
    dots = np.flatnonzero(data == ord("."))
    return bool((np.diff(dots) == 1).any() or (root != "/" and (data[starts] == ord("/")).any()))


def _check_row(where: str, line: str, root: str) -> None:
    """Raise ManifestError for a line that is not a path below the root, and one or two numbers."""
    if not _ROW.fullmatch(line):
        _refuse(
            where,
            repr(line[: 2 * _NUM_SHOWN]) if line else "a blank line",
            f"`path<TAB>samples`, or `path<TAB>samples<TAB>hertz`, the numbers as at most {MAX_SAMPLE_DIGITS} and "
            f"{MAX_RATE_DIGITS} digits",
        )
    path = line.split("\t")[0]
    if _escapes(path, root):
        _refuse(where, f"the path {path!r} leads out of the root {root!r}", "a path below the root")


def _escapes(path: str, root: str) -> bool:
    if root == "/":
        return ".." in path.split("/")
    if path.startswith("/"):
        return not posixpath.normpath(path).startswith(root.rstrip("/") + "/")
    return posixpath.normpath(path).split("/")[0] == ".."
