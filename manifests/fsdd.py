"""Manifests and labels of the Free Spoken Digit Dataset: takes 0-4 are its test part, or else one speaker is."""

import sys
from argparse import Namespace
from pathlib import PurePosixPath

from mae_ast_fairseq.corpus.script import Place, corpus_parser, run_corpus


def describe(args: Namespace) -> tuple[Place, None]:
    """Split `{digit}_{speaker}_{take}.wav` by the take, or by the speaker if one is named; the label is the digit."""

    def place(relative_path: str) -> tuple[str, str] | None:
        parts = PurePosixPath(relative_path).stem.split("_")
        if len(parts) != 3 or not parts[2].isdecimal():
            return None
        digit, speaker, take = parts
        is_test = int(take) <= 4 if args.test_speaker is None else speaker == args.test_speaker
        return "test" if is_test else "train", digit

    return place, None


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument("--test-speaker", help="test on all takes of this speaker, and train on the others'")
    sys.exit(run_corpus(parser, describe))
