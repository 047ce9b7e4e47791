"""Manifests and labels of the Free Spoken Digit Dataset: takes 0-4 are its test part."""

import sys
from argparse import Namespace
from pathlib import PurePosixPath

from mae_ast_fairseq.data.scan import Place, corpus_parser, run_corpus


def describe(args: Namespace) -> tuple[Place, None]:
    """Split `{digit}_{speaker}_{take}.wav` by the take; the label is the digit."""

    def place(relative_path: str) -> tuple[str, str] | None:
        parts = PurePosixPath(relative_path).stem.split("_")
        if len(parts) != 3 or not parts[2].isdecimal():
            return None
        digit, _, take = parts
        return "test" if int(take) <= 4 else "train", digit

    return place, None


if __name__ == "__main__":
    sys.exit(run_corpus(corpus_parser(__doc__), describe))
