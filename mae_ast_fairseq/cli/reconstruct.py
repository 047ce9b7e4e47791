"""`mae-ast reconstruct`: pictures of what a checkpoint's model saw of some clips and what it made of that."""

import argparse
import json
import math
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from tqdm import tqdm

from mae_ast_fairseq.checkpoints.read import Checkpoint, build_model, build_untrained
from mae_ast_fairseq.cli.checkpoint import add_checkpoint_argument, open_checkpoint
from mae_ast_fairseq.cli.device import add_device_arguments, check_device_arguments
from mae_ast_fairseq.cli.output import printable
from mae_ast_fairseq.config.pretraining import MaskingFields, require_choice
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.data.masking import STRATEGIES, Masking
from mae_ast_fairseq.errors import AudioError, CheckpointError, ConfigError
from mae_ast_fairseq.evaluation import plots
from mae_ast_fairseq.files import prepare_folder
from mae_ast_fairseq.inference.chunks import min_seconds
from mae_ast_fairseq.inference.reconstruct import Reconstruction, reconstruct
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.build import build_grid
from mae_ast_fairseq.nn.masked import MaskedPredictor
from mae_ast_fairseq.nn.tokens import MIN_TOKENS, TokenGrid
from mae_ast_fairseq.rng import Stream, generator

HELP = "Draw what a pretrained model fills in where clips are masked, one PNG a clip, with its scores."
EXAMPLE = "mae-ast reconstruct checkpoints/checkpoint_best.pt --manifest manifests/speech/valid.tsv --out pictures"

SCORES = ("mse", "baseline", "info_nce", "accuracy", "chance")
MAX_STEM = 50  # characters of a file's name in its picture's: 255 bytes hold them in any script


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(parser, "of pretraining: MAE-AST, SSAST, or tiny")
    parser.add_argument("files", nargs="*", metavar="FILE", help="audio files of any rate, right after the checkpoint")
    parser.add_argument("--manifest", type=Path, help="draw the clips from this manifest instead")
    parser.add_argument(
        "--clips",
        type=int,
        default=4,
        help="how many of it, of all lengths, alike for a seed (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures; made if absent")
    parser.add_argument("--ratio", type=float, help="share of masked tokens (default: the checkpoint's)")
    parser.add_argument("--mask-type", help=f"{', '.join(STRATEGIES)} (default: the checkpoint's)")
    parser.add_argument("--seed", type=int, default=1337, help="of clips, masks, --untrained (default: %(default)s)")
    parser.add_argument(
        "--max-seconds", type=float, default=10.0, help="longer clips are cut to their start (default: %(default)s)"
    )
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="the same network with initial weights, for comparison; only its input statistics are the checkpoint's",
    )
    add_device_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")


class Source(NamedTuple):
    """Where a clip comes from; what a manifest says of it is compared with the file."""

    path: str
    mask_index: int
    """the row of the manifest or the place in the list, which the mask is drawn by"""
    num_samples: int | None = None
    sample_rate: int | None = None


class Settings(NamedTuple):
    """How clips are masked."""

    masking: Masking
    seed: int
    max_samples: int


def run(args: argparse.Namespace) -> int:
    """Choose the clips, reconstruct and draw each, print the scores."""
    _check_arguments(args)
    plots.require_matplotlib()
    checkpoint = open_checkpoint(args)
    fields = _masking_fields(checkpoint)
    settings = _settings(args, checkpoint, fields)
    grid = build_grid(checkpoint.model, checkpoint.feature_dim)
    sources = _sources(args, settings, grid)
    waveforms = [_load(source, settings, grid) for source in sources]  # all are good before anything is written
    model = build_untrained(checkpoint, args.seed) if args.untrained else build_model(checkpoint)
    model = cast(MaskedPredictor, model.to(*check_device_arguments(args)))
    prepare_folder("--out", args.out)

    weights = _weights(checkpoint, args.untrained)
    clips = []
    progress = tqdm(zip(sources, waveforms, strict=True), total=len(sources), unit=" clips", disable=None)
    for number, (source, waveform) in enumerate(progress, start=1):
        result = _reconstruct(model, source, waveform, settings)
        name = f"{number:02}_{Path(source.path).stem[:MAX_STEM]}{'_untrained' if args.untrained else ''}.png"
        _draw(args.out / name, source, result, weights)
        scores = {score: getattr(result, score) for score in SCORES}
        seconds = len(result.original) * plots.SECONDS_PER_FRAME
        clips.append({"file": source.path, "picture": str(args.out / name), "seconds": round(seconds, 2), **scores})
    summary = _summarize(args, settings, weights, clips)
    print(json.dumps(summary, indent=2) if args.json else _as_table(summary))
    return 0


# --- arguments


def _check_arguments(args: argparse.Namespace) -> None:
    if bool(args.files) == (args.manifest is not None):
        found = "both audio files and --manifest were" if args.files else "neither audio files nor --manifest was"
        raise ConfigError(f"{found} given; expected one of them: name files, or a manifest to draw clips from")
    if args.clips < 1:
        raise ConfigError(f"--clips {args.clips}: expected at least 1")
    if args.ratio is not None and not 0 < args.ratio < 1:
        raise ConfigError(f"--ratio {args.ratio}: expected a share of masked tokens above 0 and below 1, such as 0.75")
    if args.mask_type is not None:
        require_choice("--mask-type", args.mask_type, STRATEGIES)
    if not 0 <= args.seed < 2**63:
        raise ConfigError(f"--seed {args.seed}: expected at least 0 and less than 2^63")
    if not (args.max_seconds > 0 and math.isfinite(args.max_seconds)):
        raise ConfigError(f"--max-seconds {args.max_seconds}: expected more than 0, such as 10")
    check_device_arguments(args)


def _masking_fields(checkpoint: Checkpoint) -> MaskingFields:
    """Return how the checkpoint's model masks; raises CheckpointError for one that fills in nothing."""
    if not isinstance(checkpoint.model, MaskingFields):
        raise CheckpointError(
            f"{checkpoint.path}: this is a {checkpoint.kind}, which fills in nothing; expected a checkpoint of "
            "pretraining; give the one that it was fine-tuned from"
        )
    return checkpoint.model


def _settings(args: argparse.Namespace, checkpoint: Checkpoint, fields: MaskingFields) -> Settings:
    """Take what the arguments leave open from the checkpoint."""
    mask_type = args.mask_type or checkpoint.mask_type
    if mask_type not in STRATEGIES:
        raise ConfigError(
            f"{checkpoint.path}: its mask type {mask_type!r} cannot be drawn; expected one of "
            f"{', '.join(STRATEGIES)}; pass --mask-type chunk_mask"
        )
    return Settings(
        masking=Masking(mask_type, fields.random_mask_prob if args.ratio is None else args.ratio, fields.mask_length),
        seed=args.seed,
        max_samples=int(args.max_seconds * fbank.SAMPLE_RATE),
    )


# --- clips


def _sources(args: argparse.Namespace, settings: Settings, grid: TokenGrid) -> list[Source]:
    """Return the files given, or as many clips of the manifest as `--clips` says, of all lengths."""
    if args.files:
        return [Source(path, index) for index, path in enumerate(args.files)]
    manifest = read_manifest(args.manifest)
    num_samples = np.minimum(manifest.num_samples_at_16k, settings.max_samples)
    usable = np.flatnonzero(grid.num_tokens(fbank.num_frames(num_samples)) >= MIN_TOKENS)
    if not len(usable):
        raise AudioError(
            f"{args.manifest}: none of its {len(manifest)} clips has {MIN_TOKENS} tokens of the model, "
            f"{min_seconds(grid, MIN_TOKENS):.3f} s; give longer clips or raise --max-seconds"
        )
    rows = _spread(usable, num_samples[usable], args.clips, generator(settings.seed, Stream.ORDER))
    return [
        Source(manifest.path(row), row, int(manifest.num_samples[row]), int(manifest.sample_rates[row])) for row in rows
    ]


def _spread(rows: np.ndarray, num_samples: np.ndarray, count: int, draws: np.random.Generator) -> list[int]:
    """Draw `count` of the rows, by rising length, each from one of as many equal parts of all their audio."""
    order = np.argsort(num_samples, kind="stable")
    count = min(count, len(rows))
    audio = num_samples[order].cumsum()
    steps = np.arange(count)
    places = np.searchsorted(audio, (steps + draws.random(count)) / count * audio[-1])
    # A clip longer than a part would be drawn again: take its neighbour then.
    places = np.minimum(np.maximum.accumulate(places - steps) + steps, len(rows) - count + steps)
    return rows[order[places]].tolist()


def _load(source: Source, settings: Settings, grid: TokenGrid) -> np.ndarray:
    """Decode a clip's start, [S] at 16 kHz; raises AudioError, also for one of too few tokens."""
    waveform = load_audio(
        source.path,
        num_samples=settings.max_samples,
        expect_samples=source.num_samples,
        expect_rate=source.sample_rate,
    )
    num_tokens = grid.num_tokens(fbank.num_frames(len(waveform)))
    if num_tokens < MIN_TOKENS:
        raise AudioError(
            f"{source.path}: {len(waveform) / fbank.SAMPLE_RATE:.3f} s of it give {num_tokens} tokens of the model; "
            f"expected at least {MIN_TOKENS} ({min_seconds(grid, MIN_TOKENS):.3f} s); give a longer clip or raise "
            "--max-seconds"
        )
    return waveform


# --- one clip


def _reconstruct(model: MaskedPredictor, source: Source, waveform: np.ndarray, settings: Settings) -> Reconstruction:
    return reconstruct(
        model,
        fbank.log_mel(torch.from_numpy(waveform), num_mel_bins=model.grid.feature_dim),
        settings.masking,
        # The stream, epoch and index of validation: with the run's seed and whole clips, its very masks.
        generator(settings.seed, Stream.MASK, epoch=0, index=source.mask_index),
    )


def _draw(picture: Path, source: Source, result: Reconstruction, weights: str) -> None:
    title = (
        f"{printable(Path(source.path).name)}: {weights}\n"
        f"MSE {result.mse:.4f} (always guessing the mean: {result.baseline:.4f})   ·   "
        f"InfoNCE accuracy {result.accuracy:.1%} (chance {result.chance:.1%})"
    )
    plots.save_reconstruction(
        picture,
        original=result.original.numpy(),
        visible=result.visible.numpy(),
        reconstructed=result.reconstructed.numpy(),
        title=title,
    )


def _weights(checkpoint: Checkpoint, untrained: bool) -> str:
    """Say whose weights are used."""
    if untrained:
        return "untrained model, initial weights"
    if checkpoint.num_updates is None:
        return "trained model"
    return f"model trained for {checkpoint.num_updates:,} updates"


# --- what is printed


def _summarize(
    args: argparse.Namespace, settings: Settings, weights: str, clips: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "checkpoint": str(args.checkpoint),
        "weights": weights,
        "out": str(args.out),
        "ratio": settings.masking.ratio,
        "mask_type": settings.masking.type,
        "seed": settings.seed,
        "clips": clips,
        "mean": {score: sum(clip[score] for clip in clips) / len(clips) for score in SCORES},
    }


def _as_table(summary: dict[str, Any]) -> str:
    clips = summary["clips"]
    names = [printable(clip["file"]) for clip in clips]
    width = max(len(name) for name in [*names, "file"])

    def line(name: str, seconds: str, scores: dict[str, float]) -> str:
        mse, baseline, nce, accuracy, chance = (scores[score] for score in SCORES)
        return f"{name:{width}}{seconds:>9}{mse:>9.4f}{baseline:>10.4f}{nce:>10.3f}{accuracy:>10.1%}{chance:>8.1%}"

    return "\n".join(
        [
            f"{summary['weights']}; {summary['mask_type']}, {summary['ratio']:.0%} masked, seed {summary['seed']}",
            f"{'file':{width}}{'seconds':>9}{'mse':>9}{'baseline':>10}{'info_nce':>10}{'accuracy':>10}{'chance':>8}",
            *(line(name, f"{clip['seconds']:.2f}", clip) for name, clip in zip(names, clips, strict=True)),
            line("mean", "", summary["mean"]),
            f"pictures ({len(clips)} PNG) in {printable(summary['out'])}",
        ]
    )
