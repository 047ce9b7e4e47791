"""`mae-ast probe`: how well simple classifiers do on a checkpoint's frozen features, beside baselines."""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

from mae_ast_fairseq.checkpoints.read import Checkpoint, build_model, build_untrained
from mae_ast_fairseq.cli.arguments import seconds, seed
from mae_ast_fairseq.cli.model import (
    add_checkpoint_argument,
    add_device_arguments,
    check_device_arguments,
    open_checkpoint,
)
from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.cli.splits import LabelledClips, add_split_arguments, read_clips
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.evaluation import plots, probes
from mae_ast_fairseq.evaluation.metrics import evaluate
from mae_ast_fairseq.evaluation.scores import confusion
from mae_ast_fairseq.evaluation.splits import ProbeData, Split
from mae_ast_fairseq.inference.features import clip_features
from mae_ast_fairseq.nn.build import build_grid
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder
from mae_ast_fairseq.nn.readout import (
    ALL,
    LAST,
    READOUTS,
    check_readout,
    layer_numbers,
    parse_layers,
    possible_readouts,
)

EXAMPLE = "mae-ast probe runs/a/checkpoints/checkpoint_best.pt --data labelled --split train test --folds 5"

METRICS = {False: ("accuracy", "balanced_accuracy", "macro_auc"), True: ("mAP", "macro_auc", "d_prime")}
TRAINED, RANDOM, LOG_MEL = "checkpoint", "random weights", "log-Mel"
BEST = "best"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(parser, "of any of our models, as released, or tiny")
    add_split_arguments(parser)
    parser.add_argument(
        "--classifier",
        nargs="+",
        choices=probes.CLASSIFIERS,
        help="(default: linear and knn; knn with single labels only; ridge is linear too, and quick with long vectors)",
    )
    parser.add_argument(
        "--layer",
        default=BEST,
        help="a number from 1, several as in 2,4, last, all (one after another), best (one, by validation clips) or "
        "each, which lists them, all, and the best of these (default: %(default)s)",
    )
    parser.add_argument(
        "--readout",
        choices=[*READOUTS, ALL],
        default="mean",
        help="of a clip's vector from its tokens, or all, which compares them and shows the best (on validation "
        "clips) (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=seed,
        nargs="+",
        default=[1337],
        help="of shots, folds, validation parts and random weights; of several the mean (default: 1337)",
    )
    parser.add_argument("--no-baselines", action="store_true", help="leave out log-Mel statistics and random weights")
    parser.add_argument("--max-seconds", type=seconds, help="only this much of a clip's start (default: all of it)")
    parser.add_argument("--confusion", type=Path, metavar="PNG", help="draw the checkpoint's confusion matrix")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, with those of each fold")
    add_device_arguments(parser)


class Row(NamedTuple):
    """A line of the table: one choice of features, classifier, readout and layer."""

    features: str
    classifier: str
    readout: str
    """`best` or a readout"""
    layer: str
    """`best`, `last`, `all` or numbers"""


class Outcome(NamedTuple):
    """What a row reached with one seed in one split."""

    seed: int
    split: Split
    choice: probes.Choice
    scores: np.ndarray
    """[M, K] of the split's test rows"""


def run(args: argparse.Namespace) -> int:
    """Read the data, extract features once, probe them by every seed and split, print the table.

    Returns 1 where some clips are broken, which are left out with their labels, 2 where all are.
    """
    placement = check_device_arguments(args)
    _check_arguments(args)
    checkpoint = open_checkpoint(args)
    layers = _layers(args.layer, checkpoint.model.encoder_layers)
    grid = build_grid(checkpoint.model, checkpoint.feature_dim)
    if args.readout != ALL:
        check_readout("--readout", args.readout, grid.rows)
    clips = read_clips(args, grid)
    trained = _extract(args, build_model(checkpoint), clips, placement)
    if clips.broken.reasons:
        code = clips.broken.exit_code(len(next(iter(trained.values()))))
        clips = read_clips(args, grid, clips.broken.reasons)
    else:
        code = 0
    outcomes: dict[Row, list[Outcome]] = {}
    for name, seeds, readouts in _feature_sets(args, checkpoint, clips, trained, placement):
        for row, outcome in _probe(args, clips, name, seeds, readouts, layers):
            outcomes.setdefault(row, []).append(outcome)
    summary = _summarize(args, clips, outcomes)
    if args.confusion is not None:
        _draw_confusion(args, clips.data, outcomes, summary["results"])
    print_result(args, summary, _as_table(summary, METRICS[args.multi_label]))
    return code


def _check_arguments(args: argparse.Namespace) -> None:
    if len(set(args.seeds)) < len(args.seeds):
        raise ConfigError(f"--seeds {' '.join(map(str, args.seeds))}: expected different ones")
    if args.multi_label and "knn" in (args.classifier or ()):
        raise ConfigError(
            "--classifier knn: neighbours vote for one label a clip; expected linear or ridge with --multi-label"
        )
    if args.confusion is not None:
        plots.check_confusion(args.confusion, args.multi_label)


def _layers(layer: str, num_layers: int) -> tuple[list[str], list[str]]:
    """Read `--layer`: what there is to choose from, and what of it has rows in the table; raises ConfigError."""
    single = list(map(str, range(1, num_layers + 1)))
    if layer == BEST:
        return single, [BEST]
    if layer == "each":
        return [*single, ALL], [*single, ALL, BEST]
    if layer == ALL:
        return [ALL], [ALL]
    try:
        numbers = layer_numbers("--layer", parse_layers(layer), num_layers)
    except ConfigError as error:
        raise ConfigError(f"{error}, best or each") from None
    name = ",".join(map(str, numbers))
    return [name], [LAST if layer == LAST else name]


def _extract(
    args: argparse.Namespace,
    model: SpectrogramEncoder,
    clips: LabelledClips,
    placement: tuple[torch.device, torch.dtype],
) -> dict[str, np.ndarray]:
    """Return features [N, layers, D] by readout, without those of clips that prove broken."""
    names = possible_readouts(model.grid.rows) if args.readout == ALL else [args.readout]
    how = {"max_seconds": args.max_seconds, "rows": clips.rows, "broken": clips.broken}
    return clip_features(model.to(*placement), clips.manifest, names, **how)


def _feature_sets(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    clips: LabelledClips,
    trained: dict[str, np.ndarray],
    placement: tuple[torch.device, torch.dtype],
) -> Iterator[tuple[str, Sequence[int], dict[str, np.ndarray]]]:
    """Yield (name, seeds that use it, [N, D, C] by readout): one set beside the `trained` one is held."""
    yield TRAINED, args.seeds, trained
    if not args.no_baselines:
        log_mel = probes.log_mel_readouts(clips.manifest, clips.rows, checkpoint.feature_dim, args.max_seconds)
        yield LOG_MEL, args.seeds, log_mel
        for number in args.seeds:
            yield RANDOM, [number], _extract(args, build_untrained(checkpoint, number), clips, placement)


def _probe(
    args: argparse.Namespace,
    clips: LabelledClips,
    name: str,
    seeds: Sequence[int],
    readouts: dict[str, np.ndarray],
    layers: tuple[list[str], list[str]],
) -> Iterator[tuple[Row, Outcome]]:
    """Yield what each classifier reaches on one set of features, for every row of the table that shows it."""
    is_log_mel = name == LOG_MEL
    layer_names, shown_layers = ([probes.NO_LAYER], [probes.NO_LAYER]) if is_log_mel else layers
    shown_readouts = [*readouts, BEST] if args.readout == ALL else [BEST if is_log_mel else args.readout]
    candidates = probes.candidates_of(readouts, layer_names)
    classifiers = args.classifier or ["linear", *([] if args.multi_label else ["knn"])]
    divided = [(number, split) for number in seeds for split in clips.splits[number]]
    jobs = list(itertools.product(dict.fromkeys(classifiers), divided))
    for classifier, (number, split) in tqdm(jobs, desc=name, unit=" probes", disable=None):
        choices = probes.compare(candidates, clips.data, split, classifier)
        scores: dict[probes.Choice, np.ndarray] = {}
        for readout, layer in itertools.product(shown_readouts, shown_layers):
            choice = probes.best(
                choices,
                readout=None if readout == BEST else readout,
                layer=layer if layer in layer_names else None,
            )
            if choice not in scores:
                values = candidates[choice.candidate]
                scores[choice] = probes.test_scores(values, clips.data, split, classifier, choice)
            yield Row(name, classifier, readout, layer), Outcome(number, split, choice, scores[choice])


def _summarize(args: argparse.Namespace, clips: LabelledClips, outcomes: dict[Row, list[Outcome]]) -> dict[str, Any]:
    """Return what `--json` prints."""
    data = clips.data
    results = []
    for row, some in outcomes.items():
        runs = [
            {
                "seed": outcome.seed,
                "test": outcome.split.name,
                "num_train": len(outcome.split.train),
                "num_test": len(outcome.split.test),
                **outcome.choice.candidate._asdict(),
                "floor": outcome.choice.setting.floor,
                probes.CLASSIFIERS[row.classifier].symbol: outcome.choice.setting.value,
                "validation": outcome.choice.score,
                **evaluate(outcome.scores, data.targets[outcome.split.test], data.is_multi_label),
            }
            for outcome in some
        ]
        means = {metric: _mean_and_std(runs, args.seeds, metric) for metric in METRICS[args.multi_label]}
        results.append({**row._asdict(), **means, "runs": runs})
    tested = [split.name for split in clips.splits[args.seeds[0]]]
    return {
        "checkpoint": str(args.checkpoint),
        "data": str(args.data),
        "num_clips": len(data.targets),
        "num_classes": len(data.names),
        "tested": tested,
        "readout": args.readout,
        "shots": args.shots,
        "seeds": args.seeds,
        "deviation_over": "seeds" if len(args.seeds) > 1 else "tests" if len(tested) > 1 else None,
        "results": results,
        "broken": clips.broken.as_json(),
    }


def _mean_and_std(runs: Sequence[dict[str, Any]], seeds: Sequence[int], metric: str) -> dict[str, float | None]:
    """Return the mean over all, and the deviation between seeds, or where there is one, between its tests."""
    by_seed = [[run_[metric] for run_ in runs if run_["seed"] == number] for number in seeds]
    means = [float(np.mean(values)) for values in by_seed]
    values = means if len(means) > 1 else by_seed[0]
    return {"mean": float(np.mean(means)), "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _draw_confusion(
    args: argparse.Namespace, data: ProbeData, outcomes: dict[Row, list[Outcome]], results: Sequence[dict[str, Any]]
) -> None:
    """Draw the matrix of the checkpoint's last row of its first classifier, its tests and seeds together."""
    first = next(iter(outcomes))
    row = [other for other in outcomes if other[:2] == first[:2]][-1]
    tests = [data.targets[outcome.split.test] for outcome in outcomes[row]]
    counts = confusion(np.concatenate([outcome.scores for outcome in outcomes[row]]), np.concatenate(tests))
    accuracy = counts.trace() / counts.sum()
    readout, layer = (_chosen(results[list(outcomes).index(row)], what) for what in ("readout", "layer"))
    title = f"{args.checkpoint.name}: {row.classifier} probe, {readout} of layer {layer}, accuracy {accuracy:.1%}"
    plots.save_confusion(args.confusion, counts=counts, names=data.names, title=title)


def _as_table(summary: dict[str, Any], metrics: Sequence[str]) -> str:
    title = (
        f"{summary['num_clips']} clips of {summary['num_classes']} classes, tested on {', '.join(summary['tested'])}"
        + (f"; {summary['shots']} training clips a class" if summary["shots"] else "")
        + f"; seeds {', '.join(map(str, summary['seeds']))}"
    )
    rows = [
        [result["features"], result["classifier"], _chosen(result, "readout"), _chosen(result, "layer")]
        + [_value_text(metric, result[metric]) for metric in metrics]
        for result in summary["results"]
    ]
    aligned = ["left"] * 4 + ["right"] * len(metrics)
    table = tabulate(rows, [*Row._fields, *metrics], tablefmt="plain", colalign=aligned, disable_numparse=True)
    note = [f"mean ± standard deviation between {summary['deviation_over']}"] if summary["deviation_over"] else []
    return "\n".join([title, table, *note])


def _chosen(result: dict[str, Any], what: str) -> str:
    """Say which readouts or layers were chosen, the most frequent first."""
    if result[what] not in (BEST, LAST):
        return result[what]
    chosen = [run_[what] for run_ in result["runs"]]
    often = sorted(set(chosen), key=lambda name: (-chosen.count(name), name))
    return f"{result[what]}: {' '.join(often)}"


def _value_text(metric: str, value: dict[str, float | None]) -> str:
    mean, deviation = value["mean"], value["deviation"]
    form = ".3f" if metric == "d_prime" else ".1%"
    return f"{mean:{form}}" + ("" if deviation is None else f" ± {deviation:{form}}".replace("%", ""))
