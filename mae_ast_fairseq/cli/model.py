"""What commands share that run or write a model: its checkpoint, where and on which clips it runs, what is printed."""

import argparse
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae_ast_fairseq.checkpoints.names import checkpoint_path
from mae_ast_fairseq.checkpoints.read import Checkpoint, read_checkpoint
from mae_ast_fairseq.corpus.scan import find_source
from mae_ast_fairseq.data.manifest import Manifest, read_manifest
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.files import check_file, prepare_folder
from mae_ast_fairseq.inference.chunks import min_seconds
from mae_ast_fairseq.inference.encoder import PRECISIONS
from mae_ast_fairseq.inference.loading import FileList
from mae_ast_fairseq.nn.fbank import num_frames
from mae_ast_fairseq.nn.tokens import MIN_TOKENS, TokenGrid
from mae_ast_fairseq.precision import fastest

AUTO = "auto"
"""The choice of `--precision` that leaves it to the device."""


def add_checkpoint_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Declare `checkpoint`, with `text` for its help, and what of it may be ignored."""
    parser.add_argument("checkpoint", help=f"{text}; a file, a folder of `export --to huggingface`, or USER/NAME there")
    add_ignore_unknown(parser)


def add_ignore_unknown(parser: argparse.ArgumentParser) -> None:
    """Declare `--ignore-unknown`."""
    parser.add_argument(
        "--ignore-unknown",
        action="append",
        default=[],
        metavar="NAME",
        help="a field of the checkpoint's model that is unknown here and, as you know, changes nothing; repeatable",
    )


def find_checkpoint(args: argparse.Namespace) -> Path:
    """Put the path of the checkpoint in place of what was named, and return it; raises as `checkpoint_path` does."""
    args.checkpoint = checkpoint_path(args.checkpoint)
    return args.checkpoint


def open_checkpoint(args: argparse.Namespace) -> Checkpoint:
    """Find and read the checkpoint that was named; raises CheckpointError."""
    find_checkpoint(args)
    return read_checkpoint(args.checkpoint, args.ignore_unknown)


def check_out(out: Path, checkpoints: Sequence[Path]) -> None:
    """Make the folder of `out`; raise ConfigError unless it can be written and is none of the checkpoints."""
    prepare_folder("--out", out.parent)
    check_file("--out", out)
    if out.exists() and any(path.exists() and path.samefile(out) for path in checkpoints):
        raise ConfigError(f"--out {out}: this is the checkpoint itself, which is not overwritten; name another file")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--device` and `--precision`."""
    parser.add_argument("--device", default="cpu", help="as torch names it, such as cuda:0 (default: %(default)s)")
    parser.add_argument(
        "--precision",
        choices=[*PRECISIONS, AUTO],
        default="float32",
        help="of the model; auto: bfloat16 where the device multiplies it faster (default: %(default)s)",
    )


def check_device_arguments(args: argparse.Namespace, before: str | None = None) -> tuple[torch.device, torch.dtype]:
    """Return where a model runs and in which precision, which `args` then names instead of `auto`.

    `before` is what was chosen when the work was begun that goes on. Raises ConfigError for a device that is not there.
    """
    device = check_device(args.device)
    if args.precision == AUTO:
        args.precision = before if before in PRECISIONS else fastest(device)
        print(f"in {args.precision}; --precision sets another", file=sys.stderr)
    return device, PRECISIONS[args.precision]


def check_device(name: str) -> torch.device:
    """Return a device that is there; raises ConfigError."""
    try:
        number = torch.zeros(1, device=name)
        number.item()  # what `meta` cannot do
        return number.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"--device {name}: cannot be used ({reason}); expected cpu, or cuda where it is") from None


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the paths of audio, after the checkpoint, and `--manifest`."""
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="audio files of any rate, folders of them, or uncompressed zip archives, right after the checkpoint",
    )
    parser.add_argument("--manifest", type=Path, help="the clips of this manifest instead")


def read_clips(args: argparse.Namespace) -> Manifest | FileList:
    """Return the clips that were named; raises ConfigError unless by paths or by a manifest, or where none is found."""
    if bool(args.paths) == (args.manifest is not None):
        found = "both audio files and --manifest were" if args.paths else "neither audio files nor --manifest was"
        raise ConfigError(f"{found} given; expected one of them: name files or folders, or a manifest")
    if args.manifest is not None:
        return read_manifest(args.manifest)
    files = [entry for path in args.paths for entry in _files(path)]
    return FileList([path for path, _ in files], {path: fault for path, fault in files if fault})


def _files(path: str) -> Iterator[tuple[str, str]]:
    """Yield a file, or those in a folder or archive sorted by their paths, each with what is wrong with it, if known.

    A folder or archive without any audio is a broken file itself.
    """
    is_folder = os.path.isdir(path)  # noqa: PTH112 never raises
    if not is_folder and Path(path).suffix.lower() != ".zip":
        yield path, ""
        return
    try:
        source = find_source(path)
    except ConfigError as error:
        yield path, str(error).removeprefix(f"{path}: ")
        return
    root = Path(path) if is_folder else source.root
    if not source.names and not source.rejected:
        yield path, "there is no audio file in it; expected some; name another folder"
    yield from ((f"{path}/{rejected.relative_path}", rejected.reason) for rejected in source.rejected)
    yield from ((str(root / name), "") for name in source.names)


def long_enough(name: str | Path, num_samples: np.ndarray, grid: TokenGrid) -> np.ndarray:
    """Return the rows of clips, of which `num_samples` [N] at 16 kHz are read, that have two tokens of the model.

    Raises AudioError, naming the manifest, where none has.
    """
    rows = np.flatnonzero(grid.num_tokens(num_frames(num_samples)) >= MIN_TOKENS)
    if not len(rows):
        raise AudioError(
            f"{name}: none of its {len(num_samples)} clips has {MIN_TOKENS} tokens of the model, "
            f"{min_seconds(grid, MIN_TOKENS):.3f} s; give longer clips or raise --max-seconds"
        )
    return rows


def without_nan(value: Any) -> Any:
    """Return a value for JSON, which has no NaN: null takes its place."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
