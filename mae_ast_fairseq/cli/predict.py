"""`mae-ast predict`: the most likely labels of audio files by a fine-tuned classifier, with probabilities."""

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from mae_ast_fairseq.checkpoints.read import build_model
from mae_ast_fairseq.cli.arguments import at_least, seconds
from mae_ast_fairseq.cli.model import (
    add_checkpoint_argument,
    add_device_arguments,
    add_input_arguments,
    check_device_arguments,
    open_checkpoint,
    read_clips,
)
from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.config.pretraining import ClassifierFields
from mae_ast_fairseq.errors import AudioError, CheckpointError, ConfigError, printable
from mae_ast_fairseq.files import atomic_write, prepare_folder
from mae_ast_fairseq.inference.loading import BrokenFiles
from mae_ast_fairseq.inference.predict import Prediction, predict
from mae_ast_fairseq.nn.classifier import AudioClassifier
from mae_ast_fairseq.nn.fbank import SAMPLE_RATE, num_frames
from mae_ast_fairseq.nn.tokens import MIN_TOKENS

EXAMPLE = "mae-ast predict runs/b/checkpoints/checkpoint_best.pt recordings/ --top 3"

COLUMNS = ("file", "part", "start", "end", "rank", "label", "probability")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_classifier_arguments(parser)
    add_input_arguments(parser)
    parser.add_argument("--top", type=at_least(1), default=5, help="labels named of each file (default: %(default)s)")
    parser.add_argument(
        "--hop", type=seconds, metavar="SECONDS", help="from one window's start to the next's (default: --window)"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the predictions, a line a label")


def add_classifier_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the checkpoint, `--window`, `--json`, and where the model runs, also for `mae-ast evaluate`."""
    add_checkpoint_argument(parser, "of a fine-tuned classifier; its labels are inside")
    parser.add_argument(
        "--window",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="longer clips are classified in windows of this length, shorter ones whole (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Classify the files and print a row for each, or each window; 1 where some files are broken, 2 where all are."""
    _check_arguments(args)
    fields, model = open_classifier(args)
    clips = read_clips(args)
    broken = BrokenFiles("predict", clips)
    files = [
        _describe(clips.path(row), mean, predictions, fields.labels, args.top)
        for row, mean, predictions in classify(args, model, args.hop or args.window, broken)
    ]
    code = broken.exit_code(len(files))
    if args.csv is not None:
        _write_csv(args.csv, files)
    summary = {"checkpoint": str(args.checkpoint), "multi_label": fields.multi_label, "files": files}
    print_result(args, summary | {"broken": broken.as_json()}, _as_table(files))
    return code


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


def open_classifier(args: argparse.Namespace) -> tuple[ClassifierFields, AudioClassifier]:
    """Return the checkpoint's fields and its model, where it is to run.

    Raises CheckpointError for a model without labels, and ConfigError where `--window` is too short for it.
    """
    device, dtype = check_device_arguments(args)
    checkpoint = open_checkpoint(args)
    if not isinstance(checkpoint.model, ClassifierFields):
        raise CheckpointError(
            f"{checkpoint.path}: it holds a pretrained {checkpoint.kind}, which knows no labels; expected a "
            "mae_ast_classifier; fine-tune it with the task mae_ast_classification first"
        )
    model = cast(AudioClassifier, build_model(checkpoint)).to(device, dtype)
    num_tokens = model.grid.num_tokens(num_frames(round(args.window * SAMPLE_RATE)))
    if num_tokens < MIN_TOKENS:
        raise ConfigError(
            f"--window {args.window}: it gives {num_tokens} tokens of the model; expected at least {MIN_TOKENS}; use a "
            "longer one"
        )
    return checkpoint.model, model


def classify(
    args: argparse.Namespace, model: AudioClassifier, hop: float, broken: BrokenFiles
) -> Iterator[tuple[int, np.ndarray, list[Prediction]]]:
    """Yield each good clip's row, mean probabilities [K], and predictions of its windows, every `hop` seconds.

    The clips are those of `broken`, which takes in the others and what is wrong with them.
    """
    window_samples, hop_samples = (max(1, round(length * SAMPLE_RATE)) for length in (args.window, hop))
    predictions = predict(model, broken.clips, window_samples=window_samples, hop_samples=hop_samples)
    for row, result in enumerate(tqdm(predictions, total=len(broken.clips), unit=" clips", disable=None)):
        if isinstance(result, AudioError):
            broken.add(row, result)
        else:
            broken.show()
            yield row, np.mean([prediction.probabilities for prediction in result], axis=0), result


def _describe(
    path: str, mean: np.ndarray, predictions: Sequence[Prediction], labels: Sequence[str], top: int
) -> dict[str, Any]:
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
    return {"file": path, "seconds": windows[-1]["end"], "labels": best(mean), "windows": windows}


def _parts(files: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (file, what it is, its start, end and labels) for each file, and its windows where there are several."""
    for file in files:
        name = printable(file["file"])
        yield name, "file", {"start": 0.0, "end": file["seconds"], "labels": file["labels"]}
        if len(file["windows"]) > 1:
            yield from ((name, "window", window) for window in file["windows"])


def _write_csv(path: Path, files: Sequence[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, kind, part in _parts(files):
        times = f"{part['start']:.3f}", f"{part['end']:.3f}"
        for rank, entry in enumerate(part["labels"], start=1):
            writer.writerow([name, kind, *times, rank, printable(entry["label"]), f"{entry['probability']:.6f}"])
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


def _as_table(files: Sequence[dict[str, Any]]) -> str:
    rows = []
    for name, kind, part in _parts(files):
        shown = [f"{printable(entry['label'])} {entry['probability']:.3f}" for entry in part["labels"]]
        rows.append([name if kind == "file" else "", f"{part['start']:.2f}-{part['end']:.2f}", *shown])
    ranks = range(1, len(rows[0]) - 1)
    table = tabulate(rows, ["file", "seconds", *ranks], tablefmt="plain", disable_numparse=True)
    if len(rows) > len(files):
        table += "\nthe first line of a long file is the mean over its windows, which follow"
    return table
