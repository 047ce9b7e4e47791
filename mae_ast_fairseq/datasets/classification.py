"""The fairseq dataset of fine-tuning: clips of a manifest, augmented in training, as log-Mel frames with targets."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mae_ast_fairseq.data.audio import SAMPLE_RATE
from mae_ast_fairseq.data.augmentation import (
    MIXUP_BETA,
    NO_AUGMENTATION,
    NUM_MASK_DRAWS,
    Augmentation,
    mask_frequencies_and_times,
    mix,
    roll,
    smooth,
)
from mae_ast_fairseq.data.collate import Frames, waveforms_to_frames
from mae_ast_fairseq.data.concat import ConcatManifest
from mae_ast_fairseq.data.float32 import Float32Tensor
from mae_ast_fairseq.data.labels import Labels, balanced_weights, check_clips_differ, check_each_has_example
from mae_ast_fairseq.data.manifest import Manifest
from mae_ast_fairseq.datasets.clips import ClipDataset
from mae_ast_fairseq.errors import ManifestError
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.rng import Stream, generator


class LabelledClip(NamedTuple):
    """One clip on its way into a batch."""

    row: int
    """row of the manifest, counted from 0"""
    waveform: np.ndarray
    """[S] float32, mono, 16 kHz"""
    target: np.ndarray
    """[K] float32, 1 for its labels; fractions of them where it was mixed"""
    mask_draws: Optional[np.ndarray]
    """[NUM_MASK_DRAWS] of its masks in frequency and time; None outside training"""
    num_bad_files: int
    """broken files this clip stands in for"""


class LabelledAudioDataset(ClipDataset):
    """Clips of a manifest as batches of log-Mel frames, padded to the longest, with targets.

    In training, clips are cropped at a random place, rolled, mixed and masked as `augmentation` says. Otherwise
    nothing is drawn: a clip is whole, or its start where it is too long.

    With `balanced`, an epoch of training draws as many clips as there are with replacement, each class as often.

    Args:
        manifest, training, **clips: see ClipDataset.
        labels: of each row of the manifest.
        multi_label: a clip may have several labels.
        random_crop: in training, crop at a random place instead of the start.
        fixed_size: give every batch the frames of so many samples at 16 kHz: longer clips are cropped, shorter ones
            padded, and the padding is masked; None: those of its longest clip.
        augmentation: what is done in training.
        balanced: in training, draw each class as often.

    Raises:
        ManifestError: no clip is left, there are more or fewer labels than clips, or in training a class has no clip
            or all clips have the same labels.
    """

    def __init__(
        self,
        manifest: Manifest | ConcatManifest,
        labels: Labels,
        *,
        multi_label: bool,
        training: bool,
        max_sample_size: Optional[int] = None,
        random_crop: bool = True,
        fixed_size: Optional[int] = None,
        augmentation: Augmentation = NO_AUGMENTATION,
        balanced: bool = False,
        **clips: Any,
    ):
        if len(labels) != len(manifest):
            raise ManifestError(
                f"{labels.name}: labels of {len(labels)} clips; expected {len(manifest)}, those of {manifest.name}; "
                "write manifest and labels together"
            )
        if fixed_size is not None:
            max_sample_size = min(fixed_size, max_sample_size or fixed_size)
        super().__init__(
            manifest,
            training=training,
            max_sample_size=max_sample_size,
            random_crop=random_crop and training,
            **clips,
        )
        self.labels = labels
        self.multi_label = multi_label
        self.fixed_size = fixed_size
        self.augmentation = augmentation if training else NO_AUGMENTATION
        self._cumulative_weights: Optional[np.ndarray] = None
        if fixed_size is not None:
            self.sizes = np.full_like(self.sizes, fixed_size)
        if training:
            check_each_has_example(labels, self.rows)
            check_clips_differ(labels, self.rows)
        if training and balanced:
            self._cumulative_weights = np.cumsum(balanced_weights(labels.select(self.rows)))

    def _choose(self, shuffled: np.ndarray) -> np.ndarray:
        """Return the clips of an epoch of training in random order: all, or drawn so that classes are balanced."""
        if self._cumulative_weights is None:
            return shuffled
        places = generator(self.seed, Stream.SAMPLING, self.epoch).random(len(self)) * self._cumulative_weights[-1]
        drawn = np.searchsorted(self._cumulative_weights, places, side="right")
        # Rounding may lift a place to the very end.
        drawn = np.minimum(drawn, len(self) - 1)
        return drawn + len(self) * occurrences(drawn)

    @property
    def fingerprint(self) -> str:
        """A digest of what manifest and labels say of every clip, in order."""
        labels = hashlib.blake2b(self.labels.starts.tobytes(), digest_size=8)
        labels.update(self.labels.indices.tobytes())
        return f"{super().fingerprint} {labels.hexdigest()}"

    # --- clips

    def __getitem__(self, index: int) -> LabelledClip:
        clip = self.clip(index)
        waveform, target = clip.waveform, self.labels.targets([clip.row])[0]
        if not self.training:
            return LabelledClip(clip.row, waveform, target, None, clip.num_bad_files)
        roll_draw, *mask_draws = self.rng(Stream.AUGMENTATION, index).random(1 + NUM_MASK_DRAWS)
        max_samples = round(self.augmentation.roll_seconds * SAMPLE_RATE)
        if max_samples:
            waveform = roll(waveform, max_samples, roll_draw)
        return self._mix(LabelledClip(clip.row, waveform, target, np.array(mask_draws), clip.num_bad_files), index)

    def _mix(self, clip: LabelledClip, index: int) -> LabelledClip:
        """Mix a clip, with the probability of mixup, with another one, and their targets alike.

        The other is drawn with equal chances from all, as AST does also where classes are balanced.
        """
        rng = self.rng(Stream.MIXUP, index)
        if rng.random() >= self.augmentation.mixup:
            return clip
        fraction, position = rng.beta(MIXUP_BETA, MIXUP_BETA), rng.random()
        occurrence = index // len(self)
        partner = self.clip(int(rng.integers(len(self))) + occurrence * len(self))
        target = fraction * clip.target + (1 - fraction) * self.labels.targets([partner.row])[0]
        return clip._replace(
            waveform=mix(clip.waveform, partner.waveform, fraction, position),
            target=target.astype(np.float32),
            num_bad_files=clip.num_bad_files + partner.num_bad_files,
        )

    # --- batches

    def collater(self, samples: Sequence[LabelledClip]) -> dict[str, Any]:
        """Return the batch of some clips; {} of none, as fairseq's filler at an epoch's end.

        As in pretraining without masks, and with "target": float32 [B, K], one-hot or multi-hot, soft where clips
        were mixed or labels smoothed.
        """
        if not samples:
            return {}
        frames = waveforms_to_frames([clip.waveform for clip in samples], self.grid)
        if self.fixed_size is not None:
            frames = pad_frames(frames, fbank.num_frames(self.fixed_size))
        targets = np.stack([clip.target for clip in samples])
        if self.augmentation.label_smoothing:
            targets = smooth(targets, self.augmentation.label_smoothing, self.multi_label)
        return {
            "id": torch.tensor([clip.row for clip in samples]),
            "nsentences": len(samples),
            "ntokens": sum(frames.num_tokens),
            "num_bad_files": sum(clip.num_bad_files for clip in samples),
            "net_input": {
                "source": Float32Tensor.of(self._mask(frames, samples)),
                "padding_mask": frames.padding_mask,
            },
            "target": Float32Tensor.of(torch.from_numpy(targets.astype(np.float32))),
        }

    def _mask(self, frames: Frames, samples: Sequence[LabelledClip]) -> Tensor:
        frequency_mask, time_mask = self.augmentation.frequency_mask, self.augmentation.time_mask
        if not (frequency_mask or time_mask):
            return frames.source
        num_frames = torch.tensor([fbank.num_frames(len(clip.waveform)) for clip in samples])
        draws = torch.from_numpy(np.stack([clip.mask_draws for clip in samples]))
        return mask_frequencies_and_times(frames.source, num_frames, draws, frequency_mask, time_mask)


def occurrences(drawn: np.ndarray) -> np.ndarray:
    """Count for each of the numbers [N] how often it stood before: int64 [N]."""
    order = np.argsort(drawn, kind="stable")
    ordered = drawn[order]
    counts = np.empty(len(drawn), dtype=np.int64)
    counts[order] = np.arange(len(drawn)) - np.searchsorted(ordered, ordered, side="left")
    return counts


def pad_frames(frames: Frames, num_frames: int) -> Frames:
    """Pad a batch's frames at their end to `num_frames`, and its padding mask with them."""
    missing = num_frames - frames.source.shape[1]
    assert missing >= 0, "clips are cropped to the fixed size"
    if missing == 0:
        return frames
    padding_mask = frames.padding_mask
    if padding_mask is None:
        padding_mask = torch.zeros(frames.source.shape[:2], dtype=torch.bool)
    source = F.pad(frames.source, (0, 0, 0, missing))
    return frames._replace(source=source, padding_mask=F.pad(padding_mask, (0, missing), value=True))
