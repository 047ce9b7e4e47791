"""Manifests and labels of any corpus that has a folder for each class: `LABEL/clip.wav`.

Where its first folders are splits, `train/LABEL/clip.wav` (also valid, val, dev, test, eval), it stays divided so. The
work is done by `mae-ast manifest --label-folder`, whose options it takes.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from mae_ast_fairseq.cli import manifest
from mae_ast_fairseq.corpus.labelling import SPLIT_NAMES, in_folder
from mae_ast_fairseq.corpus.scan import find_source
from mae_ast_fairseq.corpus.script import run_script
from mae_ast_fairseq.errors import ConfigError


def is_divided(names: Sequence[str]) -> bool:
    """Return whether the first folders are splits: all of them are named so, or several are, as no classes would be."""
    first = {(in_folder(name, 1) or "").lower() for name in names}
    splits = {SPLIT_NAMES[folder] for folder in first if folder in SPLIT_NAMES}
    return first <= SPLIT_NAMES.keys() or len(splits) > 1


def run(args: Namespace) -> int:
    """Find out which of both shapes the folder has, and write its manifests."""
    names = list(find_source(args.folder).names.values())
    if names and not any((args.label_folder, args.split_folder, args.label_pattern, args.table)):
        args.label_folder, args.split_folder = (2, 1) if is_divided(names) else (1, None)
        if not any(in_folder(name, args.label_folder) for name in names):
            raise ConfigError(
                f"{args.folder}: none of {len(names)} audio files, such as {names[0]!r}, is in a folder of its class; "
                "expected LABEL/clip.wav or train/LABEL/clip.wav; move them, or say by --label-pattern or --table what "
                "their labels are"
            )
    return manifest.run(args)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    manifest.add_arguments(parser)
    sys.exit(run_script(parser, run))
