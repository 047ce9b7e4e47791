"""Manifests and labels of AudioSet: the segments of its balanced, unbalanced and evaluation lists.

Files are found by their YouTube id: `{id}.flac`, `Y{id}.wav`, `{id}_30.000_40.000.wav`, in any folders.
"""

import csv
import sys
from argparse import Namespace
from pathlib import Path, PurePosixPath

from mae_ast_fairseq.corpus.script import Place, corpus_parser, read_lines, run_corpus
from mae_ast_fairseq.errors import ConfigError

UNBALANCED = "unbalanced_train_segments.csv"
LISTS = {
    UNBALANCED: "train",
    "balanced_train_segments.csv": "train",
    "eval_segments.csv": "test",
}
ID_LENGTH = 11


def describe(args: Namespace) -> tuple[Place, list[str] | None]:
    """Split by the lists found in --lists; labels are label ids, since the display names hold commas."""
    lists = args.lists or args.folder
    segments: dict[str, tuple[str, str]] = {}
    for name, split in LISTS.items():
        if (lists / name).exists() and not (args.balanced and name == UNBALANCED):
            lines = (line for line in read_lines(lists / name) if not line.startswith("#"))
            for youtube_id, _start, _end, labels in csv.reader(lines, skipinitialspace=True):
                segments[youtube_id] = split, labels
    if not segments:
        raise ConfigError(f"{lists}: none of {', '.join(LISTS)}; expected AudioSet's lists; name them by --lists")

    def place(relative_path: str) -> tuple[str, str] | None:
        stem = PurePosixPath(relative_path).stem
        prefixed = segments.get(stem[1 : 1 + ID_LENGTH]) if stem.startswith("Y") else None
        return segments.get(stem[:ID_LENGTH], prefixed)

    classes = lists / "class_labels_indices.csv"
    return place, [row["mid"] for row in csv.DictReader(read_lines(classes))] if classes.exists() else None


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument("--lists", type=Path, help="folder of the lists (default: the corpus' folder)")
    parser.add_argument("--balanced", action="store_true", help="train on the balanced list alone: AudioSet-20K")
    sys.exit(run_corpus(parser, describe))
