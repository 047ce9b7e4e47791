"""`mae-ast report`: curves, tables and one page of training runs."""

import argparse
import os
import sys
from pathlib import Path

from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.errors import ConfigError, one_line
from mae_ast_fairseq.files import prepare_folder
from mae_ast_fairseq.report.page import write_report
from mae_ast_fairseq.report.runs import Run, find_runs, read_run

EXAMPLE = (
    "mae-ast report runs/a runs/b --out report\n\n"
    "It writes report.html, one page with everything in it that needs no network, report.md, .csv and .json, and\n"
    "curves.png. A run's own results are shown where they lie in its folder: what `mae-ast probe --json` and\n"
    "`mae-ast evaluate --json` print as probe*.json and evaluate*.json, and the PNGs below pictures/:\n\n"
    "  mae-ast probe runs/a/checkpoints/checkpoint_best.pt --data labelled --json > runs/a/probe.json\n"
    "  mae-ast reconstruct runs/a/checkpoints/checkpoint_best.pt --manifest data/valid.tsv --out runs/a/pictures"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run (hydra.run.dir), or one with runs below it"
    )
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder to write in (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables in Markdown")


def run(args: argparse.Namespace) -> int:
    """Read the runs and write their report; 1 where something of them cannot be read, ConfigError where nothing can."""
    prepare_folder("--out", args.out)
    runs, problems = _read(args.runs)
    if not runs:
        others = f" (and {len(problems) - 1} more that cannot be read)" if len(problems) > 1 else ""
        raise ConfigError(problems[0] + others)
    result, markdown = write_report(args.out, runs, problems)
    for problem in result["problems"]:
        print(f"mae-ast report: {problem}", file=sys.stderr)
    print_result(args, {**result, "out": str(args.out)}, f"{markdown}\n\nThe page: {args.out / 'report.html'}")
    return 1 if result["problems"] else 0


def _read(given: list[Path]) -> tuple[list[Run], list[str]]:
    """Return all runs, each once, and why others cannot be read."""
    runs: dict[str, Run] = {}
    problems = []
    for each in given:
        try:
            folders = find_runs(each)
        except (ConfigError, OSError) as error:
            problems.append(one_line(str(error)))
            continue
        for folder in folders:
            try:
                runs.setdefault(os.path.realpath(folder), read_run(folder))
            except (ConfigError, OSError) as error:
                problems.append(one_line(str(error)))
    return list(runs.values()), list(dict.fromkeys(problems))
