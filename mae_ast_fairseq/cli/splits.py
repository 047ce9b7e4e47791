"""Labelled clips and how a command divides them: by their splits, into folds, or by groups such as speakers."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mae_ast_fairseq.corpus.script import read_lines
from mae_ast_fairseq.data.concat import ConcatManifest, join
from mae_ast_fairseq.data.labels import (
    FILE_NAME,
    Vocabulary,
    collect_vocabulary,
    join_labels,
    read_labels,
    read_vocabulary,
)
from mae_ast_fairseq.data.manifest import Manifest, read_manifest
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.evaluation import splits
from mae_ast_fairseq.evaluation.splits import Division, Task
from mae_ast_fairseq.nn.fbank import SAMPLE_RATE, num_frames
from mae_ast_fairseq.nn.tokens import MIN_TOKENS, TokenGrid


class Clips:
    """Some rows of manifests, with the interface that `features` asks for.

    Args:
        manifest: one, or several joined.
        rows: [N] those that are kept.
    """

    def __init__(self, manifest: Manifest | ConcatManifest, rows: np.ndarray):
        self._manifest, self._rows = manifest, rows
        self.num_samples = manifest.num_samples[rows]
        self.sample_rates = manifest.sample_rates[rows]
        self.num_samples_at_16k = manifest.num_samples_at_16k[rows]

    def __len__(self) -> int:
        return len(self._rows)

    def path(self, row: int) -> str:
        """Return the path of a clip's file."""
        return self._manifest.path(int(self._rows[row]))

    def where(self, row: int) -> str:
        """Name a clip as `file:line`, for messages."""
        return self._manifest.where(int(self._rows[row]))


class Data(NamedTuple):
    """The labelled clips of all splits, one after another, without those too short for the model."""

    clips: Clips
    task: Task
    parts: np.ndarray
    """[N] which split each clip is of: by splits 0 for training, 1 for test, 2 for validation"""


def add_division_arguments(parser: argparse.ArgumentParser) -> None:
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
        "--split", nargs="+", default=["train"], help="the splits to divide into folds or groups (default: train)"
    )
    parser.add_argument("--folds", type=int, help="test on each of so many stratified folds of --split")
    parser.add_argument(
        "--groups",
        type=Path,
        help="file with the group (speaker, given fold) of each clip of --split, one a line: test on each group, and "
        "choose by groups that were not learnt from",
    )
    parser.add_argument(
        "--group-pattern",
        metavar="REGEX",
        help="the same, the group being what the parentheses capture in a clip's path, as in '_([a-z]+)_'",
    )
    parser.add_argument("--multi-label", action="store_true", help="a clip may have many labels: mAP, linear and ridge")
    parser.add_argument("--shots", type=int, help="training clips of each class, drawn by seed (default: all)")


def check_division_arguments(args: argparse.Namespace) -> None:
    """Raise ConfigError where the arguments contradict each other."""
    ways = [option for option in ("folds", "groups", "group_pattern") if getattr(args, option) is not None]
    if len(ways) > 1:
        names = " and ".join(f"--{way.replace('_', '-')}" for way in ways)
        raise ConfigError(f"{names} were given; expected one of them, or none to use the splits as they are")
    if args.folds is not None and args.folds < 2:
        raise ConfigError(f"--folds {args.folds}: expected at least 2")
    if args.shots is not None and args.shots < 1:
        raise ConfigError(f"--shots {args.shots}: expected at least 1")
    if args.multi_label and args.shots is not None:
        raise ConfigError("--shots: with --multi-label a clip counts for many classes; expected single labels")


def read_data(args: argparse.Namespace, grid: TokenGrid) -> Data:
    """Read manifests and labels of the splits wanted; leave clips out that are too short for the model, and say so.

    Raises ManifestError or ConfigError.
    """
    by_split = args.folds is None and args.groups is None and args.group_pattern is None
    splits = _given_splits(args) if by_split else args.split
    if len(set(splits)) < len(splits):
        raise ConfigError(f"splits {', '.join(splits)}: one is named twice; expected different ones")
    manifests = [read_manifest(args.data / f"{split}.tsv") for split in splits]
    vocabulary = _vocabulary(args.data, splits[:1] if by_split else splits)
    labels = join_labels(
        [
            read_labels(args.data / f"{split}.lbl", vocabulary, len(manifest), args.multi_label)
            for split, manifest in zip(splits, manifests, strict=True)
        ]
    )
    groups = _groups(args, manifests)
    rows = _long_enough(join(manifests), grid, args.max_seconds)
    targets = labels.targets(rows) > 0  # [N, K]
    if np.count_nonzero(targets.any(0)) < 2:
        raise ConfigError(
            f"{labels.name}: all clips have the same label; expected at least two classes; check the label files"
        )
    task = Task(
        targets=targets if args.multi_label else targets.argmax(1),
        names=vocabulary.names,
        groups=None if groups is None else groups[rows],
    )
    parts = np.repeat(np.arange(len(manifests)), list(map(len, manifests)))
    return Data(Clips(join(manifests), rows), task, parts[rows])


def _long_enough(manifest: Manifest | ConcatManifest, grid: TokenGrid, max_seconds: float | None) -> np.ndarray:
    """Return the rows of clips with at least two tokens; raises ConfigError where there are none."""
    num_samples = manifest.num_samples_at_16k
    if max_seconds is not None:
        num_samples = np.minimum(num_samples, round(max_seconds * SAMPLE_RATE))
    is_enough = grid.num_tokens(num_frames(num_samples)) >= MIN_TOKENS
    if not is_enough.any():
        raise ConfigError(
            f"{manifest.name}: none of its {len(manifest)} clips has {MIN_TOKENS} tokens of the model; give longer "
            "clips or raise --max-seconds"
        )
    if not is_enough.all():
        first = int(np.argmin(is_enough))
        print(
            f"left out {np.count_nonzero(~is_enough)} of {len(manifest)} clips, which have fewer than {MIN_TOKENS} "
            f"tokens of the model; the first: {manifest.path(first)}",
            file=sys.stderr,
        )
    return np.flatnonzero(is_enough)


def _vocabulary(folder: Path, splits: Sequence[str]) -> Vocabulary:
    """Return the classes: those of labels.txt, or where there is none, what stands in the splits."""
    if (folder / FILE_NAME).exists():
        return read_vocabulary(folder / FILE_NAME)
    return collect_vocabulary(folder / f"{split}.lbl" for split in splits)


def _given_splits(args: argparse.Namespace) -> list[str]:
    """Return the splits to use as they are: train, test, and valid where it is."""
    valid = args.valid
    if valid is None and args.test != "valid" and (args.data / "valid.tsv").exists():
        valid = "valid"
    if not (args.data / f"{args.test}.tsv").exists():
        raise ConfigError(
            f"--test {args.test}: there is no {args.data / args.test}.tsv; expected a split to test on; name one, or "
            "divide --split with --folds, --groups or --group-pattern"
        )
    return [args.train, args.test, *([valid] if valid is not None else [])]


def _groups(args: argparse.Namespace, manifests: Sequence[Manifest]) -> np.ndarray | None:
    """Return the group of each clip [N], from a file or the paths."""
    num_clips = sum(map(len, manifests))
    if args.groups is not None:
        names = [line.strip() for line in read_lines(args.groups)]
        if len(names) != num_clips:
            raise ConfigError(
                f"{args.groups}: found {len(names)} lines; expected {num_clips}, one for each clip of "
                f"{', '.join(manifest.name for manifest in manifests)}; write it anew"
            )
        if "" in names:
            raise ConfigError(f"{args.groups}:{names.index('') + 1}: a blank line; expected the clip's group")
        return np.array(names)
    if args.group_pattern is None:
        return None
    pattern = _compile(args.group_pattern)
    names = []
    for manifest in manifests:
        for row in range(len(manifest)):
            found = pattern.search(manifest.relative_path(row))
            if found is None or not found[1]:
                raise ConfigError(
                    f"{manifest.where(row)}: --group-pattern finds nothing in {manifest.relative_path(row)!r}; "
                    "expected a group for each clip; change the pattern or give --groups"
                )
            names.append(found[1])
    return np.array(names)


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--group-pattern {pattern!r}: {error}; expected a regular expression") from None
    if compiled.groups != 1:
        raise ConfigError(
            f"--group-pattern {pattern!r}: it has {compiled.groups} pairs of parentheses; expected one, around the "
            "group"
        )
    return compiled


def divide(args: argparse.Namespace, data: Data, seed: int) -> list[Division]:
    """Divide the clips as the arguments say, and keep only the shots wanted; raises ConfigError."""
    if data.task.groups is not None:
        found = splits.divide_by_groups(data.task, seed)
    elif args.folds is not None:
        found = splits.divide_by_folds(data.task, args.folds, seed)
    else:
        train, test, valid = (np.flatnonzero(data.parts == part) for part in range(3))
        found = splits.divide_by_split(data.task, train, valid if len(valid) else None, test, seed)
    if args.shots is None:
        return found
    return [splits.few_shot(data.task, division, args.shots, seed) for division in found]
