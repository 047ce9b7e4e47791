"""`mae-ast benchmark`: time, memory and operations of recipes side by side, the loader's pace, fairseq's own part."""

import argparse
import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mae_ast_fairseq.config.pretraining import require_choice
from mae_ast_fairseq.errors import ConfigError

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

DEFAULT_RECIPES = ("mae_ast_patch", "ssast_patch")
SWEEP_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)
SWEEP_RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9)


def _number(read: Callable[[str], Any], is_fine: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    """Return what reads an option's number and refuses others."""

    def parse(text: str) -> Any:
        number = read(text)
        if not is_fine(number):
            raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
        return number

    parse.__name__ = read.__name__  # which argparse names where the text is no number at all
    return parse


_positive = _number(int, lambda number: number >= 1, "at least 1")
_length = _number(float, lambda number: 0 < number < math.inf, "more than 0")
_ratio = _number(float, lambda number: 0 < number < 1, "a fraction above 0 and below 1")
_dropout = _number(float, lambda number: 0 <= number < 1, "at least 0 and less than 1")


def _parts(text: str) -> set[str]:
    for name in text.split(","):
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"{name!r} is unknown; expected some of {','.join(PARTS)}")
    return set(text.split(","))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("recipes", nargs="*", metavar="RECIPE", help=f"of examples/ or a YAML (default: {' '.join(DEFAULT_RECIPES)})")
    add("--baseline", metavar="RECIPE", help="of those, what all are compared with (default: the first)")
    add("--seconds", type=_length, nargs="+", default=[10.0], help="clip lengths (default: 10)")
    add("--batch-size", type=_positive, nargs="+", default=[8], help="clips in a batch (default: 8)")
    add("--ratio", type=_ratio, nargs="+", help="fractions of masked tokens (default: the recipe's)")
    add("--precision", nargs="+", default=["float32"], help="float32, bfloat16, float16 (default: float32)")
    add("--dropout", type=_dropout, nargs="+", help="of the layers and of the input (default: the recipe's)")
    add("--attention-dropout", type=_dropout, nargs="+", help="of attention weights (default: the recipe's)")
    add("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="change the recipes that have it")
    add("--device", default="cpu", help="as torch names it, such as cuda:0 (default: %(default)s)")
    add("--threads", type=_positive, help="of torch on the CPU (default: its own choice)")
    add("--rounds", type=_positive, default=7, help="measured of each row (default: %(default)s)")
    add(
        "--warm-up",
        type=_number(int, lambda number: number >= 0, "0 or more"),
        default=1,
        help="rounds before them (default: %(default)s)",
    )
    add("--updates", type=_positive, default=5, help="of fairseq's loop that are measured (default: %(default)s)")
    add("--workers", type=_positive, default=1, help="of the loader (default: %(default)s)")
    add("--manifest", type=Path, help="what the loader reads (default: synthetic FLACs of --seconds)")
    add("--only", type=_parts, metavar="PARTS", help=f"of {','.join(PARTS)}; operations are always counted")
    add("--skip", type=_parts, default=set(), metavar="PARTS", help="of the same")
    add("--profile", action="store_true", help="also show each row's heaviest operators")
    add(
        "--sweep",
        action="store_true",
        help=f"clips of {_list(SWEEP_SECONDS)} s at the first ratio, and ratios of {_list(SWEEP_RATIOS)} at the first "
        "length; two lines instead of the product",
    )
    add("--plot", type=Path, metavar="PNG", help="draw time and memory against clip length and mask ratio")
    add("--out", type=Path, metavar="FILE", help="also write the JSON there")
    add("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Check everything that was asked for, measure, write and print."""
    _check_outputs(args)
    import torch  # takes seconds to load, for which a look at the help should not wait

    from mae_ast_fairseq import register
    from mae_ast_fairseq.benchmark.quiet import quiet
    from mae_ast_fairseq.files import atomic_write

    with quiet():
        register()
        from mae_ast_fairseq.benchmark import plot, report
        from mae_ast_fairseq.benchmark.run import run_plan

        plan = _plan(args)
        threads = torch.get_num_threads()
        torch.set_num_threads(args.threads or threads)
        try:
            result = run_plan(plan)
        finally:
            torch.set_num_threads(threads)
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
    from mae_ast_fairseq.benchmark import loader
    from mae_ast_fairseq.benchmark.cases import product, require_tokens, sweep
    from mae_ast_fairseq.benchmark.recipes import parse_setting, read_recipes
    from mae_ast_fairseq.benchmark.run import Plan
    from mae_ast_fairseq.cli.model import check_device
    from mae_ast_fairseq.inference.encoder import PRECISIONS

    parts = (set(PARTS) if args.only is None else args.only) - args.skip
    if not parts and not args.profile:
        raise ConfigError("--only and --skip: nothing is left to measure; expected some of " + ",".join(PARTS))
    for precision in args.precision:
        require_choice("--precision", precision, PRECISIONS)
    names = list(dict.fromkeys(args.recipes or DEFAULT_RECIPES))
    recipes = read_recipes(names, [parse_setting(text) for text in args.set])
    baseline = args.baseline or names[0]
    require_choice("--baseline", baseline, names)
    if args.manifest is not None:
        loader.manifest_data(args.manifest)
    choices = {
        "precision": args.precision,
        "dropout": args.dropout or [None],
        "attention_dropout": args.attention_dropout or [None],
        "mask_ratio": args.ratio or [None],
        "seconds": args.seconds,
        "batch_size": args.batch_size,
    }
    cases = sweep(names, choices, SWEEP_SECONDS, SWEEP_RATIOS) if args.sweep else product(names, choices)
    for case in cases:
        require_tokens(recipes[case.recipe], case)
    return Plan(
        recipes=recipes,
        settings=args.set,
        cases=cases,
        baseline=baseline,
        parts=frozenset(parts),
        device=check_device(args.device),
        num_rounds=args.rounds,
        num_warm_up=args.warm_up,
        num_updates=args.updates,
        num_workers=args.workers,
        manifest=args.manifest,
        with_profile=args.profile,
    )


def _check_outputs(args: argparse.Namespace) -> None:
    """Raise ConfigError where results could not be made or written."""
    from mae_ast_fairseq.evaluation.plots import require_matplotlib
    from mae_ast_fairseq.files import prepare_folder

    if find_spec("fairseq") is None:
        raise ConfigError("fairseq is not installed, whose loss and loop are measured; install it as setup.py names it")
    if args.plot is not None:
        require_matplotlib()
    for option, file in (("--out", args.out), ("--plot", args.plot)):
        if file is not None and file.is_dir():
            raise ConfigError(f"{option} {file}: this is a folder; expected a file to write")
        if file is not None:
            prepare_folder(option, file.parent)


def _list(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
