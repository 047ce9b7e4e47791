"""What the fairseq datasets share: the clips of a manifest, cropped, in batches of near-equal length."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from fairseq.data import FairseqDataset
from torch.utils.data import get_worker_info

from mae_ast_fairseq.data.audio import load_row, samples_at_16k
from mae_ast_fairseq.data.collate import crop_start
from mae_ast_fairseq.data.concat import ConcatManifest
from mae_ast_fairseq.data.manifest import Manifest
from mae_ast_fairseq.errors import AudioError, ManifestError, get_logger
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.tokens import MIN_TOKENS, TokenGrid
from mae_ast_fairseq.rng import Stream, generator

logger = get_logger(__name__)

LENGTH_BUCKET = 1.05
"""Ratio of the lengths of neighbouring buckets, within which the order of clips is random."""

MAX_LENGTH_RATIO = 1.25
"""The longest clip of a batch is at most so many times as long as its shortest."""

MAX_REPLACEMENTS = 64
"""Clips tried in the place of a broken one."""

MAX_WORKERS, NONE = 256, -1
"""Loader processes of which it is known which clip each is reading."""


class CroppedClip(NamedTuple):
    """One clip on its way into a batch."""

    row: int
    """row of the manifest, counted from 0"""
    waveform: np.ndarray
    """[S] float32, mono, 16 kHz"""
    crop_position: float
    """where in [0, 1) to cut it to a shorter batch"""
    num_bad_files: int
    """broken files this clip stands in for"""


class ClipDataset(FairseqDataset):
    """Clips of a manifest, on their way into batches; a derived class says what a batch of them is.

    A clip that an epoch holds again has the index `clip + occurrence * len(self)`, so that each time has draws of its
    own, in whichever worker.

    Args:
        manifest: the clips, of one manifest or several.
        grid: how frames become tokens.
        seed: of every random draw.
        training: new draws each epoch; otherwise the same ones always.
        max_sample_size: longer clips are cropped to this many samples at 16 kHz.
        min_sample_size: shorter clips are left out, in samples at 16 kHz.
        max_keep_size: longer clips are left out, in samples at 16 kHz.
        random_crop: crop at a random place instead of the start.

    Raises:
        ManifestError: no clip is left.
    """

    def __init__(
        self,
        manifest: Manifest | ConcatManifest,
        *,
        grid: TokenGrid,
        seed: int,
        training: bool,
        max_sample_size: Optional[int] = None,
        min_sample_size: Optional[int] = None,
        max_keep_size: Optional[int] = None,
        random_crop: bool = True,
    ):
        super().__init__()
        self.manifest = manifest
        self.grid = grid
        self.seed = seed
        self.training = training
        self.max_sample_size = max_sample_size
        self.random_crop = random_crop

        num_samples = manifest.num_samples_at_16k
        self.rows = self._rows_to_keep(num_samples, min_sample_size, max_keep_size)
        self.sizes = num_samples[self.rows]
        if max_sample_size is not None:
            self.sizes = np.minimum(self.sizes, max_sample_size)
        # In shared memory, so that persistent workers see the epoch, and the training process what they found.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self.is_bad = torch.zeros(len(manifest), dtype=torch.uint8).share_memory_()
        self._replacements_exhausted = torch.zeros(1, dtype=torch.bool).share_memory_()
        self._being_read = torch.full((MAX_WORKERS,), NONE).share_memory_()

    def _rows_to_keep(
        self, num_samples: np.ndarray, min_sample_size: Optional[int], max_keep_size: Optional[int]
    ) -> np.ndarray:
        num_kept = num_samples if self.max_sample_size is None else np.minimum(num_samples, self.max_sample_size)
        num_tokens = self.grid.num_tokens(fbank.num_frames(num_kept))
        reasons = {f"too short: fewer than {MIN_TOKENS} tokens": num_tokens < MIN_TOKENS}
        if min_sample_size is not None:
            reasons[f"shorter than task.min_sample_size={min_sample_size}"] = num_samples < min_sample_size
        if max_keep_size is not None:
            reasons[f"longer than task.max_keep_size={max_keep_size}"] = num_samples > max_keep_size
        keep = np.ones(len(num_samples), dtype=bool)
        for reason, dropped in reasons.items():
            if dropped.any():
                logger.info("%s: left out %d clips: %s", self.manifest.name, dropped.sum(), reason)
            keep &= ~dropped
        if not keep.any():
            raise ManifestError(
                f"{self.manifest.name}: none of its {len(num_samples)} clips can be used ({'; '.join(reasons)}); "
                "expected at least one; check the manifest's lengths and the task's *_sample_size fields"
            )
        return np.flatnonzero(keep)

    @property
    def fingerprint(self) -> str:
        """A digest of what the manifest says of every clip, in order."""
        return self.manifest.fingerprint

    # --- what fairseq batches by

    def __len__(self) -> int:
        return len(self.rows)

    def num_tokens(self, index: int) -> int:
        """Return the number of samples that `dataset.max_tokens` counts for a clip."""
        return int(self.sizes[index % len(self)])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """Return `num_tokens` of many clips."""
        return self.sizes[indices % len(self)]

    def size(self, index: int) -> int:
        """Return the length of a clip's crop in samples."""
        return self.num_tokens(index)

    def ordered_indices(self) -> np.ndarray:
        """Return the clips by falling length: in training at random within buckets of near-equal length."""
        if not self.training:
            return np.argsort(-self.sizes, kind="stable")
        shuffled = self._choose(generator(self.seed, Stream.ORDER, self.epoch).permutation(len(self)))
        buckets = np.ceil(np.log(self.num_tokens_vec(shuffled)) / np.log(LENGTH_BUCKET)).astype(np.int64)
        return shuffled[np.argsort(-buckets, kind="stable")]

    def _choose(self, shuffled: np.ndarray) -> np.ndarray:
        """Return those of the shuffled clips that an epoch of training holds: here all."""
        return shuffled

    def batch_by_size(
        self,
        indices: np.ndarray,
        max_tokens: Optional[int] = None,
        max_sentences: Optional[int] = None,
        required_batch_size_multiple: int = 1,
    ) -> list[np.ndarray]:
        """Cut ordered clips into batches of near-equal length within fairseq's limits; every clip is in one.

        A last batch is as long as it is: fairseq would leave out what is no multiple of `required_batch_size_multiple`.

        Else a large `dataset.max_tokens` would put long and short clips together: cropped to the shortest they would
        lose much of the audio, padded to the longest they would be mostly padding.
        """
        limits = (max_tokens, max_sentences, required_batch_size_multiple)
        batches, first = [], 0
        sizes = self.num_tokens_vec(indices)
        while first < len(indices):
            longest, shortest = np.maximum.accumulate(sizes[first:]), np.minimum.accumulate(sizes[first:])
            num_alike = int(np.count_nonzero(longest <= MAX_LENGTH_RATIO * shortest))
            alike = indices[first : first + num_alike]
            whole = list(super().batch_by_size(alike, *limits))
            rest = alike[sum(map(len, whole)) :]
            batches += [*whole, *(super().batch_by_size(rest, max_tokens, max_sentences) if len(rest) else ())]
            first += num_alike
        return batches

    # --- epochs

    @property
    def epoch(self) -> int:
        """The epoch that draws depend on; always 0 outside training."""
        return int(self._epoch[0])

    def set_epoch(self, epoch: int) -> None:
        """Tell the dataset, in every worker, which epoch it is in."""
        if self.training:
            self._epoch[0] = epoch

    # --- clips

    def __getitem__(self, index: int) -> Any:
        return self.clip(index)

    def rng(self, stream: Stream, index: int) -> np.random.Generator:
        """Return the generator of a clip's draws of one kind in this epoch."""
        occurrence, place = divmod(index, len(self))
        return generator(self.seed, stream, self.epoch, int(self.rows[place]), occurrence)

    def clip(self, index: int) -> CroppedClip:
        """Load a clip, or another in its place where its file is broken."""
        occurrence, place = divmod(index, len(self))
        row, size = int(self.rows[place]), self.sizes[place]
        try:
            return self._load(row, occurrence, num_bad_files=0)
        except AudioError as error:
            self._mark_bad(row, error)
        candidates = self.rng(Stream.REPLACEMENT, index).integers(len(self), size=MAX_REPLACEMENTS)
        # Those of nearest length first: a short replacement would cut the whole batch short.
        nearest = np.argsort(np.abs(self.sizes[candidates] - size), kind="stable")
        for num_bad_files, candidate in enumerate(self.rows[candidates[nearest]].tolist(), start=1):
            try:
                return self._load(candidate, occurrence, num_bad_files)
            except AudioError as error:
                self._mark_bad(candidate, error)
        # The training process stops the run with a message when it sees this.
        self._replacements_exhausted[0] = True
        return CroppedClip(row, np.zeros(size, dtype=np.float32), 0.0, num_bad_files=MAX_REPLACEMENTS)

    def _load(self, row: int, occurrence: int, num_bad_files: int) -> CroppedClip:
        position, crop_position = generator(self.seed, Stream.CROP, self.epoch, row, occurrence).random(2)
        if not self.random_crop:
            position = crop_position = 0.0
        num_samples = samples_at_16k(int(self.manifest.num_samples[row]), int(self.manifest.sample_rates[row]))
        num_kept = num_samples if self.max_sample_size is None else min(num_samples, self.max_sample_size)
        with self._noted_as_being_read(row):
            waveform = load_row(self.manifest, row, crop_start(num_samples, num_kept, position), num_kept)
        return CroppedClip(row, waveform, crop_position, num_bad_files)

    @contextmanager
    def _noted_as_being_read(self, row: int) -> Iterator[None]:
        worker = get_worker_info()
        place = worker.id % MAX_WORKERS if worker else 0
        self._being_read[place] = row
        try:
            yield
        finally:
            self._being_read[place] = NONE

    @property
    def rows_being_read(self) -> list[int]:
        """Rows of the manifest that any worker is reading right now."""
        return [row for row in self._being_read.tolist() if row != NONE]

    def _mark_bad(self, row: int, error: AudioError) -> None:
        if not self.is_bad[row]:
            logger.warning("%s: replaced by another clip: %s", self.manifest.where(row), error)
        self.is_bad[row] = 1

    @property
    def replacements_exhausted(self) -> bool:
        """Whether, in any worker, a broken file and all that were tried in its place cannot be read."""
        return bool(self._replacements_exhausted[0])

    @property
    def bad_rows(self) -> np.ndarray:
        """Rows of the manifest whose files proved broken so far, in any worker."""
        return np.flatnonzero(self.is_bad.numpy())
