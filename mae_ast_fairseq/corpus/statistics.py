"""Mean and deviation of log-Mel values over a dataset, for `normalization=dataset`: measured, pooled, read, written."""

import json
import math
from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mae_ast_fairseq.data.audio import load_row
from mae_ast_fairseq.data.concat import ConcatManifest
from mae_ast_fairseq.data.manifest import Manifest
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.files import atomic_write
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.rng import Stream, generator

FILE_NAME = "stats.json"
MIN_FRAMES = 4  # of which 2 tokens of 2 frames can be made; the task trains on no shorter clip


class Statistics(NamedTuple):
    """Mean and standard deviation over all log-Mel values of a dataset, natural logarithm."""

    mean: float
    deviation: float


class BandStatistics(NamedTuple):
    """Mean and standard deviation of every log-Mel band over some frames, float64."""

    num_clips: int
    num_frames: int
    means: np.ndarray
    """[F]"""
    deviations: np.ndarray
    """[F]"""

    @property
    def overall(self) -> Statistics:
        """Return the statistics over the values of all bands."""
        return Statistics(*map(float, _pool(self.means, self.deviations, np.ones(len(self.means)))))


class Measurement(NamedTuple):
    """What was measured over a sample of a manifest's clips."""

    bands: BandStatistics
    num_usable_frames: int
    """of all the manifest's clips, as training crops them: the manifest's weight beside others"""
    broken: list[str]
    """`file:line: why`, of the clips that were drawn and could not be read"""


class _Moments(NamedTuple):
    num_clips: int
    num_frames: int
    means: np.ndarray  # [F]
    squares: np.ndarray  # [F], sums of squared differences from the mean


def measure_bands(clips: Iterable[Tensor]) -> BandStatistics:
    """Return the statistics of every band over clips of [T, F] log-Mel frames: one pass, one clip at a time.

    Raises AudioError where there is no clip.
    """
    moments = (_moments(clip.numpy()) for clip in clips if len(clip))
    first = next(moments, None)
    if first is None:
        raise AudioError("none of the clips drawn to measure the data's mean and deviation could be read")
    total = reduce(_merge, moments, first)
    return BandStatistics(total.num_clips, total.num_frames, total.means, np.sqrt(total.squares / total.num_frames))


def _moments(frames: np.ndarray) -> _Moments:
    means = frames.mean(axis=0, dtype=np.float64)
    return _Moments(1, len(frames), means, np.square(frames - means).sum(axis=0))


def _merge(one: _Moments, other: _Moments) -> _Moments:
    """Merge the moments of two sets of frames (Chan et al. 1979), which cancels nothing, as a sum of squares does."""
    num_frames = one.num_frames + other.num_frames
    shift = other.means - one.means
    means = one.means + shift * (other.num_frames / num_frames)
    squares = one.squares + other.squares + shift**2 * (one.num_frames * other.num_frames / num_frames)
    return _Moments(one.num_clips + other.num_clips, num_frames, means, squares)


def pool(statistics: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
    """Return the statistics of several datasets together.

    weights: how much there is of each, such as its number of frames; only their ratios count.
    """
    means, deviations = np.array(statistics, dtype=np.float64).T
    return Statistics(*map(float, _pool(means, deviations, np.asarray(weights))))


def pool_bands(statistics: Sequence[BandStatistics], weights: Sequence[float]) -> BandStatistics:
    """Return the statistics of every band of several datasets together; weights as `pool` takes them."""
    means, deviations = _pool(
        np.stack([part.means for part in statistics]),
        np.stack([part.deviations for part in statistics]),
        np.asarray(weights),
    )
    num_clips = sum(part.num_clips for part in statistics)
    return BandStatistics(num_clips, sum(part.num_frames for part in statistics), means, deviations)


def _pool(means: np.ndarray, deviations: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pool means and deviations [K, ...] by weights [K] into [...] each."""
    assert len(means) == len(weights) and (weights >= 0).all() and weights.sum() > 0
    weights = weights / weights.sum()  # one dataset alone keeps its last digit
    mean = np.average(means, axis=0, weights=weights)
    variance = np.average(deviations**2 + (means - mean) ** 2, axis=0, weights=weights)
    return mean, np.sqrt(variance)


def measure_manifest(
    manifest: Manifest | ConcatManifest,
    *,
    num_clips: int,
    seed: int,
    feature_dim: int = fbank.NUM_MEL_BINS,
    max_sample_size: int | None = None,
) -> Measurement:
    """Measure a sample of a manifest's clips, those that the task draws for itself with the same seed.

    num_clips: all are taken where there are fewer.
    max_sample_size: only this much of each clip's start is read, in samples at 16 kHz; None: all.

    Shows its progress on stderr. Raises AudioError where no clip drawn is long enough and can be read.
    """
    num_samples = manifest.num_samples_at_16k
    if max_sample_size is not None:
        num_samples = np.minimum(num_samples, max_sample_size)
    num_frames = fbank.num_frames(num_samples)
    usable = np.flatnonzero(num_frames >= MIN_FRAMES)
    rows = usable[sample_rows(len(usable), num_clips, generator(seed, Stream.STATISTICS))]
    broken: list[str] = []

    def log_mel(row: int) -> Tensor | None:
        try:
            waveform = load_row(manifest, row, num_samples=max_sample_size)
            return fbank.log_mel(torch.from_numpy(waveform), num_mel_bins=feature_dim)
        except AudioError as error:
            broken.append(f"{manifest.where(row)}: {error}")
            return None

    # In this process alone: MKL's FFT hangs in processes that are forked while another thread leaves it.
    clips = tqdm(map(log_mel, rows.tolist()), total=len(rows), unit=" clips", desc="measuring", disable=None)
    try:
        bands = measure_bands(clip for clip in clips if clip is not None)
    except AudioError:
        reason = f"the first drawn: {broken[0]}" if broken else f"all are shorter than {MIN_FRAMES} frames of 10 ms"
        raise AudioError(
            f"{manifest.name}: none of its {len(manifest)} clips can be measured ({reason}); expected audio; "
            "see what is wrong with `mae-ast check`"
        ) from None
    return Measurement(bands, int(num_frames[usable].sum()), broken)


def write_statistics(path: Path, bands: BandStatistics, **more: Any) -> None:
    """Write a stats.json, whole or not at all; `more` goes in beside what is read back."""
    with atomic_write(path) as stream:
        stream.write(f"{json.dumps(as_json(bands) | more, indent=2)}\n".encode())


def as_json(bands: BandStatistics) -> dict[str, Any]:
    """Return what a stats.json says of some clips."""
    mean, deviation = bands.overall
    return {
        "mean": mean,
        "std": deviation,
        "num_clips": bands.num_clips,
        "num_frames": bands.num_frames,
        "feature_dim": len(bands.means),
        "bands": {"mean": bands.means.tolist(), "std": bands.deviations.tolist()},
    }


def read_statistics(path: Path, feature_dim: int | None = None) -> Statistics:
    """Read the `mean` and `std` of a stats.json.

    feature_dim: the number of bands that they are wanted for; a file that states another is refused.

    Raises ConfigError naming the file and what is wrong in it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        statistics = Statistics(float(content["mean"]), float(content["std"]))
        measured_dim = content.get("feature_dim", feature_dim)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f'{path}: {error!r}; expected a JSON object with the numbers "mean" and "std"; '
            "mend it, or delete it to have them measured"
        ) from None
    if not (math.isfinite(statistics.mean) and math.isfinite(statistics.deviation) and statistics.deviation > 0):
        raise ConfigError(
            f"{path}: mean {statistics.mean} and std {statistics.deviation} were found; expected finite numbers "
            "and a std above 0; mend it, or delete it to have them measured"
        )
    if feature_dim is not None and measured_dim != feature_dim:
        raise ConfigError(
            f"{path}: measured with {measured_dim} log-Mel bands; expected task.feature_dim={feature_dim}; "
            f"measure again with `mae-ast stats --bands {feature_dim}`, or delete it"
        )
    return statistics


def sample_rows(num_rows: int, num_wanted: int, generator: np.random.Generator) -> np.ndarray:
    """Return `num_wanted` of the row numbers below `num_rows`, ascending; all of them where there are fewer."""
    if num_rows <= num_wanted:
        return np.arange(num_rows)
    return np.sort(generator.choice(num_rows, num_wanted, replace=False))
