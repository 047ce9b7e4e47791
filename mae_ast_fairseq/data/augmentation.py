"""Augmentation for fine-tuning, as AST does it: pure functions of clips, targets and draws that are made before.

What is drawn comes in as numbers in [0, 1), from `rng.generator`, so that a clip's augmentation depends on neither
its batch nor the worker that makes it.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MIXUP_BETA = 10.0
"""AST's fractions of two clips that are mixed are drawn from Beta(10, 10): both are heard, one rarely above 3/4."""

MAX_MASKED_FRACTION = 0.5
"""A time mask covers at most this fraction of its clip (SpecAugment's p), or short clips would vanish."""

NUM_MASK_DRAWS = 4
"""Draws that a clip's masks take: width and position of one in frequency, then of one in time."""


class Augmentation(NamedTuple):
    """What is done to training clips: the task's fields of the same names, which say what they mean."""

    frequency_mask: int = 0
    time_mask: int = 0
    mixup: float = 0.0
    roll_seconds: float = 0.0
    label_smoothing: float = 0.0


NO_AUGMENTATION = Augmentation()


def mask_frequencies_and_times(
    frames: Tensor, num_frames: Tensor, draws: Tensor, frequency_mask: int, time_mask: int
) -> Tensor:
    """Mask one band of frequencies and one stretch of time of each clip (SpecAugment), [B, T, F] -> [B, T, F].

    Widths are uniform over 0 .. the largest, positions over all places inside the clip. Masked values become the mean
    of their clip: the frames are not normalised yet, and after normalisation the mean is about 0, which is what
    SpecAugment fills in. (AST fills in 0 before normalising, which depends on the level of the data.) Padding stays.

    frames: [B, T, F] log-Mel, 0 at padding.
    num_frames: [B] frames of each clip without padding, int64.
    draws: [B, NUM_MASK_DRAWS] uniform in [0, 1).
    frequency_mask: largest width in bands; at most all are masked.
    time_mask: largest length in frames; at most MAX_MASKED_FRACTION of a clip is masked.
    """
    num_clips, most_frames, feature_dim = frames.shape
    is_band = _stretch(torch.full_like(num_frames, feature_dim), frequency_mask, 1.0, draws[:, :2], feature_dim)
    is_time = _stretch(num_frames, time_mask, MAX_MASKED_FRACTION, draws[:, 2:], most_frames)
    is_valid = torch.arange(most_frames) < num_frames[:, None]  # [B, T]
    is_masked = (is_band[:, None, :] & is_valid[:, :, None]) | is_time[:, :, None]  # [B, T, F]
    mean = frames.sum(dim=(1, 2)) / (num_frames * feature_dim)
    return torch.where(is_masked, mean.view(num_clips, 1, 1), frames)


def _stretch(lengths: Tensor, most: int, most_fraction: float, draws: Tensor, size: int) -> Tensor:
    """Choose for each row 0 to `most` neighbouring places of its first `lengths`: bool [B, size]."""
    largest = (lengths * most_fraction).long().clamp(max=most)
    # In float64, a product with a number below 1 rounds to less than the other factor.
    width = (draws[:, 0].double() * (largest + 1)).long()
    start = (draws[:, 1].double() * (lengths - width + 1)).long()
    places = torch.arange(size)
    return (places >= start[:, None]) & (places < (start + width)[:, None])


def mix(waveform: np.ndarray, partner: np.ndarray, fraction: float, position: float) -> np.ndarray:
    """Mix a fraction of a clip with the rest of another, [S] and [S'] -> [S].

    A longer partner is cropped at `position` in [0, 1), a shorter one is followed by silence. AST removes the clips'
    means before; here every frame's mean is removed anyway, by the filterbank.
    """
    num_samples = len(waveform)
    mixed = (fraction * waveform).astype(np.float32)
    start = int(position * (max(0, len(partner) - num_samples) + 1))
    partner = partner[start : start + num_samples]
    mixed[: len(partner)] += np.float32(1 - fraction) * partner
    return mixed


def roll(waveform: np.ndarray, max_samples: int, draw: float) -> np.ndarray:
    """Roll a clip by a whole number of samples, uniform over -max_samples .. max_samples by a draw in [0, 1)."""
    return np.roll(waveform, int(draw * (2 * max_samples + 1)) - max_samples)


def smooth(targets: np.ndarray, smoothing: float, multi_label: bool) -> np.ndarray:
    """Take a fraction off targets [B, K] and spread it: over the classes, or with many labels between 0 and 1."""
    return (1 - smoothing) * targets + smoothing * (0.5 if multi_label else 1 / targets.shape[1])
