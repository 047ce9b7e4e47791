"""`mae-ast reconstruct`: pictures of what a checkpoint's model saw of some clips and what it made of that."""

import argparse
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

from mae_ast_fairseq.checkpoints.read import Checkpoint, build_model, build_untrained
from mae_ast_fairseq.cli.arguments import at_least, fraction, seconds, seed
from mae_ast_fairseq.cli.model import (
    add_checkpoint_argument,
    add_device_arguments,
    add_input_arguments,
    check_device_arguments,
    long_enough,
    open_checkpoint,
    read_clips,
)
from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.config.pretraining import MaskingFields
from mae_ast_fairseq.data.masking import STRATEGIES, Masking
from mae_ast_fairseq.errors import AudioError, CheckpointError, ConfigError, printable
from mae_ast_fairseq.evaluation import plots
from mae_ast_fairseq.extras import require
from mae_ast_fairseq.files import prepare_folder
from mae_ast_fairseq.inference.loading import BrokenFiles, load_part, readable_samples, unusable
from mae_ast_fairseq.inference.pictures import (
    MAX_SECONDS,
    choose_clips,
    describe_training,
    picture_name,
    save_picture,
)
from mae_ast_fairseq.inference.reconstruct import reconstruct
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.build import build_grid
from mae_ast_fairseq.nn.masked import MaskedPredictor
from mae_ast_fairseq.nn.tokens import MIN_TOKENS, TokenGrid
from mae_ast_fairseq.rng import Stream, generator

EXAMPLE = "mae-ast reconstruct runs/a/checkpoints/checkpoint_best.pt --manifest data/valid.tsv --out pictures"

SCORES = ("mse", "baseline", "info_nce", "accuracy", "chance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(parser, "of pretraining: MAE-AST, SSAST, or tiny")
    add_input_arguments(parser)
    parser.add_argument(
        "--clips",
        type=at_least(1),
        default=4,
        help="how many of the manifest, of all lengths, alike for a seed (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures; made if absent")
    parser.add_argument("--ratio", type=fraction, help="fraction of masked tokens (default: the checkpoint's)")
    parser.add_argument("--mask-type", choices=STRATEGIES, help="(default: the checkpoint's)")
    parser.add_argument("--seed", type=seed, default=1337, help="of clips, masks, --untrained (default: %(default)s)")
    parser.add_argument(
        "--max-seconds",
        type=seconds,
        default=MAX_SECONDS,
        help="longer clips are cut to their start (default: %(default)s)",
    )
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="the same network with initial weights, for comparison; only its input statistics are the checkpoint's",
    )
    add_device_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


def run(args: argparse.Namespace) -> int:
    """Choose the clips, reconstruct and draw each, print the scores; 1 where some are broken, 2 where all are."""
    placement = check_device_arguments(args)
    require("plot", "a picture")
    clips = read_clips(args)
    checkpoint = open_checkpoint(args)
    masking = _masking(args, checkpoint)
    grid = build_grid(checkpoint.model, checkpoint.feature_dim)
    num_samples = np.minimum(readable_samples(clips), round(args.max_seconds * fbank.SAMPLE_RATE))
    rows = _draw_rows(args, num_samples, grid) if args.manifest else range(len(clips))
    broken = BrokenFiles("reconstruct", clips)
    waveforms = {row: wave for row in rows if (wave := _load(broken, row, int(num_samples[row]), grid)) is not None}
    code = broken.exit_code(len(waveforms))  # before anything is written
    model = build_untrained(checkpoint, args.seed) if args.untrained else build_model(checkpoint)
    model = cast(MaskedPredictor, model.to(*placement))
    prepare_folder("--out", args.out)

    weights = _weights(checkpoint, args.untrained)
    results = []
    for number, (row, waveform) in enumerate(tqdm(waveforms.items(), unit=" clips", disable=None), start=1):
        frames = fbank.log_mel(torch.from_numpy(waveform), num_mel_bins=grid.feature_dim)
        # The stream, epoch and index of validation: with the run's seed and whole clips, its very masks. A list of
        # files has no validation: there a broken one changes nothing for the others.
        index = row if args.manifest else number - 1
        result = reconstruct(model, frames, masking, generator(args.seed, Stream.MASK, epoch=0, index=index))
        path = clips.path(row)
        picture = args.out / f"{picture_name(number, path)}{'_untrained' if args.untrained else ''}.png"
        save_picture(picture, path, result, weights)
        scores = {score: getattr(result, score) for score in SCORES}
        length = round(len(result.original) * plots.SECONDS_PER_FRAME, 2)
        results.append({"file": path, "picture": str(picture), "seconds": length, **scores})
    summary = {
        "checkpoint": str(args.checkpoint),
        "weights": weights,
        "out": str(args.out),
        "ratio": masking.ratio,
        "mask_type": masking.type,
        "seed": args.seed,
        "clips": results,
        "mean": {score: sum(result[score] for result in results) / len(results) for score in SCORES},
        "broken": broken.as_json(),
    }
    print_result(args, summary, _as_table(summary))
    return code


def _masking(args: argparse.Namespace, checkpoint: Checkpoint) -> Masking:
    """Return the masking asked for, or else the checkpoint's.

    Raises CheckpointError for a model that fills in nothing, and ConfigError for a mask type that only loads.
    """
    fields = checkpoint.model
    if not isinstance(fields, MaskingFields):
        raise CheckpointError(
            f"{checkpoint.path}: this is a {checkpoint.kind}, which fills in nothing; expected a checkpoint of "
            "pretraining; give the one that it was fine-tuned from"
        )
    mask_type = args.mask_type or checkpoint.mask_type
    if mask_type not in STRATEGIES:
        raise ConfigError(
            f"{checkpoint.path}: its mask type {mask_type!r} cannot be drawn; expected one of "
            f"{', '.join(STRATEGIES)}; pass --mask-type chunk_mask"
        )
    return Masking(mask_type, args.ratio or fields.random_mask_prob, fields.mask_length)


def _draw_rows(args: argparse.Namespace, num_samples: np.ndarray, grid: TokenGrid) -> list[int]:
    """Draw as many clips of the manifest as `--clips` says, of `num_samples` [N] at 16 kHz each.

    Those too short for the model are only drawn where all clips are. Raises AudioError where no clip is usable.
    """
    rows = long_enough(args.manifest, num_samples, grid)
    if args.clips >= len(num_samples):
        return np.argsort(num_samples, kind="stable").tolist()
    return [int(rows[places[0]]) for places in choose_clips(num_samples[rows], args.clips, args.seed)]


def _load(broken: BrokenFiles, row: int, num_samples: int, grid: TokenGrid) -> np.ndarray | None:
    """Decode a clip's start, [S] at 16 kHz; None for a broken one or one of too few tokens, which `broken` takes in."""
    if grid.num_tokens(fbank.num_frames(num_samples)) < MIN_TOKENS:
        waveform: np.ndarray | AudioError = unusable(broken.clips, row, num_samples, grid, MIN_TOKENS)
    else:
        waveform = load_part(broken.clips, row, 0, num_samples)
    if isinstance(waveform, AudioError):
        broken.add(row, waveform)
        return None
    return waveform


def _weights(checkpoint: Checkpoint, untrained: bool) -> str:
    if untrained:
        return "untrained model, initial weights"
    if checkpoint.num_updates is None:
        return "trained model"
    return describe_training(checkpoint.num_updates)


def _as_table(summary: dict[str, Any]) -> str:
    clips = summary["clips"]
    rows = [[printable(clip["file"]), clip["seconds"], *(clip[score] for score in SCORES)] for clip in clips]
    rows.append(["mean", None, *(summary["mean"][score] for score in SCORES)])
    formats = ("", ".2f", ".4f", ".4f", ".3f", ".1%", ".1%")
    headers = ["file", "seconds", *SCORES]
    table = tabulate(rows, headers, tablefmt="plain", floatfmt=formats, disable_numparse=[0], numalign="right")
    return "\n".join(
        [
            f"{summary['weights']}; {summary['mask_type']}, {summary['ratio']:.0%} masked, seed {summary['seed']}",
            table,
            f"pictures ({len(clips)} PNG) in {printable(summary['out'])}",
        ]
    )
