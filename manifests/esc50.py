"""Manifests and labels of ESC-50: one of its five folds is the validation part."""

import sys
from argparse import Namespace
from pathlib import PurePosixPath

from mae_ast_fairseq.corpus.labelling import read_columns
from mae_ast_fairseq.corpus.script import Corpus, corpus_parser, find_list, run_corpus
from mae_ast_fairseq.errors import ConfigError

LAYOUT = "ESC-50 as it is unpacked, with audio/1-100032-A-0.wav and meta/esc50.csv"
FOLDS = ("1", "2", "3", "4", "5")
NUM_CLIPS = 2_000  # 40 of each of 50 categories, in folds of 400


def describe(args: Namespace) -> Corpus:
    """Split by the fold in meta/esc50.csv; labels are the categories in the order of their target numbers."""
    file = find_list(args.folder, "meta/esc50.csv", LAYOUT)
    clips: dict[str, tuple[str, str]] = {}
    targets: dict[str, int] = {}
    for line, (name, fold, target, category) in read_columns(file, ["filename", "fold", "target", "category"]):
        if fold not in FOLDS or not target.isdecimal():
            raise ConfigError(
                f"{file}:{line}: fold {fold!r} and target {target!r}; expected 1 to 5, and a number; fetch it again"
            )
        clips[name] = "valid" if int(fold) == args.fold else "train", category
        targets[category] = int(target)

    def place(relative_path: str) -> tuple[str, str] | None:
        return clips.get(PurePosixPath(relative_path).name)

    published = {"train": NUM_CLIPS * 4 // 5, "valid": NUM_CLIPS // 5}
    return Corpus(place, sorted(targets, key=lambda category: targets[category]), published, layout=LAYOUT)


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument(
        "--fold", type=int, default=5, choices=range(1, 6), help="the validation fold (default: %(default)s)"
    )
    sys.exit(run_corpus(parser, describe))
