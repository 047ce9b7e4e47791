"""Manifests and labels of AudioSet: the segments of its balanced, unbalanced and evaluation lists.

Files are found by their YouTube id: `{id}.flac`, `Y{id}.wav`, `{id}_30.000_40.000.m4a`, in any folders.
"""

import csv
import re
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mae_ast_fairseq.corpus.labelling import read_columns
from mae_ast_fairseq.corpus.script import Corpus, corpus_parser, describe_folder, find_list, read_lines, run_corpus
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import is_there

UNBALANCED, BALANCED = "unbalanced_train_segments.csv", "balanced_train_segments.csv"
# The split of each list, and `num_segs` in its second line: how many segments it has.
LISTS = {UNBALANCED: ("train", 2_041_789), BALANCED: ("train", 22_160), "eval_segments.csv": ("test", 20_371)}
CLASSES = "class_labels_indices.csv"
ID_LENGTH = 11
SECONDS = r"\d+(?:\.\d+)?"
LABEL = r"/[a-z]/\w+"  # /m/09x0r
CELLS = [re.compile(cell, re.ASCII) for cell in (rf"[\w-]{{{ID_LENGTH}}}", SECONDS, SECONDS, rf"{LABEL}(?:,{LABEL})*")]


def describe(args: Namespace) -> Corpus:
    """Split by the lists found in --lists; labels are label ids, since the display names hold commas."""
    lists = args.lists or args.folder
    if args.balanced:
        find_list(lists, BALANCED, "AudioSet's lists; name their folder by --lists")
    segments: dict[str, tuple[str, str]] = {}
    published: Counter[str] = Counter()
    for name, (split, number) in LISTS.items():
        if is_there(lists / name) and not (args.balanced and name == UNBALANCED):
            segments |= {youtube_id: (split, labels) for youtube_id, labels in read_segments(lists / name)}
            published[split] += number
    if not segments:
        raise ConfigError(
            f"{lists}: no segments in any of {', '.join(LISTS)}, {describe_folder(lists)}; expected AudioSet's lists; "
            "name their folder by --lists"
        )

    def place(relative_path: str) -> tuple[str, str] | None:
        stem = PurePosixPath(relative_path).stem
        prefixed = segments.get(stem[1 : 1 + ID_LENGTH]) if stem.startswith("Y") else None
        return segments.get(stem[:ID_LENGTH], prefixed)

    classes = None
    if is_there(lists / CLASSES):
        classes = [label for _, (label,) in read_columns(lists / CLASSES, ["mid"])]
    return Corpus(place, classes, published, layout="names that begin with the YouTube ids of the lists")


def read_segments(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the YouTube id of each segment of a list and its labels, `/m/09x0r,/t/dd00088`."""
    for number, line in enumerate(read_lines(file), start=1):
        if line.startswith("#") or not line.strip():
            continue
        try:
            (cells,) = csv.reader([line.strip()], skipinitialspace=True, strict=True)
        except csv.Error:
            cells = []
        if len(cells) != len(CELLS) or not all(map(re.Pattern.fullmatch, CELLS, cells)):
            raise ConfigError(
                f"{file}:{number}: {line[:80]!r}; expected id, start, end and labels, as in "
                '`--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"`; fetch the list again'
            )
        yield cells[0], cells[3]


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument("--lists", type=Path, help="folder of the lists (default: the corpus' folder)")
    parser.add_argument("--balanced", action="store_true", help="train on the balanced list alone: AudioSet-20K")
    sys.exit(run_corpus(parser, describe))
