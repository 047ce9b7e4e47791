"""Comparing every row of a manifest with its file, and fixing the manifest."""

import hashlib
import math
import os
import posixpath
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mae_ast_fairseq.corpus.processes import map_in_processes
from mae_ast_fairseq.corpus.scan import MIN_SECONDS, Fault, Rejected, examine
from mae_ast_fairseq.data import archive
from mae_ast_fairseq.data.audio import DECODING_ERRORS, MAX_RATE, MIN_RATE, decoding_fault, open_audio
from mae_ast_fairseq.data.manifest import Manifest, ManifestRow
from mae_ast_fairseq.levels import (
    LARGEST_PEAK,
    MAX_PEAK,
    SCALED_PEAK,
    SILENCE_DBFS,
    decibels,
    describe_cancelling,
    describe_peak,
)

CLIPPED_RUN = 3  # samples: a clean peak touches full scale once or, being low or at a high rate, twice
CLIPPED_FRACTION = 1e-3  # of the samples; a clean recording that was raised to full scale stays below a tenth of it

ERROR, FIXABLE, WARNING = "error", "mended", "warning"


class FindingType(NamedTuple):
    """One kind of finding."""

    severity: str
    """ERROR: the row cannot be used; FIXABLE: once the manifest is corrected, it can; WARNING: look at it"""
    meaning: str


KINDS = {
    "missing": FindingType(ERROR, "there is no such file"),
    "unreadable": FindingType(ERROR, "no audio file, no permission, or damaged in the middle"),
    "truncated": FindingType(ERROR, "the file ends before what its header says"),
    "too short": FindingType(ERROR, f"below {MIN_SECONDS} s, of which two tokens of two frames can be made"),
    "rate": FindingType(ERROR, f"the header states a sample rate outside {MIN_RATE:,} to {MAX_RATE:,} Hz"),
    "non-finite": FindingType(ERROR, f"samples are NaN, infinite, or beyond {LARGEST_PEAK:.0f}"),
    "scale": FindingType(ERROR, f"samples reach {SCALED_PEAK:g} and more: a scale of 16, 24 or 32 bits, not [-1, 1]"),
    "longer than stated": FindingType(ERROR, "audio lies beyond what its header says: joined by `cat`, or above 4 GiB"),
    "listed twice": FindingType(ERROR, "the path is on an earlier line too"),
    "other length": FindingType(FIXABLE, "the file has other than the stated number of samples"),
    "other rate": FindingType(FIXABLE, "the file has another than the stated sample rate"),
    "same audio": FindingType(WARNING, "sample for sample what a file of an earlier line holds, under another path"),
    "cancelling": FindingType(WARNING, "the channels have a level that their mean, as training reads it, has not"),
    "silence": FindingType(
        WARNING,
        f"the channels' mean, as training reads it, has a level below {SILENCE_DBFS:.0f} dBFS over the whole clip",
    ),
    "clipping": FindingType(
        WARNING,
        f"at least {CLIPPED_FRACTION:.1%} of the samples are in runs of {CLIPPED_RUN} or more at one end of the scale, "
        f"or samples lie above {MAX_PEAK}",
    ),
}

_BLOCK_SAMPLES = 1 << 16  # decoded at a time, whatever a file's length
_ROWS_PER_TASK = 16  # few, since files may be hours long

# What the largest sample of a coarse format is as a float; finer ones come within a 16-bit step of 1.
_FULL_SCALE = {"PCM_S8": 127 / 128, "PCM_U8": 127 / 128, "ULAW": 32124 / 32768, "ALAW": 32256 / 32768}
_FULL_SCALE_16_BIT = 32767 / 32768


class Finding(NamedTuple):
    """Something that is wrong with a row of a manifest, counted from 0."""

    row: int
    kind: str
    """a key of KINDS"""
    found: str


class Report(NamedTuple):
    """What a manifest's files really hold."""

    findings: list[Finding]
    """by row, and in a row in the order of KINDS"""
    num_samples: np.ndarray
    """[N] int64, at each file's own rate; 0 where no audio could be read"""
    sample_rates: np.ndarray
    """[N] int32 in Hz; 0 where no audio could be read"""


class Fixed(NamedTuple):
    """A manifest's rows without those that cannot be used, with lengths and rates as the files have them."""

    kept: list[int]
    """rows of the old manifest, counted from 0"""
    rows: Iterator[ManifestRow]
    """those of the new one"""
    left_out: list[Rejected]
    num_corrected: int


class _Examined(NamedTuple):
    """What a file holds; the digest, of its samples, is empty where there is nothing to compare."""

    faults: list[Fault]
    num_samples: int = 0
    sample_rate: int = 0
    digest: bytes = b""


def check_manifest(manifest: Manifest, num_workers: int = 1) -> Report:
    """Compare every row with its file, in `num_workers` processes, with a progress bar on stderr.

    Every file is decoded once, block by block. Raises AudioError where a worker was killed.
    """
    num_rows = len(manifest)
    num_samples, sample_rates = np.zeros(num_rows, dtype=np.int64), np.zeros(num_rows, dtype=np.int32)
    digests = np.zeros(num_rows, dtype="S16")
    findings = []
    rows = (
        ManifestRow(manifest.path(row), int(manifest.num_samples[row]), int(manifest.sample_rates[row]))
        for row in range(num_rows)
    )
    results = map_in_processes(_examine, rows, num_workers=num_workers, items_per_task=_ROWS_PER_TASK)
    with closing(results):
        progress = tqdm(results, total=num_rows, unit=" files", desc="checking", disable=None)
        for row, examined in enumerate(progress):
            findings += [Finding(row, *fault) for fault in examined.faults]
            num_samples[row], sample_rates[row], digests[row] = examined[1:]
    twice = _listed_twice(manifest)
    digests[[finding.row for finding in twice]] = b""  # which says already that the audio is the same
    findings += twice + _same_audio(manifest, digests)
    order = list(KINDS)
    findings.sort(key=lambda finding: (finding.row, order.index(finding.kind)))
    return Report(findings, num_samples, sample_rates)


def fix(manifest: Manifest, report: Report) -> Fixed:
    """Leave out the rows with a finding that is an error, and correct the lengths and rates of the others."""
    reasons: dict[int, list[str]] = {}
    for row, kind, found in report.findings:
        if KINDS[kind].severity == ERROR:
            reasons.setdefault(row, []).append(f"{kind}: {found}")
    kept = [row for row in range(len(manifest)) if row not in reasons]
    corrected = {finding.row for finding in report.findings if KINDS[finding.kind].severity == FIXABLE}
    return Fixed(
        kept,
        (
            ManifestRow(manifest.relative_path(row), int(report.num_samples[row]), int(report.sample_rates[row]))
            for row in kept
        ),
        [Rejected(manifest.relative_path(row), "; ".join(reasons[row])) for row in sorted(reasons)],
        len(corrected - reasons.keys()),
    )


def _listed_twice(manifest: Manifest) -> list[Finding]:
    paths = (posixpath.normpath(manifest.path(row)).encode() for row in range(len(manifest)))
    digests = (hashlib.blake2b(path, digest_size=16).digest() for path in paths)  # a fifth of what a dict takes
    repeats = _repeats(np.fromiter(digests, dtype="S16", count=len(manifest)))
    return [Finding(row, "listed twice", f"first on line {manifest.line(first)}") for row, first in repeats]


def _same_audio(manifest: Manifest, digests: np.ndarray) -> list[Finding]:
    return [
        Finding(row, "same audio", f"as on line {manifest.line(first)}, {manifest.relative_path(first)}")
        for row, first in _repeats(digests)
    ]


def _repeats(digests: np.ndarray) -> list[tuple[int, int]]:
    """Return (row, first row) of every digest [N] that is not empty and was there before."""
    _, firsts, inverse = np.unique(digests, return_index=True, return_inverse=True)
    first_rows = firsts[inverse]
    repeats = np.flatnonzero((first_rows != np.arange(len(digests))) & (digests != b""))
    return list(zip(repeats.tolist(), first_rows[repeats].tolist(), strict=True))


def _examine(row: ManifestRow) -> _Examined:
    """Compare one row, whose path is a whole one, with its file."""
    path = row.relative_path
    if fault := _absence(path):
        return _Examined([fault])
    held = examine(path)
    if isinstance(held, Fault):
        return _Examined([_as_finding(held)])
    num_samples, sample_rate = held
    if num_samples < MIN_SECONDS * sample_rate:
        return _Examined([Fault("too short", f"{num_samples / sample_rate:.3f} s")], num_samples, sample_rate)
    faults = []
    if num_samples != row.num_samples:
        faults.append(Fault("other length", f"{num_samples} samples, the manifest says {row.num_samples}"))
    if sample_rate != row.sample_rate:
        faults.append(Fault("other rate", f"{sample_rate} Hz, the manifest says {row.sample_rate} Hz"))
    try:
        with open_audio(path, num_samples) as file, np.errstate(over="ignore", invalid="ignore"):
            sound = _Sound(file.samplerate, file.channels, _FULL_SCALE.get(file.subtype, _FULL_SCALE_16_BIT))
            while len(block := file.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                sound.add(block)
    except DECODING_ERRORS as error:
        return _Examined([Fault("unreadable", decoding_fault(path, error))])
    if sound.num_samples < num_samples:
        found = f"only {sound.num_samples} of its {num_samples} samples can be decoded"
        return _Examined([Fault("unreadable", found)])
    heard = sound.fault()
    is_comparable = heard is None or heard.kind not in ("silence", "non-finite")  # all silence is alike
    faults += [heard] if heard else []
    return _Examined(faults, num_samples, sample_rate, sound.digest.digest() if is_comparable else b"")


def _absence(path: str) -> Fault | None:
    """Return why no file, or archive, can be opened at a path; None where there may be one."""
    location = archive.parse(path)
    try:
        os.stat(path if location is None else location.archive)  # noqa: PTH116  # twice as fast as a Path, for each of millions of files
    except (FileNotFoundError, NotADirectoryError):
        return Fault("missing", "there is no such file")
    except OSError as error:
        return Fault("unreadable", error.strerror or str(error))
    return None


def _as_finding(fault: Fault) -> Fault:
    if fault.kind == "empty":
        return Fault("too short", "no samples")
    return fault if fault.kind in KINDS else Fault("unreadable", str(fault))


class _Sound:
    """What a file's samples are like, gathered block by block."""

    def __init__(self, sample_rate: int, num_channels: int, full_scale: float):
        self.full_scale = full_scale
        self.num_channels = num_channels
        self.num_samples = 0
        self.num_not_finite = 0
        self.num_clipped = 0
        self.peak = 0.0
        self.total = 0.0
        self.total_square = 0.0
        self.channel_totals = np.zeros(num_channels)
        self.channel_squares = 0.0  # of all channels together
        # Of the decoded samples, not of the file: the same audio in another container, or with other tags, is found.
        self.digest = hashlib.blake2b(f"{sample_rate} {num_channels} ".encode(), digest_size=16)
        self.last_signs = np.zeros((CLIPPED_RUN, num_channels), dtype=np.int8)

    def add(self, block: np.ndarray) -> None:
        """Take in the next samples, float32 [S, channels]."""
        self.digest.update(block.data)
        self.num_samples += len(block)
        mono = np.zeros(len(block))
        for number, channel in enumerate(block.T):  # seven times as fast as a mean over the short axis
            mono += channel
            if self.num_channels > 1:
                self.channel_totals[number] += channel.sum(dtype=np.float64)
                self.channel_squares += float(np.square(channel, dtype=np.float64).sum())
        mono /= self.num_channels
        total = float(mono.sum())
        if not math.isfinite(total):
            self.num_not_finite += int(np.count_nonzero(~np.isfinite(block)))
        self.total += total
        self.total_square += float(np.square(mono).sum())
        self.peak = max(self.peak, float(block.max()), -float(block.min()))
        self._count_clipped(block)

    def _count_clipped(self, block: np.ndarray) -> None:
        """Count the samples of runs at one end of the scale, also of runs from block to block.

        A run of R >= 3 samples has R - 2 triples of equal neighbours, the first of which starts it: so its samples
        are its triples and 2 more. Triples that end in this block count here.
        """
        signs = (block >= self.full_scale).astype(np.int8) - (block <= -self.full_scale)
        if self.last_signs.any() or signs.any():
            signs = np.concatenate([self.last_signs, signs])
            is_triple = (signs[2:] == signs[1:-1]) & (signs[1:-1] == signs[:-2]) & (signs[2:] != 0)
            is_start = is_triple[1:] & ~is_triple[:-1]
            self.num_clipped += int(is_triple[1:].sum()) + (CLIPPED_RUN - 1) * int(is_start.sum())
        self.last_signs = signs[-CLIPPED_RUN:]

    def fault(self) -> Fault | None:
        """Say what is wrong with all the samples together, in one of KINDS; None where nothing is."""
        num_values = self.num_samples * self.num_channels
        if self.num_not_finite:
            return Fault("non-finite", f"{self.num_not_finite} of {num_values} samples are NaN or infinite")
        if self.peak > LARGEST_PEAK:
            return Fault("non-finite", f"samples reach {self.peak:.3g}; expected [-1, 1]")
        if self.peak >= SCALED_PEAK:
            return Fault("scale", describe_peak(self.peak))
        power = self.total_square / self.num_samples - (self.total / self.num_samples) ** 2  # without the offset
        offsets = float(np.square(self.channel_totals / self.num_samples).sum())
        channels = (self.channel_squares / self.num_samples - offsets) / self.num_channels
        if found := describe_cancelling(channels, power):
            return Fault("cancelling", found)
        if power < 10 ** (SILENCE_DBFS / 10):
            return Fault("silence", "digital silence" if power <= 0 else f"{decibels(power):.1f} dBFS")
        fraction = self.num_clipped / num_values
        if fraction >= CLIPPED_FRACTION:
            over = f", peak {self.peak:.3g}" if self.peak > 1 else ""
            return Fault("clipping", f"{fraction:.2%} of the samples in runs at full scale{over}")
        if self.peak > MAX_PEAK:
            return Fault("clipping", describe_peak(self.peak))
        return None
