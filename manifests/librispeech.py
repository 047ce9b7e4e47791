"""Manifests of LibriSpeech: train-* is the training part, dev-* the validation part, test-* the test part."""

import sys
from argparse import Namespace

from mae_ast_fairseq.corpus.script import Corpus, corpus_parser, run_corpus

SPLITS = {"train": "train", "dev": "valid", "test": "test"}
# Utterances of each subset, which is an archive of its own at openslr.org/12: 281,241 for training, 960 hours.
NUM_UTTERANCES = {
    "train-clean-100": 28_539,
    "train-clean-360": 104_014,
    "train-other-500": 148_688,
    "dev-clean": 2_703,
    "dev-other": 2_864,
    "test-clean": 2_620,
    "test-other": 2_939,
}


def describe(args: Namespace) -> Corpus:
    """Split by the name of the subset's folder, such as train-clean-100; there are no labels."""

    def place(relative_path: str) -> tuple[str, str] | None:
        kind, _, _ = subset_of(relative_path).partition("-")
        return (SPLITS[kind], "") if kind else None

    layout = "the folders of its subsets, train-clean-100/19/198/19-198-0000.flac"
    return Corpus(place, published=NUM_UTTERANCES, part=subset_of, layout=layout)


def subset_of(relative_path: str) -> str:
    """Return the first folder in a path that is named as a subset; empty without one."""
    folders = (folder.partition("-") for folder in relative_path.split("/")[:-1])
    return next(("".join(name) for name in folders if name[1] and name[0] in SPLITS), "")


if __name__ == "__main__":
    sys.exit(run_corpus(corpus_parser(__doc__), describe))
