"""`mae-ast evaluate`: what a fine-tuned classifier scores on a labelled split, with confidence intervals."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from mae_ast_fairseq.cli.arguments import at_least
from mae_ast_fairseq.cli.model import without_nan
from mae_ast_fairseq.cli.predict import add_classifier_arguments, classify, open_classifier
from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.data.labels import Vocabulary, read_labels
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.errors import ConfigError, printable
from mae_ast_fairseq.evaluation import plots
from mae_ast_fairseq.evaluation.scores import CONFIDENCE, bootstrap, class_metrics, confusion
from mae_ast_fairseq.inference.loading import BrokenFiles
from mae_ast_fairseq.rng import Stream, generator

EXAMPLE = "mae-ast evaluate runs/b/checkpoints/checkpoint_best.pt --data labelled --split test"

BOOTSTRAP_SEED = 1337


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_classifier_arguments(parser)
    parser.add_argument("--data", type=Path, required=True, help="folder of {split}.tsv and {split}.lbl")
    parser.add_argument("--split", default="test", help="the split to score (default: %(default)s)")
    parser.add_argument(
        "--resamples",
        type=at_least(1),
        default=1_000,
        help="draws of the clips with replacement, of which the intervals are percentiles (default: %(default)s)",
    )
    parser.add_argument("--confusion", type=Path, metavar="PNG", help="draw the confusion matrix")


def run(args: argparse.Namespace) -> int:
    """Classify the split's clips and print their scores; 1 where some are broken, and left out, 2 where all are."""
    fields, model = open_classifier(args)
    if args.confusion is not None:
        plots.check_confusion(args.confusion, fields.multi_label)
    manifest = read_manifest(args.data / f"{args.split}.tsv")
    vocabulary = Vocabulary(tuple(fields.labels))
    labels = read_labels(args.data / f"{args.split}.lbl", vocabulary, len(manifest), fields.multi_label)
    broken = BrokenFiles("evaluate", manifest)
    found = {row: mean for row, mean, _ in classify(args, model, args.window, broken)}
    code = broken.exit_code(len(found))
    scores, targets = np.stack(list(found.values())), labels.targets(list(found))
    if not np.isfinite(scores).all():
        raise ConfigError(
            f"{args.checkpoint}: its probabilities are not finite in {args.precision}; expected numbers; run it "
            "in float32 or bfloat16, or take a checkpoint from before training diverged"
        )
    rng = generator(BOOTSTRAP_SEED, Stream.SAMPLING)
    estimates = bootstrap(scores, targets, fields.multi_label, args.resamples, rng)
    classes = class_metrics(scores, targets, fields.multi_label)
    if args.confusion is not None:
        title = f"{args.checkpoint.name} on {args.split}, accuracy {estimates['accuracy'].value:.1%}"
        counts = confusion(scores, targets.argmax(axis=1))
        plots.save_confusion(args.confusion, counts=counts, names=fields.labels, title=title)
    summary = without_nan(
        {
            "checkpoint": str(args.checkpoint),
            "data": str(args.data),
            "split": args.split,
            "multi_label": fields.multi_label,
            "num_clips": len(scores),
            "confidence": CONFIDENCE,
            "metrics": {name: estimate._asdict() for name, estimate in estimates.items()},
            "classes": [{"label": name, **values} for name, values in zip(fields.labels, classes, strict=True)],
            "broken": broken.as_json(),
        }
    )
    print_result(args, summary, _as_table(summary))
    return code


def _as_table(summary: dict[str, Any]) -> str:
    left_out = f", {len(summary['broken'])} broken ones left out" if summary["broken"] else ""
    title = f"{summary['num_clips']} clips of {summary['split']}{left_out}; {CONFIDENCE:.0%} intervals over clips"
    rows = [{"metric": name, **values} for name, values in summary["metrics"].items()]
    classes = [{**values, "label": printable(values["label"])} for values in summary["classes"]]
    tables = [
        tabulate(some, "keys", tablefmt="plain", floatfmt=".3f", missingval="-", disable_numparse=[0])
        for some in (rows, classes)
    ]
    return f"{title}\n{tables[0]}\n\n{tables[1]}"
