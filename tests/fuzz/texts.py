"""Mutated manifests, labels, and the JSON of statistics and extractions."""

import json
import posixpath
from pathlib import Path
from typing import Any

import numpy as np

from mae_ast_fairseq.corpus.statistics import read_statistics
from mae_ast_fairseq.data.labels import Vocabulary, collect_vocabulary, read_labels, read_vocabulary
from mae_ast_fairseq.data.manifest import ManifestRow, read_manifest, write_manifest
from mae_ast_fairseq.errors import UserError
from mae_ast_fairseq.inference.extract import begin_record
from tests.fuzz.harness import Subject, is_one_line, require
from tests.fuzz.mutations import mutate

ODD_NUMBERS = (
    *("0", "-1", "1e400", "nan", "inf", "16000.0", "1_000", "٣", "9" * 14, "9" * 15, "9" * 5_000, "", " 7", "0x10"),
)
ODD_TEXTS = (
    *("", " ", "..", "../../etc/passwd", "/", "//", ".", "a/../b", "a\\b", "\x1b[31mred\x1b[0m", "\r", "\0", "\x85"),
    *("\u2028", "\u202e", "\ufeff", "é", "e\u0301", "日本語", "\U0001f436", "a" * 5_000, '"', '"a, b"', "a,b", "'"),
    *("${x}", "%s", "{0}", "a\tb", "a\nb", "\x7f", "C:\\x", "x.zip:1:2", f"x.zip:{'9' * 30}:1", "-", "#", "None"),
    *("\ud800",),  # the last: not every file can hold it
)
_NUM_ROWS = 8


def encode(text: str) -> bytes:
    """Return a text as UTF-8, and a lone surrogate as what is none."""
    return text.encode("utf-8", "surrogatepass")


def draw(choices: Any, rng: np.random.Generator) -> Any:
    """Draw one of some choices."""
    return choices[rng.integers(len(choices))]


def _odd_rows(rows: list[str], rng: np.random.Generator) -> list[str]:
    """Put odd names and numbers into some rows of fields between tabs; leave out, repeat or swap rows."""
    rows = list(rows)
    for _ in range(rng.integers(0, 3)):
        at = int(rng.integers(len(rows)))
        fields = rows[at].split("\t")
        fields[rng.integers(len(fields))] = draw(ODD_NUMBERS if rng.random() < 0.5 else ODD_TEXTS, rng)
        rows[at] = "\t".join(fields)
        if rng.random() < 0.2:
            rows.insert(int(rng.integers(len(rows))), draw(rows, rng))
    return rows


def _join(rows: list[str], rng: np.random.Generator) -> bytes:
    data = encode(draw((*["\n"] * 9, "\r\n", "\n\n", "\r"), rng).join(rows) + draw(("\n", "", "\n\n"), rng))
    data = b"\xef\xbb\xbf" + data if rng.random() < 0.1 else data
    return mutate(data, rng) if rng.random() < 0.3 else data


def _make_manifest(_: Any, rng: np.random.Generator) -> bytes:
    root = draw(ODD_TEXTS if rng.random() < 0.2 else ("/data/a folder", "/", "rel", "."), rng)
    rates = ("", "", "\t8000", "\t44100")
    before = "/data/" if root == "/" else ""
    rows = [f"{before}{number}.wav\t{16_000 + number}{draw(rates, rng)}" for number in range(_NUM_ROWS)]
    return _join(_odd_rows([root, *rows], rng), rng)


def _attempt_manifest(data: bytes, folder: Path) -> None:
    path = folder / "train.tsv"
    path.write_bytes(data)
    manifest = read_manifest(path)
    require(len(manifest) <= data.count(b"\n") + 1, f"{len(manifest)} rows")
    root = _normal(manifest.root).rstrip("/") + "/"
    rows = []
    for row, (samples, rate) in enumerate(zip(manifest.num_samples, manifest.sample_rates, strict=True)):
        audio = manifest.path(row)
        require(0 <= samples < 10**14 and 0 < rate < 10**9, f"{samples} samples at {rate} Hz")
        require(not set("\t\n") & set(audio), f"the path {audio!r}")
        require(f"{_normal(audio)}/".startswith(root), f"the path {audio!r} outside of {root!r}")
        rows.append(ManifestRow(manifest.relative_path(row), int(samples), int(rate)))
    require(bool((manifest.num_samples_at_16k >= 0).all()), "lengths below 0")
    require(len(manifest.fingerprint) == 16, f"the fingerprint {manifest.fingerprint}")
    write_manifest(folder / "again.tsv", manifest.root, rows)
    again = read_manifest(folder / "again.tsv")
    for row in range(len(again)):
        paths = [_normal(each.path(row)) for each in (again, manifest)]
        require(paths[0] == paths[1], f"{paths[0]!r} instead of {paths[1]!r}")


def _normal(path: str) -> str:
    return posixpath.normpath(path).replace("//", "/")


def _make_labels(_: Any, rng: np.random.Generator) -> bytes:
    names = ["dog", "rain", "Music", "Male speech, man speaking"]
    names += [draw(ODD_TEXTS, rng) for _ in range(draw((*[0] * 6, 1, 2), rng))]
    quoted = [f'"{name}"' if "," in name else name for name in names]
    rows = [",".join(draw(quoted, rng) for _ in range(draw((*[1] * 12, 2, 0), rng))) for _ in range(_NUM_ROWS)]
    return _join(_odd_rows(names, rng), rng) + b"\f\f" + _join(_odd_rows(rows, rng), rng)


def _attempt_labels(data: bytes, folder: Path) -> None:
    names, _, rows = data.partition(b"\f\f")
    (folder / "labels.txt").write_bytes(names)
    (folder / "train.lbl").write_bytes(rows)
    refusals = []
    for read in (lambda: read_vocabulary(folder / "labels.txt"), lambda: collect_vocabulary([folder / "train.lbl"])):
        try:
            _check_labels(read(), folder / "train.lbl")
            return
        except UserError as error:
            refusals.append(error)
            require(is_one_line(error), f"the message {str(error)[:3_000]!r}")
    raise refusals[0]


def _check_labels(vocabulary: Vocabulary, path: Path) -> None:
    require(all(name.isprintable() and name for name in vocabulary.names), f"the names {vocabulary.names}")
    labels = read_labels(path, vocabulary, _NUM_ROWS, multi_label=True)
    require(labels.targets(range(_NUM_ROWS)).shape == (_NUM_ROWS, len(vocabulary)), "targets")
    read_labels(path, vocabulary, _NUM_ROWS, multi_label=False)


_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.0, 1e308, 10**400, 10**4_000, 2**63, -(2**63), float("nan"), float("inf"), float("-inf")),
    *("7", "nan", "9" * 5_000, "a" * 5_000, "\x1b[2J", "\n", "\ud800"),
    *([], {}, [[1, 2]], {"a": 1}, [1], [[0, "x"], [1]], [["x", 1]]),
)
_STATISTICS = {"mean": -6.1, "std": 3.2, "num_clips": 5, "num_frames": 800, "feature_dim": 128}
_RECORD = {"settings": {"checkpoint": "abc", "layer": 3}, "bad": [[3, "x.wav: unreadable"], [5, "y"]]}


def _make_json(contents: tuple[dict[str, Any], ...], rng: np.random.Generator) -> bytes:
    content = dict(draw(contents, rng))
    for _ in range(rng.integers(0, 3)):
        content[draw([*content, "other"], rng)] = draw(_ODD_VALUES, rng)
    if rng.random() < 0.1:
        content = draw(_ODD_VALUES, rng)
    if rng.random() < 0.05:
        return b"[" * int(rng.integers(1, 200_000))
    data = encode(_dumps(content, ensure_ascii=rng.random() < 0.5))
    return mutate(data, rng) if rng.random() < 0.6 else data


def _dumps(content: Any, ensure_ascii: bool) -> str:
    try:
        return json.dumps(content, ensure_ascii=ensure_ascii)
    except ValueError:  # Python writes no numbers of more than 4,300 digits
        return '{"mean": ' + "1" * 5_000 + "}"


def _attempt_json(data: bytes, folder: Path) -> None:
    path = folder / "stats.json"
    path.write_bytes(data)
    refused = None
    try:
        statistics = read_statistics(path, 128)
        require(bool(np.isfinite(statistics).all()) and statistics.std > 0, str(statistics))
    except UserError as error:
        refused = error
        require(is_one_line(error), f"the message {str(error)[:3_000]!r}")
    try:
        bad = begin_record(path, {"checkpoint": "abc", "layer": 3}, [])
        require(all(type(row) is int and type(reason) is str for row, reason in bad.items()), str(bad))
        return
    except UserError as error:
        if refused:
            raise error from None


MANIFESTS = Subject(5_000, lambda folder: None, _make_manifest, _attempt_manifest)
LABELS = Subject(3_000, lambda folder: None, _make_labels, _attempt_labels)
STATISTICS = Subject(3_000, lambda folder: (_STATISTICS, _RECORD), _make_json, _attempt_json)
