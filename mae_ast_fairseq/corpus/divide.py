"""Dividing a corpus into splits: at random, or by whole groups such as speakers, with like fractions of each label.

scikit-learn's splitters do a part of it each: GroupShuffleSplit counts groups and not their clips,
StratifiedShuffleSplit refuses classes of one clip, StratifiedGroupKFold makes n equal parts, and none takes clips of
several labels.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mae_ast_fairseq.corpus.script import TEST, TRAIN, VALID, split_side, unit_hash
from mae_ast_fairseq.errors import ConfigError

_ALL = ""  # stands for a label that every clip has, where clips have none


def divide(
    names: Sequence[str],
    fractions: Mapping[str, float],
    *,
    seed: int,
    groups: Mapping[str, str] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """Return the split of each clip.

    Without groups and labels a clip's split follows from the seed and its name alone, so that it stays when others come
    or go, and sizes vary as those of any draw do; only a split that would be empty gets the clip that is nearest to it.
    Otherwise sizes come as near the fractions as whole groups let them,
    and a label is in every split where at least as many groups have it, and else in train.

    Args:
        names: of the clips, each once.
        fractions: of "valid" and "test", together below 1; 0 for none.
        groups: the group of each clip, which is not cut.
        labels: the labels of each clip, whose fractions are to be alike.
    """
    valid, test = fractions[VALID], fractions[TEST]
    if groups is None and labels is None:
        return _none_empty({name: split_side(name, valid, seed, test) for name in names}, fractions, seed)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        members[groups[name] if groups is not None else name].append(name)
    contents = {
        group: Counter(label for name in own for label in ((labels and labels[name]) or [_ALL]))
        for group, own in sorted(members.items(), key=lambda item: unit_hash(item[0], seed))
    }
    wanted = {TRAIN: 1 - valid - test, VALID: valid, TEST: test}
    split_of = _assign(contents, {split: fraction for split, fraction in wanted.items() if fraction > 0})
    return {name: split_of[group] for group, own in members.items() for name in own}


def _none_empty(split_of: dict[str, str], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """Give a split that a draw of few clips left empty the clip that a larger fraction would give it first."""
    for split, nearest in {VALID: min, TEST: max}.items():
        others = [name for name, other in split_of.items() if other == TRAIN]
        if fractions[split] > 0 and split not in split_of.values() and len(others) > 1:
            split_of[nearest(others, key=lambda name: unit_hash(name, seed))] = split
    return split_of


def _assign(contents: Mapping[str, Counter[str]], fractions: Mapping[str, float]) -> dict[str, str]:
    """Return the split of each group, of which the clips of each label are given, in an order drawn at random.

    As in iterative stratification: the rarest label first, and of its groups the largest; each goes where most is
    missing. Where less than a mean group is missing in each, what was missing of the labels before counts as well.
    """
    by_label: defaultdict[str, list[str]] = defaultdict(list)
    for group, counts in contents.items():
        for label in counts:
            by_label[label].append(group)
    missing = {label: _wanted([contents[group][label] for group in own], fractions) for label, own in by_label.items()}
    units = {label: sum(contents[group][label] for group in own) / len(own) for label, own in by_label.items()}
    owed = dict.fromkeys(fractions, 0.0)  # of the labels before
    found: dict[str, str] = {}
    for label, own in sorted(by_label.items(), key=lambda item: len(item[1])):
        parts, least = missing[label], units[label] - 1e-9
        # Sizes within a power of two count as equal, or else the largest groups would always be in train.
        for group in sorted(own, key=lambda group: -contents[group].total().bit_length()):
            if group in found:
                continue
            found[group] = max(
                [split for split in fractions if parts[split] > 1e-9] or fractions,
                key=lambda split: (parts[split] if parts[split] >= least else 0, parts[split] + owed[split]),
            )
            for other, count in contents[group].items():
                missing[other][found[group]] -= count
        for split in fractions:
            owed[split] += parts[split]
    return found


def _wanted(sizes: Sequence[int], fractions: Mapping[str, float]) -> dict[str, float]:
    """Return how many clips of a label each split is to have: of a mean group at least, or train alone of too few."""
    total, unit = sum(sizes), sum(sizes) / len(sizes)
    least = {split: unit * (split == TRAIN or len(sizes) >= len(fractions)) for split in fractions}
    above = {split: max(0.0, fraction * total - least[split]) for split, fraction in fractions.items()}
    scale = (total - sum(least.values())) / (sum(above.values()) or 1)
    return {split: least[split] + scale * part for split, part in above.items()}


def check_whole(groups: Mapping[str, str], split_of: Mapping[str, str]) -> None:
    """Raise ConfigError where a group is in two splits, as lists and tables can have it."""
    first: dict[str, str] = {}
    for name, split in split_of.items():
        other = first.setdefault(groups[name], name)
        if split_of[other] != split:
            raise ConfigError(
                f"group {groups[name]!r}: {other!r} was given to {split_of[other]} and {name!r} is in {split}; "
                "expected a group's files in one split; list all of them, or none"
            )


def describe_rare(labels: Mapping[str, Iterable[Sequence[str]]], num_shown: int = 5) -> str:
    """Name the labels that some split lacks, given the labels of each split's clips; empty where none does."""
    counts = {split: Counter(label for own in rows for label in own) for split, rows in labels.items()}
    total: Counter[str] = sum(counts.values(), Counter())
    rare = {label: [split for split in counts if not counts[split][label]] for label in sorted(total)}
    shown = [
        f"{label!r} ({total[label]} {'clip' if total[label] == 1 else 'clips'}, none in {' and '.join(lacking)})"
        for label, lacking in rare.items()
        if lacking
    ]
    if not shown:
        return ""
    more = [f"{len(shown) - num_shown} others"] if len(shown) > num_shown else []
    return f"{len(shown)} of {len(total)} labels are not in every split: {', '.join([*shown[:num_shown], *more])}"
