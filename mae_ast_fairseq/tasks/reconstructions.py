"""What a model in training makes of some clips that it hardly sees, drawn at each validation."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import torch
from fairseq.logging.progress_bar import TensorboardProgressBarWrapper
from torch import Tensor

from mae_ast_fairseq.datasets.pretraining import MaskedAudioDataset
from mae_ast_fairseq.errors import AudioError, get_logger, printable
from mae_ast_fairseq.inference.loading import load_part
from mae_ast_fairseq.inference.pictures import (
    MAX_SECONDS,
    choose_clips,
    describe_training,
    picture_name,
    save_picture,
)
from mae_ast_fairseq.inference.reconstruct import reconstruct
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.masked import MaskedPredictor
from mae_ast_fairseq.nn.tokens import MIN_TOKENS
from mae_ast_fairseq.rng import Stream, generator

logger = get_logger(__name__)

FOLDER = "pictures"
MAX_TRIES = 8
"""Clips that are read for a picture, of which all but the last are broken."""


class _Clip(NamedTuple):
    row: int
    """of the manifest, which its mask depends on"""
    path: str
    frames: Tensor
    """[T, F] log-Mel frames"""


class Reconstructions:
    """Draws what a model fills in of some clips of a validation set: the same clips and masks each time.

    They are those of `mae-ast reconstruct --manifest`, but for broken ones, which the next longer ones stand in for.

    Args:
        dataset: of the validation.
        count: how many of its clips.
        folder: for the pictures, a PNG of each clip at each validation; made if absent.
    """

    def __init__(self, dataset: MaskedAudioDataset, count: int, folder: Path):
        self.dataset = dataset
        self.count = count
        self.folder = folder
        self._has_failed = False

    @cached_property
    def clips(self) -> list[_Clip]:
        """The clips, read once, which a run keeps; of each MAX_SECONDS at most, as of a crop its start."""
        grid = self.dataset.grid
        num_samples = np.minimum(self.dataset.sizes, round(MAX_SECONDS * fbank.SAMPLE_RATE))
        usable = np.flatnonzero(grid.num_tokens(fbank.num_frames(num_samples)) >= MIN_TOKENS)
        parts = choose_clips(num_samples[usable], self.count, self.dataset.seed) if len(usable) else []
        clips = [self._first_readable(usable[part], num_samples) for part in parts]
        found = [clip for clip in clips if clip is not None]
        logger.info(
            "drawing %d clips of %s at each validation: %s", *(len(found), self.dataset.manifest.name, self.folder)
        )
        return found

    def _first_readable(self, places: Sequence[int], num_samples: np.ndarray) -> Optional[_Clip]:
        """Read the first of some clips of the dataset that is not broken; None where MAX_TRIES are."""
        manifest = self.dataset.manifest
        for place in places[:MAX_TRIES]:
            row = int(self.dataset.rows[place])
            waveform = load_part(manifest, row, 0, int(num_samples[place]))
            if not isinstance(waveform, AudioError):
                frames = fbank.log_mel(torch.from_numpy(waveform), num_mel_bins=self.dataset.grid.feature_dim)
                return _Clip(row, manifest.path(row), frames)
            logger.warning("%s; the next clip is drawn in its place", waveform)
        return None

    def draw(self, model: MaskedPredictor, num_updates: int) -> dict[str, Path]:
        """Draw all clips, and return the pictures by clip; a disk that is full is warned of once."""
        pictures = {}
        for number, clip in enumerate(self.clips, start=1):
            rng = generator(self.dataset.seed, Stream.MASK, epoch=0, index=clip.row)  # as in validation
            result = reconstruct(model, clip.frames, self.dataset.masking, rng)
            name = picture_name(number, clip.path)
            picture = self.folder / f"{name}_update{num_updates:07}.png"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                save_picture(picture, clip.path, result, describe_training(num_updates))
            except OSError as error:
                if not self._has_failed:
                    logger.warning("%s: cannot be written (%s); pictures will be missing", picture, error.strerror)
                self._has_failed = True
            else:
                pictures[name] = picture
        return pictures


def show_in_tensorboard(pictures: dict[str, Path], folder: str, subset: str, num_updates: int) -> None:
    """Put pictures beside the curves of a validation set; not where TensorBoard is missing, which fairseq says."""
    from matplotlib.image import imread

    writer = TensorboardProgressBarWrapper(None, folder)._writer(subset)  # the one that the curves are written by
    if writer is None:
        return
    for name, picture in pictures.items():
        writer.add_image(printable(name), imread(picture), num_updates, dataformats="HWC")
    writer.flush()
