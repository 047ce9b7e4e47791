"""Batches of clips through an encoder: the features of tokens, or what readouts keep of them over a clip."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mae_ast_fairseq.data.audio import SAMPLE_RATE, ClipList
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.inference.chunks import BATCH_SECONDS, Chunks, plan_batches, plan_chunks, tokens_of
from mae_ast_fairseq.inference.loading import (
    NUM_WORKERS,
    BrokenFiles,
    load_ahead,
    load_part,
    readable_samples,
    unusable,
)
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder
from mae_ast_fairseq.nn.readout import (
    ALL,
    LAST,
    Layers,
    check_readout,
    layer_numbers,
    merge_readouts,
    read_out,
    readout_width,
)
from mae_ast_fairseq.nn.tokens import TokenGrid

Compute = Callable[[list[np.ndarray]], Iterable[np.ndarray]]
"""What is made of waveforms [S] at 16 kHz in one batch: an array of each."""


class Job(NamedTuple):
    """Which clips are computed, and in which parts and batches."""

    clips: ClipList
    rows: Sequence[int]
    """[N] of the clips, in the order of their results"""
    num_samples: np.ndarray
    """[N] how much is read of each, at 16 kHz"""
    chunks: Chunks
    """the plan of these rows"""
    grid: TokenGrid
    min_tokens: int = 1
    """clips without a chunk have fewer"""
    batch_seconds: float = BATCH_SECONDS
    """at most so much in a batch, padding included, unless one chunk is longer"""
    num_workers: int = NUM_WORKERS
    """threads that decode audio; 0: the model waits for it"""

    @property
    def num_tokens(self) -> np.ndarray:
        """Count the tokens of each clip: int64 [N]."""
        return self.grid.num_tokens(fbank.num_frames(self.num_samples))


def compute_clips(job: Job, compute: Compute) -> Iterator[Iterator[np.ndarray]]:
    """Yield, for each clip of a job in order, an iterator over what is made of its chunks.

    It raises AudioError where the clip cannot be read or is too short. What is held in memory does not grow with the
    number of clips or their length.
    """
    num_chunks = np.bincount(job.chunks.clips, minlength=len(job.rows))
    computed = _compute_chunks(job, compute)
    for row, count, num_samples in zip(job.rows, num_chunks.tolist(), job.num_samples.tolist(), strict=True):
        own = islice(computed, count)
        yield _good(own if count else [unusable(job.clips, row, num_samples, job.grid, job.min_tokens)])
        deque(own, maxlen=0)  # what is left of a clip that was given up


def _compute_chunks(job: Job, compute: Compute) -> Iterator[np.ndarray | AudioError]:
    """Yield in their order what is made of each chunk, or why it could not be read."""

    def load(chunk: int) -> np.ndarray | AudioError:
        row = job.rows[job.chunks.clips[chunk]]
        return load_part(job.clips, row, int(job.chunks.starts[chunk]), int(job.chunks.num_samples[chunk]))

    max_tokens = tokens_of(job.batch_seconds, job.grid)
    batches = [batch.tolist() for batch in plan_batches(job.chunks.num_tokens, max_tokens)]
    results: dict[int, np.ndarray | AudioError] = {}
    next_chunk = 0
    for batch, waveforms in zip(batches, load_ahead(load, batches, job.num_workers), strict=True):
        good = [waveform for waveform in waveforms if isinstance(waveform, np.ndarray)]
        values = iter(compute(good) if good else [])
        for chunk, waveform in zip(batch, waveforms, strict=True):
            results[chunk] = waveform if isinstance(waveform, AudioError) else next(values)
        while next_chunk in results:
            yield results.pop(next_chunk)
            next_chunk += 1


def _good(results: Iterable[np.ndarray | AudioError]) -> Iterator[np.ndarray]:
    for result in results:
        if isinstance(result, AudioError):
            raise result
        yield result


def encode_clips(
    model: SpectrogramEncoder, job: Job, layers: Layers = LAST, readouts: Sequence[str] = ()
) -> Iterator[Iterator[np.ndarray]]:
    """Yield, for each clip of a job in order, an iterator over its features, float32.

    Args:
        model: in evaluation mode; its device and precision are used.
        job: the clips, cut by `plan_chunks`.
        layers: which are kept.
        readouts: what is kept of a clip's tokens, one readout after another; none: every token.

    Yields:
        Of each chunk [layers, tokens, C]; or where they are read out, of the whole clip [layers, 1, D]. AudioError is
        raised as by `compute_clips`, and ConfigError for features that are not finite, as float16 may give.
    """
    compute = partial(encode_waveforms, model, layers=layers, readouts=readouts)
    widths = [readout_width(name, model.grid.rows, model.width) for name in readouts]
    num_chunks = np.bincount(job.chunks.clips, minlength=len(job.rows))
    num_tokens = np.split(job.chunks.num_tokens, num_chunks.cumsum())  # of each clip, and nothing at the end
    for parts, own_tokens in zip(compute_clips(job, compute), num_tokens, strict=False):
        yield _merged(parts, readouts, widths, own_tokens) if readouts else parts


def _merged(
    parts: Iterator[np.ndarray], readouts: Sequence[str], widths: Sequence[int], num_tokens: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield once what was read out of all chunks of a clip, [layers, 1, D] each."""
    values = np.stack(list(parts))  # [K, layers, 1, D]
    by_readout = np.split(values, np.cumsum(widths)[:-1], axis=-1)
    merged = [merge_readouts(name, part, num_tokens) for name, part in zip(readouts, by_readout, strict=True)]
    yield np.concatenate(merged, axis=-1)


@torch.inference_mode()
def encode_waveforms(
    model: SpectrogramEncoder,
    waveforms: Sequence[np.ndarray | Tensor],
    layers: Layers = LAST,
    readouts: Sequence[str] = (),
) -> list[np.ndarray]:
    """Encode waveforms [S] in one batch; of each float32 [layers, tokens, C], or [layers, 1, D] if read out."""
    source, padding_mask = pad_waveforms(waveforms, next(model.parameters()).device)
    outputs, mask = model.layer_features(source, padding_mask, layers)
    if readouts:
        rows = model.grid.rows
        outputs = [
            torch.cat([read_out(name, output, mask, rows) for name in readouts], dim=-1)[:, None] for output in outputs
        ]  # [B, 1, D] each
    values = torch.stack([output.float() for output in outputs]).cpu().numpy()  # [layers, B, L, C]
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise ConfigError(
            "the model's features are not finite in this precision; expected numbers; "
            "run it in float32 or bfloat16, and see whether the audio is silent or extremely loud"
        )
    counts = [1 if readouts else int(model.grid.num_tokens(fbank.num_frames(len(wave)))) for wave in waveforms]
    return [values[:, place, :count] for place, count in enumerate(counts)]


def pad_waveforms(waveforms: Sequence[np.ndarray | Tensor], device: torch.device) -> tuple[Tensor, Optional[Tensor]]:
    """Pad waveforms to [B, S] with a mask [B, S], True = padding, or None where all are of one length."""
    lengths = [len(waveform) for waveform in waveforms]
    source = nn.utils.rnn.pad_sequence([torch.as_tensor(waveform) for waveform in waveforms], batch_first=True)
    source = source.to(device)
    if min(lengths) == max(lengths):
        return source, None
    return source, torch.arange(max(lengths), device=device) >= torch.tensor(lengths, device=device)[:, None]


def clip_features(
    model: SpectrogramEncoder,
    clips: ClipList,
    readouts: Sequence[str],
    layers: Layers = ALL,
    max_seconds: Optional[float] = None,
    rows: Optional[Sequence[int]] = None,
    broken: Optional[BrokenFiles] = None,
) -> dict[str, np.ndarray]:
    """Read layers out over the tokens of each clip, on the model's device and in its precision.

    Args:
        model: is put into evaluation mode.
        clips: of which only `max_seconds` of the start are read; None: all.
        readouts: keys of READOUTS.
        layers: which are read out; LAST takes the least memory.
        rows: which of the clips; None: all of them.
        broken: takes in the clips that cannot be read or are too short for one token, which are left out then.

    Returns:
        By readout float32 [clips, layers, D]; ALL layers as `extract_features` gives them with `output_layer` 1 to N.

    Raises:
        AudioError: a broken clip where there is no `broken`.
        ConfigError: a readout that the model's tokens do not have.
    """
    model.eval()
    for name in readouts:
        check_readout("readout", name, model.grid.rows)
    rows = range(len(clips)) if rows is None else rows
    num_samples = readable_samples(clips)[rows]
    if max_seconds is not None:
        num_samples = np.minimum(num_samples, round(max_seconds * SAMPLE_RATE))
    job = Job(clips, rows, num_samples, plan_chunks(num_samples, model.grid), model.grid)
    ends = np.cumsum([readout_width(name, model.grid.rows, model.width) for name in readouts])
    num_layers = len(layer_numbers("layers", layers, model.num_layers))
    values = np.empty((len(rows), num_layers, ends[-1]), dtype=np.float32)
    encoded = encode_clips(model, job, layers, readouts)
    num_good = 0
    for row, parts in zip(rows, tqdm(encoded, total=len(values), unit=" clips", disable=None), strict=True):
        try:
            values[num_good] = next(parts)[:, 0]
            num_good += 1
        except AudioError as error:
            if broken is None:
                raise
            broken.add(row, error)
    return dict(zip(readouts, np.split(values[:num_good], ends[:-1], axis=-1), strict=True))
