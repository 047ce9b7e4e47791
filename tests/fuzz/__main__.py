"""`python -m tests.fuzz`: run mutated inputs through what reads them; exit code 1 where anything was found."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from tests.fuzz.harness import Finding, Subject, Tally, case, run
from tests.fuzz.subjects import SUBJECTS


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}; default: all")
    parser.add_argument("--cases", type=int, help="of each subject (default: as many as its table says)")
    parser.add_argument("--first", type=int, default=0, help="the first case's seed; the others follow (default: 0)")
    parser.add_argument("--seed", type=int, help="one case alone, as a finding names it")
    parser.add_argument(
        "--findings", type=Path, help="folder for the inputs of findings (default: a new one for temporary files)"
    )
    parser.add_argument("--json", action="store_true", help="print the counts and findings as JSON")
    args = parser.parse_args()
    if unknown := set(args.subjects) - SUBJECTS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: unknown; expected some of {', '.join(SUBJECTS)}")
    return args


def main() -> int:
    """Run the subjects in turn, keep the inputs of findings, and print a row for each subject."""
    args = _arguments()
    tallies = {}
    for name in args.subjects or SUBJECTS:
        subject = SUBJECTS[name]
        seeds = range(args.first, args.first + (args.cases or subject.num_cases))
        seeds = seeds if args.seed is None else range(args.seed, args.seed + 1)
        with tqdm(total=len(seeds), desc=name, unit=" cases", disable=None) as bar:
            tallies[name] = run(subject, seeds, bar.update)
        if findings := tallies[name].findings:
            args.findings = args.findings or Path(tempfile.mkdtemp(prefix="fuzz-findings-"))
            _keep(args.findings, name, subject, findings)
        print(f"{name}: {tallies[name].num_cases} cases, {len(findings)} lost", file=sys.stderr, flush=True)
    print(_as_json(tallies) if args.json else _as_table(tallies))
    return int(any(tally.findings for tally in tallies.values()))


def _keep(folder: Path, name: str, subject: Subject, findings: list[Finding]) -> None:
    """Write the input and the fault of each finding, and say where and how it is repeated."""
    with tempfile.TemporaryDirectory() as temporary:
        prepared = subject.prepare(Path(temporary))
        for finding in findings:
            path = folder / name / f"{finding.seed}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(case(subject, prepared, finding.seed))
            path.with_suffix(".txt").write_bytes(f"{finding.fault}\n{finding.detail}\n".encode(errors="replace"))
            print(f"{finding.fault}: {path}; again: python -m tests.fuzz {name} --seed {finding.seed}", file=sys.stderr)


def _as_json(tallies: dict[str, Tally]) -> str:
    return json.dumps(
        {
            name: {**tally.outcomes, "cases": tally.num_cases, "findings": [each._asdict() for each in tally.findings]}
            for name, tally in tallies.items()
        },
        indent=2,
    )


def _as_table(tallies: dict[str, Tally]) -> str:
    rows = [
        [name, tally.num_cases, tally.outcomes["accepted"], tally.outcomes["refused"], len(tally.findings)]
        for name, tally in tallies.items()
    ]
    return tabulate(rows, ["subject", "cases", "accepted", "refused in one line", "lost"], tablefmt="plain")


if __name__ == "__main__":
    sys.exit(main())
