"""What a classifier says of audio files: whole, or window by window where they are long."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from mae_ast_fairseq.data.audio import DECODING_ERRORS, load_audio, open_audio, samples_at_16k, unreadable
from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.inference.features import pad_waveforms
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.classifier import AudioClassifier
from mae_ast_fairseq.nn.tokens import MIN_TOKENS, TokenGrid

BATCH_SAMPLES = 960_000  # one minute, padding included
FILES_AT_A_TIME = 256  # whose windows are sorted by length and batched together


class Clip(NamedTuple):
    """An audio file, or a part of an archive; what a manifest says of it is compared with the file."""

    path: str
    num_samples: Optional[int] = None
    sample_rate: Optional[int] = None


class Window(NamedTuple):
    """A part of a file, in samples at 16 kHz."""

    start: int
    stop: int


class Prediction(NamedTuple):
    """The probabilities of a window's classes."""

    window: Window
    probabilities: np.ndarray
    """[K] float32"""


class _Job(NamedTuple):
    file: int
    place: int
    """of the window in its file"""
    window: Window


def cut_windows(num_samples: int, length: int, hop: int) -> list[Window]:
    """Cut a file into windows of one length, `hop` apart; the last one ends where the file ends.

    A file of at most that length is one window. All counts are of samples at 16 kHz.
    """
    if num_samples <= length:
        return [Window(0, num_samples)]
    starts = [*range(0, num_samples - length, hop), num_samples - length]
    return [Window(start, start + length) for start in starts]


def predict(
    model: AudioClassifier, clips: Sequence[Clip], *, window_samples: int, hop_samples: int
) -> Iterator[list[Prediction] | AudioError]:
    """Classify files of any rate, one after another; a broken one gives its error, and the others go on.

    Args:
        model: on any device and in any precision; it is put in evaluation mode.
        clips: the files.
        window_samples: longest part that is classified at once, at 16 kHz; a shorter file is classified whole.
        hop_samples: from one window's start to the next's.

    Yields:
        For each clip the predictions of its windows, in order of time, or the AudioError of what cannot be decoded or
        has fewer than two tokens. A prediction does not depend on the other files.
    """
    model.eval()
    for begin in range(0, len(clips), FILES_AT_A_TIME):
        part = clips[begin : begin + FILES_AT_A_TIME]
        results: list[dict[int, Prediction] | AudioError] = []
        jobs = []
        for file, clip in enumerate(part):
            try:
                windows = cut_windows(_num_samples(clip, model.grid), window_samples, hop_samples)
            except AudioError as error:
                results.append(error)
                continue
            results.append({})
            jobs += [_Job(file, place, window) for place, window in enumerate(windows)]
        for batch in _batches(jobs):
            _predict_batch(model, part, batch, results)
        for result in results:
            yield result if isinstance(result, AudioError) else [result[place] for place in sorted(result)]


def _num_samples(clip: Clip, grid: TokenGrid) -> int:
    """Return a file's length at 16 kHz by its header; raises AudioError."""
    try:
        with open_audio(clip.path) as file:
            num_samples = samples_at_16k(file.frames, file.samplerate)
    except DECODING_ERRORS as error:
        raise (error if isinstance(error, AudioError) else AudioError(unreadable(clip.path, error))) from None
    num_tokens = grid.num_tokens(fbank.num_frames(num_samples))
    if num_tokens < MIN_TOKENS:
        raise AudioError(
            f"{clip.path}: its {num_samples / fbank.SAMPLE_RATE:.3f} s give {num_tokens} tokens of the model; expected "
            f"at least {MIN_TOKENS}; leave it out or give a longer clip"
        )
    return num_samples


def _batches(jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
    """Batch windows of like length, the longest first, so that the first batch needs the most memory."""
    batch: list[_Job] = []
    for job in sorted(jobs, key=lambda job: job.window.start - job.window.stop):
        longest = batch[0].window if batch else job.window
        if (longest.stop - longest.start) * (len(batch) + 1) > BATCH_SAMPLES and batch:
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _predict_batch(
    model: AudioClassifier,
    clips: Sequence[Clip],
    batch: Sequence[_Job],
    results: list[dict[int, Prediction] | AudioError],
) -> None:
    """Classify a batch of windows and put the predictions, or the error of a window's file, in their places."""
    decoded: list[tuple[_Job, np.ndarray]] = []
    for job in batch:
        if isinstance(results[job.file], AudioError):
            continue
        try:
            decoded.append((job, _load(clips[job.file], job.window)))
        except AudioError as error:
            results[job.file] = error
    if not decoded:
        return
    probabilities = classify(model, [waveform for _, waveform in decoded])
    for (job, _), values in zip(decoded, probabilities, strict=True):
        result = results[job.file]
        if not isinstance(result, AudioError):
            result[job.place] = Prediction(job.window, values)


def _load(clip: Clip, window: Window) -> np.ndarray:
    return load_audio(clip.path, window.start, window.stop - window.start, clip.num_samples, clip.sample_rate)


@torch.no_grad()
def classify(model: AudioClassifier, waveforms: Sequence[np.ndarray | Tensor]) -> np.ndarray:
    """Return the probabilities [B, K], float32, of waveforms [S] at 16 kHz of any lengths, each as if alone."""
    logits = model(*pad_waveforms(waveforms, model.head.weight.device))
    return model.probabilities(logits).cpu().numpy()
