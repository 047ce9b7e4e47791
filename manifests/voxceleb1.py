"""Manifests and labels of VoxCeleb1 for speaker identification: the parts of its iden_split.txt.

Files are found by their last three folders, `id10001/1zcIwhmdeo4/00001.wav`, below any others (dev/wav, test/wav).
"""

import sys
from argparse import Namespace
from pathlib import Path

from mae_ast_fairseq.corpus.script import Corpus, corpus_parser, find_list, read_lines, run_corpus
from mae_ast_fairseq.errors import ConfigError

SPLITS = {"1": "train", "2": "valid", "3": "test"}
# Lines of each part in iden_split.txt: 153,516 utterances of 1,251 speakers.
NUM_UTTERANCES = {"train": 138_361, "valid": 6_904, "test": 8_251}


def describe(args: Namespace) -> Corpus:
    """Split by the number before each path of the list; the label is the speaker's id."""
    file = args.list or find_list(args.folder, "iden_split.txt", "the list that VoxCeleb1's page has, or --list FILE")
    splits: dict[str, str] = {}
    for number, line in enumerate(read_lines(file), start=1):
        part, _, path = line.strip().partition(" ")
        if part not in SPLITS or path.count("/") != 2:
            raise ConfigError(
                f"{file}:{number}: {line[:80]!r}; expected 1, 2 or 3 and a path, as in "
                "`1 id10001/1zcIwhmdeo4/00001.wav`; fetch the list again"
            )
        splits[path] = SPLITS[part]

    def place(relative_path: str) -> tuple[str, str] | None:
        path = "/".join(relative_path.split("/")[-3:])
        return (splits[path], path.split("/")[0]) if path in splits else None

    return Corpus(
        place, published=NUM_UTTERANCES, layout="paths that end as in the list, id10001/1zcIwhmdeo4/00001.wav"
    )


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument("--list", type=Path, help="the list (default: iden_split.txt in the corpus' folder)")
    sys.exit(run_corpus(parser, describe))
