"""The clips a command works on: files, folders and archives that are named, or a manifest."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mae_ast_fairseq.corpus.scan import find_source
from mae_ast_fairseq.data.manifest import Manifest, read_manifest
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.inference.chunks import min_seconds
from mae_ast_fairseq.inference.loading import FileList
from mae_ast_fairseq.nn.fbank import num_frames
from mae_ast_fairseq.nn.tokens import MIN_TOKENS, TokenGrid


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
    return FileList([file for path in args.paths for file in _files(path)])


def _files(path: str) -> Iterator[str]:
    """Yield a file, or those in a folder or archive sorted by their paths."""
    if not Path(path).is_dir() and Path(path).suffix.lower() != ".zip":
        yield path
        return
    source = find_source(path)
    if not source.names:
        raise ConfigError(f"{path}: there is no audio file in it; expected some; name another folder")
    root = Path(path) if Path(path).is_dir() else source.root
    yield from (str(root / name) for name in source.names)


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
