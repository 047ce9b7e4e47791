"""Manifests and labels of Speech Commands: its validation and testing lists, and the rest for training."""

import sys
from argparse import Namespace

from mae_ast_fairseq.data.scan import Place, corpus_parser, read_lines, run_corpus


def describe(args: Namespace) -> tuple[Place, None]:
    """Split `{word}/{speaker}_nohash_{take}.wav` by the lists; the label is the word."""
    splits = dict.fromkeys(read_lines(args.folder / "validation_list.txt"), "valid")
    splits |= dict.fromkeys(read_lines(args.folder / "testing_list.txt"), "test")

    def place(relative_path: str) -> tuple[str, str] | None:
        word = relative_path.rpartition("/")[0]
        if not word or word.startswith("_"):  # _background_noise_
            return None
        return splits.get(relative_path, "train"), word

    return place, None


if __name__ == "__main__":
    sys.exit(run_corpus(corpus_parser(__doc__), describe))
