"""The `mae-ast` command: one file a subcommand, each imported only when it is wanted.

A command's module has HELP (one line), EXAMPLE (a command line), `add_arguments(parser)` and
`run(args) -> exit code`.
"""

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from mae_ast_fairseq import __version__
from mae_ast_fairseq.errors import UserError

PROG = "mae-ast"

COMMANDS = {
    "average": "mae_ast_fairseq.cli.average",
    "benchmark": "mae_ast_fairseq.cli.benchmark",
    "check": "mae_ast_fairseq.cli.check",
    "evaluate": "mae_ast_fairseq.cli.evaluate",
    "export": "mae_ast_fairseq.cli.export",
    "extract": "mae_ast_fairseq.cli.extract",
    "manifest": "mae_ast_fairseq.cli.manifest",
    "path": "mae_ast_fairseq.cli.path",
    "predict": "mae_ast_fairseq.cli.predict",
    "probe": "mae_ast_fairseq.cli.probe",
    "reconstruct": "mae_ast_fairseq.cli.reconstruct",
    "stats": "mae_ast_fairseq.cli.stats",
}

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 2, with one line on stderr, for a user's mistake."""
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


class _Parser(argparse.ArgumentParser):
    """Says in one line, as commands do, what is wrong with an argument."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"{self.prog}: {message.removeprefix('argument ')}; see {self.prog} --help\n")


def _build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog=PROG, description="Tools around MAE-AST, from manifests to predictions.")
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((argument for argument in argv if not argument.startswith("-")), None)
    if wanted not in COMMANDS:
        for name, module in COMMANDS.items():
            subparsers.add_parser(name, help=_help_of(module))
        return parser
    command = import_module(COMMANDS[wanted])
    subparser = subparsers.add_parser(
        wanted,
        description=command.HELP,
        epilog=f"example:\n  {command.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(subparser)
    subparser.set_defaults(run=command.run)
    return parser


def _help_of(module: str) -> str:
    """Return a command's HELP, read from its file: to import all of them takes seconds."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    statements = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    values = {ast.unparse(each.targets[0]): each.value for each in statements if isinstance(each, ast.Assign)}
    return ast.literal_eval(values["HELP"])
