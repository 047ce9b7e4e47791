"""The checkpoint that a command works on: its arguments, and how it is opened."""

import argparse

from mae_ast_fairseq.checkpoints.read import Checkpoint, checkpoint_path, read_checkpoint


def add_checkpoint_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Declare `checkpoint`, with `text` for its help, and what of it may be ignored."""
    parser.add_argument("checkpoint", type=checkpoint_path, help=text)
    add_ignore_unknown(parser)


def add_ignore_unknown(parser: argparse.ArgumentParser) -> None:
    """Declare `--ignore-unknown`."""
    parser.add_argument(
        "--ignore-unknown",
        action="append",
        default=[],
        metavar="NAME",
        help="a field of the checkpoint's model that is unknown here and, as you know, changes nothing; repeatable",
    )


def open_checkpoint(args: argparse.Namespace) -> Checkpoint:
    """Read the checkpoint that was named; raises CheckpointError."""
    return read_checkpoint(args.checkpoint, args.ignore_unknown)
