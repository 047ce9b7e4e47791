"""`mae-ast average`: the mean of the weights of several checkpoints of one run."""

import argparse
from pathlib import Path

from mae_ast_fairseq.checkpoints.average import average_checkpoints
from mae_ast_fairseq.checkpoints.names import checkpoint_path
from mae_ast_fairseq.cli.model import add_ignore_unknown, check_out
from mae_ast_fairseq.cli.printing import print_result

EXAMPLE = "mae-ast average runs/a/checkpoints/checkpoint[0-9]*.pt --out averaged.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "checkpoints", nargs="+", help="of one run; all but the weights is taken from the last one named"
    )
    add_ignore_unknown(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write; replaced if there")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    """Read and check the checkpoints, write their mean."""
    args.checkpoints = [checkpoint_path(name) for name in args.checkpoints]
    check_out(args.out, args.checkpoints)
    last = average_checkpoints(args.checkpoints, args.out, args.ignore_unknown)
    summary = {"checkpoints": [str(path) for path in args.checkpoints], "model": last.kind, "out": str(args.out)}
    text = f"{last.kind}: the mean of {len(args.checkpoints)} checkpoints\nwritten to {args.out}"
    print_result(args, summary, text)
    return 0
