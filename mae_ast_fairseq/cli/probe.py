"""`mae-ast probe`: how well simple classifiers do on a checkpoint's frozen features, beside baselines."""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from mae_ast_fairseq import fbank, plots, probing
from mae_ast_fairseq.checkpoints import Checkpoint, build_model, build_untrained, read_checkpoint
from mae_ast_fairseq.cli.device import add_device_arguments, check_device_arguments
from mae_ast_fairseq.cli.division import (
    Clips,
    Data,
    add_division_arguments,
    check_division_arguments,
    divide,
    read_data,
)
from mae_ast_fairseq.cli.output import prepare_folder
from mae_ast_fairseq.config import require_choice
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.divisions import Division, Task
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.features import pooled_features
from mae_ast_fairseq.nn.build import build_grid
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder

HELP = "Probe frozen features: linear and nearest-neighbour classifiers on labelled clips, beside baselines."
EXAMPLE = "mae-ast probe checkpoints/checkpoint_best.pt --data manifests/digits --split train test --folds 5"

POOLS = ("mean", "mean+deviation")
METRICS = {False: ("accuracy", "balanced_accuracy", "macro_auc"), True: ("mAP", "macro_auc", "d_prime")}
TRAINED, RANDOM, LOG_MEL = "checkpoint", "random weights", "log-Mel statistics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", type=Path, help="of any of our models, or as released")
    add_division_arguments(parser)
    parser.add_argument(
        "--classifier",
        nargs="+",
        metavar="NAME",
        help=f"{', '.join(probing.CLASSIFIERS)} (default: all; knn with single labels only)",
    )
    parser.add_argument(
        "--layer",
        default="best",
        help="a number from 1, last, best (on validation clips) or all, which lists each (default: %(default)s)",
    )
    parser.add_argument("--pool", default="mean", help=f"over a clip's tokens: {', '.join(POOLS)} (default: mean)")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[1337],
        help="of shots, folds, validation parts and random weights; of several the mean (default: 1337)",
    )
    parser.add_argument("--no-baselines", action="store_true", help="leave out log-Mel statistics and random weights")
    parser.add_argument("--max-seconds", type=float, help="only this much of a clip's start (default: all of it)")
    parser.add_argument("--confusion", type=Path, metavar="PNG", help="draw the checkpoint's confusion matrix")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, with those of each fold")
    add_device_arguments(parser)


class Row(NamedTuple):
    """A line of the table: one choice of features, classifier and layer."""

    features: str
    classifier: str
    layer: str
    """`best`, `last` or a number"""


class Outcome(NamedTuple):
    """What a row reached with one seed in one division."""

    seed: int
    division: Division
    choice: probing.Choice
    scores: np.ndarray
    """[M, K] of the division's test rows"""


def run(args: argparse.Namespace) -> int:
    """Read the data, extract features once, probe them by every seed and division, print the table."""
    device, dtype = check_device_arguments(args)
    _check_arguments(args)
    checkpoint = read_checkpoint(args.checkpoint)
    _layers(args.layer, checkpoint.model.encoder_layers)
    data = read_data(args, build_grid(checkpoint.model, checkpoint.feature_dim))
    divisions = {seed: divide(args, data, seed) for seed in args.seeds}  # all are good before features are extracted
    outcomes: dict[Row, list[Outcome]] = {}
    for name, seeds, features in _feature_sets(args, checkpoint, data, device, dtype):
        for row, outcome in _probe(args, data.task, name, features, {seed: divisions[seed] for seed in seeds}):
            outcomes.setdefault(row, []).append(outcome)
    summary = _summarize(args, data.task, outcomes)
    if args.confusion is not None:
        _draw_confusion(args, data.task, outcomes)
    print(json.dumps(summary, indent=2) if args.json else _as_table(summary))
    return 0


# --- arguments


def _check_arguments(args: argparse.Namespace) -> None:
    check_division_arguments(args)
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        raise ConfigError(f"--seeds {' '.join(map(str, args.seeds))}: expected different numbers of at least 0")
    if args.max_seconds is not None and not 0 < args.max_seconds < math.inf:
        raise ConfigError(f"--max-seconds {args.max_seconds}: expected more than 0, such as 10")
    require_choice("--pool", args.pool, POOLS)
    for name in args.classifier or ():
        require_choice("--classifier", name, probing.CLASSIFIERS)
    if args.multi_label and "knn" in (args.classifier or ()):
        raise ConfigError("--classifier knn: neighbours vote for one label a clip; expected linear with --multi-label")
    if args.confusion is not None:
        _check_confusion(args)


def _check_confusion(args: argparse.Namespace) -> None:
    plots.require_matplotlib()
    if args.multi_label:
        raise ConfigError("--confusion: with --multi-label there is no confusion matrix; expected single labels")
    if args.confusion.is_dir():
        raise ConfigError(f"--confusion {args.confusion}: this is a folder; expected a file to write, such as a.png")
    prepare_folder("--confusion", args.confusion.parent)


def _layers(layer: str, num_layers: int) -> list[str]:
    """Return the layers of the table's rows; raises ConfigError for one that is not there."""
    if layer == "all":
        return [*map(str, range(1, num_layers + 1)), "best"]
    if layer in ("best", "last") or (layer.isdecimal() and 1 <= int(layer) <= num_layers):
        return [layer]
    raise ConfigError(f"--layer {layer}: expected 1 to {num_layers}, last, best or all")


# --- features


def _feature_sets(
    args: argparse.Namespace, checkpoint: Checkpoint, data: Data, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[str, Sequence[int], np.ndarray]]:
    """Yield (name, seeds that use it, [N, D, C]): one set at a time is held."""

    def extract(model: SpectrogramEncoder) -> np.ndarray:
        deviation = args.pool == "mean+deviation"
        return pooled_features(
            model, data.clips, device=device, dtype=dtype, deviation=deviation, max_seconds=args.max_seconds
        )

    yield TRAINED, args.seeds, extract(build_model(checkpoint))
    if not args.no_baselines:
        yield LOG_MEL, args.seeds, _log_mel_statistics(data.clips, checkpoint.feature_dim, args.max_seconds)
        for seed in args.seeds:
            yield RANDOM, [seed], extract(build_untrained(checkpoint, seed))


def _log_mel_statistics(clips: Clips, num_bands: int, max_seconds: float | None) -> np.ndarray:
    """Return mean and deviation of the log-Mel bands of each clip: [N, 1, 2F]."""
    num_samples = None if max_seconds is None else round(max_seconds * fbank.SAMPLE_RATE)
    statistics = []
    for row in tqdm(range(len(clips)), desc=LOG_MEL, unit=" clips", disable=None):
        waveform = load_audio(
            clips.path(row),
            num_samples=num_samples,
            expect_samples=int(clips.num_samples[row]),
            expect_rate=int(clips.sample_rates[row]),
        )
        frames = fbank.log_mel(torch.from_numpy(waveform), num_mel_bins=num_bands).numpy()
        statistics.append(probing.log_mel_statistics(frames))
    return np.stack(statistics)[:, None]


# --- probing


def _probe(
    args: argparse.Namespace,
    task: Task,
    name: str,
    features: np.ndarray,
    divisions: dict[int, list[Division]],
) -> Iterator[tuple[Row, Outcome]]:
    """Yield what each classifier reaches on one set of features, for every row of the table that shows it."""
    layers = ["-"] if name == LOG_MEL else _layers(args.layer, features.shape[1])
    classifiers = args.classifier or [name for name in probing.CLASSIFIERS if not (args.multi_label and name == "knn")]
    tasks = [
        (classifier, seed, division)
        for classifier in dict.fromkeys(classifiers)
        for seed, some in divisions.items()
        for division in some
    ]
    numbers = {"best": None, "-": None, "last": features.shape[1]}
    for classifier, seed, division in tqdm(tasks, desc=name, unit=" probes", disable=None):
        wanted = None if {"best", "-"} & set(layers) else [numbers.get(layer) or int(layer) for layer in layers]
        choices = probing.compare(features, task, division, classifier, wanted)
        scores: dict[probing.Choice, np.ndarray] = {}
        for layer in layers:
            choice = probing.best(choices, numbers[layer] if layer in numbers else int(layer))
            if choice not in scores:
                scores[choice] = probing.test_scores(features, task, division, classifier, choice)
            yield Row(name, classifier, layer), Outcome(seed, division, choice, scores[choice])


def _summarize(args: argparse.Namespace, task: Task, outcomes: dict[Row, list[Outcome]]) -> dict[str, Any]:
    results = []
    for row, some in outcomes.items():
        runs = [
            {
                "seed": outcome.seed,
                "test": outcome.division.name,
                "num_train": len(outcome.division.train),
                "num_test": len(outcome.division.test),
                "layer": outcome.choice.layer,
                "floor": outcome.choice.setting.floor,
                probing.CLASSIFIERS[row.classifier].symbol: outcome.choice.setting.value,
                "validation": outcome.choice.score,
                **probing.evaluate(outcome.scores, task, outcome.division.test),
            }
            for outcome in some
        ]
        means = {metric: _mean_and_deviation(runs, metric) for metric in METRICS[args.multi_label]}
        results.append({**row._asdict(), **means, "runs": runs})
    divisions = [run["test"] for run in results[0]["runs"] if run["seed"] == args.seeds[0]]
    return {
        "checkpoint": str(args.checkpoint),
        "data": str(args.data),
        "num_clips": len(task.targets),
        "num_classes": len(task.names),
        "tested": divisions,
        "pool": args.pool,
        "shots": args.shots,
        "seeds": args.seeds,
        "deviation_over": "seeds" if len(args.seeds) > 1 else "tests" if len(divisions) > 1 else None,
        "results": results,
    }


def _mean_and_deviation(runs: Sequence[dict[str, Any]], metric: str) -> dict[str, float | None]:
    """Return the mean over all, and the deviation between seeds, or where there is one, between its divisions."""
    by_seed: dict[int, list[float]] = {}
    for run_ in runs:
        by_seed.setdefault(run_["seed"], []).append(run_[metric])
    means = [float(np.mean(values)) for values in by_seed.values()]
    values = means if len(means) > 1 else next(iter(by_seed.values()))
    return {"mean": float(np.mean(means)), "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _draw_confusion(args: argparse.Namespace, task: Task, outcomes: dict[Row, list[Outcome]]) -> None:
    """Draw the matrix of the checkpoint's last row of its first classifier, its divisions and seeds together."""
    rows = [row for row in outcomes if row.features == TRAINED]
    row = [other for other in rows if other.classifier == rows[0].classifier][-1]
    counts = np.zeros((len(task.names),) * 2, dtype=int)
    for outcome in outcomes[row]:
        np.add.at(counts, (task.targets[outcome.division.test], outcome.scores.argmax(1)), 1)
    accuracy = counts.trace() / counts.sum()
    title = f"{args.checkpoint.name}: {row.classifier} probe, layer {row.layer}, accuracy {accuracy:.1%}"
    plots.save_confusion(args.confusion, counts=counts, names=task.names, title=title)


# --- what is printed


def _as_table(summary: dict[str, Any]) -> str:
    results = summary["results"]
    metrics = [key for key in results[0] if isinstance(results[0][key], dict)]
    lines = [
        f"{summary['num_clips']} clips of {summary['num_classes']} classes, tested on {', '.join(summary['tested'])}"
        + (f"; {summary['shots']} training clips a class" if summary["shots"] else "")
        + f"; pooled by {summary['pool']}, seeds {', '.join(map(str, summary['seeds']))}",
        f"{'features':20}{'classifier':12}{'layer':14}" + "".join(f"{metric:>20}" for metric in metrics),
    ]
    for result in results:
        values = [result[metric] for metric in metrics]
        lines.append(
            f"{result['features']:20}{result['classifier']:12}{_layer_text(result):14}"
            + "".join(f"{_value_text(metric, value):>20}" for metric, value in zip(metrics, values, strict=True))
        )
    if summary["deviation_over"]:
        lines.append(f"mean ± standard deviation between {summary['deviation_over']}")
    return "\n".join(lines)


def _layer_text(result: dict[str, Any]) -> str:
    """Say which layers were chosen, the most frequent first."""
    if result["layer"] in ("best", "last"):
        chosen = [run_["layer"] for run_ in result["runs"]]
        often = sorted(set(chosen), key=lambda layer: (-chosen.count(layer), layer))
        return f"{result['layer']}: {','.join(map(str, often))}"
    return result["layer"]


def _value_text(metric: str, value: dict[str, float | None]) -> str:
    mean, deviation = value["mean"], value["deviation"]
    form = ".3f" if metric == "d_prime" else ".1%"
    return f"{mean:{form}}" + ("" if deviation is None else f" ± {deviation:{form}}".replace("%", ""))
