"""`mae-ast labels`: write the labels of manifests' clips, which stand in folder names, file names or a table."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from mae_ast_fairseq.cli.arguments import folder_level, label_pattern
from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.corpus.divide import describe_rare
from mae_ast_fairseq.corpus.labelling import (
    JOINS,
    Labelling,
    labels_in_folders,
    labels_in_names,
    labels_in_table,
    read_table,
)
from mae_ast_fairseq.corpus.scan import EXTENSIONS, Rejected, write_rejected
from mae_ast_fairseq.corpus.script import SPLITS, LabelledRow, refuse_stale, stale_manifests, write_labelled
from mae_ast_fairseq.data import archive
from mae_ast_fairseq.data.manifest import Manifest, ManifestRow, read_manifest
from mae_ast_fairseq.errors import ConfigError, printable
from mae_ast_fairseq.files import is_there, prepare_folder

EXAMPLE = "mae-ast labels data --table clips.csv --path-column filename --label-column category --out labelled"

UNMATCHED = "unmatched.tsv"
NO_LABEL, NO_CLIP = "no label", "no clip"
_NUM_SHOWN = 3  # names of what is unmatched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("data", type=Path, help="folder of {split}.tsv, as `mae-ast manifest` writes them")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for manifests of the clips that have a label, {split}.lbl beside each, labels.txt and "
        f"{UNMATCHED}, which lists clips without a label and rows without a clip (default: the same folder, if each "
        "clip has a label)",
    )
    add_label_arguments(parser, required=True)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def add_label_arguments(parser: argparse.ArgumentParser, required: bool) -> None:
    """Declare where labels are found, and how a table is read."""
    ways = parser.add_mutually_exclusive_group(required=required)
    ways.add_argument(
        "--label-folder",
        type=folder_level,
        metavar="LEVEL",
        help="a clip's label is its folder at this level below the given one: 1 the first, -1 the one that it lies in",
    )
    ways.add_argument(
        "--label-pattern",
        type=label_pattern,
        metavar="REGEX",
        help="the label is what the group `label` captures in the file's name, or in its path if there is a slash in "
        "REGEX: '(?P<label>[a-z]+)_[0-9]+'",
    )
    ways.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="CSV or TSV with a header and a row for each clip: its path, label or labels, and split if wanted",
    )
    parser.add_argument("--path-column", default="path", help="of the table (default: %(default)s)")
    parser.add_argument("--label-column", default="label", help="of the table (default: %(default)s)")
    parser.add_argument(
        "--split-column",
        help="of the table; with it clips are divided as it says, into train, valid (val, dev, validation) and test "
        "(eval) (default: split, if there is one)",
    )
    parser.add_argument(
        "--separator", help="of several labels in a cell, as in --separator ';' (default: a cell is one label)"
    )
    parser.add_argument(
        "--join",
        choices=JOINS,
        help="find clips by their paths below the folder, by their names, or by these without the ending (default: the "
        "first that finds any)",
    )


def find_labels(args: argparse.Namespace, names: Sequence[str], root: Path) -> Labelling | None:
    """Find the labels of clips, given by their paths below the root; None where the arguments ask for none."""
    for option in ("split_column", "separator", "join"):
        value = getattr(args, option)
        if value == "" or (value is not None and args.table is None):
            name = f"--{option.replace('_', '-')} {value!r}"
            raise ConfigError(f"{name}: expected a text that is not empty, together with --table; give both or neither")
    if args.label_folder is not None:
        return labels_in_folders(names, args.label_folder)
    if args.label_pattern is not None:
        return labels_in_names(names, args.label_pattern)
    if args.table is None:
        return None
    table = read_table(args.table, args.path_column, args.label_column, args.split_column, args.separator)
    labelling = labels_in_table(names, table, root, args.join)
    if not any(labelling.labels.values()):
        raise ConfigError(
            f"{args.table}: no row that is a file's has a label in {args.label_column!r}; expected some; name the "
            "column of the labels"
        )
    return labelling


def run(args: argparse.Namespace) -> int:
    """Find the labels of all manifests' clips, write what is labelled, and print how much that is."""
    manifests = _read_manifests(args.data)
    names = {split: clip_names(manifest) for split, manifest in manifests.items()}
    first = next(iter(manifests.values()))
    labelling = find_labels(args, [name for own in names.values() for name in own], Path(first.root))
    assert labelling is not None
    splits, without = _sort(manifests, names, labelling)
    out = args.out or args.data
    prepare_folder("--out", out)
    unmatched = write_unmatched(out, without, labelling)
    if args.out is None and without:
        raise ConfigError(
            f"{args.data}: {len(without)} of {sum(map(len, manifests.values()))} clips have no label, such as "
            f"{without[0].relative_path!r} ({out / UNMATCHED} lists them); expected one for each; give --out FOLDER "
            "for manifests without them"
        )
    gone = [] if labelling.splits else [split for split in manifests if split not in splits]
    if gone:
        print(f"mae-ast labels: warning: no clip of {', '.join(gone)} has a label: not written", file=sys.stderr)
    _write(out, first, splits, args.data)
    warn_of_rare("labels", splits)
    summary = {
        "out": str(out),
        "joined_by": labelling.joined_by,
        "clips": {split: len(rows) for split, rows in splits.items()},
        **summarize_labels(splits, unmatched),
    }
    print_result(args, summary, _as_text(summary))
    return 0


def _sort(
    manifests: Mapping[str, Manifest], names: Mapping[str, Sequence[str]], labelling: Labelling
) -> tuple[dict[str, list[LabelledRow]], list[Rejected]]:
    """Return the labelled rows of each split, by a table's splits where it has them, and the clips without a label."""
    splits: dict[str, list[LabelledRow]] = {split: [] for split in SPLITS}
    without = []
    for split, manifest in manifests.items():
        for number, name in enumerate(names[split]):
            if name not in labelling.labels:
                without.append(Rejected(name, f"{NO_LABEL}: {manifest.where(number)}"))
                continue
            row = ManifestRow(
                manifest.relative_path(number), int(manifest.num_samples[number]), int(manifest.sample_rates[number])
            )
            splits[labelling.splits.get(name, split)].append((row, labelling.labels[name]))
    return {split: rows for split, rows in splits.items() if rows}, without


def _read_manifests(folder: Path) -> dict[str, Manifest]:
    """Read the manifests of the splits that are there; raises ManifestError, or ConfigError where roots differ."""
    splits = [split for split in SPLITS if is_there(folder / f"{split}.tsv")]
    manifests = {split: read_manifest(folder / f"{split}.tsv") for split in splits or SPLITS[:1]}
    first, *others = manifests.values()
    for other in others:
        if other.root != first.root:
            raise ConfigError(
                f"{other.file}:1: the root is {other.root!r}, but {first.root!r} in {first.name}; expected one for all "
                "splits; write them together with `mae-ast manifest`"
            )
    return manifests


def clip_names(manifest: Manifest) -> list[str]:
    """Return the path of each clip below the root, or in the archive where it lies in one."""
    paths = [manifest.relative_path(row) for row in range(len(manifest))]
    places = [archive.parse(path) for path in paths]
    members = {
        archive.Location(file, member.offset, member.length): member.name
        for file in dict.fromkeys(place.archive for place in places if place)
        for member in archive.members(Path(manifest.root) / file, EXTENSIONS)
    }
    return [members.get(place, path) if place else path for place, path in zip(places, paths, strict=True)]


def _write(out: Path, first: Manifest, splits: Mapping[str, Sequence[LabelledRow]], data: Path) -> None:
    """Write manifests and labels; the root stays as the first manifest has it, or absolute in another folder.

    Raises ConfigError where a manifest of another split is in the way; where that was read, it goes.
    """
    is_beside = out.samefile(data)
    if not is_beside:
        refuse_stale(out, splits)
    write_labelled(out, first.written_root if is_beside else Path(first.root), splits)
    for file in stale_manifests(out, splits):
        file.unlink()
        file.with_suffix(".lbl").unlink(missing_ok=True)


def write_unmatched(out: Path, without: Sequence[Rejected], labelling: Labelling) -> list[Rejected]:
    """Write, and return, the clips that have no label and the rows of a table that have no clip."""
    unmatched = [*without, *(Rejected(clip, f"{NO_CLIP}: {where}") for clip, where in labelling.unused)]
    write_rejected(out / UNMATCHED, unmatched)
    return unmatched


def warn_of_rare(command: str, splits: Mapping[str, Sequence[LabelledRow]]) -> None:
    """Say on stderr which labels some split lacks."""
    labels = {split: [names for _, names in rows] for split, rows in splits.items()}
    if text := describe_rare(labels):
        print(printable(f"mae-ast {command}: warning: {text}"), file=sys.stderr)


def summarize_labels(splits: Mapping[str, Sequence[LabelledRow]], unmatched: Iterable[Rejected]) -> dict[str, Any]:
    """Return what `--json` prints of labels: how many clips have each, by split, and what is unmatched."""
    counts = {split: Counter(name for _, names in rows for name in names) for split, rows in splits.items()}
    by_kind: dict[str, list[str]] = {NO_LABEL: [], NO_CLIP: []}
    for name, reason in unmatched:
        by_kind[reason.partition(":")[0]].append(name)
    return {
        "labels": {split: dict(sorted(found.items())) for split, found in counts.items()},
        "unmatched": {kind: {"number": len(found), "first": found[:_NUM_SHOWN]} for kind, found in by_kind.items()},
    }


def describe_unmatched(unmatched: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    """Return rows of a table: what it is that is unmatched, how many there are, and the first of them."""
    return [
        (kind, found["number"], ", ".join(map(printable, [*found["first"], *["..."] * (found["number"] > _NUM_SHOWN)])))
        for kind, found in unmatched.items()
        if found["number"]
    ]


def describe_labels(counts: Mapping[str, int]) -> str:
    """Say how many labels there are and how many clips have them."""
    if not counts:
        return "none has a label"
    rarest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[rarest] == counts[most]:
        return f"{len(counts)} labels, of {counts[most]} clips each"
    return f"{len(counts)} labels, of {counts[rarest]} ({rarest}) to {counts[most]} ({most}) clips"


def _as_text(summary: Mapping[str, Any]) -> str:
    rows = [(split, number, describe_labels(summary["labels"][split])) for split, number in summary["clips"].items()]
    rows += describe_unmatched(summary["unmatched"])
    table = tabulate(rows, ("", "clips", ""), tablefmt="plain", colalign=("left", "right"), disable_numparse=True)
    joined = f", joined by {summary['joined_by']}" if summary["joined_by"] else ""
    return f"{table}\nwritten to {summary['out']}{joined}"
