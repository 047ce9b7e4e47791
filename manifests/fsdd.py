"""Manifests and labels of the Free Spoken Digit Dataset: takes 0-4 are its test part, or else one speaker is."""

import re
import sys
from argparse import Namespace

from mae_ast_fairseq.corpus.scan import find_audio
from mae_ast_fairseq.corpus.script import Corpus, corpus_parser, run_corpus
from mae_ast_fairseq.errors import ConfigError

NAME = re.compile(r"(?:.*/)?([0-9])_([^_/]+)_([0-9]+)\.wav")
# Six speakers say ten digits fifty times each.
NUM_BY_TAKES = {"train": 2_700, "test": 300}
NUM_BY_SPEAKERS = {"train": 2_500, "test": 500}


def describe(args: Namespace) -> Corpus:
    """Split `{digit}_{speaker}_{take}.wav` by the take, or by the speaker if one is named; the label is the digit."""
    if args.test_speaker is not None:
        speakers = {found[2] for path in find_audio(args.folder) if (found := NAME.fullmatch(path))}
        if speakers and args.test_speaker not in speakers:
            raise ConfigError(f"--test-speaker {args.test_speaker!r}; expected one of {', '.join(sorted(speakers))}")

    def place(relative_path: str) -> tuple[str, str] | None:
        found = NAME.fullmatch(relative_path)
        if found is None:
            return None
        digit, speaker, take = found.groups()
        is_test = int(take) <= 4 if args.test_speaker is None else speaker == args.test_speaker
        return "test" if is_test else "train", digit

    published = NUM_BY_TAKES if args.test_speaker is None else NUM_BY_SPEAKERS
    return Corpus(place, published=published, layout="recordings/0_jackson_12.wav: digit, speaker, take")


if __name__ == "__main__":
    parser = corpus_parser(__doc__)
    parser.add_argument("--test-speaker", help="test on all takes of this speaker, and train on the others'")
    sys.exit(run_corpus(parser, describe))
