"""Labelled clips and how `mae-ast probe` splits them: as they are, into folds, or by groups such as speakers."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, cast

import numpy as np

from mae_ast_fairseq.cli.arguments import at_least, group_pattern
from mae_ast_fairseq.cli.model import long_enough
from mae_ast_fairseq.corpus.script import read_lines
from mae_ast_fairseq.data.concat import ConcatManifest, join
from mae_ast_fairseq.data.labels import FILE_NAME, collect_vocabulary, join_labels, read_labels, read_vocabulary
from mae_ast_fairseq.data.manifest import Manifest, read_manifest
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.evaluation import splits
from mae_ast_fairseq.evaluation.splits import ProbeData, Split
from mae_ast_fairseq.files import is_there
from mae_ast_fairseq.inference.loading import BrokenFiles, readable_samples, unusable
from mae_ast_fairseq.nn.fbank import SAMPLE_RATE
from mae_ast_fairseq.nn.tokens import MIN_TOKENS, TokenGrid

NO_REASONS: Mapping[int, str] = MappingProxyType({})


class LabelledClips(NamedTuple):
    """The labelled clips of all splits, one after another, without those that are broken."""

    manifest: Manifest | ConcatManifest
    rows: list[int]
    """[N] of the manifest, those that are kept"""
    data: ProbeData
    """of those rows"""
    splits: dict[int, list[Split]]
    """of the N clips, by seed"""
    broken: BrokenFiles
    """those too short for the model, and what was given to `read_clips`"""


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--data`, the splits, folds and groups, `--shots` and `--multi-label`."""
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of {split}.tsv and {split}.lbl, and labels.txt if there is one"
    )
    parser.add_argument("--train", default="train", help="split to learn from (default: %(default)s)")
    parser.add_argument(
        "--valid",
        help="split by which settings, layer and readout are chosen (default: valid, or a fifth of train)",
    )
    parser.add_argument("--test", default="test", help="split to test on (default: %(default)s)")
    parser.add_argument(
        "--split", nargs="+", metavar="SPLIT", help="the splits to divide into folds or groups (default: train)"
    )
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument("--folds", type=at_least(2), help="test on each of so many stratified folds of --split")
    ways.add_argument(
        "--groups",
        type=Path,
        help="file with the group (speaker, given fold) of each clip of --split, one a line: test on each group, and "
        "choose by groups that were not learnt from",
    )
    ways.add_argument(
        "--group-pattern",
        type=group_pattern,
        metavar="REGEX",
        help="the same, the group being what the parentheses capture in a clip's path, as in '_([a-z]+)_'",
    )
    parser.add_argument("--multi-label", action="store_true", help="a clip may have many labels: mAP, linear and ridge")
    parser.add_argument("--shots", type=at_least(1), help="training clips of each class, drawn by seed (default: all)")


def read_clips(args: argparse.Namespace, grid: TokenGrid, reasons: Mapping[int, str] = NO_REASONS) -> LabelledClips:
    """Read and split the clips wanted for each of `args.seeds`; leave out what is too short for the model.

    reasons: of rows that are broken, and left out with their labels before anything is divided.

    Raises ManifestError, AudioError, or ConfigError for splits that cannot be made.
    """
    is_divided = bool(args.folds or args.groups or args.group_pattern)
    if args.split and not is_divided:
        raise ConfigError(
            f"--split {' '.join(args.split)}: expected --folds, --groups or --group-pattern with it; name the split to "
            "test on by --test, or say how to divide these"
        )
    names = (args.split or ["train"]) if is_divided else _given_splits(args)
    if len(set(names)) < len(names):
        raise ConfigError(f"splits {', '.join(names)}: one is named twice; expected different ones")
    manifests = [read_manifest(args.data / f"{name}.tsv") for name in names]
    if is_there(args.data / FILE_NAME):
        vocabulary = read_vocabulary(args.data / FILE_NAME)
    else:
        vocabulary = collect_vocabulary(args.data / f"{name}.lbl" for name in (names if is_divided else names[:1]))
    labels = join_labels(
        [
            read_labels(args.data / f"{name}.lbl", vocabulary, len(manifest), args.multi_label)
            for name, manifest in zip(names, manifests, strict=True)
        ]
    )
    groups = _groups(args, manifests)
    manifest = join(manifests)
    broken = BrokenFiles("probe", manifest)
    broken.reasons.update(reasons)
    rows = np.setdiff1d(_long_enough(broken, grid, args.max_seconds), list(reasons))
    targets = labels.targets(rows) > 0  # [N, K]
    if np.count_nonzero(targets.any(0)) < 2:
        raise ConfigError(
            f"{labels.name}: all clips have the same label; expected at least two classes; check the label files"
        )
    data = ProbeData(
        targets=targets if args.multi_label else targets.argmax(1),
        names=vocabulary.names,
        groups=None if groups is None else groups[rows],
    )
    parts = np.repeat(np.arange(len(manifests)), list(map(len, manifests)))[rows]
    found = {seed: _split(args, data, parts, seed) for seed in args.seeds}
    return LabelledClips(manifest, rows.tolist(), data, found, broken)


def _given_splits(args: argparse.Namespace) -> list[str]:
    """Return the splits to use as they are: train, test, and valid where it is."""
    valid = args.valid
    if valid is None and args.test != "valid" and is_there(args.data / "valid.tsv"):
        valid = "valid"
    if not is_there(args.data / f"{args.test}.tsv"):
        raise ConfigError(
            f"--test {args.test}: there is no {args.data / args.test}.tsv; expected a split to test on; name one, or "
            "divide --split with --folds, --groups or --group-pattern"
        )
    return [args.train, args.test, *([valid] if valid is not None else [])]


def _groups(args: argparse.Namespace, manifests: Sequence[Manifest]) -> np.ndarray | None:
    """Return the group of each clip [N], from a file or the paths; None where neither was given."""
    if args.group_pattern is not None:
        clips = [(manifest, row) for manifest in manifests for row in range(len(manifest))]
        return np.array([_group_of(manifest, row, args.group_pattern) for manifest, row in clips])
    if args.groups is None:
        return None
    names = [line.strip() for line in read_lines(args.groups)]
    num_clips = sum(map(len, manifests))
    if len(names) != num_clips:
        raise ConfigError(
            f"{args.groups}: found {len(names)} lines; expected {num_clips}, one for each clip of "
            f"{', '.join(manifest.name for manifest in manifests)}; write it anew"
        )
    if "" in names:
        raise ConfigError(f"{args.groups}:{names.index('') + 1}: a blank line; expected the clip's group")
    return np.array(names)


def _group_of(manifest: Manifest, row: int, pattern: re.Pattern[str]) -> str:
    path = manifest.relative_path(row)
    found = pattern.search(path)
    if found is None or not found[1]:
        raise ConfigError(
            f"{manifest.where(row)}: --group-pattern finds nothing in {path!r}; expected a group for each clip; "
            "change the pattern or give --groups"
        )
    return found[1]


def _long_enough(broken: BrokenFiles, grid: TokenGrid, max_seconds: float | None) -> np.ndarray:
    """Return the rows of clips that are long enough; `broken` takes in the others."""
    manifest = cast(Manifest | ConcatManifest, broken.clips)
    num_samples = readable_samples(manifest)
    if max_seconds is not None:
        num_samples = np.minimum(num_samples, round(max_seconds * SAMPLE_RATE))
    rows = long_enough(manifest.name, num_samples, grid)
    for row in np.setdiff1d(np.arange(len(manifest)), rows).tolist():
        broken.add(row, unusable(manifest, row, int(num_samples[row]), grid, MIN_TOKENS))
    return rows


def _split(args: argparse.Namespace, data: ProbeData, parts: np.ndarray, seed: int) -> list[Split]:
    """Split clips as the arguments say; `parts` [N] are those given: 0 for training, 1 for test, 2 for validation."""
    if data.groups is not None:
        found = splits.split_by_groups(data, seed)
    elif args.folds is not None:
        found = splits.split_by_folds(data, args.folds, seed)
    else:
        train, test, valid = (np.flatnonzero(parts == part) for part in range(3))
        found = [splits.given_split(data, train, valid if len(valid) else None, test, seed, args.test)]
    if args.shots is None:
        return found
    return [splits.few_shot(data, split, args.shots, seed) for split in found]
