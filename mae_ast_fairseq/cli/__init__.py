"""The `mae-ast` command: one file a subcommand, each imported only when it is wanted.

A command's module has EXAMPLE (a command line), `add_arguments(parser)` and `run(args) -> exit code`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from mae_ast_fairseq import __version__
from mae_ast_fairseq.errors import ConfigError, UserError, one_line
from mae_ast_fairseq.extras import require

PROG = "mae-ast"

COMMANDS = {
    "average": "Average the weights of several checkpoints of one run.",
    "benchmark": "Measure recipes against each other: time, memory and operations of a step, loader, fairseq's loop.",
    "check": "Compare every row of a manifest with its file; exit code 1 where rows cannot be used.",
    "evaluate": "Score a fine-tuned classifier on a labelled split: metrics with confidence intervals, and each class.",
    "export": "Write a checkpoint for others: in the released layout, for s3prl, as safetensors, or for a hub.",
    "extract": "Write the features of a manifest's clips, or of files, to disk; run again, it keeps what is whole.",
    "labels": "Label the clips of manifests: from their folders, their names or a table.",
    "manifest": "Write train.tsv, valid.tsv, test.tsv for a folder of audio, labels if wanted, and what was rejected.",
    "path": "Print where the plugin lies (common.user_dir), or with --examples its recipes (--config-dir).",
    "predict": "Name what is in audio files with a fine-tuned classifier: the top labels with their probabilities.",
    "probe": "Probe frozen features: linear and nearest-neighbour classifiers on labelled clips, beside baselines.",
    "reconstruct": "Draw what a pretrained model fills in where clips are masked, one PNG a clip, with its scores.",
    "report": "Write curves, tables and one page of training runs, from the folders of one or many.",
    "stats": "Write stats.json: mean and std of a manifest's log-Mel values, which training normalises by.",
    "train": "Train a recipe: fairseq-hydra-train from any folder, also under torchrun and Slurm.",
}
"""Each command, a module of this folder, and what it does in a line."""

NEEDS = {"benchmark": "train", "evaluate": "probe", "probe": "probe", "report": "plot", "train": "train"}
"""The extra that a command cannot do without."""

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 2, with one line on stderr, for a user's mistake."""
    # Read when torch is loaded: threads that spin while they wait halve the speed beside another busy program.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    argv = sys.argv[1:] if argv is None else argv
    args = _build_parser(argv).parse_args(argv)
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"{PROG} {args.command}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"{PROG} {args.command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has gone: the interpreter's last flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.filename is None:
            raise
        reason = one_line(f"{error.filename}: {error.strerror}")
        print(f"{PROG} {args.command}: {reason}; expected a place that can be read and written", file=sys.stderr)
        return EXIT_USER_ERROR


def _complete() -> None:
    """Tell the shell what may follow; see argcomplete."""
    import argcomplete

    argcomplete.autocomplete(_build_parser(os.environ["COMP_LINE"].split()[1:]))


class _Parser(argparse.ArgumentParser):
    """Says in one line, as commands do, what is wrong with an argument."""

    def error(self, message: str) -> NoReturn:
        message = one_line(message.removeprefix("argument "))
        self.exit(EXIT_USER_ERROR, f"{self.prog}: {message}; see {self.prog} --help\n")


def _build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog=PROG, description="Tools around MAE-AST, from manifests to predictions.")
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((argument for argument in argv if not argument.startswith("-")), None)
    if wanted not in COMMANDS:
        for name, text in COMMANDS.items():
            subparsers.add_parser(name, help=text)
        return parser
    if wanted in NEEDS:
        try:
            require(NEEDS[wanted], "this command")
        except ConfigError as error:
            parser.exit(EXIT_USER_ERROR, f"{PROG} {wanted}: {error}\n")
    command = import_module(f"{__name__}.{wanted}")
    subparser = subparsers.add_parser(
        wanted,
        description=COMMANDS[wanted],
        epilog=f"example:\n  {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(subparser)
    subparser.set_defaults(run=command.run)
    return parser
