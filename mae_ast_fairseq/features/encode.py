"""Batches of clips through an encoder: the features of tokens, or their mean and deviation over a clip."""

from collections.abc import Generator, Sequence
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mae_ast_fairseq.data.audio import SAMPLE_RATE
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.features.loading import NUM_WORKERS, Clips, load_ahead, load_part
from mae_ast_fairseq.features.plan import (
    BATCH_SECONDS,
    Chunks,
    min_seconds,
    plan_batches,
    plan_chunks,
    tokens_of,
)
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder, mean_pool

LAST, ALL = "last", "all"
"""Choices of a layer beside its number: the encoder's output, and the output of each layer."""


class Encoding(NamedTuple):
    """What is computed of every chunk."""

    layer: int | str = LAST
    """a layer's number, counted from 1, LAST or ALL"""
    pooled: bool = False
    """the mean over a chunk's tokens instead of every token"""
    deviation: bool = False
    """with `pooled`: their standard deviation beside the mean"""


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
    """of each chunk float32 [layers, tokens, C], or [layers, 1, C or 2C] if pooled; or why it could not be read"""


def check_layer(layer: int | str, num_layers: int) -> None:
    """Raise ConfigError for a layer that an encoder of `num_layers` does not have."""
    if layer not in (LAST, ALL) and not (isinstance(layer, int) and 1 <= layer <= num_layers):
        raise ConfigError(f"layer {layer}: the model has layers 1 to {num_layers}; expected one of these, last or all")


def layer_names(layer: int | str, num_layers: int) -> list[str]:
    """Name the layers that `encode_batches` gives, as `layer_3`."""
    numbers = range(1, num_layers + 1) if layer == ALL else [layer]
    return [f"layer_{number}" for number in numbers]


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
    if encoding.layer == ALL:
        states = model.hidden_states(source, padding_mask)
        layers, mask = states.layers, states.token_padding_mask
    else:
        output_layer = None if encoding.layer == LAST else int(encoding.layer)
        features, mask = model.extract_features(source, padding_mask, output_layer=output_layer)
        layers = [features]
    if encoding.pooled:
        layers = [pool(layer, mask, encoding.deviation)[:, None] for layer in layers]  # [B, 1, C or 2C]
    values = torch.stack([layer.float() for layer in layers]).cpu().numpy()  # [layers, B, L, C]
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise ConfigError(
            "the model's features are not finite in this precision; expected numbers; "
            "run it in float32 or bfloat16, and see whether the audio is silent or extremely loud"
        )
    return [values[:, place, : 1 if encoding.pooled else count] for place, count in enumerate(num_tokens)]


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


def pool(features: Tensor, padding_mask: Optional[Tensor], deviation: bool = False) -> Tensor:
    """Average [B, L, C] over tokens, padding left out: float32 [B, C], or [B, 2C] with the standard deviation."""
    mean = mean_pool(features, padding_mask)
    if not deviation:
        return mean
    squares = (features.float() - mean[:, None]).square_()
    return torch.cat([mean, mean_pool(squares, padding_mask).sqrt_()], dim=-1)


def merge_pooled(values: np.ndarray, num_tokens: np.ndarray, deviation: bool = False) -> np.ndarray:
    """Merge what was pooled over the chunks of a clip, [K, ..., C or 2C], weighing by tokens [K]: [..., C or 2C]."""
    if len(values) == 1:
        return values[0]
    values = values.astype(np.float64)
    weights = num_tokens / num_tokens.sum()
    if not deviation:
        return np.average(values, axis=0, weights=weights).astype(np.float32)
    means, deviations = np.split(values, 2, axis=-1)
    mean = np.average(means, axis=0, weights=weights)
    variance = np.average(deviations**2 + (means - mean) ** 2, axis=0, weights=weights)
    return np.concatenate([mean, np.sqrt(variance)], axis=-1).astype(np.float32)


def pooled_features(
    model: SpectrogramEncoder,
    manifest: Clips,
    *,
    device: torch.device,
    dtype: torch.dtype,
    deviation: bool = False,
    max_seconds: Optional[float] = None,
    progress: bool = True,
) -> np.ndarray:
    """Average the output of every layer over the tokens of each clip.

    Args:
        model: is moved to `device` and `dtype` for good, and put into evaluation mode.
        manifest: the clips.
        device: where the model runs.
        dtype: its precision.
        deviation: give the standard deviation over tokens beside the mean.
        max_seconds: read only this much of a clip's start; None: all of it.
        progress: show it on stderr.

    Returns:
        float32 [clips, N, C], or [clips, N, 2C] with `deviation`; the layers as `extract_features` gives them with
        `output_layer` 1 to N, in the order of the manifest.

    Raises:
        AudioError: a clip that cannot be read or is too short for one token.
    """
    model = model.to(device, dtype).eval()
    num_samples = manifest.num_samples_at_16k
    if max_seconds is not None:
        num_samples = np.minimum(num_samples, int(max_seconds * SAMPLE_RATE))
    chunks = plan_chunks(num_samples, model.grid)
    num_chunks = np.bincount(chunks.clips, minlength=len(manifest))
    if (num_chunks == 0).any():
        raise too_short(manifest, int(np.argmin(num_chunks)), num_samples, model)
    first_places = num_chunks.cumsum() - num_chunks
    encoding = Encoding(ALL, pooled=True, deviation=deviation)
    width = model.width * (2 if deviation else 1)
    parts = np.empty((len(chunks.clips), model.num_layers, width), dtype=np.float32)
    part_tokens = np.empty(len(chunks.clips), dtype=np.int64)
    with tqdm(total=len(manifest), unit=" clips", disable=None if progress else True) as bar:
        for batch in encode_batches(Job(model, manifest, range(len(manifest)), chunks, encoding)):
            for chunk, value in zip(range(batch.chunks.start, batch.chunks.stop), batch.values, strict=True):
                if isinstance(value, AudioError):
                    raise value
                place = first_places[chunks.clips[chunk]] + chunks.numbers[chunk]
                parts[place], part_tokens[place] = value[:, 0], chunks.num_tokens[chunk]
                bar.update(int(chunks.numbers[chunk] == num_chunks[chunks.clips[chunk]] - 1))
    if (num_chunks == 1).all():
        return parts
    ends = first_places + num_chunks
    return np.stack(
        [
            merge_pooled(parts[first:end], part_tokens[first:end], deviation)
            for first, end in zip(first_places, ends, strict=True)
        ]
    )


def too_short(clips: Clips, row: int, num_samples: np.ndarray, model: SpectrogramEncoder) -> AudioError:
    """Say that a clip, of which `num_samples` [N] are read, is too short for a token of the model."""
    seconds = num_samples[row] / SAMPLE_RATE
    return AudioError(
        f"{clips.where(row)}: {clips.path(row)}: {seconds:.3f} s of it give no token of the model; "
        f"expected at least {min_seconds(model.grid):.3f} s; give a longer clip, or leave it out"
    )
