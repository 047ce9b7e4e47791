"""Manifests of LibriSpeech: train-* is the training part, dev-* the validation part, test-* the test part."""

import sys
from argparse import Namespace

from mae_ast_fairseq.corpus.script import Place, corpus_parser, run_corpus

SPLITS = {"train": "train", "dev": "valid", "test": "test"}


def describe(args: Namespace) -> tuple[Place, None]:
    """Split by the name of the subset's folder, such as train-clean-100."""

    def place(relative_path: str) -> tuple[str, str] | None:
        subsets = (folder.split("-") for folder in relative_path.split("/")[:-1])
        return next(((SPLITS[name], "") for name, *rest in subsets if rest and name in SPLITS), None)

    return place, None


if __name__ == "__main__":
    sys.exit(run_corpus(corpus_parser(__doc__), describe))
