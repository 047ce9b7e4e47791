"""Manifests and labels of Speech Commands, version 1 or 2: its validation and testing lists, and the rest for training.

Where the lists are not there, speakers are divided by the hash that they were made with.

All words are classes (35 in version 2), or with --ten-words, as in SUPERB's keyword spotting on version 1, ten
commands, `_unknown_` for all other words, and `_silence_`: for training the long files in _background_noise_, of which
`task.max_sample_size=16000` crops a second; for testing what the testing set has that is published by itself, to be run
with --all-test into the same --out.
"""

import hashlib
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import PurePosixPath

from mae_ast_fairseq.corpus.script import Corpus, corpus_parser, find_list, read_lines, run_corpus
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import is_there

LAYOUT = "WORD/SPEAKER_nohash_TAKE.wav, as in yes/0a7c2a8d_nohash_0.wav"
LISTS = {"validation_list.txt": "valid", "testing_list.txt": "test"}
TEN_WORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
UNKNOWN, SILENCE, NOISE = "_unknown_", "_silence_", "_background_noise_"
ADDED_WORDS = ("backward", "follow", "forward", "learn", "visual")  # in version 2, and so tell which one it is

# Utterances by the lists; with the six files of noise version 1 has 64,727 files. Version 2 has 105,829 utterances.
NUM_UTTERANCES = {
    1: {"train": 51_088, "valid": 6_798, "test": 6_835},
    2: {"train": 84_843, "valid": 9_981, "test": 11_005},
}
MAX_HASH = 2**27 - 1
NUM_NOISES = 6
NUM_IN_TEST_SETS = (3_081, 4_890)  # speech_commands_test_set_v0.01 and v0.02: ten words, unknown ones and silence


def describe(args: Namespace) -> Corpus:
    """Split `{word}/{speaker}_nohash_{take}.wav` by the lists, or by the speaker's hash; the label is the word."""
    split_of = read_rule(args)

    def place(relative_path: str) -> tuple[str, str] | None:
        word, _, name = relative_path.partition("/")
        if not name or "/" in name:
            return None
        if args.ten_words and word in (NOISE, SILENCE):
            return "test" if args.all_test else "train", SILENCE
        if word.startswith("_") and not (args.ten_words and word == UNKNOWN):
            return None
        split = split_of(relative_path)
        return split and (split, UNKNOWN if args.ten_words and word not in TEN_WORDS else word)

    order = [*TEN_WORDS, UNKNOWN, SILENCE] if args.ten_words else None
    return Corpus(place, order, count_published(args), layout=LAYOUT)


def read_rule(args: Namespace) -> Callable[[str], str | None]:
    """Return the rule from path to split: that of the lists, or where neither is there that which made them."""
    if args.all_test:
        return lambda path: "test"
    if not any(is_there(args.folder / name) for name in LISTS):
        return split_by_hash
    splits = {}
    for name, split in LISTS.items():
        file = find_list(args.folder, name, "both of its lists, or neither")
        for number, line in enumerate(read_lines(file), start=1):
            if line.count("/") != 1:
                raise ConfigError(f"{file}:{number}: {line[:80]!r}; expected {LAYOUT}; fetch the list again")
            splits[line] = split
    return lambda path: splits.get(path, "train")


def split_by_hash(relative_path: str) -> str | None:
    """Return the split of a file's speaker, as `which_set` in the corpus' README does; None for another name."""
    speaker, is_speaker, _ = PurePosixPath(relative_path).name.partition("_nohash_")
    if not is_speaker:
        return None
    digest = hashlib.sha1(os.fsencode(speaker), usedforsecurity=False).digest()
    percentage = int.from_bytes(digest, "big") % (MAX_HASH + 1) * (100 / MAX_HASH)
    return "valid" if percentage < 10 else "test" if percentage < 20 else "train"


def count_published(args: Namespace) -> dict[str, int]:
    """Return the number of files that the corpus has in each split, as far as it tells which one it is."""
    if args.all_test:
        if not args.ten_words:
            return {}
        num_files = sum(1 for _ in args.folder.glob("*/*.wav"))
        return {"test": next((number for number in NUM_IN_TEST_SETS if num_files <= number), NUM_IN_TEST_SETS[-1])}
    published = NUM_UTTERANCES[2 if any(is_there(args.folder / word) for word in ADDED_WORDS) else 1]
    return published | {"train": published["train"] + NUM_NOISES * args.ten_words}


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument("--ten-words", action="store_true", help="ten commands, _unknown_ and _silence_")
    parser.add_argument("--all-test", action="store_true", help="all clips are of the test part; needs no lists")
    sys.exit(run_corpus(parser, describe))
