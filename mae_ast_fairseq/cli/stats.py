"""`mae-ast stats`: measure mean and deviation of the log-Mel values of manifests, for training to normalise by."""

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae_ast_fairseq.data.audio import SAMPLE_RATE
from mae_ast_fairseq.data.manifest import Manifest, read_manifest
from mae_ast_fairseq.errors import ConfigError

HELP = "Write stats.json: mean and deviation of a manifest's log-Mel values, which training normalises by."
EXAMPLE = "mae-ast stats manifests/speech/train.tsv"


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
        "--clips", type=int, default=1_000, help="clips drawn from each manifest (default: %(default)s)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1337,
        help="seed of that draw; as common.seed, it draws what training would (default: %(default)s)",
    )
    parser.add_argument(
        "--bands", type=int, default=128, help="log-Mel bands, as task.feature_dim (default: %(default)s)"
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=15.625,
        help="only this much of a clip's start is read (default: %(default)s, the recipes' longest crop)",
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure each manifest, write the file, print a row for each and one for all."""
    if args.clips < 1 or args.bands < 1 or args.seed < 0:
        raise ConfigError("--clips and --bands must be at least 1, and --seed must not be negative")
    if not 0.055 <= args.max_seconds < math.inf:
        raise ConfigError(f"--max-seconds {args.max_seconds}: expected at least 0.055, which makes two tokens")
    manifests = [read_manifest(path) for path in args.manifests]
    out = _out(args.out, args.manifests)
    summary = _measure(manifests, out, args)
    print(json.dumps(summary, indent=2) if args.json else _as_table(summary, out))
    return 0


def _out(out: Path | None, manifests: Sequence[Path]) -> Path:
    """Return the file to write, whose folder is there and may be written."""
    folders = sorted({str(path.parent) for path in manifests})
    if out is None and len(folders) > 1:
        raise ConfigError(
            f"the manifests lie in {len(folders)} folders, {', '.join(folders)}: training reads stats.json of each "
            "one's own; run the command for each folder, or give one file for all with --out"
        )
    file = Path(folders[0], "stats.json") if out is None else out
    if file.is_dir():
        raise ConfigError(f"--out {file}: this is a folder; expected a file to write; name {file / 'stats.json'}")
    if not os.access(file.parent, os.W_OK):
        raise ConfigError(f"--out {file}: its folder is not there or may not be written; make it or choose another")
    return file


def _measure(manifests: Sequence[Manifest], out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the manifests one by one, name the broken files on stderr, and write the file."""
    import torch  # takes seconds to load, for which a look at the help should not wait

    from mae_ast_fairseq.corpus import statistics

    torch.set_num_threads(1)  # clip by clip, more only wait for each other; and the last bits would depend on them
    measurements = []
    for manifest in manifests:
        measurement = statistics.measure_manifest(
            manifest,
            num_clips=args.clips,
            seed=args.seed,
            feature_dim=args.bands,
            max_sample_size=round(args.max_seconds * SAMPLE_RATE),
        )
        for reason in measurement.broken:
            print(f"skipped {reason}", file=sys.stderr)
        measurements.append(measurement)
    parts = [
        {
            "path": manifest.name,
            **statistics.as_json(measurement.bands),
            "num_usable_frames": measurement.num_usable_frames,
            "num_broken": len(measurement.broken),
        }
        for manifest, measurement in zip(manifests, measurements, strict=True)
    ]
    pooled = statistics.pool_bands(
        [measurement.bands for measurement in measurements],
        [measurement.num_usable_frames for measurement in measurements],
    )
    sample = {"seed": args.seed, "max_seconds": args.max_seconds}
    statistics.write_statistics(out, pooled, manifests=parts, **sample)
    return statistics.as_json(pooled) | {"manifests": parts} | sample


def _as_table(summary: dict[str, Any], out: Path) -> str:
    names = [part["path"] for part in summary["manifests"]]
    width = max(map(len, [*names, "overall"])) + 2
    lines = [f"{'':{width}}{'mean':>9}{'std':>9}{'clips':>9}{'frames':>12}{'skipped':>9}"]
    num_broken = sum(part["num_broken"] for part in summary["manifests"])
    overall = summary | {"path": "overall", "num_broken": num_broken}
    for part in [*summary["manifests"], overall] if len(names) > 1 else summary["manifests"]:
        lines.append(
            f"{part['path']:{width}}{part['mean']:>9.4f}{part['std']:>9.4f}{part['num_clips']:>9}"
            f"{part['num_frames']:>12}{part['num_broken']:>9}"
        )
    return "\n".join([*lines, f"written to {out}"])
