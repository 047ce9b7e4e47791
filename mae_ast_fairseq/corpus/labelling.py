"""Finding the labels of clips: in the names of their folders, in their own names, or in a table.

A clip goes by its path below the corpus' folder, or in its archive.
"""

import csv
import io
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn

from mae_ast_fairseq.corpus.divide import TEST, TRAIN, VALID
from mae_ast_fairseq.corpus.scan import EXTENSIONS
from mae_ast_fairseq.data.labels import check_name
from mae_ast_fairseq.errors import ConfigError, ManifestError
from mae_ast_fairseq.files import open_regular

SPLIT_NAMES = {
    **dict.fromkeys(["train", "training"], TRAIN),
    **dict.fromkeys(["valid", "validation", "val", "dev"], VALID),
    **dict.fromkeys(["test", "testing", "eval", "evaluation"], TEST),
}
"""what tables and folders call the splits"""

JOINS = ("path", "name", "stem")
"""by what a table's rows find their clips"""

_DELIMITERS = ",\t;|"


class TableRow(NamedTuple):
    """What a table says of one clip."""

    line: int
    clip: str
    """path, name or stem"""
    labels: tuple[str, ...] | None
    """None where the table leaves it open"""
    split: str | None


class Table(NamedTuple):
    """A table of clips and their labels that was read."""

    file: Path
    rows: list[TableRow]

    def where(self, row: TableRow) -> str:
        """Name a row as `file:line`, for messages."""
        return f"{self.file}:{row.line}"


class _OutsideError(ManifestError):
    """A table's path leads out of the root."""


class Labelling(NamedTuple):
    """The labels that were found of some clips."""

    labels: dict[str, tuple[str, ...]]
    """of each clip that has any, or of which it is known that it has none"""
    splits: dict[str, str]
    """of those clips, where a table says them"""
    unused: list[tuple[str, str]]
    """what rows of a table call clips that are not there, and where they stand"""
    joined_by: str | None = None
    """one of JOINS"""


def in_folder(name: str, level: int) -> str | None:
    """Return the folder of a clip at a level: 1 the first, -1 the one that it lies in; None where it is not so deep."""
    folders = PurePosixPath(name).parts[:-1]
    place = level - 1 if level > 0 else len(folders) + level
    return folders[place] if 0 <= place < len(folders) else None


def labels_in_folders(names: Sequence[str], level: int) -> Labelling:
    """Label clips by the folder at a level; raises ConfigError where no clip lies so deep."""
    found = {name: label for name in names if (label := in_folder(name, level))}
    return _single(f"--label-folder {level}", found, names, "lies so deep", "a level of folders that are labels")


def splits_in_folders(names: Sequence[str], level: int) -> dict[str, str]:
    """Return the split of each clip, after which its folder at a level is named; raises ConfigError for other names."""
    splits = {}
    for name in names:
        split = SPLIT_NAMES.get((in_folder(name, level) or "").lower())
        if split is None:
            raise ConfigError(
                f"--split-folder {level}: {name!r} is in no folder of a split there; expected one of "
                f"{', '.join(SPLIT_NAMES)}; move it, or name another level"
            )
        splits[name] = split
    return splits


def labels_in_names(names: Sequence[str], pattern: re.Pattern[str]) -> Labelling:
    """Label clips by the group `label` of a pattern, found in file names, or in paths if the pattern has a slash.

    Raises ConfigError where it finds none.
    """
    texts = {name: name if "/" in pattern.pattern else posixpath.basename(name) for name in names}
    matches = {name: match for name, text in texts.items() if (match := pattern.search(text))}
    found = {name: match["label"] for name, match in matches.items() if match["label"]}
    return _single(f"--label-pattern {pattern.pattern}", found, names, "matches", "a pattern of their names")


def _single(option: str, found: Mapping[str, str], names: Sequence[str], does: str, expected: str) -> Labelling:
    if not found:
        raise ConfigError(f"{option}: none of {len(names)} files {does}, such as {names[0]!r}; expected {expected}")
    for name, label in found.items():
        check_name(f"{option}: {name!r}", label)
    return Labelling({name: (label,) for name, label in found.items()}, {}, [])


def read_table(
    path: str | Path, clip_column: str, label_column: str, split_column: str | None, separator: str | None
) -> Table:
    """Read a table of CSV or TSV with a header; what is between its columns follows from that.

    split_column: None for "split", if there is one. separator: what is between several labels; None: each clip has one.

    Raises ManifestError, which names the file and its first bad line, or the columns that are there.
    """
    file = Path(path)
    given = [] if split_column is None else [split_column]
    rows = []
    for line, (clip, label, *split) in read_columns(
        file, [clip_column, label_column, *given], optional=() if given else ("split",)
    ):
        where = f"{file}:{line}"
        if not clip or "\0" in clip:
            _refuse(where, f"{clip!r} as {clip_column!r}", "a path, name or stem", "fill it in or delete the line")
        labels = _labels(where, label, separator)
        rows.append(TableRow(line, clip, labels, _split(where, *split) if split else None))
    if not rows:
        _refuse(f"{file}:2", "nothing follows the header", "a row for each clip", "add them")
    return Table(file, rows)


def read_columns(file: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, list[str]]]:
    """Yield the line of each row of a table and its cells in some columns, the optional ones if the header has them.

    Raises ManifestError, which names the file and its first bad line, or the columns that are there.
    """
    lines = _read_rows(file)
    _, header = next(lines, (1, []))
    wanted = [*columns, *(name for name in optional if header.count(name) == 1)]
    places = [_find(file, header, name) for name in wanted]
    for line, cells in lines:
        if len(cells) != len(header):
            _refuse(f"{file}:{line}", f"{len(cells)} columns", f"{len(header)}, as in the header", "mend the line")
        yield line, [cells[place] for place in places]


def _read_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table, the header first, with the lines where they end.

    What is between the columns is what makes the most columns of the header.
    """
    try:
        with open_regular(file) as stream:
            text = stream.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        _refuse(str(file), f"cannot be read ({reason})", "a table of CSV or TSV in UTF-8", "mend the path or the file")
    first = text[: csv.field_size_limit()].splitlines()[:1]
    delimiter = max(_DELIMITERS, key=lambda mark: len(next(csv.reader(first, delimiter=mark), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        _refuse(f"{file}:{reader.line_num}", str(error), "a table of CSV or TSV", "mend its quotes")


def _find(file: Path, header: Sequence[str], name: str) -> int:
    if header.count(name) != 1:
        found = f"the column {name!r} is there {header.count(name)} times" if name in header else f"no column {name!r}"
        names = ", ".join(map(repr, header))
        _refuse(f"{file}:1", f"{found} among {names or 'none'}", "it once", "name another, or add it to the header")
    return header.index(name)


def _labels(where: str, cell: str, separator: str | None) -> tuple[str, ...] | None:
    if separator is None:
        names = [cell] if cell else []
    else:
        names = list(dict.fromkeys(filter(None, map(str.strip, cell.split(separator)))))
    for name in names:
        check_name(where, name)
    return tuple(names) if names or separator is not None else None


def _split(where: str, cell: str) -> str:
    split = SPLIT_NAMES.get(cell.lower())
    if split is None:
        _refuse(where, f"the split {cell!r}", f"one of {', '.join(SPLIT_NAMES)}", "correct it or name another column")
    return split


def labels_in_table(names: Sequence[str], table: Table, root: str | Path, join: str | None = None) -> Labelling:
    """Label clips by a table whose rows name them by paths below the root, by names without folders, or by stems.

    join: one of JOINS; None for the first of them by which any row finds a clip; not by paths where one of them lies
    outside of the root, as those of another machine do.

    Raises ManifestError where none does, where a path to join by lies outside of the root, a name is that of several
    clips, or rows contradict each other.
    """
    for way in [join] if join else JOINS:
        index = defaultdict(list)
        for name in dict.fromkeys(names):
            index[_key(name, way)].append(name)
        try:
            found = [(row, _look_up(table, row, index, way, Path(root))) for row in table.rows]
        except _OutsideError:
            if join is not None:
                raise
            continue
        if any(clip for _, clip in found):
            return _join(table, found, way)
    row = table.rows[0]
    _refuse(
        table.where(row),
        f"this row's {row.clip!r} is none of the {len(names)} files, such as {names[0]!r}, and so are all others",
        "paths below the folder, names or stems",
        "name their column",
    )


def _key(name: str, way: str) -> str:
    """Return what a clip goes by; letters with accents are alike in either of Unicode's forms."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    if way == "path":
        return posixpath.normpath(name)
    name = posixpath.basename(name)
    return os.path.splitext(name)[0] if way == "stem" and name.lower().endswith(EXTENSIONS) else name  # noqa: PTH122


def _look_up(table: Table, row: TableRow, index: Mapping[str, list[str]], way: str, root: Path) -> str | None:
    """Return the clip of a row; None where there is none."""
    key = _key(row.clip, way)
    if key not in index and way == "path":
        key = next((place for place in _below(root, table, row) if place in index), key)
    elif key not in index and way == "stem":
        key = PurePosixPath(key).stem  # of another file than the clip, such as a transcript
    clips = index.get(key, [])
    if len(clips) > 1:
        _refuse(
            table.where(row),
            f"{row.clip!r} is the {way} of {len(clips)} files, {clips[0]!r} and {clips[1]!r}",
            "one file",
            "give paths below the folder",
        )
    return clips[0] if clips else None


def _below(root: Path, table: Table, row: TableRow) -> list[str]:
    """Return what a path may be below the root, seen from there or from the table's own folder."""
    path = _key(row.clip, "path")
    for resolve in (os.path.abspath, os.path.realpath):  # on strings: a table may have millions of rows
        top = resolve(root).rstrip("/") + "/"
        places = [resolve(os.path.join(folder, path)) for folder in (root, table.file.parent)]  # noqa: PTH118
        below = [_key(place.removeprefix(top), "path") for place in places if place.startswith(top)]
        if below:
            return below
    raise _OutsideError(
        f"{table.where(row)}: the path {row.clip!r} lies outside of the root {str(root)!r}; expected a path below it; "
        "correct it, or join by --join name or stem"
    )


def _join(table: Table, found: Iterable[tuple[TableRow, str | None]], way: str) -> Labelling:
    """Return the labels of the clips that were found; raises ConfigError where a clip has two rows."""
    first: dict[str, TableRow] = {}
    result = Labelling({}, {}, [], way)
    for row, clip in found:
        if clip is None:
            result.unused.append((row.clip, table.where(row)))
            continue
        other = first.setdefault(clip, row)
        if other is not row:
            twice = f"{clip!r} is {_said(row)}, and {_said(other)} in line {other.line}"
            _refuse(table.where(row), twice, "a row for each clip", "delete one of them")
        if row.labels is not None:
            result.labels[clip] = row.labels
            if row.split is not None:
                result.splits[clip] = row.split
    return result


def _said(row: TableRow) -> str:
    """Put in words what a row says of its clip, in whatever order."""
    labels = ", ".join(map(repr, sorted(row.labels or ()))) or "without a label"
    return labels if row.split is None else f"{labels} in {row.split}"


def _refuse(where: str, found: str, expected: str, remedy: str) -> NoReturn:
    raise ManifestError(f"{where}: {found}; expected {expected}; {remedy}")
