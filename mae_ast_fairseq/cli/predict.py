"""`mae-ast predict`: the most likely labels of audio files by a fine-tuned classifier, with probabilities."""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from mae_ast_fairseq.checkpoints.read import Checkpoint, build_model
from mae_ast_fairseq.cli.arguments import at_least, seconds
from mae_ast_fairseq.cli.checkpoint import add_checkpoint_argument, open_checkpoint
from mae_ast_fairseq.cli.device import add_device_arguments, check_device_arguments
from mae_ast_fairseq.cli.inputs import add_input_arguments, read_clips
from mae_ast_fairseq.cli.output import printable
from mae_ast_fairseq.config.pretraining import ClassifierFields
from mae_ast_fairseq.errors import AudioError, CheckpointError, ConfigError
from mae_ast_fairseq.files import atomic_write, prepare_folder
from mae_ast_fairseq.inference.predict import Prediction, predict
from mae_ast_fairseq.nn.build import build_grid
from mae_ast_fairseq.nn.classifier import AudioClassifier
from mae_ast_fairseq.nn.fbank import SAMPLE_RATE, num_frames
from mae_ast_fairseq.nn.tokens import MIN_TOKENS

EXAMPLE = "mae-ast predict checkpoints/checkpoint_best.pt recordings/ --top 3"

EXIT_BROKEN_FILES = 1
COLUMNS = ("file", "part", "start", "end", "rank", "label", "probability")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(parser, "of a fine-tuned classifier; its labels are inside")
    add_input_arguments(parser)
    parser.add_argument("--top", type=at_least(1), default=5, help="labels named of each file (default: %(default)s)")
    parser.add_argument(
        "--window",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="longer files are classified in windows of this length, shorter ones whole (default: %(default)s)",
    )
    parser.add_argument(
        "--hop", type=seconds, metavar="SECONDS", help="from one window's start to the next's (default: --window)"
    )
    parser.add_argument("--json", action="store_true", help="print the predictions as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the predictions, a line a label")
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Classify the files and print a row for each, or each window; 1 where some files are broken."""
    device, dtype = check_device_arguments(args)
    _check_arguments(args)
    checkpoint = open_checkpoint(args)
    fields = classifier_fields(checkpoint)
    check_window(args, checkpoint)
    clips = read_clips(args)
    model = cast(AudioClassifier, build_model(checkpoint)).to(device, dtype)
    files: list[dict[str, Any]] = []
    broken: list[dict[str, str]] = []
    hop = args.window if args.hop is None else args.hop
    predictions = predict(
        model, clips, window_samples=round(args.window * SAMPLE_RATE), hop_samples=max(1, round(hop * SAMPLE_RATE))
    )
    progress = tqdm(predictions, total=len(clips), unit=" files", disable=None)
    for row, result in enumerate(progress):
        if isinstance(result, AudioError):
            progress.clear()
            print(f"mae-ast predict: {result}", file=sys.stderr)
            broken.append({"file": clips.path(row), "reason": str(result)})
        else:
            files.append(_describe(clips.path(row), result, fields.labels, args.top))
    summary = {"checkpoint": str(args.checkpoint), "multi_label": fields.multi_label, "files": files, "broken": broken}
    if args.csv is not None:
        _write_csv(args.csv, files)
    print(json.dumps(summary, indent=2) if args.json else _as_table(summary))
    return EXIT_BROKEN_FILES if broken else 0


# --- arguments


def _check_arguments(args: argparse.Namespace) -> None:
    if args.hop is not None and args.hop > args.window:
        raise ConfigError(
            f"--hop {args.hop}: longer than the window of {args.window} s, so that parts would be left out; expected "
            f"at most {args.window}"
        )
    if args.csv is not None:
        if args.csv.is_dir():
            raise ConfigError(f"--csv {args.csv}: this is a folder; expected a file to write, such as a.csv")
        prepare_folder("--csv", args.csv.parent)


def classifier_fields(checkpoint: Checkpoint) -> ClassifierFields:
    """Return a classifier's fields; raises CheckpointError for a model without labels."""
    if not isinstance(checkpoint.model, ClassifierFields):
        raise CheckpointError(
            f"{checkpoint.path}: it holds a pretrained {checkpoint.kind}, which knows no labels; expected a "
            "mae_ast_classifier; fine-tune it with the task mae_ast_classification first"
        )
    return checkpoint.model


def check_window(args: argparse.Namespace, checkpoint: Checkpoint) -> None:
    """Raise ConfigError where `--window` is too short for the model."""
    grid = build_grid(checkpoint.model, checkpoint.feature_dim)
    num_tokens = grid.num_tokens(num_frames(round(args.window * SAMPLE_RATE)))
    if num_tokens < MIN_TOKENS:
        raise ConfigError(
            f"--window {args.window}: it gives {num_tokens} tokens of the model; expected at least {MIN_TOKENS}; use a "
            "longer one"
        )


# --- results


def _describe(path: str, predictions: Sequence[Prediction], labels: Sequence[str], top: int) -> dict[str, Any]:
    """Return a file's labels, which are those of the mean over its windows, and each window's."""

    def best(probabilities: np.ndarray) -> list[dict[str, Any]]:
        order = np.argsort(-probabilities, kind="stable")[:top]
        return [{"label": labels[place], "probability": float(probabilities[place])} for place in order]

    windows = [
        {
            "start": prediction.window.start / SAMPLE_RATE,
            "end": prediction.window.stop / SAMPLE_RATE,
            "labels": best(prediction.probabilities),
        }
        for prediction in predictions
    ]
    mean = np.mean([prediction.probabilities for prediction in predictions], axis=0)
    return {"file": path, "seconds": windows[-1]["end"], "labels": best(mean), "windows": windows}


def _parts(file: dict[str, Any]) -> Iterator[tuple[str, float, float, list[dict[str, Any]]]]:
    """Yield (part, start, end, labels): the file, then its windows where there are several."""
    yield "file", 0.0, file["seconds"], file["labels"]
    if len(file["windows"]) > 1:
        yield from (("window", window["start"], window["end"], window["labels"]) for window in file["windows"])


def _write_csv(path: Path, files: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for file in files:
        for part, start, end, labels in _parts(file):
            for rank, entry in enumerate(labels, start=1):
                probability = f"{entry['probability']:.6f}"
                name = printable(file["file"])
                writer.writerow([name, part, f"{start:.3f}", f"{end:.3f}", rank, entry["label"], probability])
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


def _as_table(summary: dict[str, Any]) -> str:
    rows = []
    for file in summary["files"]:
        for part, start, end, labels in _parts(file):
            name = printable(file["file"]) if part == "file" else ""
            shown = [f"{entry['label']} {entry['probability']:.3f}" for entry in labels]
            rows.append([name, f"{start:.2f}-{end:.2f}", *shown])
    if not rows:
        return "no file could be classified"
    ranks = [str(rank) for rank in range(1, len(rows[0]) - 1)]
    table = tabulate(rows, ["file", "seconds", *ranks], tablefmt="plain", disable_numparse=True)
    if any(len(file["windows"]) > 1 for file in summary["files"]):
        table += "\nthe first line of a long file is the mean over its windows, which follow"
    return table
