"""`mae-ast manifest`: write the manifests of a folder, or archive, of audio, and list what cannot be trained on."""

import argparse
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mae_ast_fairseq.cli.arguments import num_processes, number, seed
from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.corpus.pack import pack
from mae_ast_fairseq.corpus.scan import (
    EXTENSIONS,
    MIN_SECONDS,
    Rejected,
    Source,
    find_source,
    scan,
    write_rejected,
)
from mae_ast_fairseq.corpus.script import split_side
from mae_ast_fairseq.data.archive import REPACK
from mae_ast_fairseq.data.manifest import ManifestRow, unwritable, write_manifest
from mae_ast_fairseq.errors import AudioError, ConfigError, printable
from mae_ast_fairseq.files import check_file, open_regular, prepare_folder

MAX_ENDINGS = 8  # of names, by which the files that are passed over are counted

EXAMPLE = "mae-ast manifest /data/speech --out manifests/speech --valid 0.05"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "folder",
        type=Path,
        help=f"folder of audio files ({', '.join(EXTENSIONS)}), or an uncompressed zip archive of them",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the manifests; made if absent")
    parser.add_argument(
        "--valid",
        default="0.05",
        help="fraction of the files for valid.tsv, drawn by a hash of each path (0: no valid.tsv), or a text "
        "file that lists them, one path a line, relative to the folder (default: %(default)s)",
    )
    parser.add_argument("--seed", type=seed, default=1337, help="seed of that hash (default: %(default)s)")
    parser.add_argument(
        "--min-seconds",
        type=number(float, lambda value: value >= 0, "seconds, at least 0"),
        default=MIN_SECONDS,
        help="reject shorter files (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=num_processes,
        default=os.cpu_count() or 1,
        help="probing processes (default: one a core, %(default)s)",
    )
    parser.add_argument(
        "--zip",
        type=Path,
        metavar="ARCHIVE.zip",
        help="copy the accepted files into this one archive, uncompressed, and let the manifests refer to it: "
        "millions of small files are slow on network disks",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Probe the files, pack them if wanted, write the manifests, print what they hold."""
    fraction, listed = _read_valid(args.valid)
    if args.zip is not None:
        _check_zip(args.zip, args.folder)
    source = find_source(args.folder)
    if not source.names and not source.rejected:
        others = f", but {_describe_passed_over(source.passed_over)}" if source.passed_over else ""
        expected = f"expected {', '.join(EXTENSIONS)}; check the path"
        raise ConfigError(f"{args.folder}: no audio files below it{others}; {expected}")
    _check_listed(args.valid, listed, {*source.names.values(), *(name for name, _ in source.rejected)})
    prepare_folder("--out", args.out)
    names = ["train", "valid"] if listed or fraction > 0 else ["train"]
    stale = args.out / "valid.tsv"
    if "valid" not in names and stale.exists():
        raise ConfigError(
            f"{stale}: there from an earlier run, and its files would now be in train.tsv too; delete it or choose "
            "another --out"
        )

    accepted, rejected = _probe(source, args)
    splits: dict[str, list[ManifestRow]] = {name: [] for name in names}
    for row in accepted:
        name = source.names[row.relative_path]  # every file is on the side of its own name, wherever it lies
        side = ("valid" if name in listed else "train") if listed else split_side(name, fraction, args.seed)
        splits[side].append(row)
    _check_sides(args.valid, splits)
    root = source.root
    if args.zip is not None:
        root, splits = _pack(args.zip, root, accepted, splits)
    for split, rows in splits.items():
        write_manifest(args.out / f"{split}.tsv", root, rows)
    summary = _summarize(root, args.out, splits, rejected) | {"passed_over": source.passed_over}
    print_result(args, summary, _as_text(summary))
    return 0


def _probe(source: Source, args: argparse.Namespace) -> tuple[list[ManifestRow], list[Rejected]]:
    """Probe what was found and write rejected.tsv; nothing accepted is an error."""
    accepted, rejected = scan(
        source.root, min_seconds=args.min_seconds, num_workers=args.workers, paths=list(source.names)
    )
    rejected = sorted([*source.rejected, *(Rejected(source.names[path], reason) for path, reason in rejected)])
    write_rejected(args.out / "rejected.tsv", rejected)
    if not accepted:
        raise AudioError(
            f"{args.folder}: none of its {len(rejected)} audio files can be trained on, the first for being "
            f"{rejected[0].reason}; {args.out / 'rejected.tsv'} lists why; "
            f"{'fix them or correct the folder' if source.names else REPACK}"
        )
    return accepted, rejected


def _check_zip(archive: Path, folder: Path) -> None:
    """Refuse, before hours of probing, an archive that could not be written or referred to."""
    if folder.is_file():
        raise ConfigError(
            f"--zip {archive}: {folder} is a file; expected a folder to pack; leave --zip out for an archive"
        )
    check_file("--zip", archive, ".zip")
    if reason := unwritable(archive.name):
        raise ConfigError(f"--zip {archive}: its name {reason}; expected one that manifests can hold; choose another")
    if archive.exists():
        raise ConfigError(
            f"--zip {archive}: there already, and manifests may refer to it; expected a new file; delete it or "
            "choose another name"
        )


def _pack(
    archive: Path, root: Path, accepted: list[ManifestRow], splits: dict[str, list[ManifestRow]]
) -> tuple[Path, dict[str, list[ManifestRow]]]:
    """Pack the accepted files; return the archive's folder, as the root, and the rows that refer to the archive."""
    members = pack(archive, root, [row.relative_path for row in accepted])
    paths = {member.name: member.path_in(archive.name) for member in members}
    return archive.parent.resolve(), {
        split: [row._replace(relative_path=paths[row.relative_path]) for row in rows] for split, rows in splits.items()
    }


def _read_valid(value: str) -> tuple[float, dict[str, int]]:
    """Return (fraction, {}) or (0, the lines of the listed paths)."""
    try:
        fraction = float(value)
    except ValueError:
        try:
            with open_regular(value) as stream:
                text = stream.read().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"--valid {value}: neither a number nor a list that can be read ({error}); expected a "
                "fraction such as 0.05, or a text file with one relative path a line"
            ) from None
        lines = text.removesuffix("\n").split("\n")
        return 0.0, {line.removesuffix("\r"): number for number, line in enumerate(lines, start=1)}
    if not 0 <= fraction < 1:
        raise ConfigError(f"--valid {value}: outside [0, 1); expected a fraction of the files, such as 0.05")
    return fraction, {}


def _check_listed(list_path: str, listed: Mapping[str, int], found: set[str]) -> None:
    for name, line in listed.items():
        if name not in found:
            raise ConfigError(
                f"{list_path}:{line}: no audio file {name!r} in the folder; expected a path relative "
                "to the folder, as `find . -printf '%P\\n'` prints; correct or delete the line"
            )


def _check_sides(valid: str, splits: Mapping[str, Sequence[ManifestRow]]) -> None:
    for split, rows in splits.items():
        if not rows:
            raise ConfigError(
                f"--valid {valid}: none of {sum(map(len, splits.values()))} files fell to {split}.tsv; expected at "
                "least one; choose another fraction or --seed, list the files, or give --valid 0 for train.tsv alone"
            )


def _summarize(root: Path, out: Path, splits: dict[str, list[ManifestRow]], rejected: list[Rejected]) -> dict[str, Any]:
    return {
        "root": str(root),
        "out": str(out),
        "splits": {
            split: {
                "files": len(rows),
                "hours": round(sum(row.num_samples / row.sample_rate for row in rows) / 3600, 4),
                "sample_rates": {str(r): n for r, n in sorted(Counter(row.sample_rate for row in rows).items())},
            }
            for split, rows in splits.items()
        },
        "rejected": dict(Counter(reason.split(":")[0] for _, reason in rejected).most_common()),
    }


def _describe_passed_over(passed_over: Mapping[str, int]) -> str:
    endings = list(passed_over.items())
    shown = [f"{number} {printable(ending) or 'without an ending'}" for ending, number in endings[:MAX_ENDINGS]]
    num_more = sum(number for _, number in endings[MAX_ENDINGS:])
    return ", ".join([*shown, f"{num_more} others"] if num_more else shown)


def _as_text(summary: dict[str, Any]) -> str:
    rows: list[tuple[str, int, str, str]] = []
    for split, part in summary["splits"].items():
        rates = ", ".join(f"{number} at {rate} Hz" for rate, number in part["sample_rates"].items())
        rows.append((split, part["files"], f"{part['hours']:.2f}", rates))
    reasons = ", ".join(f"{number} {reason}" for reason, number in summary["rejected"].items())
    rows.append(("rejected", sum(summary["rejected"].values()), "", reasons))
    if summary["passed_over"]:
        found = _describe_passed_over(summary["passed_over"])
        rows.append(("passed over", sum(summary["passed_over"].values()), "", found))
    headers = ("", "files", "hours", "files by sample rate")
    table = tabulate(rows, headers, tablefmt="plain", colalign=("left", "right", "right"), disable_numparse=True)
    return f"{table}\nwritten to {summary['out']}"
