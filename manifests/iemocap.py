"""Manifests and labels of IEMOCAP for emotion recognition: one of its five sessions is the test part.

The four classes of SUPERB: excited counts as happy, and utterances of other emotions are left out.
"""

import re
import sys
from argparse import Namespace
from pathlib import PurePosixPath

from mae_ast_fairseq.corpus.script import Corpus, corpus_parser, describe_folder, read_lines, run_corpus
from mae_ast_fairseq.errors import ConfigError

LAYOUT = "IEMOCAP_full_release, with Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
CLASSES = {"neu": "neu", "hap": "hap", "exc": "hap", "ang": "ang", "sad": "sad"}
ORDER = ["neu", "hap", "ang", "sad"]
# [6.2901 - 8.2357]<TAB>Ses01F_impro01_F000<TAB>neu
UTTERANCE = re.compile(r"\[[\d.]+ - [\d.]+\]\t(Ses0[1-5][FM]_\w+)\t(\w{3})\t")
# Utterances of the four classes in each session, as papers on this task count them: 5,531.
NUM_BY_SESSION = {1: 1_085, 2: 1_023, 3: 1_151, 4: 1_031, 5: 1_241}


def describe(args: Namespace) -> Corpus:
    """Split by the session in a file's name, `Ses01F_impro01_F000.wav`; labels are those of dialog/EmoEvaluation."""
    emotions: dict[str, str] = {}
    for file in sorted(args.folder.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt")):
        emotions.update(found.groups() for line in read_lines(file) if (found := UTTERANCE.match(line)))
    if not emotions:
        raise ConfigError(
            f"{args.folder}: no utterance in Session[1-5]/dialog/EmoEvaluation/Ses*.txt, "
            f"{describe_folder(args.folder)}; expected {LAYOUT}; check the folder"
        )

    def place(relative_path: str) -> tuple[str, str] | None:
        name = PurePosixPath(relative_path).stem
        label = CLASSES.get(emotions.get(name, ""))
        if label is None:
            return None
        return "test" if int(name[3:5]) == args.fold else "train", label

    num_test = NUM_BY_SESSION[args.fold]
    published = {"train": sum(NUM_BY_SESSION.values()) - num_test, "test": num_test}
    return Corpus(place, ORDER, published, layout=LAYOUT)


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument(
        "--fold", type=int, default=1, choices=range(1, 6), help="the session to test on (default: %(default)s)"
    )
    sys.exit(run_corpus(parser, describe))
