"""The paper's experiments: train, probe and fine-tune every cell of a table, and print it beside the published one.

    pip install tinysoundfont espeakng-loader     # what two of the cpu scale's probe sets are rendered with
    python examples/experiments/run.py ssast masking pretext --scale cpu --out experiments --fsdd FSDD --samples SAMPLES
    python examples/experiments/run.py pretext --scale paper --out experiments --data DATA --corpora esc50=data/esc50

What is done stands in OUT/results.jsonl, or in --results, and is never done again; a cell that was stopped goes on.
"""

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # both count before torch is loaded
os.environ.setdefault("OMP_NUM_THREADS", "1")

import downstream
import sets
import tables
from cells import SCALES, TABLES, Cell, Result, cells_of, read_results, recipe_of, write_results
from open_corpus import make_open_corpus
from tqdm import tqdm

from mae_ast_fairseq.errors import UserError
from mae_ast_fairseq.figures import FILE_NAME, read_figures
from mae_ast_fairseq.files import atomic_write, locked

CURVES = ("loss_recon", "loss_info_nce", "info_nce_accuracy", "token_spread", "effective_rank", "content_gain")


class Place(NamedTuple):
    """Where everything lies that a cell needs."""

    out: Path
    data: str
    fsdd: Path | None
    samples: Path | None
    corpora: dict[str, Path]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not done yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("tables", nargs="+", choices=TABLES, metavar="TABLE", help=f"of {', '.join(TABLES)}")
    add("--scale", choices=SCALES, default="cpu", help="paper: as published, on GPUs (default: %(default)s)")
    add("--out", type=Path, required=True, help="folder for runs and, at the cpu scale, the open corpus")
    add(
        "--data",
        help="manifests to pretrain on, several as a:b (default: the open corpus of manifests/debian.py)",
    )
    add("--fsdd", type=Path, help="recordings of FSDD, for the cpu scale's digits")
    add("--samples", type=Path, help="samples named kind_description, for one more probe set of the cpu scale")
    add("--corpora", nargs="+", default=[], metavar="NAME=FOLDER", help="for the paper scale, of manifests/")
    add("--results", type=Path, help="what is done (default: OUT/results.jsonl)")
    add("--workers", type=int, default=1, help="cells at a time, a core each (default: %(default)s)")
    add("--print", action="store_true", help="run nothing, print what there is")
    args = parser.parse_args(argv)
    try:
        return run(args)
    except UserError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run.py: stopped; the same command goes on", file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    """Run and print; 1 where cells failed."""
    path = args.results or args.out / "results.jsonl"
    wanted = sorted({cell for table in args.tables for cell in cells_of(table, args.scale)}, key=_order)
    failed = 0
    if not args.print:
        args.out = args.out.resolve()
        args.out.mkdir(parents=True, exist_ok=True)
        with locked(args.out / "running"):
            failed = run_cells(args, wanted, path)
    results, costs = read_results(path), path.with_name(f"costs_{args.scale}.json")
    if "ssast" in args.tables and not args.print and not costs.is_file():
        measure_costs(args.scale, args.out, costs)
    benchmark = json.loads(costs.read_text()) if costs.is_file() else {}
    for table in args.tables:
        print(tables.as_markdown(table, args.scale, results, benchmark), end="\n\n")
        rows = tables.rows_of(table, cells_of(table, args.scale), results)
        if any(rows.values()):
            tables.draw_curves(path.with_name(f"{table}_{args.scale}.png"), rows)
    print(tables.published())
    return 1 if failed else 0


def _order(cell: Cell) -> tuple[int, Cell]:
    return cell.seed, cell


def run_cells(args: argparse.Namespace, wanted: Sequence[Cell], path: Path) -> int:
    """Run the cells that are not done, some at a time, and note each as it ends; returns how many failed."""
    corpora = downstream.check_corpora(args.corpora)
    todo = [cell for cell in wanted if cell not in read_results(path)]
    if not todo:
        return 0
    data = args.data or str(make_open_corpus(args.out, args.workers))
    place = Place(args.out, data, args.fsdd, args.samples, corpora)
    if args.scale == "cpu":
        probe_sets(place)
    failed = 0
    bar = tqdm(total=len(wanted), initial=len(wanted) - len(todo), unit=" cells")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, spawn, downstream.end_with_parent) as pool, bar:
        jobs = {pool.submit(partial(run_cell, place), cell): cell for cell in todo}
        try:
            for job in as_completed(jobs):
                bar.update()
                try:
                    write_results(path, {**read_results(path), jobs[job]: job.result()}.values())
                except Exception as error:  # the others go on, whatever it was
                    failed += 1
                    bar.write(f"{jobs[job].name}: {type(error).__name__}: {error}", file=sys.stderr)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failed


def probe_sets(place: Place) -> dict[str, sets.ProbeSet]:
    """Return the sets of the cpu scale for which there is audio; each is made once."""
    return sets.probe_sets(place.out, place.fsdd, place.samples)


def run_cell(place: Place, cell: Cell) -> Result:
    """Train a cell, or go on with it, and measure what it is worth."""
    warnings.filterwarnings("ignore")
    folder = place.out / "cells" / cell.name
    begun = time.monotonic()
    threads = 1 if cell.scale == "cpu" else None
    arguments = [*cell.overrides, f"task.data={place.data}", f"hydra.run.dir={folder}"]
    if cell.scale == "cpu":
        arguments += ["common.bf16=false", "task.persistent_workers=false"]
    downstream.run_command(
        "train", recipe_of("masking", cell.scale), *arguments, log=folder / "said.log", threads=threads
    )
    checkpoint = folder / "checkpoints" / "checkpoint_last.pt"
    worth = measure_cpu(place, cell, checkpoint) if cell.scale == "cpu" else measure_paper(place, checkpoint)
    figures = read_figures(folder / FILE_NAME)
    curve = [
        {name: round(one[name], 4) for name in CURVES if name in one} | {"num_updates": one["num_updates"]}
        for one in figures if one["kind"] == "valid"
    ]  # fmt: skip
    return {
        **cell._asdict(), **worth, "curve": curve, "train_seconds": round(figures[-1]["wall"]),
        "all_seconds": round(time.monotonic() - begun), "processor": processor(),
    }  # fmt: skip


def measure_cpu(place: Place, cell: Cell, checkpoint: Path) -> Result:
    """Probe a tiny model on the sets, and fine-tune it on digits."""
    found: Result = {"probes": downstream.probe_sets(checkpoint, probe_sets(place), cell.seed)}
    if place.fsdd is not None:
        fsdd = place.fsdd
        digits = sets.read_set(place.out / "sets" / "digits_to_learn", lambda: sets.digits(fsdd, range(50)))
        folder = checkpoint.parents[1] / "digits"
        found["fine_tuned"] = {"digits": round(downstream.fine_tune_digits(checkpoint, digits, folder, cell.seed), 4)}
    return found


def measure_paper(place: Place, checkpoint: Path) -> Result:
    """Fine-tune on the corpora that were given."""
    folder = checkpoint.parents[1] / "fine_tuned"
    return {
        "fine_tuned": {
            name: downstream.fine_tune_corpus(checkpoint, name, data, folder) for name, data in place.corpora.items()
        }
    }


def measure_costs(scale: str, out: Path, path: Path) -> None:
    """Measure a training step of MAE-AST beside SSAST's, at each depth, and write the JSON of `mae-ast benchmark`."""
    cells = cells_of("ssast", scale)
    recipes = sorted({cell.recipe for cell in cells}, reverse=True)  # SSAST first: the others are compared with it
    found = {}
    for depth in sorted({cell.layers for cell in cells}):
        options = ("--only", "time,memory", "--precision", "float32", "--attention-dropout", 0, "--json")
        arguments = ("benchmark", *recipes, "--set", f"model.encoder_layers={depth}", *options)
        found[str(depth)] = json.loads(downstream.run_command(*arguments, log=out / "benchmark.log"))
    with atomic_write(path) as stream:
        stream.write(json.dumps(found).encode())


def processor() -> str:
    """Return what the processor calls itself."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main())
