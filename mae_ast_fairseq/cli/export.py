"""`mae-ast export`: a checkpoint for others to open: in the released layout, for s3prl, as safetensors, for the hub."""

import argparse
from pathlib import Path

from mae_ast_fairseq.checkpoints.export import LAYOUTS, export, in_precision
from mae_ast_fairseq.checkpoints.folder import export_folder
from mae_ast_fairseq.checkpoints.names import WEIGHTS
from mae_ast_fairseq.cli.model import add_checkpoint_argument, check_out, open_checkpoint
from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.inference.encoder import PRECISIONS

EXAMPLE = (
    "mae-ast export runs/a/checkpoints/checkpoint_best.pt --to s3prl --out mae_ast.pt\n"
    "  mae-ast export runs/a/checkpoints/checkpoint_best.pt --to huggingface --out my_model"
)

HUGGINGFACE = "huggingface"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(parser, "ours, a released one, or one that was exported before")
    parser.add_argument(
        "--to",
        required=True,
        choices=[*LAYOUTS, HUGGINGFACE],
        help="released: that of the MAE-AST checkpoints which their authors published, for fairseq; s3prl: the same "
        "without what only fairseq reads, of models of 128 bands; safetensors: weights, and the config as JSON, of any "
        "of our models, classifiers too; huggingface: the same as a folder for that hub, with a card to be completed, "
        "which is kept where there is one. The first two take MAE-AST models only, with positions, with the decoder's "
        "heads and feed-forward width those of the encoder, and with input statistics of the dataset or of batches, "
        "which the layout's BatchNorm holds. What of a released file our model does not use is kept by all",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the weights; input statistics stay float32 (default: as they are)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="file or folder to write; replaced if there"
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    """Read and check the checkpoint, write the file or folder, say what is in it."""
    checkpoint = open_checkpoint(args)
    check_out(args.out / WEIGHTS if args.to == HUGGINGFACE else args.out, [args.checkpoint])
    if args.precision is not None:
        checkpoint = in_precision(checkpoint, PRECISIONS[args.precision])
    try:
        if args.to == HUGGINGFACE:
            exported = export_folder(checkpoint, args.out)
        else:
            exported = export(checkpoint, args.to, args.out)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"--out {args.out}: cannot be written ({reason}); expected room") from None
    summary = {
        "checkpoint": str(args.checkpoint),
        "model": checkpoint.kind,
        "num_updates": checkpoint.num_updates,
        "layout": args.to,
        "out": str(args.out),
        **exported._asdict(),
    }
    trained = "" if checkpoint.num_updates is None else f" after {checkpoint.num_updates:,} updates"
    text = (
        f"{checkpoint.kind}{trained}, {exported.num_parameters:,} values in the {args.to} layout: "
        f"{exported.num_tensors} tensors, {exported.num_bytes / 1e6:.1f} MB\nwritten to {args.out}"
    )
    print_result(args, summary, text)
    return 0
