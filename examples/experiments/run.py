"""The paper's experiments: train, probe and fine-tune every cell of a table, and print it beside the published one.

    pip install tinysoundfont espeakng-loader     # what two of the cpu scale's probe sets are rendered with
    python examples/experiments/run.py ssast masking pretext --scale cpu --out experiments --fsdd FSDD --samples SAMPLES
    python examples/experiments/run.py pretext --scale paper --out experiments --data DATA --corpora esc50=data/esc50

(at the paper's scale --fsdd and --samples may be given as well)

What is done stands in OUT/results.jsonl, or in --results, and is never done again; a cell that was stopped goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # both count before torch is loaded
os.environ.setdefault("OMP_NUM_THREADS", "1")

import downstream
import sets
import tables
import torch
from cells import SCALES, TABLES, Cell, Result, cells_of, read_results, write_results
from one_cell import Place, digits_to_learn, probe_sets
from open_corpus import make_open_corpus
from tqdm import tqdm

from mae_ast_fairseq.errors import ConfigError, UserError
from mae_ast_fairseq.files import atomic_write, locked, prepare_folder

ONE_CELL = Path(__file__).with_name("one_cell.py")
RENDERED = ("words_across_voices", "instruments_across_sound_fonts")
PAUSE = 0.5  # seconds between two looks at the cells that run


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
    add("--fsdd", type=Path, help="recordings of FSDD, for digits")
    add("--samples", type=Path, help="samples named kind_description, for one more probe set")
    add("--corpora", nargs="+", default=[], metavar="NAME=FOLDER", help="for the paper scale, of manifests/")
    add("--results", type=Path, help="what is done (default: OUT/results.jsonl)")
    add("--workers", type=int, default=1, help="cells at a time, a core each (default: %(default)s)")
    add("--print", action="store_true", help="run nothing, write and print the tables of what there is")
    args = parser.parse_args(argv)
    try:
        return run(args)
    except (UserError, OSError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run.py: stopped; the same command goes on", file=sys.stderr)
        return 130


def existing(option: str, folder: Path | None) -> str | None:
    """Return the path of a folder, which may be left out; raises ConfigError where it is not there."""
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"{option} {folder}: there is no such folder")
    return folder and str(folder.resolve())


def run(args: argparse.Namespace) -> int:
    """Run and print; 1 where cells failed."""
    if args.scale == "paper" and not args.print and not (args.data and args.corpora):
        raise ConfigError(
            "--scale paper: expected --data, manifests of AudioSet and LibriSpeech to pretrain on, and --corpora to "
            "fine-tune on; the cpu scale brings its own"
        )
    path = args.results or args.out / "results.jsonl"
    if args.print and not path.is_file():
        raise ConfigError(f"{path}: there are no results; expected those of a run; name them by --out or --results")
    wanted = sorted({cell for table in args.tables for cell in cells_of(table, args.scale)}, key=_order)
    failed = 0
    if not args.print:
        prepare_folder("--out", args.out)
        prepare_folder("--results", path.parent)
        with locked(args.out / "running"), locked(path.with_name(f".{path.name}.lock")):
            failed = run_cells(args, wanted, path)
            failed += "ssast" in args.tables and not measure_costs(args.scale, args.out, _costs(path, args.scale))
    results, costs = read_results(path), _costs(path, args.scale)
    benchmark = json.loads(costs.read_text()) if costs.is_file() else {}
    print(tables.as_markdown(args.tables, args.scale, results, benchmark))
    if any(cell.scale == args.scale for cell in results):
        page = tables.as_markdown(TABLES, args.scale, results, benchmark)
        with atomic_write(path.with_name(f"tables_{args.scale}.md")) as stream:
            stream.write(f"# What was measured\n\n{page}\n".encode())
    for table in args.tables:
        rows = tables.rows_of(table, cells_of(table, args.scale), results)
        if any(rows.values()):
            tables.draw_curves(path.with_name(f"{table}_{args.scale}.png"), rows)
    return 1 if failed else 0


def _order(cell: Cell) -> tuple[int, Cell]:
    return cell.seed, cell


def _costs(results: Path, scale: str) -> Path:
    return results.with_name(f"costs_{scale}.json")


def run_cells(args: argparse.Namespace, wanted: Sequence[Cell], path: Path) -> int:
    """Run the cells that are not done, some at a time, and note each as it ends; returns how many failed."""
    fsdd, samples = (existing(f"--{name}", getattr(args, name)) for name in ("fsdd", "samples"))
    for folder in args.data.split(":") if args.data else ():
        if not (Path(folder) / "train.tsv").is_file():
            raise ConfigError(f"--data {folder}: no train.tsv there; expected what `mae-ast manifest` writes")
    place = Place(str(args.out.resolve()), args.data, fsdd, samples, downstream.check_corpora(args.corpora))
    names = probe_names(place)
    results = read_results(path)
    todo = [cell for cell in wanted if not is_done(results.get(cell, {}), place, args.scale, names)]
    if not todo:
        return 0
    place = prepare(place, args)
    running: dict[Cell, subprocess.Popen] = {}
    failed = 0
    with tqdm(total=len(wanted), initial=len(wanted) - len(todo), unit=" cells") as bar:
        try:
            while todo or running:
                while todo and len(running) < args.workers:
                    cell = todo.pop(0)
                    running[cell] = start(cell, place)
                time.sleep(PAUSE)
                for cell in [cell for cell, process in running.items() if process.poll() is not None]:
                    message = note(cell, running.pop(cell).returncode, place, path)
                    failed += bool(message)
                    bar.update(not message)
                    if message:
                        bar.write(f"{cell.name}: {message}", file=sys.stderr)
        finally:
            for process in running.values():
                process.terminate()  # its training then saves and ends
    return failed


def probe_names(place: Place) -> set[str]:
    """Return the names of the probe sets for which there is audio; raises ConfigError where none could be made."""
    made = [(Path(place.out) / "sets" / name / "all.tsv").is_file() for name in RENDERED]
    missing = [name for name in ("tinysoundfont", "espeakng_loader") if find_spec(name) is None]
    if missing and not all(made):
        raise ConfigError(f"{', '.join(missing)}: not installed; pip install tinysoundfont espeakng-loader")
    return {name for name, is_there in sets.names(place.fsdd, place.samples).items() if is_there}


def is_done(result: Result, place: Place, scale: str, names: set[str]) -> bool:
    """Tell whether a result has all that is asked for."""
    tuned = set(place.corpora) if scale == "paper" else {"digits"} if place.fsdd else set()
    return bool(result) and names <= set(result.get("probes", ())) and tuned <= set(result.get("fine_tuned", ()))


def prepare(place: Place, args: argparse.Namespace) -> Place:
    """Make what all cells share: the open corpus and the sets."""
    place = place._replace(data=place.data or str(make_open_corpus(Path(place.out), args.workers)))
    probe_sets(place)
    if place.fsdd:
        digits_to_learn(place)
    return place


def start(cell: Cell, place: Place) -> subprocess.Popen:
    """Start a cell in a process of its own: one that the system ends leaves the others alone."""
    folder = place.folder_of(cell)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "result.json").open("w") as result, (folder / "said.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, ONE_CELL, json.dumps(cell), json.dumps(place)],
            stdout=result,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for this process alone, which ends the others in order
            preexec_fn=downstream.end_with_parent,
        )


def note(cell: Cell, code: int, place: Place, path: Path) -> str:
    """Write the result of a cell that has ended beside what there is of it; return what went wrong, if anything."""
    folder = place.folder_of(cell)
    if code:
        lines = (folder / "said.log").read_text(errors="replace").splitlines()
        return f"exit code {code}: {lines[-1] if lines else 'nothing was said'}"
    results = read_results(path)
    result = json.loads((folder / "result.json").read_text())
    for name in ("probes", "fine_tuned"):
        result[name] = {**results.get(cell, {}).get(name, {}), **result.get(name, {})}
    write_results(path, {**results, cell: result}.values())
    return ""


def measure_costs(scale: str, out: Path, path: Path) -> bool:
    """Measure a training step of MAE-AST beside SSAST's, at each depth, where that is not done; False if it failed."""
    if path.is_file():
        return True
    cells = [cell for cell in cells_of("ssast", scale) if cell.tokens == "patch"]
    recipes = sorted({cell.recipe for cell in cells}, reverse=True)  # SSAST first: the others are compared with it
    found = {}
    for depth in sorted({cell.layers for cell in cells}):
        device = "cuda" if scale == "paper" and torch.cuda.is_available() else "cpu"
        options = ("--only", "time,memory", "--precision", "float32", "--attention-dropout", 0, "--device", device)
        arguments = ("benchmark", *recipes, "--set", f"model.encoder_layers={depth}", *options, "--json")
        try:
            found[str(depth)] = json.loads(downstream.run_command(*arguments, log=out / "benchmark.log"))
        except UserError as error:
            print(f"run.py: {error}", file=sys.stderr)
            return False
    with atomic_write(path) as stream:
        stream.write(json.dumps(found).encode())
    return True


if __name__ == "__main__":
    sys.exit(main())
