"""Manifests and labels of Speech Commands: its validation and testing lists, and the rest for training.

All words are classes (35 in version 2), or with --ten-words, as in SUPERB's keyword spotting on version 1, ten
commands, `_unknown_` for all other words, and `_silence_`: for training the long files in _background_noise_, of which
`task.max_sample_size=16000` crops a second; for testing what the testing set has that is published by itself, to be run
with --all-test into the same --out.
"""

import sys
from argparse import Namespace

from mae_ast_fairseq.corpus.script import Place, corpus_parser, read_lines, run_corpus

TEN_WORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
UNKNOWN, SILENCE, NOISE = "_unknown_", "_silence_", "_background_noise_"


def describe(args: Namespace) -> tuple[Place, list[str] | None]:
    """Split `{word}/{speaker}_nohash_{take}.wav` by the lists; the label is the word."""
    splits: dict[str, str] = {}
    if not args.all_test:
        splits |= dict.fromkeys(read_lines(args.folder / "validation_list.txt"), "valid")
        splits |= dict.fromkeys(read_lines(args.folder / "testing_list.txt"), "test")

    def place(relative_path: str) -> tuple[str, str] | None:
        word = relative_path.rpartition("/")[0]
        split = "test" if args.all_test else splits.get(relative_path, "train")
        if args.ten_words and word in (NOISE, SILENCE):
            return split, SILENCE
        if not word or (word.startswith("_") and not (args.ten_words and word == UNKNOWN)):
            return None
        return split, UNKNOWN if args.ten_words and word not in TEN_WORDS else word

    return place, [*TEN_WORDS, UNKNOWN, SILENCE] if args.ten_words else None


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument("--ten-words", action="store_true", help="ten commands, _unknown_ and _silence_")
    parser.add_argument("--all-test", action="store_true", help="all clips are of the test part; needs no lists")
    sys.exit(run_corpus(parser, describe))
