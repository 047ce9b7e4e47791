"""Labels of a manifest's clips: `labels.txt` and `{split}.lbl`, read and checked line by line, held compactly.

`labels.txt` has one name a line, whose order is that of the classes. `{split}.lbl` has one line for each line of the
manifest after its root, with comma-separated names. A name that holds a comma stands in double quotes there, as in CSV:
`Music,"Male speech, man speaking"`; in labels.txt it stands as it is. Both are UTF-8; a byte order mark and CRLF line
ends are read as well. Works without fairseq.
"""

import csv
import io
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from mae_ast_fairseq.errors import ManifestError, listed
from mae_ast_fairseq.files import open_regular

FILE_NAME = "labels.txt"
_NUM_SHOWN = 80  # characters of a bad line


@dataclass(frozen=True)
class Vocabulary:
    """The names of the classes, in the order of the model's head; `file` is None where no labels.txt gave them."""

    names: tuple[str, ...]
    file: Path | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def name(self) -> str:
        """Return what the names come from, for messages."""
        return str(self.file) if self.file else f"the {len(self)} known labels"


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of N clips: class numbers int32, those of row n at `indices[starts[n]:starts[n + 1]]`."""

    vocabulary: Vocabulary
    files: tuple[Path, ...]
    starts: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def name(self) -> str:
        """Return the label files' paths, for messages."""
        return ", ".join(map(str, self.files))

    def targets(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 [B, K]: 1 where a row has a label, else 0."""
        targets = np.zeros((len(rows), len(self.vocabulary)), dtype=np.float32)
        for target, row in zip(targets, rows, strict=True):
            target[self.indices[self.starts[row] : self.starts[row + 1]]] = 1.0
        return targets

    def counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Count the rows that have each label: int64 [K]; of all rows, or of those given."""
        indices = self.indices if rows is None else self.select(rows).indices
        return np.bincount(indices, minlength=len(self.vocabulary))

    def select(self, rows: np.ndarray) -> "Labels":
        """Return the labels of some rows, in their order."""
        num_labels = np.diff(self.starts)[rows]
        starts = _starts(num_labels)
        places = np.repeat(self.starts[rows] - starts[:-1], num_labels) + np.arange(starts[-1])
        return Labels(self.vocabulary, self.files, starts, self.indices[places])


def read_vocabulary(path: str | Path) -> Vocabulary:
    """Read labels.txt; raises ManifestError, which names the file and its first bad line."""
    file = Path(path)
    names: dict[str, int] = {}
    lines = list(_lines(file))
    while lines and not lines[-1]:
        del lines[-1]
    for number, name in enumerate(lines, start=1):
        where = f"{file}:{number}"
        check_name(where, name)
        if name in names:
            _refuse(where, f"{name!r} stands on line {names[name]} too", "each name once", "remove one of the lines")
        names[name] = number
    if not names:
        _refuse(f"{file}:1", "the file is empty", "one label name a line", "write it, or remove the file")
    return Vocabulary(tuple(names), file)


def collect_vocabulary(paths: Iterable[str | Path]) -> Vocabulary:
    """Return the names that stand in some label files, sorted."""
    names: set[str] = set()
    files = [Path(path) for path in paths]
    for file in files:
        for number, line in enumerate(_lines(file), start=1):
            where = f"{file}:{number}"
            for name in set(_split(where, line)) - names:
                check_name(where, name)
                names.add(name)
    if not names:
        _refuse(", ".join(map(str, files)), "no labels", "at least one", "write one line for each clip")
    return Vocabulary(tuple(sorted(names)))


def find_vocabulary(folders: Sequence[Path], train_split: str) -> Vocabulary:
    """Return the classes of some data folders: their labels.txt, all alike, or what is in `{train_split}.lbl`, sorted.

    Raises ManifestError where two labels.txt differ.
    """
    files = [folder / FILE_NAME for folder in folders if (folder / FILE_NAME).exists()]
    if not files:
        return collect_vocabulary(folder / f"{train_split}.lbl" for folder in folders)
    first, *others = [read_vocabulary(file) for file in files]
    for other in others:
        if other.names != first.names:
            _refuse(
                other.name,
                f"{len(other)} labels, others than the {len(first)} of {first.name} or in another order",
                "the same classes in all folders",
                "make one file with the labels of both, and copy it into each folder",
            )
    return first


def read_labels(path: str | Path, vocabulary: Vocabulary, num_rows: int, multi_label: bool) -> Labels:
    """Read the labels of a manifest's rows.

    With `multi_label` a row may have any number of labels, and an empty line is a clip that has none of the classes;
    otherwise each row has exactly one. Blank lines after the last row are let pass.
    Raises ManifestError, which names the file and its first bad line.
    """
    file = Path(path)
    known = {name: index for index, name in enumerate(vocabulary.names)}
    expected_lines = f"{num_rows} lines, one for each of {file.with_suffix('.tsv').name} after its root"
    starts, indices = array("i", [0]), array("i")
    for number, line in enumerate(_lines(file), start=1):
        where = f"{file}:{number}"
        if number > num_rows:
            if line:
                _refuse(where, "one more line", expected_lines, "write manifest and labels together")
            continue
        names = _split(where, line)
        try:
            indices.extend([known[name] for name in names])
        except KeyError as error:
            found = f"the label {error.args[0][:_NUM_SHOWN]!r} is unknown"
            remedy = 'correct it, or add it there; a name with commas stands in quotes, as in "a, b"'
            _refuse(where, found, f"one of {vocabulary.name}", remedy)
        if len(names) != 1 and not (multi_label and len(set(names)) == len(names)):
            expected = "each label once" if multi_label else "exactly one label"
            remedy = "correct the line" if multi_label else "correct the line, or set task.multi_label=true"
            _refuse(where, repr(line[:_NUM_SHOWN]) if line else "an empty line", expected, remedy)
        starts.append(len(indices))
    num_lines = len(starts) - 1
    if num_lines < num_rows:
        found = f"the file ends after {num_lines} lines"
        _refuse(f"{file}:{num_lines + 1}", found, expected_lines, "write manifest and labels together")
    return Labels(vocabulary, (file,), np.array(starts, dtype=np.int32), np.array(indices, dtype=np.int32))


def join_labels(parts: Sequence[Labels]) -> Labels:
    """Return the labels of several manifests as one, in the order of `concat.join`; one alone as it is."""
    if len(parts) == 1:
        return parts[0]
    assert len({part.vocabulary.names for part in parts}) == 1, "parts share a vocabulary"
    starts = _starts(np.concatenate([np.diff(part.starts) for part in parts]))
    files = tuple(file for part in parts for file in part.files)
    return Labels(parts[0].vocabulary, files, starts, np.concatenate([part.indices for part in parts]))


def check_each_has_example(labels: Labels, rows: np.ndarray | None = None) -> None:
    """Raise ManifestError where a class has no clip, of all or of those given: a head cannot learn it."""
    missing = np.flatnonzero(labels.counts(rows) == 0)
    if len(missing):
        names = [repr(labels.vocabulary.names[index]) for index in missing]
        kept = "" if rows is None else f" among the {len(rows)} that can be trained on"
        _refuse(
            f"{labels.vocabulary.file}:{missing[0] + 1}" if labels.vocabulary.file else labels.vocabulary.name,
            f"no clip of {labels.name}{kept} has the label {listed(names)}",
            "at least one for each label",
            f"remove the line from {FILE_NAME}, or add clips",
        )


def check_clips_differ(labels: Labels, rows: np.ndarray) -> None:
    """Raise ManifestError where all the clips given have the same labels: there is nothing to tell apart."""
    counts = labels.counts(rows)
    if np.isin(counts, (0, len(rows))).all():
        names = ", ".join(labels.vocabulary.names[index] for index in np.flatnonzero(counts)[:5])
        _refuse(
            labels.name,
            f"each of the {len(rows)} clips that can be trained on has the same labels ({names})",
            "at least two classes, or with task.multi_label=true clips with a label and others without it",
            "add clips of other classes",
        )


def balanced_weights(labels: Labels) -> np.ndarray:
    """Weigh clips so that every class is drawn as often: float64 [N], a clip's sum over labels of 1 / their number.

    As AST samples AudioSet. Clips without a label count as a class of their own.
    """
    num_labels = np.diff(labels.starts)
    each = 1 / np.maximum(labels.counts(), 1)
    rows = np.repeat(np.arange(len(labels)), num_labels)
    weights = np.bincount(rows, weights=each[labels.indices], minlength=len(labels))
    has_none = num_labels == 0
    weights[has_none] = 1 / max(1, int(has_none.sum()))
    return weights


def _refuse(where: str, found: str, expected: str, remedy: str) -> NoReturn:
    raise ManifestError(f"{where}: {found}; expected {expected}; {remedy}")


def _starts(num_labels: np.ndarray) -> np.ndarray:
    """Return where the labels of each row start, and the number of all: int32 [N + 1]."""
    return np.append(0, np.cumsum(num_labels)).astype(np.int32)


def _lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file without their ends; bytes that are not UTF-8 become surrogates, unprintable."""
    try:
        with io.TextIOWrapper(open_regular(file), "utf-8-sig", "surrogateescape", newline="\n") as stream:
            for line in stream:
                yield line.removesuffix("\n").removesuffix("\r")
    except OSError as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error.strerror or error)
        _refuse(str(file), reason, "a list of labels", "write one, as docs/data.md says")


def check_name(where: str, name: str) -> None:
    """Raise ManifestError, which begins with `where`, for a text that cannot be the name of a label."""
    if not name or name != name.strip() or not name.isprintable() or name.startswith('"'):
        _refuse(
            where,
            f"the name {name[:_NUM_SHOWN]!r}",
            "a label's name as printable UTF-8, with no space around it and no double quote before it",
            "fix the line",
        )


def as_line(names: Sequence[str]) -> str:
    """Return the line of a label file that holds some names, those with commas in quotes; empty for none."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


def _split(where: str, line: str) -> list[str]:
    """Split a line of a label file into names; none of an empty line."""
    if '"' not in line:
        return line.split(",") if line else []
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        _refuse(where, f"{line[:_NUM_SHOWN]!r} ({error})", 'names with commas as "a, b"', "fix the quotes")
