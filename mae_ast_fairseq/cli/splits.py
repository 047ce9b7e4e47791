"""Labelled clips and how `mae-ast probe` splits them: as they are, into folds, or by groups such as speakers."""

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
from mae_ast_fairseq.evaluation.splits import ProbeData, Split
from mae_ast_fairseq.nn.fbank import SAMPLE_RATE, num_frames
from mae_ast_fairseq.nn.tokens import MIN_TOKENS, TokenGrid


class SelectedClips:
    """Some rows of manifests, with the interface that `clip_features` asks for.

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


class LabelledClips(NamedTuple):
    """The labelled clips of all splits, one after another, without those too short for the model."""

    clips: SelectedClips
    data: ProbeData
    parts: np.ndarray
    """[N] which split each clip is of: with given splits 0 for training, 1 for test, 2 for validation"""


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


def read_clips(args: argparse.Namespace, grid: TokenGrid) -> LabelledClips:
    """Read manifests and labels of the splits wanted; leave clips out that are too short for the model, and say so.

    Raises ManifestError, or ConfigError for arguments that contradict each other.
    """
    ways = {"--folds": args.folds, "--groups": args.groups, "--group-pattern": args.group_pattern}
    given = [option for option, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} were given; expected one of them, or none to take splits as they are")
    splits = args.split if given else _given_splits(args)
    if len(set(splits)) < len(splits):
        raise ConfigError(f"splits {', '.join(splits)}: one is named twice; expected different ones")
    manifests = [read_manifest(args.data / f"{split}.tsv") for split in splits]
    vocabulary = _vocabulary(args.data, splits if given else splits[:1])
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
    data = ProbeData(
        targets=targets if args.multi_label else targets.argmax(1),
        names=vocabulary.names,
        groups=None if groups is None else groups[rows],
    )
    parts = np.repeat(np.arange(len(manifests)), list(map(len, manifests)))
    return LabelledClips(SelectedClips(join(manifests), rows), data, parts[rows])


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


def _vocabulary(folder: Path, splits: Sequence[str]) -> Vocabulary:
    """Return the classes: those of labels.txt, or where there is none, what stands in the splits."""
    if (folder / FILE_NAME).exists():
        return read_vocabulary(folder / FILE_NAME)
    return collect_vocabulary(folder / f"{split}.lbl" for split in splits)


def _groups(args: argparse.Namespace, manifests: Sequence[Manifest]) -> np.ndarray | None:
    """Return the group of each clip [N], from a file or the paths; None where neither was given."""
    if args.group_pattern is not None:
        return _groups_by_pattern(args.group_pattern, manifests)
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


def _groups_by_pattern(text: str, manifests: Sequence[Manifest]) -> np.ndarray:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ConfigError(f"--group-pattern {text!r}: {error}; expected a regular expression") from None
    if pattern.groups != 1:
        raise ConfigError(
            f"--group-pattern {text!r}: it has {pattern.groups} pairs of parentheses; expected one, around the group"
        )
    groups = []
    for manifest in manifests:
        for row in range(len(manifest)):
            found = pattern.search(manifest.relative_path(row))
            if found is None or not found[1]:
                raise ConfigError(
                    f"{manifest.where(row)}: --group-pattern finds nothing in {manifest.relative_path(row)!r}; "
                    "expected a group for each clip; change the pattern or give --groups"
                )
            groups.append(found[1])
    return np.array(groups)


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


def split_clips(args: argparse.Namespace, clips: LabelledClips, seed: int) -> list[Split]:
    """Split the clips as the arguments say, and keep only the shots wanted; raises ConfigError."""
    if clips.data.groups is not None:
        found = splits.split_by_groups(clips.data, seed)
    elif args.folds is not None:
        found = splits.split_by_folds(clips.data, args.folds, seed)
    else:
        train, test, valid = (np.flatnonzero(clips.parts == part) for part in range(3))
        found = [splits.given_split(clips.data, train, valid if len(valid) else None, test, seed, args.test)]
    if args.shots is None:
        return found
    return [splits.few_shot(clips.data, split, args.shots, seed) for split in found]
