"""From the waveforms of some clips to one batch: cut or pad, log-Mel frames, masks."""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.tokens import TokenGrid


class Frames(NamedTuple):
    """Log-Mel frames of a batch."""

    source: Tensor
    """[B, T, F] float32, 0 at padding"""
    padding_mask: Optional[Tensor]
    """[B, T] bool, True = padding; None where nothing is padded"""
    num_tokens: list[int]
    """tokens of each clip"""


def crop_start(num_samples: int, num_kept: int, position: float) -> int:
    """Return the first sample of a crop of `num_kept` samples; `position` in [0, 1) is where it lies."""
    return int(position * (num_samples - num_kept + 1))


def crop_to_shortest(waveforms: Sequence[np.ndarray], positions: Sequence[float]) -> list[np.ndarray]:
    """Cut each waveform to the shortest one's length, at its own position in [0, 1)."""
    num_kept = min(len(waveform) for waveform in waveforms)
    starts = [
        crop_start(len(waveform), num_kept, position) for waveform, position in zip(waveforms, positions, strict=True)
    ]
    return [waveform[start : start + num_kept] for waveform, start in zip(waveforms, starts, strict=True)]


def waveforms_to_frames(waveforms: Sequence[np.ndarray], grid: TokenGrid) -> Frames:
    """Turn waveforms at 16 kHz into the log-Mel frames of a batch, padded at the end to its longest clip."""
    num_samples = np.array([len(waveform) for waveform in waveforms])
    padded = np.zeros((len(waveforms), num_samples.max()), dtype=np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: len(waveform)] = waveform
    source = fbank.log_mel(torch.from_numpy(padded), num_mel_bins=grid.feature_dim)

    num_frames = fbank.num_frames(num_samples)
    num_tokens = grid.num_tokens(num_frames).tolist()
    if num_frames.min() == num_frames.max():
        return Frames(source, None, num_tokens)
    padding_mask = torch.arange(source.shape[1]) >= torch.from_numpy(num_frames)[:, None]  # [B, T]
    return Frames(source.masked_fill_(padding_mask[..., None], 0.0), padding_mask, num_tokens)
