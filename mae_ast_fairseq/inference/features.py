"""Batches of clips through an encoder: the features of tokens, or what readouts keep of them over a clip."""

from collections.abc import Generator, Sequence
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mae_ast_fairseq.data.audio import SAMPLE_RATE
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.inference.chunks import (
    BATCH_SECONDS,
    Chunks,
    min_seconds,
    plan_batches,
    plan_chunks,
    tokens_of,
)
from mae_ast_fairseq.inference.loading import NUM_WORKERS, Clips, load_ahead, load_part
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder
from mae_ast_fairseq.nn.readout import (
    ALL,
    LAST,
    Layers,
    check_readout,
    merge_readouts,
    read_out,
    readout_width,
)


class Encoding(NamedTuple):
    """What is computed of every chunk."""

    layers: Layers = LAST
    readouts: tuple[str, ...] = ()
    """what is kept of a chunk's tokens, one readout after another; none: every token"""


class Job(NamedTuple):
    """What is encoded, by what and how."""

    model: SpectrogramEncoder
    """in evaluation mode; its device and precision are used"""
    clips: Clips
    rows: Sequence[int]
    """of the clips, in the order of their features"""
    chunks: Chunks
    """the plan of these rows"""
    encoding: Encoding
    batch_seconds: float = BATCH_SECONDS
    """at most so much in a batch, padding included, unless one chunk is longer"""
    num_workers: int = NUM_WORKERS
    """threads that decode audio; 0: the model waits for it"""


class EncodedBatch(NamedTuple):
    """What was computed of some chunks that follow each other in their plan."""

    chunks: slice
    """which chunks of the plan"""
    values: list[np.ndarray | AudioError]
    """of each chunk float32 [layers, tokens, C], or [layers, 1, D] if read out; or why it could not be read"""


def encode_batches(job: Job, first: int = 0) -> Generator[EncodedBatch, None, None]:
    """Encode the chunks of a job in the order of their plan, from chunk `first` on.

    Raises ConfigError for features that are not finite, as float16 may give.
    """
    model, chunks = job.model, job.chunks

    def load(chunk: int) -> np.ndarray | AudioError:
        row = job.rows[chunks.clips[chunk]]
        return load_part(job.clips, row, int(chunks.starts[chunk]), int(chunks.num_samples[chunk]))

    batches = list(plan_batches(chunks.num_tokens, tokens_of(job.batch_seconds, model.grid), first))
    loaded = load_ahead(load, (range(batch.start, batch.stop) for batch in batches), job.num_workers)
    for batch, waveforms in zip(batches, loaded, strict=True):
        good = [waveform for waveform in waveforms if isinstance(waveform, np.ndarray)]
        is_good = [isinstance(waveform, np.ndarray) for waveform in waveforms]
        values: list[np.ndarray | AudioError] = list(waveforms)
        if good:
            computed = encode_waveforms(model, good, chunks.num_tokens[batch][is_good].tolist(), job.encoding)
            for place, value in zip(np.flatnonzero(is_good), computed, strict=True):
                values[place] = value
        yield EncodedBatch(batch, values)


@torch.inference_mode()
def encode_waveforms(
    model: SpectrogramEncoder, waveforms: Sequence[np.ndarray], num_tokens: Sequence[int], encoding: Encoding
) -> list[np.ndarray]:
    """Encode waveforms [S] of `num_tokens` tokens each in one batch; each as EncodedBatch has it."""
    source, padding_mask = pad_waveforms(waveforms, next(model.parameters()).device)
    layers, mask = model.layer_features(source, padding_mask, encoding.layers)
    if encoding.readouts:
        rows = model.grid.rows
        layers = [
            torch.cat([read_out(name, layer, mask, rows) for name in encoding.readouts], dim=-1)[:, None]
            for layer in layers
        ]  # [B, 1, D] each
    values = torch.stack([layer.float() for layer in layers]).cpu().numpy()  # [layers, B, L, C]
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise ConfigError(
            "the model's features are not finite in this precision; expected numbers; "
            "run it in float32 or bfloat16, and see whether the audio is silent or extremely loud"
        )
    return [values[:, place, : 1 if encoding.readouts else count] for place, count in enumerate(num_tokens)]


def pad_waveforms(waveforms: Sequence[np.ndarray | Tensor], device: torch.device) -> tuple[Tensor, Optional[Tensor]]:
    """Pad waveforms to [B, S] with a mask [B, S], True = padding, or None where all are of one length."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    longest = int(lengths.max())
    source = torch.zeros(len(waveforms), longest)
    for row, waveform in zip(source, waveforms, strict=True):
        row[: len(waveform)] = torch.as_tensor(waveform)
    source = source.to(device)
    if int(lengths.min()) == longest:
        return source, None
    return source, torch.arange(longest, device=device) >= lengths.to(device)[:, None]


def clip_features(
    model: SpectrogramEncoder,
    manifest: Clips,
    readouts: Sequence[str],
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_seconds: Optional[float] = None,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """Read every layer out over the tokens of each clip.

    Args:
        model: is moved to `device` and `dtype` for good, and put into evaluation mode.
        manifest: the clips.
        readouts: keys of READOUTS.
        device: where the model runs.
        dtype: its precision.
        max_seconds: read only this much of a clip's start; None: all of it.
        progress: show it on stderr.

    Returns:
        By readout float32 [clips, N, D]; the layers as `extract_features` gives them with `output_layer` 1 to N, in
        the order of the manifest.

    Raises:
        AudioError: a clip that cannot be read or is too short for one token.
        ConfigError: a readout that the model's tokens do not have.
    """
    for name in readouts:
        check_readout("readout", name, model.grid.rows)
    model = model.to(device, dtype).eval()
    num_samples = manifest.num_samples_at_16k
    if max_seconds is not None:
        num_samples = np.minimum(num_samples, int(max_seconds * SAMPLE_RATE))
    chunks = plan_chunks(num_samples, model.grid)
    num_chunks = np.bincount(chunks.clips, minlength=len(manifest))
    if (num_chunks == 0).any():
        raise too_short(manifest, int(np.argmin(num_chunks)), num_samples, model)
    first_places = num_chunks.cumsum() - num_chunks
    ends = np.cumsum([readout_width(name, model.grid.rows, model.width) for name in readouts])
    parts = np.empty((len(chunks.clips), model.num_layers, ends[-1]), dtype=np.float32)
    part_tokens = np.empty(len(chunks.clips), dtype=np.int64)
    with tqdm(total=len(manifest), unit=" clips", disable=None if progress else True) as bar:
        job = Job(model, manifest, range(len(manifest)), chunks, Encoding(ALL, tuple(readouts)))
        for batch in encode_batches(job):
            for chunk, value in zip(range(batch.chunks.start, batch.chunks.stop), batch.values, strict=True):
                if isinstance(value, AudioError):
                    raise value
                place = first_places[chunks.clips[chunk]] + chunks.numbers[chunk]
                parts[place], part_tokens[place] = value[:, 0], chunks.num_tokens[chunk]
                bar.update(int(chunks.numbers[chunk] == num_chunks[chunks.clips[chunk]] - 1))
    by_readout = dict(zip(readouts, np.split(parts, ends[:-1], axis=-1), strict=True))
    if (num_chunks == 1).all():
        return by_readout
    clips = [slice(first, first + count) for first, count in zip(first_places, num_chunks, strict=True)]
    return {
        name: np.stack([merge_readouts(name, values[clip], part_tokens[clip]) for clip in clips])
        for name, values in by_readout.items()
    }


def too_short(clips: Clips, row: int, num_samples: np.ndarray, model: SpectrogramEncoder) -> AudioError:
    """Say that a clip, of which `num_samples` [N] are read, is too short for a token of the model."""
    seconds = num_samples[row] / SAMPLE_RATE
    return AudioError(
        f"{clips.where(row)}: {clips.path(row)}: {seconds:.3f} s of it give no token of the model; "
        f"expected at least {min_seconds(model.grid):.3f} s; give a longer clip, or leave it out"
    )
