"""`mae-ast manifest`: write the manifests of a folder, or archive, of audio, and list what cannot be trained on."""

import argparse
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from mae_ast_fairseq.cli.arguments import folder_level, group_pattern, num_processes, number, seed
from mae_ast_fairseq.cli.labels import (
    NO_LABEL,
    add_label_arguments,
    describe_labels,
    describe_unmatched,
    find_labels,
    summarize_labels,
    warn_of_rare,
    write_unmatched,
)
from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.corpus.divide import check_whole, divide
from mae_ast_fairseq.corpus.labelling import Labelling, in_folder, splits_in_folders
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
from mae_ast_fairseq.corpus.script import (
    SPLITS,
    TEST,
    TRAIN,
    VALID,
    LabelledRow,
    read_lines,
    refuse_foreign,
    refuse_stale,
    write_labelled,
)
from mae_ast_fairseq.data.archive import REPACK
from mae_ast_fairseq.data.manifest import ManifestRow, read_manifest, unwritable
from mae_ast_fairseq.errors import AudioError, ConfigError, printable
from mae_ast_fairseq.files import check_file, prepare_folder

MAX_ENDINGS = 8  # of names, by which the files that are passed over are counted

EXAMPLE = "mae-ast manifest /folder/of/audio --out data --valid 0.1 --test 0.1 --group-folder 1"

DEFAULT_VALID = "0.05"


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
        help="fraction of the files for valid.tsv, drawn by a hash of each path (0: no valid.tsv), or a text "
        "file that lists them, one path a line, relative to the folder (default: "
        f"{DEFAULT_VALID}, or what a table or --split-folder says)",
    )
    parser.add_argument("--test", default="0", help="the same for test.tsv (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=1337, help="seed of the draws (default: %(default)s)")
    groups = parser.add_mutually_exclusive_group()
    groups.add_argument(
        "--group-folder",
        type=folder_level,
        metavar="LEVEL",
        help="all files of a group (speaker) go to one split; the group is the folder at this level: 1 the first below "
        "the given one, -1 the one that a file lies in",
    )
    groups.add_argument(
        "--group-pattern",
        type=group_pattern,
        metavar="REGEX",
        help="the same, the group being what the parentheses capture in a file's path, as in '_([a-z]+)_'",
    )
    parser.add_argument(
        "--split-folder",
        type=folder_level,
        metavar="LEVEL",
        help="a file's split is what its folder at this level is called: train, valid (val, dev, validation) or test "
        "(eval)",
    )
    add_label_arguments(parser, required=False)
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


class Plan(NamedTuple):
    """Where files are to go, as far as that is known before they are probed; they go by their paths in the folder."""

    asked: dict[str, str]
    """what was given for each split's share, for messages"""
    fractions: dict[str, float]
    fixed: dict[str, str]
    """the splits of files that a list, a table or a folder names"""
    groups: dict[str, str] | None
    labelling: Labelling | None
    splits: list[str]
    """to be written, none of them empty"""


def run(args: argparse.Namespace) -> int:
    """Probe the files, pack them if wanted, write the manifests, print what they hold."""
    if args.zip is not None:
        _check_zip(args.zip, args.folder)
    source = find_source(args.folder)
    if not source.names and not source.rejected:
        others = f", but {_describe_passed_over(source.passed_over)}" if source.passed_over else ""
        expected = f"expected {', '.join(EXTENSIONS)}; check the path"
        raise ConfigError(f"{args.folder}: no audio files below it{others}; {expected}")
    plan = _plan(args, [*source.names.values(), *(name for name, _ in source.rejected)], source.root)
    prepare_folder("--out", args.out)
    refuse_foreign(args.out, plan.splits)
    refuse_stale(args.out, plan.splits)

    accepted, rejected = _probe(source, args)
    splits, without = _divide(plan, args.seed, [(row, source.names[row.relative_path]) for row in accepted])
    _check_sides(plan, splits)
    _check_labels_beside(args.out, splits)
    root = source.root
    if args.zip is not None:
        root, splits = _pack(args.zip, root, splits)
    write_labelled(args.out, root, splits)
    summary = _summarize(root, args.out, splits, rejected) | {"passed_over": source.passed_over}
    if plan.labelling is not None:
        unmatched = write_unmatched(args.out, without, plan.labelling)
        warn_of_rare("manifest", splits)
        summary |= summarize_labels(splits, unmatched)
    print_result(args, summary, _as_text(summary))
    return 0


def _plan(args: argparse.Namespace, names: Sequence[str], root: Path) -> Plan:
    """Read what decides on splits: fractions, lists, groups and labels; raises ConfigError or ManifestError."""
    readable = [name for name in names if not unwritable(name)]  # the others will be rejected, whatever is in them
    labelling = find_labels(args, readable, root) if readable else None
    given = _given_splits(args, readable, labelling)
    asked = {VALID: args.valid or ("0" if given else DEFAULT_VALID), TEST: args.test}
    fixed = {name: split for name, split in given.items() if split != TRAIN}
    fractions: dict[str, float] = {}
    for split, value in asked.items():
        fractions[split], listed = _read_part(split, value)
        _check_listed(value, listed, set(names), {name for name, other in fixed.items() if other != split})
        fixed |= dict.fromkeys(listed, split)
    if sum(fractions.values()) >= 1:
        options = " ".join(f"--{split} {value}" for split, value in asked.items())
        raise ConfigError(f"{options}: nothing would be left for train.tsv; expected fractions of less than 1 together")
    wanted = {*([TRAIN] if not given else []), *given.values(), *fixed.values()}
    wanted |= {split for split, fraction in fractions.items() if fraction > 0}
    splits = [split for split in SPLITS if split in wanted]
    return Plan(asked, fractions, fixed, _groups(args, readable), labelling, splits)


def _given_splits(args: argparse.Namespace, names: Sequence[str], labelling: Labelling | None) -> dict[str, str]:
    """Return the splits that folders or a table name, if any."""
    in_table = labelling.splits if labelling is not None else {}
    if args.split_folder is None:
        return in_table
    if in_table:
        raise ConfigError(
            f"--split-folder {args.split_folder}: {args.table} divides the files, too; expected one of them; leave the "
            "option out, or the table's column of splits"
        )
    return splits_in_folders(names, args.split_folder)


def _groups(args: argparse.Namespace, names: Sequence[str]) -> dict[str, str] | None:
    """Return the group of each file; None where none were asked for."""
    if args.group_folder is not None:
        option = f"--group-folder {args.group_folder}"
        groups = {name: in_folder(name, args.group_folder) for name in names}
    elif args.group_pattern is not None:
        option = f"--group-pattern {args.group_pattern.pattern}"
        groups = {name: match and match[1] for name in names for match in [args.group_pattern.search(name)]}
    else:
        return None
    for name, group in groups.items():
        if not group:
            raise ConfigError(f"{option}: finds nothing in {name!r}; expected a group for each file; change it")
    return {name: group for name, group in groups.items() if group}


def _divide(
    plan: Plan, seed: int, files: Sequence[tuple[ManifestRow, str]]
) -> tuple[dict[str, list[LabelledRow]], list[Rejected]]:
    """Return the rows of each split with their labels, and which files have none where labels are wanted."""
    labels = None if plan.labelling is None else plan.labelling.labels
    without = [Rejected(name, NO_LABEL) for _, name in files if labels is not None and name not in labels]
    kept = [(row, name) for row, name in files if labels is None or name in labels]
    names = [name for _, name in kept]
    split_of = {name: plan.fixed[name] for name in names if name in plan.fixed}
    others = [name for name in names if name not in split_of]
    split_of |= divide(others, plan.fractions, seed=seed, groups=plan.groups, labels=labels)
    if plan.groups is not None:
        check_whole(plan.groups, split_of)
    splits: dict[str, list[LabelledRow]] = {split: [] for split in plan.splits}
    for row, name in kept:
        splits[split_of[name]].append((row, () if labels is None else labels[name]))
    return splits, without


def _check_labels_beside(out: Path, splits: Mapping[str, Sequence[LabelledRow]]) -> None:
    """Refuse to write other clips, without labels, beside the labels of those that are there."""
    for split, rows in splits.items():
        beside, manifest = out / f"{split}.lbl", out / f"{split}.tsv"
        if not beside.exists() or not manifest.exists() or any(labels for _, labels in rows):
            continue
        before = read_manifest(manifest)
        if [before.relative_path(row) for row in range(len(before))] != [row.relative_path for row, _ in rows]:
            raise ConfigError(
                f"{beside}: holds labels of the clips that are in {manifest.name} now, which would be others; expected "
                "none, or labels for these; delete it, choose another --out, or say where labels are found"
            )


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
    archive: Path, root: Path, splits: Mapping[str, Sequence[LabelledRow]]
) -> tuple[Path, dict[str, list[LabelledRow]]]:
    """Pack the files of all splits; return the archive's folder, as the root, and rows that refer to the archive."""
    members = pack(archive, root, sorted(row.relative_path for rows in splits.values() for row, _ in rows))
    paths = {member.name: member.path_in(archive.name) for member in members}
    return archive.parent.resolve(), {
        split: [(row._replace(relative_path=paths[row.relative_path]), labels) for row, labels in rows]
        for split, rows in splits.items()
    }


def _read_part(split: str, value: str) -> tuple[float, dict[str, int]]:
    """Return (fraction, {}) or (0, the lines of the listed paths)."""
    try:
        fraction = float(value)
    except ValueError:
        try:
            lines = read_lines(value)
        except ConfigError as error:
            raise ConfigError(f"--{split} {value}: neither a number nor a list of paths; {error}") from None
        if not lines:
            raise ConfigError(f"--{split} {value}: an empty list; expected a relative path a line; add some") from None
        return 0.0, {line: number for number, line in enumerate(lines, start=1)}
    if not 0 <= fraction < 1:
        raise ConfigError(f"--{split} {value}: outside [0, 1); expected a fraction of the files, such as 0.05")
    return fraction, {}


def _check_listed(list_path: str, listed: Mapping[str, int], found: set[str], elsewhere: set[str]) -> None:
    for name, line in listed.items():
        if name not in found:
            raise ConfigError(
                f"{list_path}:{line}: no audio file {name!r} in the folder; expected a path relative "
                "to the folder, as `find . -printf '%P\\n'` prints; correct or delete the line"
            )
        if name in elsewhere:
            raise ConfigError(
                f"{list_path}:{line}: {name!r} was given to another split too; expected it once; delete a line"
            )


def _check_sides(plan: Plan, splits: Mapping[str, Sequence[LabelledRow]]) -> None:
    whole = "" if plan.groups is None else "groups are not cut, and a label of fewer groups than splits is in train; "
    for split, rows in splits.items():
        if not rows:
            option = "valid" if split == TRAIN else split
            raise ConfigError(
                f"--{option} {plan.asked[option]}: none of {sum(map(len, splits.values()))} files fell to {split}.tsv; "
                f"{whole}expected at least one; choose another fraction or --seed, list the files, or give "
                f"--{option} 0 for no {option}.tsv"
            )


def _summarize(root: Path, out: Path, splits: dict[str, list[LabelledRow]], rejected: list[Rejected]) -> dict[str, Any]:
    return {
        "root": str(root),
        "out": str(out),
        "splits": {
            split: {
                "files": len(rows),
                "hours": round(sum(row.num_samples / row.sample_rate for row, _ in rows) / 3600, 4),
                "sample_rates": {str(r): n for r, n in sorted(Counter(row.sample_rate for row, _ in rows).items())},
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
    rows: list[tuple[str, int | str, str, str]] = []
    for split, part in summary["splits"].items():
        rates = ", ".join(f"{number} at {rate} Hz" for rate, number in part["sample_rates"].items())
        rows.append((split, part["files"], f"{part['hours']:.2f}", rates))
        if "labels" in summary:
            rows.append(("", "", "", describe_labels(summary["labels"][split])))
    rows += [(kind, number, "", first) for kind, number, first in describe_unmatched(summary.get("unmatched", {}))]
    reasons = ", ".join(f"{number} {reason}" for reason, number in summary["rejected"].items())
    rows.append(("rejected", sum(summary["rejected"].values()), "", reasons))
    if summary["passed_over"]:
        found = _describe_passed_over(summary["passed_over"])
        rows.append(("passed over", sum(summary["passed_over"].values()), "", found))
    headers = ("", "files", "hours", "files by sample rate")
    table = tabulate(rows, headers, tablefmt="plain", colalign=("left", "right", "right"), disable_numparse=True)
    return f"{table}\nwritten to {summary['out']}"
