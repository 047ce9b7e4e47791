"""What a classifier says of audio files: whole, or window by window where they are long."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae_ast_fairseq.data.audio import ClipList
from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.inference.chunks import Window, cut_windows, plan_windows
from mae_ast_fairseq.inference.features import Job, compute_clips, pad_waveforms
from mae_ast_fairseq.inference.loading import readable_samples
from mae_ast_fairseq.nn.classifier import AudioClassifier
from mae_ast_fairseq.nn.tokens import MIN_TOKENS


class Prediction(NamedTuple):
    """The probabilities of a window's classes."""

    window: Window
    probabilities: np.ndarray
    """[K] float32"""


def predict(
    model: AudioClassifier, clips: ClipList, *, window_samples: int, hop_samples: int
) -> Iterator[list[Prediction] | AudioError]:
    """Classify clips of any rate, one after another; a broken one gives its error, and the others go on.

    Args:
        model: on any device and in any precision; it is put in evaluation mode.
        clips: of a manifest, or a FileList.
        window_samples: longest part that is classified at once, at 16 kHz; a shorter file is classified whole.
        hop_samples: from one window's start to the next's.

    Yields:
        For each clip the predictions of its windows, in order of time, or the AudioError of what cannot be decoded or
        has fewer than two tokens. A prediction does not depend on the other files.
    """
    model.eval()
    num_samples = readable_samples(clips)
    chunks = plan_windows(num_samples, model.grid, window_samples, hop_samples, MIN_TOKENS)
    job = Job(clips, range(len(clips)), num_samples, chunks, model.grid, MIN_TOKENS)
    for total, parts in zip(num_samples.tolist(), compute_clips(job, partial(classify, model)), strict=True):
        windows = cut_windows(total, window_samples, hop_samples)
        try:
            yield [Prediction(*both) for both in zip(windows, parts, strict=True)]
        except AudioError as error:
            yield error


@torch.no_grad()
def classify(model: AudioClassifier, waveforms: Sequence[np.ndarray | Tensor]) -> np.ndarray:
    """Return the probabilities [B, K], float32, of waveforms [S] at 16 kHz of any lengths, each as if alone."""
    logits = model(*pad_waveforms(waveforms, model.head.weight.device))
    return model.probabilities(logits).cpu().numpy()
