"""`mae-ast benchmark`: time, memory and operations of recipes side by side, the loader's pace, fairseq's own share."""

import argparse
import json
import math
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mae_ast_fairseq.config.pretraining import require_choice
from mae_ast_fairseq.errors import ConfigError

HELP = "Measure recipes against each other: time, memory and operations of a step, the loader, fairseq's loop."
EXAMPLE = (
    "mae-ast benchmark mae_ast_patch ssast_patch --attention-dropout 0 --precision float32 bfloat16\n\n"
    "  mae-ast benchmark mae_ast_frame ssast_frame --sweep --batch-size 2 --attention-dropout 0 --only time,memory \\\n"
    "      --plot sweep.png\n\n"
    "Rows are the product of recipes and sizes. They are timed in turns, and compared within one round, so that what\n"
    "else the machine does hits all alike. Layers are never dropped (model.encoder_layerdrop=0), or rows would differ\n"
    "by chance. Memory is measured in a process for each row. A size that does not fit is reported in its row."
)

PARTS = ("time", "memory", "dispatch", "loader", "fairseq")
"""What `--only` and `--skip` choose from; operations are counted in any case."""

DEFAULT_RECIPES = ("mae_ast_patch", "ssast_patch")
SWEEP_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)
SWEEP_RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9)

_AT_LEAST_ONE = (lambda number: number >= 1, "at least 1")
_DROPOUT = (lambda number: 0 <= number < 1, "at least 0 and less than 1")
LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(("rounds", "updates", "workers", "threads", "batch_size"), _AT_LEAST_ONE),
    "warm_up": (lambda number: number >= 0, "0 or more"),
    "seconds": (lambda number: 0 < number < math.inf, "more than 0"),
    "ratio": (lambda number: 0 < number < 1, "a share of masked tokens above 0 and below 1"),
    "dropout": _DROPOUT,
    "attention_dropout": _DROPOUT,
}
"""What the numbers given must be, and how that is said."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("recipes", nargs="*", metavar="RECIPE", help=f"of examples/ or a YAML (default: {' '.join(DEFAULT_RECIPES)})")
    add("--baseline", metavar="RECIPE", help="of those, what all are compared with (default: the first)")
    add("--seconds", type=float, nargs="+", default=[10.0], help="clip lengths (default: 10)")
    add("--batch-size", type=int, nargs="+", default=[8], help="clips in a batch (default: 8)")
    add("--ratio", type=float, nargs="+", help="shares of masked tokens (default: the recipe's)")
    add("--precision", nargs="+", default=["float32"], help="float32, bfloat16, float16 (default: float32)")
    add("--dropout", type=float, nargs="+", help="of the layers and of the input (default: the recipe's)")
    add("--attention-dropout", type=float, nargs="+", help="of attention weights (default: the recipe's)")
    add("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="change the recipes that have it")
    add("--device", default="cpu", help="as torch names it, such as cuda:0 (default: %(default)s)")
    add("--threads", type=int, help="of torch on the CPU (default: its own choice)")
    add("--rounds", type=int, default=7, help="measured of each row (default: %(default)s)")
    add("--warm-up", type=int, default=1, help="rounds before them (default: %(default)s)")
    add("--updates", type=int, default=5, help="of fairseq's loop that are measured (default: %(default)s)")
    add("--workers", type=int, default=1, help="of the loader (default: %(default)s)")
    add("--manifest", type=Path, help="what the loader reads (default: synthetic FLACs of --seconds)")
    add("--only", metavar="PARTS", help=f"of {','.join(PARTS)}; operations are always counted")
    add("--skip", metavar="PARTS", help="of the same")
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
    _check(args)
    parts = _parts(args)
    import torch  # takes seconds to load, for which a look at the help should not wait
    from tqdm import tqdm

    from mae_ast_fairseq import register
    from mae_ast_fairseq.benchmark.quiet import quiet

    with quiet():
        register()
        from mae_ast_fairseq.benchmark import plot, report
        from mae_ast_fairseq.benchmark.run import num_runs, run_plan

        plan = _plan(args, parts)
        threads = torch.get_num_threads()
        torch.set_num_threads(args.threads or threads)
        try:
            with tqdm(total=num_runs(plan), unit=" runs", disable=None) as progress:
                result = run_plan(plan, lambda what: print(what, file=sys.stderr, flush=True), progress.update)
        finally:
            torch.set_num_threads(threads)
        if args.out is not None:
            _write(args.out, result)
        if args.plot is not None:
            plot.save(args.plot, result)
    print(json.dumps(result, indent=2) if args.json else report.as_text(result))
    return 0


def _plan(args: argparse.Namespace, parts: frozenset[str]) -> Any:
    """Return what to measure; raises ConfigError for what is not there."""
    from mae_ast_fairseq.benchmark import loader
    from mae_ast_fairseq.benchmark.cases import Choices, product, sizes_of, sweep
    from mae_ast_fairseq.benchmark.recipes import parse_setting, read_recipes
    from mae_ast_fairseq.benchmark.run import Plan
    from mae_ast_fairseq.cli.device import check_device

    names = list(dict.fromkeys(args.recipes or DEFAULT_RECIPES))
    settings = [parse_setting(text) for text in args.set]
    recipes = read_recipes(names, settings)
    baseline = args.baseline or names[0]
    require_choice("--baseline", baseline, names)
    if args.manifest is not None:
        loader.manifest_data(args.manifest, args.workers)
    choices = Choices(
        names,
        args.precision,
        args.dropout or [None],
        args.attention_dropout or [None],
        args.ratio or [None],
        args.seconds,
        args.batch_size,
    )
    cases = sweep(choices, SWEEP_SECONDS, SWEEP_RATIOS) if args.sweep else product(choices)
    for case in cases:
        sizes_of(recipes[case.recipe], case)
    return Plan(
        recipes=recipes,
        settings=settings,
        cases=cases,
        baseline=baseline,
        parts=parts,
        device=check_device(args.device),
        num_rounds=args.rounds,
        num_warm_up=args.warm_up,
        num_updates=args.updates,
        num_workers=args.workers,
        manifest=args.manifest,
        with_profile=args.profile,
    )


def _check(args: argparse.Namespace) -> None:
    """Raise ConfigError for a number or an output that cannot be used."""
    from mae_ast_fairseq.evaluation.plots import require_matplotlib
    from mae_ast_fairseq.files import prepare_folder
    from mae_ast_fairseq.inference.encoder import PRECISIONS

    for name, (is_fine, expected) in LIMITS.items():
        given = getattr(args, name)
        for number in given if isinstance(given, list) else [given]:
            if number is not None and not is_fine(number):
                raise ConfigError(f"--{name.replace('_', '-')} {number}: expected {expected}")
    for precision in args.precision:
        require_choice("--precision", precision, PRECISIONS)
    if find_spec("fairseq") is None:
        raise ConfigError("fairseq is not installed, whose loss and loop are measured; install it as setup.py names it")
    if args.plot is not None:
        require_matplotlib()
    for option, file in (("--out", args.out), ("--plot", args.plot)):
        if file is not None and file.is_dir():
            raise ConfigError(f"{option} {file}: this is a folder; expected a file to write")
        if file is not None:
            prepare_folder(option, file.parent)


def _parts(args: argparse.Namespace) -> frozenset[str]:
    def read(option: str, text: str | None, default: tuple[str, ...]) -> set[str]:
        names = set(default) if text is None else set(text.split(","))
        for name in names:
            require_choice(option, name, PARTS)
        return names

    parts = read("--only", args.only, PARTS) - read("--skip", args.skip, ())
    if not parts and not args.profile:
        raise ConfigError("--only and --skip: nothing is left to measure; expected some of " + ",".join(PARTS))
    return frozenset(parts)


def _write(path: Path, result: dict[str, Any]) -> None:
    from mae_ast_fairseq.files import atomic_write

    with atomic_write(path) as stream:
        stream.write((json.dumps(result, indent=2) + "\n").encode())


def _list(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
