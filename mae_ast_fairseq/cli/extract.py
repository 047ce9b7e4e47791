"""`mae-ast extract`: features of audio files to disk, in HuBERT's layout or one file a clip."""

import argparse
import hashlib
import json
import math
import os
import posixpath
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mae_ast_fairseq.cli.checkpoint import add_checkpoint_argument
from mae_ast_fairseq.cli.device import add_device_arguments, check_device_arguments
from mae_ast_fairseq.config.pretraining import require_choice
from mae_ast_fairseq.data.manifest import Manifest, read_manifest
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import prepare_folder
from mae_ast_fairseq.inference.chunks import BATCH_SECONDS, CHUNK_SECONDS, plan_chunks, shard_rows
from mae_ast_fairseq.inference.encoder import load_pretrained
from mae_ast_fairseq.inference.extract import Report, extract
from mae_ast_fairseq.inference.features import Encoding, Job
from mae_ast_fairseq.inference.journal import Journal
from mae_ast_fairseq.inference.loading import NUM_WORKERS, FileList
from mae_ast_fairseq.inference.stores import FileStore, HubertStore, Store, Units, mirrored_path
from mae_ast_fairseq.nn.readout import (
    LAST,
    READOUTS,
    Layers,
    check_readout,
    layer_numbers,
    parse_layers,
    readout_width,
)

HELP = "Write the features of a manifest's clips, or of files, to disk; run again, it goes on where it stopped."
EXAMPLE = "mae-ast extract checkpoints/checkpoint_best.pt --manifest manifests/speech/train.tsv --out features"

FORMATS = {
    "hubert": "SPLIT_RANK_SHARDS.npy, all tokens of all clips, and .len, how many each clip has",
    "npy": "one .npy a clip, in the folders of the audio",
}
MAX_SHOWN = 20  # bad clips that are named on stderr


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(
        parser, "of any model of this project, ours or as released, or tiny, which the package brings"
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="audio files of any rate, right after the checkpoint")
    parser.add_argument("--manifest", type=Path, help="take the clips of this manifest instead")
    parser.add_argument("--out", type=Path, required=True, help="folder to write in; made if absent")
    parser.add_argument(
        "--layer",
        default=LAST,
        help="a layer's number from 1 on, several as in 2,4, `last` (the encoder's output) or `all`; of several, each "
        "is in a folder of its own (default: %(default)s)",
    )
    parser.add_argument(
        "--readout", help=f"one vector a clip instead of one a token: {', '.join(READOUTS)} (bands: of patches)"
    )
    parser.add_argument(
        "--format",
        help="; ".join(f"{name}: {meaning}" for name, meaning in FORMATS.items())
        + " (default: hubert for a manifest, npy for files)",
    )
    parser.add_argument("--shard", type=int, default=0, metavar="RANK", help="which shard to do, from 0 on")
    parser.add_argument(
        "--num-shards", type=int, default=1, help="cut the clips into so many runs of rows (default: %(default)s)"
    )
    parser.add_argument(
        "--chunk-seconds",
        type=float,
        default=CHUNK_SECONDS,
        help="longer clips are cut into chunks at whole token columns, each encoded alone; no token is lost, and times "
        "go on evenly (default: %(default)s)",
    )
    parser.add_argument(
        "--max-seconds-per-batch",
        type=float,
        default=BATCH_SECONDS,
        help="audio encoded at once; less takes less memory (default: %(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, default=NUM_WORKERS, help="threads that decode audio (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="start anew over what is in --out")
    add_device_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(args: argparse.Namespace) -> int:
    """Extract, print what was done; 1 where clips had to be left without features."""
    layers = parse_layers(args.layer)
    _check_arguments(args)
    placement = check_device_arguments(args)
    model = load_pretrained(args.checkpoint, ignore_unknown=args.ignore_unknown).encoder.to(*placement)
    layer_numbers("--layer", layers, model.num_layers)
    if args.readout is not None:
        check_readout("--readout", args.readout, model.grid.rows)
    clips: Manifest | FileList = FileList(args.files) if args.files else read_manifest(args.manifest)
    rows = shard_rows(len(clips), args.shard, args.num_shards)
    encoding = Encoding(layers, () if args.readout is None else (args.readout,))
    chunks = plan_chunks(clips.num_samples_at_16k[rows.start : rows.stop], model.grid, args.chunk_seconds)
    job = Job(model, clips, rows, chunks, encoding, args.max_seconds_per_batch, args.workers)

    prepare_folder("--out", args.out)
    store = _store(args, job)
    path = args.out / f"{_stem(args)}.json"
    if args.overwrite:
        path.unlink(missing_ok=True)
        store.remove()
    settings = _settings(args, clips)
    journal = Journal(path, settings, len(chunks.clips))
    if not journal.is_resumed:
        _check_absent(store)
    try:
        report = extract(job, store, journal, _Warnings())
    except OSError as error:
        raise ConfigError(
            f"--out {args.out}: cannot be written ({error.strerror or error}); expected room and leave to write; mend "
            "that and run the same command again, which goes on where this one stopped"
        ) from None
    summary = _summary(args, job, store, report)
    print(json.dumps(summary, indent=2) if args.json else _as_text(summary))
    return 1 if report.bad else 0


# --- arguments


def _check_arguments(args: argparse.Namespace) -> None:
    if bool(args.files) == (args.manifest is not None):
        found = "both audio files and --manifest were" if args.files else "neither audio files nor --manifest was"
        raise ConfigError(f"{found} given; expected one of them")
    args.format = args.format or ("npy" if args.files else "hubert")
    require_choice("--format", args.format, FORMATS)
    if args.num_shards < 1 or not 0 <= args.shard < args.num_shards:
        raise ConfigError(f"--shard {args.shard} --num-shards {args.num_shards}: expected a shard from 0 to one below")
    for name in ("chunk_seconds", "max_seconds_per_batch"):
        seconds = getattr(args, name)
        if not 0 < seconds < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')} {seconds}: expected seconds above 0")
    if not 0 <= args.workers <= 256:
        raise ConfigError(f"--workers {args.workers}: expected 0 to 256 threads")


def _stem(args: argparse.Namespace) -> str:
    split = args.manifest.stem if args.manifest else "files"
    return f"{split}_{args.shard}_{args.num_shards}"


def _settings(args: argparse.Namespace, clips: Manifest | FileList) -> dict[str, Any]:
    """Return what the features depend on, by which a restart tells whether it may go on."""
    return {
        "checkpoint": _hash_of(args.checkpoint),
        "clips": _hash_of(args.manifest) if isinstance(clips, Manifest) else _hash_of_files(clips),
        "shard": args.shard,
        "num_shards": args.num_shards,
        "layer": args.layer,
        "readout": args.readout,
        "format": args.format,
        "chunk_seconds": args.chunk_seconds,
        "precision": args.precision,
    }


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of_files(files: FileList) -> str:
    rows = zip(files.paths, files.num_samples.tolist(), files.sample_rates.tolist(), strict=True)
    return hashlib.sha256(repr(list(rows)).encode(errors="surrogateescape")).hexdigest()


# --- output


def _store(args: argparse.Namespace, job: Job) -> Store:
    model, layers = job.model, job.encoding.layers
    units = Units(job.chunks, len(job.rows), args.readout)
    width = readout_width(args.readout, model.grid.rows, model.width) if args.readout else model.width
    if args.format == "npy":
        return FileStore(_paths(args, job), units, _are_several(layers), width)
    numbers = layer_numbers("--layer", layers, model.num_layers)
    names = [f"layer_{number}" for number in numbers] if _are_several(layers) else [""]
    return HubertStore([args.out / name for name in names], _stem(args), units, width)


def _are_several(layers: Layers) -> bool:
    """Tell whether layers have an axis or folders of their own, as `all` has of a model of one layer too."""
    return layers != LAST and not isinstance(layers, int)


def _paths(args: argparse.Namespace, job: Job) -> list[Path]:
    """Return each clip's file, below --out as the clip lies below the manifest's root, or below what files share."""
    if isinstance(job.clips, Manifest):
        return [args.out / mirrored_path(job.clips.relative_path(row)) for row in job.rows]
    paths = [os.path.abspath(job.clips.path(row)) for row in range(len(job.clips))]  # noqa: PTH100 also `a.zip:7:9`
    shared = os.path.commonpath([posixpath.dirname(path) for path in paths])
    return [args.out / mirrored_path(posixpath.relpath(paths[row], shared)) for row in job.rows]


def _check_absent(store: Store) -> None:
    """Refuse to write over features that this command did not begin."""
    for path in store.files():
        if path.exists():
            raise ConfigError(
                f"{path}: it is there already, and nothing says how it was made; expected a new file; choose another "
                "folder, or pass --overwrite"
            )


class _Warnings:
    """Names the first bad clips on stderr, between the lines of the progress."""

    def __init__(self) -> None:
        self.num_shown = 0

    def __call__(self, reason: str) -> None:
        if self.num_shown < MAX_SHOWN:
            tqdm.write(f"no features: {reason}", file=sys.stderr)
        elif self.num_shown == MAX_SHOWN:
            tqdm.write("no features: more clips, all named in the JSON file in --out", file=sys.stderr)
        self.num_shown += 1


def _summary(args: argparse.Namespace, job: Job, store: Store, report: Report) -> dict[str, Any]:
    num_new = len(job.chunks.clips) - report.num_resumed
    return {
        "checkpoint": str(args.checkpoint),
        "out": str(args.out),
        "format": args.format,
        "files": [str(path) for path in store.files()],
        "layer": args.layer,
        "width": store.width,
        "num_clips": report.num_clips,
        "num_tokens": report.num_tokens,
        "num_chunks": len(job.chunks.clips),
        "num_chunks_resumed": report.num_resumed,
        "seconds": round(report.seconds, 3),
        "chunks_per_second": round(num_new / max(report.seconds, 1e-9), 3),
        "bad": [{"file": job.clips.path(job.rows[clip]), "reason": reason} for clip, reason in report.bad.items()],
    }


def _as_text(summary: dict[str, Any]) -> str:
    lines = [
        f"{summary['num_clips']:,} clips, {summary['num_tokens']:,} tokens of width {summary['width']}, layer "
        f"{summary['layer']}: {summary['seconds']:.1f} s, {summary['chunks_per_second']:.1f} chunks/s"
    ]
    if summary["num_chunks_resumed"]:
        lines.append(f"{summary['num_chunks_resumed']:,} of {summary['num_chunks']:,} chunks were done before")
    if summary["bad"]:
        lines.append(f"{len(summary['bad']):,} clips have no features, and length 0")
    where = f"{len(summary['files'])} arrays and their .len" if summary["files"] else "one .npy a clip"
    return "\n".join([*lines, f"{where} in {summary['out']}"])
