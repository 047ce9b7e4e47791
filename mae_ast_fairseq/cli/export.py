"""`mae-ast export`: a checkpoint as a file that others open: in the released layout, for s3prl, as safetensors."""

import argparse
import json
import os
from pathlib import Path

from mae_ast_fairseq.checkpoints.export import LAYOUTS, Exported, export, in_precision
from mae_ast_fairseq.checkpoints.read import Checkpoint
from mae_ast_fairseq.cli.checkpoint import add_checkpoint_argument, open_checkpoint
from mae_ast_fairseq.config.pretraining import require_choice
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.inference.encoder import PRECISIONS

EXAMPLE = "mae-ast export checkpoints/checkpoint_best.pt --to s3prl --out mae_ast.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(parser, "ours, a released one, or one that was exported before")
    parser.add_argument(
        "--to",
        required=True,
        metavar="LAYOUT",
        help="released: that of the MAE-AST checkpoints which their authors published, for fairseq; s3prl: the same "
        "without what only fairseq reads, of models of 128 bands; safetensors: weights, and the config as JSON, of any "
        "of our models, classifiers too. The first two take MAE-AST models only, with positions, with the decoder's "
        "heads and feed-forward width those of the encoder, and with input statistics of the dataset or of batches, "
        "which the layout's BatchNorm holds. What of a released file our model does not use is kept by all three",
    )
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help=f"of the weights: {', '.join(PRECISIONS)}; input statistics stay float32 (default: as they are)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write; replaced if there")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    """Read and check the checkpoint, write the file, say what is in it."""
    require_choice("--to", args.to, LAYOUTS)
    if args.precision is not None:
        require_choice("--precision", args.precision, PRECISIONS)
    _check_out(args.out, args.checkpoint)
    checkpoint = open_checkpoint(args)
    if args.precision is not None:
        checkpoint = in_precision(checkpoint, PRECISIONS[args.precision])
    try:
        exported = export(checkpoint, args.to, args.out)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--out {args.out}: cannot be written ({reason}); expected room for a file") from None
    print(_as_json(args, checkpoint, exported) if args.json else _as_text(args, checkpoint, exported))
    return 0


def _check_out(out: Path, checkpoint: Path) -> None:
    """Raise ConfigError unless `out` is a file to be written in a folder that is there, and not the checkpoint."""
    if out.is_dir():
        raise ConfigError(f"--out {out}: this is a folder; expected a file to write; name one in it")
    if not os.access(out.parent, os.W_OK):
        raise ConfigError(f"--out {out}: its folder is not there or may not be written; make it or choose another")
    if out.exists() and checkpoint.exists() and out.samefile(checkpoint):
        raise ConfigError(f"--out {out}: this is the checkpoint itself, which is not overwritten; name another file")


def _as_json(args: argparse.Namespace, checkpoint: Checkpoint, exported: Exported) -> str:
    summary = {
        "checkpoint": str(args.checkpoint),
        "model": checkpoint.kind,
        "num_updates": checkpoint.num_updates,
        "layout": args.to,
        "out": str(args.out),
        **exported._asdict(),
    }
    return json.dumps(summary, indent=2)


def _as_text(args: argparse.Namespace, checkpoint: Checkpoint, exported: Exported) -> str:
    trained = "" if checkpoint.num_updates is None else f" after {checkpoint.num_updates:,} updates"
    return (
        f"{checkpoint.kind}{trained}, {exported.num_parameters:,} values in the {args.to} layout: "
        f"{exported.num_tensors} tensors, {exported.num_bytes / 1e6:.1f} MB\nwritten to {args.out}"
    )
