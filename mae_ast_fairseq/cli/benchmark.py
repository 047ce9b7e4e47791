"""`mae-ast benchmark`: time, memory and operations of recipes side by side, the loader's pace, fairseq's own part."""

import argparse
import json
import logging
import math
import sys
import warnings
from pathlib import Path
from typing import Any

from mae_ast_fairseq.cli.arguments import at_least, fraction, number
from mae_ast_fairseq.config.pretraining import require_choice
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.extras import require

EXAMPLE = (
    "mae-ast benchmark mae_ast_patch ssast_patch --attention-dropout 0 --precision float32 bfloat16\n\n"
    "  mae-ast benchmark mae_ast_frame ssast_frame --sweep --batch-size 2 --attention-dropout 0 --only time,memory \\\n"
    "      --plot sweep.png\n\n"
    "Rows are the product of recipes and sizes. They are timed in turns, and compared within one round, so that what\n"
    "else the machine does hits all alike. Layers are never dropped (model.encoder_layerdrop=0), or rows would differ\n"
    "by chance. A size that does not fit is reported in its row."
)

PARTS = ("time", "memory", "dispatch", "loader", "fairseq")
"""What `--only` and `--skip` choose from; operations are counted in any case."""

PRECISIONS = ("float32", "bfloat16", "float16")  # of inference.encoder, which imports torch
DEFAULT_RECIPES = ("mae_ast_patch", "ssast_patch")


_length = number(float, lambda value: 0 < value < math.inf, "more than 0")
_dropout = number(float, lambda value: 0 <= value < 1, "at least 0 and less than 1")


def _parts(text: str) -> set[str]:
    names = set(text.split(","))
    if unknown := ",".join(sorted(names - set(PARTS))):
        raise argparse.ArgumentTypeError(f"{unknown!r} is unknown; expected some of {','.join(PARTS)}")
    return names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("recipes", nargs="*", metavar="RECIPE", help=f"of examples/ or a YAML (default: {' '.join(DEFAULT_RECIPES)})")
    add("--baseline", metavar="RECIPE", help="of those, what all are compared with (default: the first)")
    add("--seconds", type=_length, nargs="+", default=[10.0], help="clip lengths (default: 10)")
    add("--batch-size", type=at_least(1), nargs="+", default=[8], help="clips in a batch (default: 8)")
    add("--ratio", dest="mask_ratio", type=fraction, nargs="+", default=[None], help="masked (default: the recipe's)")
    help_of_precision = "of the step (default: float32, or bfloat16 where the device multiplies it faster)"
    add("--precision", nargs="+", choices=PRECISIONS, help=help_of_precision)
    add("--dropout", type=_dropout, nargs="+", default=[None], help="of layers and input (default: the recipe's)")
    add("--attention-dropout", type=_dropout, nargs="+", default=[None], help="(default: the recipe's)")
    add("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="change the recipes that have it")
    add("--device", default="cpu", help="as torch names it, such as cuda:0 (default: %(default)s)")
    add("--threads", type=at_least(1), help="of torch on the CPU (default: its own choice)")
    add("--rounds", type=at_least(1), default=7, help="measured of each row (default: %(default)s)")
    add("--warm-up", type=at_least(0), default=1, help="rounds before them (default: %(default)s)")
    add("--updates", type=at_least(1), default=5, help="of fairseq's loop that are measured (default: %(default)s)")
    add("--workers", type=at_least(1), default=1, help="of the loader (default: %(default)s)")
    add("--manifest", type=Path, help="what the loader reads (default: synthetic FLACs of --seconds)")
    add("--only", type=_parts, metavar="PARTS", help=f"of {','.join(PARTS)}; operations are always counted")
    add("--skip", type=_parts, default=set(), metavar="PARTS", help="of the same")
    add("--profile", action="store_true", help="also show each row's heaviest operators")
    add("--sweep", action="store_true", help="two lines, not the product: clips of 5 to 60 s, and ratios of 0.5 to 0.9")
    add("--plot", type=Path, metavar="PNG", help="draw time and memory against clip length and mask ratio")
    add("--out", type=Path, metavar="FILE", help="also write the JSON there")
    add("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Check everything that was asked for, measure, write and print."""
    _check_files(args)
    import torch  # takes seconds to load, for which a look at the help should not wait

    from mae_ast_fairseq import register
    from mae_ast_fairseq.files import atomic_write

    logging.disable(logging.INFO)  # what fairseq says of its import and of runs that nobody asked for
    try:
        with warnings.catch_warnings(action="ignore"):
            register()
            from mae_ast_fairseq.benchmark import plot, report

            benchmark = _plan(args)
            torch.set_num_threads(args.threads or torch.get_num_threads())
            result = benchmark.run()
    finally:
        logging.disable(logging.NOTSET)
    text = json.dumps(result, indent=2)
    if args.out is not None:
        with atomic_write(args.out) as stream:
            stream.write(f"{text}\n".encode())
    if args.plot is not None:
        plot.save(args.plot, result)
    print(text if args.json else report.as_text(result))
    return 0


def _plan(args: argparse.Namespace) -> Any:
    """Return what to measure; raises ConfigError for what is not there."""
    from mae_ast_fairseq.benchmark.cases import Case, product, require_tokens, sweep
    from mae_ast_fairseq.benchmark.recipes import read_recipes
    from mae_ast_fairseq.benchmark.run import Benchmark
    from mae_ast_fairseq.cli.model import check_device
    from mae_ast_fairseq.precision import fastest

    parts = (args.only or set(PARTS)) - args.skip
    if not parts and not args.profile:
        raise ConfigError("--only and --skip: nothing is left to measure; expected some of " + ",".join(PARTS))
    names = list(dict.fromkeys(args.recipes or DEFAULT_RECIPES))
    baseline = args.baseline or names[0]
    require_choice("--baseline", baseline, names)
    recipes = read_recipes(names, args.set)
    device = check_device(args.device)
    if args.precision is None:
        args.precision = [fastest(device)]
        print(f"in {args.precision[0]}, which this device multiplies faster; --precision sets another", file=sys.stderr)
    choices = {name: getattr(args, name) for name in Case._fields[1:]}
    cases = (sweep if args.sweep else product)(names, choices)
    for case in cases:
        require_tokens(recipes[case.recipe], case)
    return Benchmark(
        recipes=recipes,
        settings=args.set,
        cases=cases,
        baseline=baseline,
        parts=parts,
        device=device,
        num_rounds=args.rounds,
        num_warm_up=args.warm_up,
        num_updates=args.updates,
        num_workers=args.workers,
        manifest=args.manifest,
        with_profile=args.profile,
    )


def _check_files(args: argparse.Namespace) -> None:
    """Raise ConfigError where results could not be made or written, or a manifest is not there."""
    from mae_ast_fairseq.files import check_file, prepare_folder

    if args.plot is not None:
        require("plot", "--plot")
    for option, file in (("--out", args.out), ("--plot", args.plot)):
        if file is not None:
            prepare_folder(option, file.parent)
            check_file(option, file)
    if args.manifest is not None and (args.manifest.suffix != ".tsv" or not args.manifest.is_file()):
        raise ConfigError(f"--manifest {args.manifest}: there is no such file; expected a manifest named NAME.tsv")
