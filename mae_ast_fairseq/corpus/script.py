"""What the scripts in `manifests/` share: splits and labels of a corpus by its own rules, from arguments to files."""

import argparse
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mae_ast_fairseq.corpus.scan import find_audio, scan, write_lines, write_rejected
from mae_ast_fairseq.data.labels import FILE_NAME, as_line
from mae_ast_fairseq.data.manifest import ManifestRow, read_manifest, write_manifest
from mae_ast_fairseq.errors import AudioError, ConfigError, ManifestError, UserError, printable
from mae_ast_fairseq.files import is_there, open_regular, prepare_folder

TRAIN, VALID, TEST = SPLITS = ("train", "valid", "test")

Place = Callable[[str], tuple[str, str] | None]
"""Says of a relative path its split and comma-separated labels (or none: ""), or None to leave the file out."""


class Corpus(NamedTuple):
    """What a script knows of a corpus."""

    place: Place
    label_order: Sequence[str] | None = None
    """of labels.txt; None: alphabetical"""
    published: Mapping[str, int] = MappingProxyType({})
    """how many files the published corpus has in each split, or of each part"""
    part: Callable[[str], str] | None = None
    """says of a relative path its part; None: `published` counts by splits"""
    layout: str = "another"
    """how the files lie in the folder, for messages"""


LabelledRow = tuple[ManifestRow, Sequence[str]]
"""A clip and its labels"""


def unit_hash(text: str, seed: int) -> float:
    """Return a number from 0 to 1 that follows from a text and a seed, and is drawn at random otherwise."""
    digest = hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_side(relative_path: str, valid_fraction: float, seed: int, test_fraction: float = 0.0) -> str:
    """Return "valid" and "test" for about the given fractions of all paths, else "train".

    The side follows from the seed and the path alone, so it stays when other files come or go.
    """
    place = unit_hash(relative_path, seed)
    if place < valid_fraction:
        return "valid"
    return "test" if place > 1 - test_fraction else "train"


def write_splits(
    root: str | Path,
    out: str | Path,
    corpus: Corpus,
    *,
    valid_fraction: float = 0.0,
    seed: int = 1337,
    num_workers: int = 1,
) -> tuple[dict[str, int], Counter[str]]:
    """Scan a corpus and write `{split}.tsv`, rejected.tsv and, if labelled, `{split}.lbl` and labels.txt.

    valid_fraction: so much of the files that `place` has in train goes to valid, by a hash of seed and path.

    Returns the number of files by split, and by what `published` counts. Raises AudioError where none of the files is
    the corpus's, or none can be used.
    """
    out, root = Path(out), Path(root).resolve()
    placed = _place_all(root, corpus)
    sides = {
        path: split_side(path, valid_fraction, seed) if split == TRAIN else split for path, (split, _) in placed.items()
    }
    refuse_foreign(out, set(sides.values()))
    _refuse_stale_beside(out, set(sides.values()))  # before what may take hours
    accepted, rejected = scan(root, num_workers=num_workers, paths=list(placed))
    if not accepted:
        raise AudioError(
            f"{root}: none of its {len(rejected)} files can be used, the first for being {rejected[0].reason}; fetch "
            "them again"
        )
    splits: dict[str, list[LabelledRow]] = {}
    parts: Counter[str] = Counter()
    for row in accepted:
        split, labels = placed[row.relative_path]
        parts[corpus.part(row.relative_path) if corpus.part else split] += 1
        splits.setdefault(sides[row.relative_path], []).append((row, labels.split(",") if labels else []))
    _refuse_stale_beside(out, set(splits))  # fewer where all files of one are broken
    prepare_folder("--out", out)
    write_rejected(out / "rejected.tsv", rejected)
    write_labelled(out, root, splits, corpus.label_order)
    return {split: len(rows) for split, rows in sorted(splits.items())}, parts


def _refuse_stale_beside(out: Path, splits: set[str]) -> None:
    if splits != {TEST}:  # a test part alone may come from a folder of its own, as of Speech Commands
        refuse_stale(out, splits)


def _place_all(root: Path, corpus: Corpus) -> dict[str, tuple[str, str]]:
    """Return split and labels of each file of a corpus, before any is probed."""
    paths = find_audio(root)
    placed = {path: found for path in paths if (found := corpus.place(path))}
    if not placed:
        such = f", such as {paths[0]!r}," if paths else ""
        raise AudioError(
            f"{root}: none of {len(paths)} audio files{such} is the corpus's; expected {corpus.layout}; check the "
            "folder"
        )
    if corpus.label_order is not None:
        names = {name for _, labels in placed.values() if labels for name in labels.split(",")}
        if unknown := names.difference(corpus.label_order):
            raise ConfigError(
                f"{root}: {min(unknown)!r} is none of the corpus's {len(corpus.label_order)} classes; expected lists "
                "of one version; fetch them again"
            )
    return placed


def compare_with_published(published: Mapping[str, int], found: Mapping[str, int]) -> str:
    """Say how many files there are of those published, of each part where these differ; empty where none does."""
    numbers = {part: (found.get(part, 0), number) for part, number in published.items()}
    different = [f"{part} {held:,} of {number:,}" for part, (held, number) in numbers.items() if held != number]
    if not different:
        return ""
    has_more = any(held > number for held, number in numbers.values())
    return f"{'more than' if has_more else 'a part of'} what was published: {', '.join(different)} files"


def stale_manifests(out: Path, splits: Collection[str]) -> list[Path]:
    """Return the manifests in a folder of splits that are not written now."""
    return [out / f"{split}.tsv" for split in SPLITS if split not in splits and (out / f"{split}.tsv").exists()]


def refuse_foreign(out: Path, splits: Collection[str]) -> None:
    """Raise ConfigError where a table of another kind, such as a corpus's own train.tsv, would be written over."""
    for path in (out / f"{split}.tsv" for split in splits):
        try:
            read_manifest(path)
        except ManifestError as error:
            if path.is_file():
                raise ConfigError(
                    f"{error}, and would be written over; expected nothing or a manifest in its place; choose another "
                    "--out, or delete it"
                ) from None


def refuse_stale(out: Path, splits: Collection[str]) -> None:
    """Raise ConfigError where a manifest of an earlier run would stay beside those of these splits."""
    if stale := stale_manifests(out, splits):
        raise ConfigError(
            f"{stale[0]}: there from an earlier run, and its clips may now be in other splits too; expected the "
            "manifests of this run alone; delete it or choose another --out"
        )


def write_labelled(
    out: Path,
    root: str | Path,
    splits: Mapping[str, Sequence[LabelledRow]],
    label_order: Sequence[str] | None = None,
) -> None:
    """Write `{split}.tsv` and, if any clip has a label, `{split}.lbl` and labels.txt; see `write_splits`."""
    names = {name for rows in splits.values() for _, labels in rows for name in labels}
    if names:
        write_lines(out / FILE_NAME, label_order if label_order is not None else sorted(names))
    for split, rows in splits.items():
        if names:
            write_lines(out / f"{split}.lbl", [as_line(labels) for _, labels in rows])
        write_manifest(out / f"{split}.tsv", root, [row for row, _ in rows])


def read_lines(path: str | Path) -> list[str]:
    """Read the lines of a list, without their line ends; raises ConfigError where that fails."""
    try:
        with open_regular(path) as stream:
            text = stream.read().decode("utf-8-sig").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; expected a list as UTF-8 text; correct the path") from None
    # splitlines() would split at what names may hold too
    return [line.removesuffix("\r") for line in text.split("\n")] if text else []


def find_list(folder: Path, name: str, expected: str) -> Path:
    """Return the path of a list that a corpus brings along; raises ConfigError where it is missing."""
    if not is_there(folder / name):
        raise ConfigError(
            f"{folder / name}: not there, {describe_folder(folder)}; expected {expected}; check the folder"
        )
    return folder / name


def describe_folder(folder: Path, num_shown: int = 5) -> str:
    """Say what is in a folder."""
    if not folder.is_dir():
        return f"and {folder} is no folder"
    names = sorted(os.listdir(folder))  # noqa: PTH208 a folder may have millions
    others = [f"{len(names) - num_shown:,} others"] if len(names) > num_shown else []
    return f"but {', '.join([*map(repr, names[:num_shown]), *others]) or 'nothing'} in {folder}"


def corpus_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the arguments that scripts of known corpora take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="folder of the corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests; made if absent")
    add_split_arguments(parser, valid=0.0)
    return parser


def add_split_arguments(parser: argparse.ArgumentParser, valid: float) -> None:
    """Declare `--valid`, of which the default is given, `--seed` and `--workers`."""
    parser.add_argument(
        "--valid", type=_fraction, default=valid, help="fraction of train for valid (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1337, help="seed of that choice (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="probing processes")


def _fraction(text: str) -> float:
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is outside [0, 1); expected a fraction, such as 0.05")
    return float(text)


def run_corpus(
    parser: argparse.ArgumentParser,
    describe: Callable[[argparse.Namespace], Corpus],
    argv: Sequence[str] | None = None,
) -> int:
    """Write a corpus' manifests, print the files of each split, and return an exit code.

    `describe(args)` returns what is known of the corpus, or the first fields of that.
    """

    def run(args: argparse.Namespace) -> int:
        if not args.folder.exists():
            raise ConfigError(f"{args.folder}: there is no such folder; expected that of the corpus; correct the path")
        corpus = Corpus(*describe(args))
        counts, parts = write_splits(
            args.folder, args.out, corpus, valid_fraction=args.valid, seed=args.seed, num_workers=args.workers
        )
        for split, num_files in counts.items():
            print(f"{split}\t{num_files}")
        if text := compare_with_published(corpus.published, parts):
            print(f"{parser.prog}: warning: {text}", file=sys.stderr)
        return 0

    return run_script(parser, run, argv)


def run_script(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a script on its arguments and return its exit code: 2, with one line on stderr, for a person's mistake."""
    args = parser.parse_args(argv)
    try:
        return run(args)
    except (UserError, OSError) as error:
        print(printable(f"{parser.prog}: {error}"), file=sys.stderr)
        return 2
