"""`mae-ast predict`: the most likely labels of audio files by a fine-tuned classifier, with probabilities."""

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from mae_ast_fairseq.checkpoints.read import Checkpoint, build_model
from mae_ast_fairseq.cli.checkpoint import add_checkpoint_argument, open_checkpoint
from mae_ast_fairseq.cli.device import add_device_arguments, check_device_arguments
from mae_ast_fairseq.cli.output import printable
from mae_ast_fairseq.config.pretraining import ClassifierFields
from mae_ast_fairseq.corpus.scan import find_source
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.errors import AudioError, CheckpointError, ConfigError
from mae_ast_fairseq.files import atomic_write, prepare_folder
from mae_ast_fairseq.inference.predict import Clip, Prediction, predict
from mae_ast_fairseq.nn.build import build_grid
from mae_ast_fairseq.nn.classifier import AudioClassifier
from mae_ast_fairseq.nn.fbank import SAMPLE_RATE, num_frames
from mae_ast_fairseq.nn.tokens import MIN_TOKENS

HELP = "Name what is in audio files with a fine-tuned classifier: the top labels with their probabilities."
EXAMPLE = "mae-ast predict checkpoints/checkpoint_best.pt recordings/ --top 3"

EXIT_BROKEN_FILES = 1
COLUMNS = ("file", "part", "start", "end", "rank", "label", "probability")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(parser, "of a fine-tuned classifier; its labels are inside")
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="audio files of any rate, folders of them, or uncompressed zip archives, right after the checkpoint",
    )
    parser.add_argument("--manifest", type=Path, help="the files of this manifest instead")
    parser.add_argument("--top", type=int, default=5, help="labels named of each file (default: %(default)s)")
    parser.add_argument(
        "--window",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="longer files are classified in windows of this length, shorter ones whole (default: %(default)s)",
    )
    parser.add_argument(
        "--hop", type=float, metavar="SECONDS", help="from one window's start to the next's (default: --window)"
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
    clips = list(_clips(args))
    model = cast(AudioClassifier, build_model(checkpoint)).to(device, dtype)
    files: list[dict[str, Any]] = []
    broken: list[dict[str, str]] = []
    hop = args.window if args.hop is None else args.hop
    predictions = predict(
        model, clips, window_samples=round(args.window * SAMPLE_RATE), hop_samples=max(1, round(hop * SAMPLE_RATE))
    )
    progress = tqdm(zip(clips, predictions, strict=True), total=len(clips), unit=" files", disable=None)
    for clip, result in progress:
        if isinstance(result, AudioError):
            progress.clear()
            print(f"mae-ast predict: {result}", file=sys.stderr)
            broken.append({"file": clip.path, "reason": str(result)})
        else:
            files.append(_describe(clip, result, fields.labels, args.top))
    summary = {"checkpoint": str(args.checkpoint), "multi_label": fields.multi_label, "files": files, "broken": broken}
    if args.csv is not None:
        _write_csv(args.csv, files)
    print(json.dumps(summary, indent=2) if args.json else _as_table(summary))
    return EXIT_BROKEN_FILES if broken else 0


# --- arguments


def _check_arguments(args: argparse.Namespace) -> None:
    if bool(args.paths) == (args.manifest is not None):
        found = "both files and --manifest were" if args.paths else "neither files nor --manifest was"
        raise ConfigError(f"{found} given; expected one of them: name files or folders, or a manifest")
    if args.top < 1:
        raise ConfigError(f"--top {args.top}: expected at least 1")
    for option in ("window", "hop"):
        seconds = getattr(args, option)
        if seconds is not None and not 0 < seconds < math.inf:
            raise ConfigError(f"--{option} {seconds}: expected more than 0 seconds, such as 10")
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


def _clips(args: argparse.Namespace) -> Iterator[Clip]:
    """Yield the files that were named, those in folders and archives sorted by their paths."""
    if args.manifest is not None:
        manifest = read_manifest(args.manifest)
        for row in range(len(manifest)):
            yield Clip(manifest.path(row), int(manifest.num_samples[row]), int(manifest.sample_rates[row]))
        return
    for path in args.paths:
        if not Path(path).is_dir() and Path(path).suffix.lower() != ".zip":
            yield Clip(path)
            continue
        source = find_source(path)
        if not source.names:
            raise ConfigError(f"{path}: there is no audio file in it; expected some; name another folder")
        root = Path(path) if Path(path).is_dir() else source.root
        yield from (Clip(str(root / name)) for name in source.names)


# --- results


def _describe(clip: Clip, predictions: Sequence[Prediction], labels: Sequence[str], top: int) -> dict[str, Any]:
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
    return {"file": clip.path, "seconds": windows[-1]["end"], "labels": best(mean), "windows": windows}


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
            rows.append((name, f"{start:.2f}-{end:.2f}", [f"{x['label']} {x['probability']:.3f}" for x in labels]))
    if not rows:
        return "no file could be classified"
    widths = [max(len(row[2][place]) for row in rows) + 2 for place in range(len(rows[0][2]))]
    first = max(len("file"), *(len(row[0]) for row in rows)) + 2
    second = max(len("seconds"), *(len(row[1]) for row in rows)) + 2
    lines = [f"{'file':{first}}{'seconds':{second}}labels with their probabilities"]
    for name, seconds, entries in rows:
        shown = "".join(f"{entry:{width}}" for entry, width in zip(entries, widths, strict=True))
        lines.append(f"{name:{first}}{seconds:{second}}{shown}".rstrip())
    if any(len(file["windows"]) > 1 for file in summary["files"]):
        lines.append("the first line of a long file is the mean over its windows, which follow")
    return "\n".join(lines)
