"""`mae-ast evaluate`: what a fine-tuned classifier scores on a labelled split, with confidence intervals."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from mae_ast_fairseq.checkpoints.read import build_model
from mae_ast_fairseq.cli.arguments import at_least, seconds
from mae_ast_fairseq.cli.checkpoint import add_checkpoint_argument, open_checkpoint
from mae_ast_fairseq.cli.device import add_device_arguments, check_device_arguments
from mae_ast_fairseq.cli.output import without_nan
from mae_ast_fairseq.cli.predict import check_window, classifier_fields
from mae_ast_fairseq.data.labels import Vocabulary, read_labels
from mae_ast_fairseq.data.manifest import Manifest, read_manifest
from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.evaluation import plots
from mae_ast_fairseq.evaluation.scores import CONFIDENCE, bootstrap, class_metrics, confusion
from mae_ast_fairseq.inference.predict import predict
from mae_ast_fairseq.nn.classifier import AudioClassifier
from mae_ast_fairseq.nn.fbank import SAMPLE_RATE
from mae_ast_fairseq.rng import Stream, generator

EXAMPLE = "mae-ast evaluate checkpoints/checkpoint_best.pt --data manifests/digits --split test"

EXIT_BROKEN_FILES = 1
BOOTSTRAP_SEED = 1337


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(parser, "of a fine-tuned classifier; its labels are inside")
    parser.add_argument("--data", type=Path, required=True, help="folder of {split}.tsv and {split}.lbl")
    parser.add_argument("--split", default="test", help="the split to score (default: %(default)s)")
    parser.add_argument(
        "--window",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="longer clips get the mean over windows of this length (default: %(default)s)",
    )
    parser.add_argument(
        "--resamples",
        type=at_least(1),
        default=1_000,
        help="draws of the clips with replacement, of which the intervals are percentiles (default: %(default)s)",
    )
    parser.add_argument("--confusion", type=Path, metavar="PNG", help="draw the confusion matrix")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Classify the split's clips and print their scores; 1 where some clips are broken, which are left out."""
    device, dtype = check_device_arguments(args)
    checkpoint = open_checkpoint(args)
    fields = classifier_fields(checkpoint)
    check_window(args, checkpoint)
    if args.confusion is not None:
        plots.check_confusion(args.confusion, fields.multi_label)
    manifest = read_manifest(args.data / f"{args.split}.tsv")
    vocabulary = Vocabulary(tuple(fields.labels))
    labels = read_labels(args.data / f"{args.split}.lbl", vocabulary, len(manifest), fields.multi_label)
    model = cast(AudioClassifier, build_model(checkpoint)).to(device, dtype)
    scores, broken = _classify(model, manifest, args.window)
    targets = labels.targets(np.setdiff1d(np.arange(len(manifest)), list(broken)))
    rng = generator(BOOTSTRAP_SEED, Stream.SAMPLING)
    estimates = bootstrap(scores, targets, fields.multi_label, args.resamples, rng)
    classes = class_metrics(scores, targets, fields.multi_label)
    if args.confusion is not None:
        title = f"{args.checkpoint.name} on {args.split}, accuracy {estimates['accuracy'].value:.1%}"
        counts = confusion(scores, targets.argmax(axis=1))
        plots.save_confusion(args.confusion, counts=counts, names=fields.labels, title=title)
    summary: dict[str, Any] = {
        "checkpoint": str(args.checkpoint),
        "data": str(args.data),
        "split": args.split,
        "multi_label": fields.multi_label,
        "num_clips": len(scores),
        "confidence": CONFIDENCE,
        "metrics": {name: estimate._asdict() for name, estimate in estimates.items()},
        "classes": [{"label": name, **values} for name, values in zip(fields.labels, classes, strict=True)],
        "broken": [{"file": manifest.path(row), "reason": reason} for row, reason in broken.items()],
    }
    summary = without_nan(summary)
    print(json.dumps(summary, indent=2) if args.json else _as_table(summary))
    return EXIT_BROKEN_FILES if broken else 0


def _classify(model: AudioClassifier, manifest: Manifest, window: float) -> tuple[np.ndarray, dict[int, str]]:
    """Return the probabilities of the good clips, each the mean over its windows, and by row why others are broken."""
    scores, broken = [], {}
    num_samples = round(window * SAMPLE_RATE)
    predictions = predict(model, manifest, window_samples=num_samples, hop_samples=num_samples)
    progress = tqdm(predictions, total=len(manifest), unit=" clips", disable=None)
    for row, result in enumerate(progress):
        if isinstance(result, AudioError):
            progress.clear()
            print(f"mae-ast evaluate: {result}", file=sys.stderr)
            broken[row] = str(result)
        else:
            scores.append(np.mean([prediction.probabilities for prediction in result], axis=0))
    if not scores:
        raise AudioError(f"{manifest.name}: none of its {len(manifest)} clips can be read; expected some; see above")
    return np.stack(scores), broken


def _as_table(summary: dict[str, Any]) -> str:
    left_out = f", {len(summary['broken'])} broken ones left out" if summary["broken"] else ""
    title = f"{summary['num_clips']} clips of {summary['split']}{left_out}; {CONFIDENCE:.0%} intervals over clips"
    rows = [{"metric": name, **values} for name, values in summary["metrics"].items()]
    tables = [
        tabulate(some, "keys", tablefmt="plain", floatfmt=".3f", missingval="-", disable_numparse=[0])
        for some in (rows, summary["classes"])
    ]
    return f"{title}\n{tables[0]}\n\n{tables[1]}"
