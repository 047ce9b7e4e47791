"""`mae-ast extract`: features of audio files to disk, in HuBERT's layout or one file a clip."""

import argparse
import errno
import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae_ast_fairseq.checkpoints.names import CONFIG, WEIGHTS
from mae_ast_fairseq.cli.arguments import at_least, number, seconds
from mae_ast_fairseq.cli.model import (
    add_checkpoint_argument,
    add_device_arguments,
    add_input_arguments,
    check_device_arguments,
    find_checkpoint,
    read_clips,
)
from mae_ast_fairseq.cli.printing import print_result
from mae_ast_fairseq.data.manifest import Manifest
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.files import locked, open_regular, prepare_folder, remove_partial
from mae_ast_fairseq.inference.chunks import BATCH_SECONDS, CHUNK_SECONDS, plan_chunks, shard_rows
from mae_ast_fairseq.inference.encoder import load_pretrained
from mae_ast_fairseq.inference.extract import (
    FLOAT32,
    HubertStore,
    NpyStore,
    Store,
    begin_record,
    extract,
    mirrored_path,
    recorded_precision,
    write_record,
)
from mae_ast_fairseq.inference.features import Job
from mae_ast_fairseq.inference.loading import NUM_WORKERS, BrokenFiles, FileList, readable_samples
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder
from mae_ast_fairseq.nn.readout import LAST, READOUTS, check_readout, layer_numbers, parse_layers, readout_width

EXAMPLE = "mae-ast extract runs/a/checkpoints/checkpoint_best.pt --manifest data/train.tsv --out features"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_checkpoint_argument(parser, "of any of our models, as released, or tiny, which the package brings")
    add_input_arguments(parser)
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
        choices=("hubert", "npy"),
        help="hubert: SPLIT_RANK_SHARDS.npy, all tokens of all clips, and .len, how many each clip has; npy: one .npy "
        "a clip, in the folders of the audio (default: hubert for a manifest, npy for files)",
    )
    parser.add_argument("--shard", type=at_least(0), default=0, metavar="RANK", help="which shard to do, from 0 on")
    parser.add_argument(
        "--num-shards",
        type=at_least(1),
        default=1,
        help="how many runs of rows the clips are cut into (default: %(default)s)",
    )
    parser.add_argument(
        "--chunk-seconds",
        type=seconds,
        default=CHUNK_SECONDS,
        help="longer clips are cut into chunks at whole token columns, each encoded alone; no token is lost, and times "
        "go on evenly (default: %(default)s)",
    )
    parser.add_argument(
        "--max-seconds-per-batch",
        type=seconds,
        default=BATCH_SECONDS,
        help="audio encoded at once; less takes less memory (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=number(int, lambda value: 0 <= value <= 256, "0 to 256 threads"),
        default=NUM_WORKERS,
        help="threads that decode audio (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="start anew over what is in --out")
    add_device_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")


def run(args: argparse.Namespace) -> int:
    """Extract, print what was done; 1 where clips had to be left without features, 2 where all had."""
    if args.shard >= args.num_shards:
        raise ConfigError(f"--shard {args.shard} --num-shards {args.num_shards}: expected a shard from 0 to one below")
    args.format = args.format or ("npy" if args.paths else "hubert")
    args.layers = parse_layers(args.layer)
    stem = f"{args.manifest.stem if args.manifest else 'files'}_{args.shard}_{args.num_shards}"
    record = args.out / f"{stem}.json"
    placement = check_device_arguments(args, None if args.overwrite else recorded_precision(record))
    clips = read_clips(args)
    model = load_pretrained(find_checkpoint(args), ignore_unknown=args.ignore_unknown).encoder.to(*placement)
    layer_numbers("--layer", args.layers, model.num_layers)
    if args.readout is not None:
        check_readout("--readout", args.readout, model.grid.rows)
    job = _job(args, model, clips, shard_rows(len(clips), args.shard, args.num_shards))
    store = _store(args, model, clips, job, stem)

    prepare_folder("--out", args.out)
    with locked(args.out / f".{stem}.lock"):
        settings = _settings(args, clips)
        files = [record, *store.paths, *(path.with_suffix(".len") for path in store.paths)]
        remove_partial(files)
        if args.overwrite:
            for path in files:
                path.unlink(missing_ok=True)
        broken = BrokenFiles("extract", clips)
        before = begin_record(record, settings, store.paths)
        begin, new = time.monotonic(), _job(args, model, clips, store.todo())
        if all(path.exists() for path in store.paths):
            broken.reasons.update(before)
        else:
            _extract(args, model, new, store, broken, record)
        write_record(record, settings, broken.reasons)
    summary = {
        "checkpoint": str(args.checkpoint),
        "out": str(args.out),
        "format": args.format,
        "files": list(map(str, store.paths)) if args.format == "hubert" else [],
        "layer": args.layer,
        "width": _width(args, model),
        **_counts(job, new, broken.reasons, time.monotonic() - begin),
        "broken": broken.as_json(),
    }
    code = broken.exit_code(len(job.rows) - len(broken.reasons))
    print_result(args, summary, _as_text(summary))
    return code


def _width(args: argparse.Namespace, model: SpectrogramEncoder) -> int:
    return readout_width(args.readout, model.grid.rows, model.width) if args.readout else model.width


def _job(args: argparse.Namespace, model: SpectrogramEncoder, clips: Manifest | FileList, rows: Sequence[int]) -> Job:
    """Plan the extraction of some rows; raises ConfigError where chunks are too short for a token."""
    num_samples = readable_samples(clips)[np.array(rows, dtype=np.int64)]
    chunks = plan_chunks(num_samples, model.grid, args.chunk_seconds)
    return Job(clips, rows, num_samples, chunks, model.grid, 1, args.max_seconds_per_batch, args.workers)


def _store(
    args: argparse.Namespace, model: SpectrogramEncoder, clips: Manifest | FileList, job: Job, stem: str
) -> Store:
    """Return where features go; several layers have folders of their own, or an axis, as `all` has of one layer too."""
    width = _width(args, model)
    has_layers = args.layers != LAST and not isinstance(args.layers, int)
    layers = layer_numbers("--layer", args.layers, model.num_layers) if has_layers else []
    if args.format == "hubert":
        folders = [args.out / f"layer_{number}" for number in layers] if has_layers else [args.out]
        return HubertStore([folder / f"{stem}.npy" for folder in folders], job.rows, width)
    axes = (len(layers),) if has_layers else ()
    files = {}
    for row, num_tokens in zip(job.rows, job.num_tokens.tolist(), strict=True):
        shape = (*axes, width) if args.readout else (*axes, num_tokens, width)
        files[row] = args.out / mirrored_path(clips.relative_path(row)), shape
    return NpyStore(files)


def _settings(args: argparse.Namespace, clips: Manifest | FileList) -> dict[str, Any]:
    """Return what the files depend on, by which a restart knows whether it may go on."""
    settings = {name: getattr(args, name) for name in ("layer", "readout", "format", "chunk_seconds", "precision")}
    settings["checkpoint"] = _hash_of(args.checkpoint)
    config = args.checkpoint.with_name(CONFIG)
    if args.checkpoint.name == WEIGHTS and config.is_file():  # which says how the weights beside it are read
        settings["config"] = _hash_of(config)
    if isinstance(clips, Manifest):
        settings["clips"] = _hash_of(args.manifest)
    else:
        rows: list[Any] = list(zip(clips.paths, clips.num_samples.tolist(), clips.sample_rates.tolist(), strict=True))
        if args.format == "npy":  # where a file that could not be read is tried again
            rows = [str(Path(path).absolute()) for path in clips.paths]
        settings["clips"] = hashlib.sha256(repr(rows).encode(errors="surrogateescape")).hexdigest()
    return settings


def _hash_of(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extract(
    args: argparse.Namespace, model: SpectrogramEncoder, job: Job, store: Store, broken: BrokenFiles, record: Path
) -> None:
    """Extract what is not done; raises ConfigError where the disk is full, before hours of work where that is seen."""
    num_layers = len(layer_numbers("--layer", args.layers, model.num_layers))
    num_vectors = len(job.rows) if args.readout else int(job.num_tokens.sum())
    num_bytes = num_layers * num_vectors * _width(args, model) * FLOAT32.itemsize
    try:
        if num_bytes > shutil.disk_usage(args.out).free:
            raise OSError(errno.ENOSPC, f"no room for {num_bytes:,} bytes")
        extract(model, job, store, broken, args.layers, [args.readout] if args.readout else [])
    except AudioError:
        record.unlink()
        raise
    except OSError as error:
        raise ConfigError(
            f"--out {args.out}: cannot be written ({error.strerror or error}); expected room and leave to write; free "
            "some, or write fewer layers, a --readout or shards; run again, it keeps the files that are whole"
        ) from None


def _counts(job: Job, new: Job, bad: dict[int, str], seconds: float) -> dict[str, int | float]:
    """Count what was done: all of `job`, and of it `new` this time."""
    is_good = ~np.isin(job.rows, list(bad))
    num_chunks, num_new = len(job.chunks.clips), len(new.chunks.clips)
    return {
        "num_clips": int(is_good.sum()),
        "num_tokens": int(job.num_tokens[is_good].sum()),
        "num_chunks": num_chunks,
        "num_chunks_resumed": num_chunks - num_new,
        "seconds": round(seconds, 3),
        "chunks_per_second": round(num_new / max(seconds, 1e-9), 3),
    }


def _as_text(summary: dict[str, Any]) -> str:
    lines = [
        f"{summary['num_clips']:,} clips, {summary['num_tokens']:,} tokens of width {summary['width']}, layer "
        f"{summary['layer']}: {summary['seconds']:.1f} s, {summary['chunks_per_second']:.1f} chunks/s"
    ]
    if summary["num_chunks_resumed"]:
        lines.append(f"{summary['num_chunks_resumed']:,} of {summary['num_chunks']:,} chunks were done before")
    if summary["broken"]:
        lines.append(f"{len(summary['broken']):,} clips have no features")
    where = f"{len(summary['files'])} arrays and their .len" if summary["files"] else "one .npy a clip"
    return "\n".join([*lines, f"{where} in {summary['out']}"])
