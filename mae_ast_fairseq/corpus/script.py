"""What the scripts in `manifests/` share: splits and labels of a corpus by its own rules, from arguments to files."""

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mae_ast_fairseq.corpus.scan import scan, write_lines, write_rejected
from mae_ast_fairseq.data.labels import FILE_NAME, as_line
from mae_ast_fairseq.data.manifest import ManifestRow, write_manifest
from mae_ast_fairseq.errors import AudioError, ConfigError, UserError
from mae_ast_fairseq.files import prepare_folder

Place = Callable[[str], tuple[str, str] | None]
"""Says of a relative path its split and comma-separated labels (or none: ""), or None to leave the file out."""


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
    place: Place,
    *,
    valid_fraction: float = 0.0,
    seed: int = 1337,
    label_order: Sequence[str] | None = None,
    num_workers: int = 1,
) -> dict[str, int]:
    """Scan a corpus and write `{split}.tsv`, rejected.tsv and, if labelled, `{split}.lbl` and labels.txt.

    valid_fraction: so much of the files that `place` has in train goes to valid, by a hash of seed and path.
    label_order: the order of labels.txt; None: alphabetical.

    Returns the number of files by split. Raises AudioError where none of the files is the corpus's.
    """
    out, root = Path(out), Path(root).resolve()
    accepted, rejected = scan(root, num_workers=num_workers)
    splits: dict[str, list[LabelledRow]] = {}
    for row in accepted:
        if placed := place(row.relative_path):
            split, labels = placed
            if split == "train":
                split = split_side(row.relative_path, valid_fraction, seed)
            splits.setdefault(split, []).append((row, labels.split(",") if labels else []))
    if not splits:
        raise AudioError(f"{root}: none of {len(accepted)} audio files is the corpus's; check the folder")
    prepare_folder("--out", out)
    write_rejected(out / "rejected.tsv", rejected)
    write_labelled(out, root, splits, label_order)
    return {split: len(rows) for split, rows in sorted(splits.items())}


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
        text = Path(path).read_text(encoding="utf-8-sig").removesuffix("\n")
        return text.split("\n") if text else []  # splitlines() would split at what names may hold too
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}; expected a list as UTF-8 text; correct the path") from None


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
    describe: Callable[[argparse.Namespace], tuple[Place, Sequence[str] | None]],
    argv: Sequence[str] | None = None,
) -> int:
    """Write a corpus' manifests, print the files of each split, and return an exit code.

    `describe(args)` returns the corpus' rule of splits and labels, and its order of labels, if it has one.
    """
    args = parser.parse_args(argv)
    try:
        place, label_order = describe(args)
        counts = write_splits(
            args.folder,
            args.out,
            place,
            valid_fraction=args.valid,
            seed=args.seed,
            label_order=label_order,
            num_workers=args.workers,
        )
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for split, num_files in counts.items():
        print(f"{split}\t{num_files}")
    return 0
