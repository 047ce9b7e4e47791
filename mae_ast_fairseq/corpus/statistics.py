"""Mean and standard deviation of a dataset's log-Mel values, for `normalization=dataset`: measured, read, written."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from mae_ast_fairseq.data.audio import load_row
from mae_ast_fairseq.data.concat import ConcatManifest
from mae_ast_fairseq.data.manifest import Manifest
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.files import atomic_write, read_json
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.rng import Stream, generator

FILE_NAME = "stats.json"
MIN_FRAMES = 4  # of which 2 tokens of 2 frames can be made; the task trains on no shorter clip

NUM_CLIPS = 1_000
"""Clips that training draws where there is no stats.json."""

_NUM_SHOWN = 80  # characters of what a file holds

SEED = 1337
"""The seed of that draw, whatever `common.seed`: runs that differ by seed alone normalise alike."""


class Statistics(NamedTuple):
    """Mean and standard deviation over all log-Mel values of some clips, natural logarithm."""

    mean: float
    std: float


class Measurement(NamedTuple):
    """What was measured over a sample of a manifest's clips."""

    statistics: Statistics
    num_clips: int
    num_frames: int
    feature_dim: int
    num_usable_frames: int
    """of all the manifest's clips, as training crops them: the manifest's weight beside others"""
    broken: dict[int, str]
    """by row, `file:line: why`: clips too short for training, and those drawn that could not be read"""


def pool(statistics: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
    """Return the statistics of several clips or datasets together, from differences, so that nothing cancels.

    weights: how much there is of each, such as its number of frames; only their ratios count.
    """
    means, stds = np.array(statistics, dtype=np.float64).T
    fractions = np.asarray(weights) / np.sum(weights)  # one dataset alone keeps its last digit
    assert len(means) == len(fractions) and (fractions >= 0).all()
    mean = np.average(means, weights=fractions)
    variance = np.average(stds**2 + (means - mean) ** 2, weights=fractions)
    return Statistics(float(mean), math.sqrt(variance))


def measure_clip(frames: np.ndarray) -> Statistics:
    """Return the statistics of one clip's log-Mel frames [T, F], computed in float64."""
    return Statistics(float(frames.mean(dtype=np.float64)), float(frames.std(dtype=np.float64)))


def measure_manifest(
    manifest: Manifest | ConcatManifest,
    *,
    num_clips: int = NUM_CLIPS,
    seed: int = SEED,
    feature_dim: int = fbank.NUM_MEL_BINS,
    max_sample_size: int | None = None,
) -> Measurement:
    """Measure a sample of a manifest's clips: with the defaults, those that training draws.

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
    measured: list[Statistics] = []
    weights: list[int] = []
    broken = {
        row: f"{manifest.where(row)}: {manifest.path(row)}: it has {num_frames[row]} frames of 10 ms; expected at "
        f"least {MIN_FRAMES}, which training takes; leave it out"
        for row in np.flatnonzero(num_frames < MIN_FRAMES).tolist()
    }
    for row in tqdm(rows.tolist(), unit=" clips", desc="measuring", disable=None):
        try:
            waveform = torch.from_numpy(load_row(manifest, row, num_samples=max_sample_size))
            frames = fbank.log_mel(waveform, num_mel_bins=feature_dim)
        except AudioError as error:
            broken[row] = f"{manifest.where(row)}: {error}"
            continue
        measured.append(measure_clip(frames.numpy()))
        weights.append(len(frames))
    if not measured:
        raise AudioError(
            f"{manifest.name}: none of its {len(manifest)} clips can be measured (the first: {broken[min(broken)]}); "
            "expected audio; see what is wrong with `mae-ast check`"
        )
    num_usable = int(num_frames[usable].sum())
    return Measurement(pool(measured, weights), len(measured), sum(weights), feature_dim, num_usable, broken)


def pool_measurements(parts: Sequence[Measurement]) -> Measurement:
    """Return several manifests' measurements as one, each with the weight of all its usable frames."""
    weights = [part.num_usable_frames for part in parts]
    return Measurement(
        pool([part.statistics for part in parts], weights),
        sum(part.num_clips for part in parts),
        sum(part.num_frames for part in parts),
        parts[0].feature_dim,
        sum(weights),
        {},  # whose rows are those of one manifest
    )


def as_json(measured: Measurement) -> dict[str, Any]:
    """Return what a stats.json says of some clips."""
    names = ("num_clips", "num_frames", "feature_dim")
    return {**measured.statistics._asdict(), **{name: getattr(measured, name) for name in names}}


def write_statistics(path: Path, content: dict[str, Any]) -> None:
    """Write a stats.json, whole or not at all."""
    with atomic_write(path) as stream:
        stream.write(f"{json.dumps(content, indent=2)}\n".encode())


def read_statistics(path: Path, feature_dim: int | None = None) -> Statistics:
    """Read the `mean` and `std` of a stats.json.

    feature_dim: the number of bands that they are wanted for; a file that states another is refused.

    Raises ConfigError naming the file and what is wrong in it.
    """
    try:
        content = read_json(path)
        statistics = Statistics(float(content["mean"]), float(content["std"]))
        measured_dim = content.get("feature_dim", feature_dim)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(
            f'{path}: {type(error).__name__}: {_shown(error)}; expected a JSON object with the numbers "mean" and '
            '"std"; fix it, or delete it to have them measured'
        ) from None
    if not (math.isfinite(statistics.mean) and math.isfinite(statistics.std) and statistics.std > 0):
        raise ConfigError(
            f"{path}: mean {statistics.mean} and std {statistics.std} were found; expected finite numbers "
            "and a std above 0; fix it, or delete it to have them measured"
        )
    if feature_dim is not None and measured_dim != feature_dim:
        raise ConfigError(
            f"{path}: measured with {_shown(measured_dim)} log-Mel bands; expected task.feature_dim={feature_dim}; "
            f"measure again with `mae-ast stats --bands {feature_dim}`, or delete it"
        )
    return statistics


def _shown(value: Any) -> str:
    return str(value)[:_NUM_SHOWN]


def sample_rows(num_rows: int, num_wanted: int, generator: np.random.Generator) -> np.ndarray:
    """Return `num_wanted` of the row numbers below `num_rows`, ascending; all of them where there are fewer."""
    if num_rows <= num_wanted:
        return np.arange(num_rows)
    return np.sort(generator.choice(num_rows, num_wanted, replace=False))
