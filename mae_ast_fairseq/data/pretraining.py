"""The fairseq dataset of pretraining: clips of a manifest, cropped, as masked log-Mel tokens."""

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import torch

from mae_ast_fairseq.data import masking
from mae_ast_fairseq.data.clips import Clip, ClipDataset
from mae_ast_fairseq.data.collate import crop_to_shortest, waveforms_to_frames
from mae_ast_fairseq.data.concat import ConcatManifest, draw_by_weight
from mae_ast_fairseq.data.float32 import Float32Tensor
from mae_ast_fairseq.data.manifest import Manifest
from mae_ast_fairseq.nn.tokens import TokenGrid
from mae_ast_fairseq.rng import Stream, generator


class MaskedAudioDataset(ClipDataset):
    """Clips of a manifest as batches of masked log-Mel tokens (DESIGN, "Batch").

    Args:
        manifest, grid, seed, training, **clips: see ClipDataset; outside training, batches are padded.
        mask_type: one of `masking.STRATEGIES`.
        mask_ratio: share of masked tokens.
        mask_length: tokens of a masked span of frame tokens.
        pad_audio: pad a batch to its longest clip instead of cropping it to its shortest.
        weights: share in (0, 1] of each manifest's clips that an epoch of training draws; None: all.

    Raises:
        ManifestError: no clip is left.
    """

    def __init__(
        self,
        manifest: Manifest | ConcatManifest,
        *,
        grid: TokenGrid,
        mask_type: str,
        mask_ratio: float,
        mask_length: int,
        seed: int,
        training: bool,
        pad_audio: bool = False,
        weights: Optional[Sequence[float]] = None,
        **clips: Any,
    ):
        super().__init__(manifest, grid=grid, seed=seed, training=training, **clips)
        self.mask_type = mask_type
        self.mask_ratio = mask_ratio
        self.mask_length = mask_length
        self.weights = weights
        self.pad_audio = pad_audio or not training

    def _choose(self, shuffled: np.ndarray) -> np.ndarray:
        """Return those of the shuffled clips that an epoch of training holds: each manifest's share of them."""
        if self.weights is None:
            return shuffled
        return draw_by_weight(self.rows, self.manifest.part_starts, self.weights, shuffled)

    def collater(self, samples: Sequence[Clip]) -> dict[str, Any]:
        """Return the batch of some clips (DESIGN, "Batch"); {} of none, as fairseq's filler at an epoch's end."""
        if not samples:
            return {}
        waveforms = [clip.waveform for clip in samples]
        if not self.pad_audio:
            waveforms = crop_to_shortest(waveforms, [clip.crop_position for clip in samples])
        frames = waveforms_to_frames(waveforms, self.grid)
        rows = [clip.row for clip in samples]
        masks = self._masks(rows, frames.num_tokens)
        mask = masking.collate(masks)
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

    def _masks(self, rows: Sequence[int], num_tokens: Sequence[int]) -> list[masking.Mask]:
        draw = masking.STRATEGIES[self.mask_type]

        def mask_of(row: int, num_tokens: int) -> masking.Mask:
            draws = generator(self.seed, Stream.MASK, self.epoch, row)
            columns = num_tokens // self.grid.rows
            return draw(self.grid.rows, columns, self.mask_ratio, draws, self.mask_length)

        if self.mask_type == "random_mask_batched" and self.training:
            assert min(num_tokens) == max(num_tokens), "clips of one batch have one length"
            return [mask_of(rows[0], num_tokens[0])] * len(rows)
        return [mask_of(row, count) for row, count in zip(rows, num_tokens, strict=True)]


def _tensor(values: Optional[np.ndarray]) -> Optional[torch.Tensor]:
    return None if values is None else torch.from_numpy(values)
