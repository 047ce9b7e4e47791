"""The fairseq dataset of pretraining: clips of a manifest, cropped, as masked log-Mel tokens."""

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import torch

from mae_ast_fairseq.data.collate import crop_to_shortest, waveforms_to_frames
from mae_ast_fairseq.data.concat import ConcatManifest, draw_by_weight
from mae_ast_fairseq.data.float32 import Float32Tensor
from mae_ast_fairseq.data.manifest import Manifest
from mae_ast_fairseq.data.masking import Mask, Masking, collate
from mae_ast_fairseq.datasets.clips import ClipDataset, CroppedClip
from mae_ast_fairseq.rng import Stream, generator


class MaskedAudioDataset(ClipDataset):
    """Clips of a manifest as batches of masked log-Mel tokens.

    Args:
        manifest, training, **clips: see ClipDataset; outside training, batches are padded.
        masking: how tokens are masked.
        pad_audio: pad a batch to its longest clip instead of cropping it to its shortest.
        weights: fraction in (0, 1] of each manifest's clips that an epoch of training draws (see `clips_in_epoch`);
            None: all.

    Raises:
        ManifestError: no clip is left.
    """

    def __init__(
        self,
        manifest: Manifest | ConcatManifest,
        *,
        masking: Masking,
        training: bool,
        pad_audio: bool = False,
        weights: Optional[Sequence[float]] = None,
        **clips: Any,
    ):
        super().__init__(manifest, training=training, **clips)
        self.masking = masking
        self.weights = weights
        self.pad_audio = pad_audio or not training

    def _choose(self, shuffled: np.ndarray) -> np.ndarray:
        """Return those of the shuffled clips that an epoch of training holds: each manifest's fraction of them."""
        if self.weights is None:
            return shuffled
        return draw_by_weight(self.rows, self.manifest.part_starts, self.weights, shuffled, max(1, self.epoch))

    def collater(self, samples: Sequence[CroppedClip]) -> dict[str, Any]:
        """Return the batch of some clips; {} of none, as fairseq's filler at an epoch's end."""
        if not samples:
            return {}
        waveforms = [clip.waveform for clip in samples]
        if not self.pad_audio:
            waveforms = crop_to_shortest(waveforms, [clip.crop_position for clip in samples])
        frames = waveforms_to_frames(waveforms, self.grid)
        rows = [clip.row for clip in samples]
        masks = self._masks(rows, frames.num_tokens)
        mask = collate(masks)
        return {
            "id": torch.tensor(rows),
            "nsentences": len(samples),
            "ntokens": sum(len(mask.masked) for mask in masks),
            "num_bad_files": sum(clip.num_bad_files for clip in samples),
            "net_input": {
                "source": Float32Tensor.of(frames.source),
                "padding_mask": frames.padding_mask,
                **{name: _tensor(values) for name, values in mask._asdict().items()},
            },
        }

    def _masks(self, rows: Sequence[int], num_tokens: Sequence[int]) -> list[Mask]:
        if self.masking.shared and self.training:
            assert min(num_tokens) == max(num_tokens), "clips of one batch have one length"
            return [self._mask(rows[0], num_tokens[0])] * len(rows)
        return [self._mask(row, count) for row, count in zip(rows, num_tokens, strict=True)]

    def _mask(self, row: int, num_tokens: int) -> Mask:
        rng = generator(self.seed, Stream.MASK, self.epoch, row)
        return self.masking.draw(self.grid.rows, num_tokens // self.grid.rows, rng)


def _tensor(values: Optional[np.ndarray]) -> Optional[torch.Tensor]:
    return None if values is None else torch.from_numpy(values)
