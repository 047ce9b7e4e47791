"""`mae-ast stats`: measure mean and standard deviation of the log-Mel values of manifests, to normalise by."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mae_ast_fairseq.cli.arguments import at_least, number, seed
from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.config.pretraining import BANDS
from mae_ast_fairseq.data.audio import SAMPLE_RATE
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.errors import ConfigError, printable
from mae_ast_fairseq.files import check_file

EXAMPLE = "mae-ast stats data/train.tsv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "manifests",
        type=Path,
        nargs="+",
        metavar="MANIFEST",
        help="what is trained on; several are measured each, and together by the number of frames each has in all",
    )
    parser.add_argument("--out", type=Path, help="file to write (default: stats.json beside the manifests)")
    parser.add_argument(
        "--clips", type=at_least(1), default=1_000, help="clips drawn from each manifest (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=1337,
        help="seed of that draw (default: %(default)s, by which training draws where there is no stats.json)",
    )
    parser.add_argument(
        "--bands",
        type=number(int, BANDS.holds, f"{BANDS.expected} bands"),
        default=128,
        help="log-Mel bands, as task.feature_dim (default: %(default)s)",
    )
    parser.add_argument(
        "--max-seconds",
        type=number(float, lambda value: 0.055 <= value <= 1e9, "at least 0.055 seconds, which make two tokens"),
        default=15.625,
        help="only this much of a clip's start is read (default: %(default)s, the recipes' longest crop)",
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure each manifest, write the file, print a row for each and one for all; 1 where clips are broken."""
    import torch  # takes seconds to load, for which a look at the help should not wait

    from mae_ast_fairseq.corpus import statistics
    from mae_ast_fairseq.inference.loading import BrokenFiles

    out = _out(args.out, args.manifests)
    torch.set_num_threads(1)  # clip by clip, more only wait for each other; and the last bits would depend on them
    measurements, parts, reports = [], [], []
    for manifest in [read_manifest(path) for path in args.manifests]:
        measured = statistics.measure_manifest(
            manifest,
            num_clips=args.clips,
            seed=args.seed,
            feature_dim=args.bands,
            max_sample_size=round(args.max_seconds * SAMPLE_RATE),
        )
        reports.append(BrokenFiles("stats", manifest))
        reports[-1].reasons.update(measured.broken)
        measurements.append(measured)
        more = {"num_usable_frames": measured.num_usable_frames, "num_broken": len(measured.broken)}
        parts.append({"path": manifest.name, **statistics.as_json(measured), **more})
    summary = statistics.as_json(statistics.pool_measurements(measurements))
    summary |= {"manifests": parts, "seed": args.seed, "max_seconds": args.max_seconds}
    summary["broken"] = [broken for report in reports for broken in report.as_json()]
    statistics.write_statistics(out, summary)
    print_result(args, summary, f"{_as_table(summary)}\nwritten to {printable(str(out))}")
    return max(report.exit_code(measured.num_clips) for report, measured in zip(reports, measurements, strict=True))


def _out(out: Path | None, manifests: Sequence[Path]) -> Path:
    """Return the file to write, whose folder is there and may be written."""
    folders = sorted({str(path.parent) for path in manifests})
    if out is None and len(folders) > 1:
        raise ConfigError(
            f"the manifests lie in {len(folders)} folders, {', '.join(folders)}: training reads stats.json of each "
            "one's own; run the command for each folder, or give one file for all with --out"
        )
    file = Path(folders[0], "stats.json") if out is None else out
    check_file("--out", file)
    return file


def _as_table(summary: dict[str, Any]) -> str:
    parts = summary["manifests"]
    if len(parts) > 1:
        num_broken = sum(part["num_broken"] for part in parts)
        parts = [*parts, summary | {"path": "overall", "num_broken": num_broken}]
    columns = {"path": "", "mean": "mean", "std": "std", "num_clips": "clips", "num_frames": "frames",
               "num_broken": "skipped"}  # fmt: skip
    rows = [[printable(str(part["path"])), *(part[key] for key in list(columns)[1:])] for part in parts]
    return tabulate(rows, headers=list(columns.values()), tablefmt="plain", floatfmt=".4f")
