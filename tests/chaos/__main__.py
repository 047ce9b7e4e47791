"""`python -m tests.chaos`: strikes runs and prints a table of cases, survived and lost; exit code 1 where one was lost.

Stopped, it goes on with the rows that it has not done; started anew after a change of the package, with all.
"""

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

import mae_ast_fairseq
from tests.chaos.rows import ROWS, Row
from tests.chaos.runs import prepare

tqdm.monitor_interval = 0  # its thread would be in the way of forks


class Done(NamedTuple):
    """What came of a row."""

    cases: int
    lost: int
    seconds: float
    faults: list[str]


def main() -> int:
    """Do the rows that were asked for, and print them."""
    args = _arguments()
    if args.home is not None:
        args.home.mkdir(parents=True, exist_ok=True)
        return _report(_all_done(args.home.absolute(), args), args.json)
    folder = tempfile.mkdtemp(prefix="chaos-")  # no TemporaryDirectory: forked processes would remove it as they end
    try:
        return _report(_all_done(Path(folder), args), args.json)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--only", default="*", metavar="ROW", help="rows by name, with * and ? (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of every random moment (default: %(default)s)")
    parser.add_argument("--cases", type=int, help="so many of each row, instead of the row's own number")
    parser.add_argument("--quick", action="store_true", help="a minute of it")
    parser.add_argument("--home", type=Path, help="folder to work in, where it can be gone on with (default: none)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--list", action="store_true", help="name the rows, with how many cases each has")
    args = parser.parse_args()
    if args.list:
        print("".join(f"{row.name} {row.num_cases}\n" for row in ROWS), end="")
        parser.exit()
    return args


def _all_done(home: Path, args: argparse.Namespace) -> dict[str, Done]:
    prepare(home)
    journal = home / "done.json"
    version = f"{args.seed} {_code_hash()}"
    noted: dict[str, Any] = json.loads(journal.read_text()) if journal.is_file() else {}
    if noted.get("version") != version:
        noted = {"version": version}
        shutil.rmtree(home / "reference", ignore_errors=True)
    done = {}
    for row in ROWS:
        count = (row.num_quick if args.quick else row.num_cases) if args.cases is None else args.cases
        if not count or not fnmatch(row.name, args.only):
            continue
        former = Done(*noted[row.name]) if row.name in noted else None
        if former is None or former.cases < count or former.lost:
            noted[row.name] = _do(row, count, home, args.seed)
            journal.write_text(json.dumps(noted, indent=1))
        done[row.name] = Done(*noted[row.name])
    return done


def _code_hash() -> str:
    """Return a hash of the package's code, and of this."""
    roots = [Path(mae_ast_fairseq.__file__).parent, Path(__file__).parent]
    paths = sorted(path for root in roots for path in root.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


def _do(row: Row, count: int, home: Path, seed: int) -> Done:
    """Do the cases of a row; where the harness itself fails, those that it could not do are lost."""
    begin, faults, lost, num_done = time.monotonic(), [], 0, 0
    draws = (random.Random(f"{seed} {row.name} {case}") for case in range(count))
    with tqdm(total=count, desc=row.name, unit=" cases", file=sys.stderr) as bar:
        try:
            for found in row.cases(home, row.name, draws):
                faults += found
                lost += bool(found)
                num_done += 1
                bar.update()
        except Exception:
            faults.append(traceback.format_exc())
            lost += count - num_done
    if not faults:
        shutil.rmtree(home / "runs" / row.name, ignore_errors=True)
    return Done(count, lost, round(time.monotonic() - begin, 1), faults)


def _report(done: dict[str, Done], as_json: bool) -> int:
    total = Done(*(sum(getattr(row, name) for row in done.values()) for name in ("cases", "lost", "seconds")), [])
    if as_json:
        rows = {name: {**row._asdict(), "survived": row.cases - row.lost} for name, row in done.items()}
        print(json.dumps({"cases": total.cases, "lost": total.lost, "rows": rows}, indent=1))
    else:
        print("| row | cases | survived | lost | seconds |\n|---|---|---|---|---|")
        for name, row in [*done.items(), ("all", total)]:
            print(f"| {name} | {row.cases} | {row.cases - row.lost} | {row.lost} | {row.seconds:.0f} |")
        print("".join(f"\n{name}: {fault}" for name, row in done.items() for fault in row.faults))
    return int(total.lost > 0)


if __name__ == "__main__":
    sys.exit(main())
