"""Manifests and labels of ESC-50: one of its five folds is the validation part."""

import csv
import sys
from argparse import Namespace
from pathlib import PurePosixPath

from mae_ast_fairseq.corpus.script import Place, corpus_parser, read_lines, run_corpus


def describe(args: Namespace) -> tuple[Place, list[str]]:
    """Split by the fold in meta/esc50.csv; labels are the categories in the order of their target numbers."""
    clips = {row["filename"]: row for row in csv.DictReader(read_lines(args.folder / "meta" / "esc50.csv"))}
    targets = {row["category"]: int(row["target"]) for row in clips.values()}

    def place(relative_path: str) -> tuple[str, str] | None:
        clip = clips.get(PurePosixPath(relative_path).name)
        if clip is None:
            return None
        return "valid" if int(clip["fold"]) == args.fold else "train", clip["category"]

    return place, sorted(targets, key=lambda category: targets[category])


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument(
        "--fold", type=int, default=5, choices=range(1, 6), help="the validation fold (default: %(default)s)"
    )
    sys.exit(run_corpus(parser, describe))
