"""Comparing every row of a manifest with its file, and mending the manifest."""

import hashlib
import math
import os
import posixpath
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing import active_children
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mae_ast_fairseq.corpus.scan import MIN_SECONDS, Rejected, probe
from mae_ast_fairseq.data import archive
from mae_ast_fairseq.data.audio import DECODING_ERRORS, open_audio, unreadable
from mae_ast_fairseq.data.manifest import Manifest, ManifestRow
from mae_ast_fairseq.errors import AudioError

SILENCE_DBFS = -80.0  # 3 steps of 16 bits; the quietest rooms are recorded at -70
CLIPPED_RUN = 3  # samples: a clean peak touches full scale once or, being low or at a high rate, twice
CLIPPED_SHARE = 1e-3  # of the samples; a clean recording that was raised to full scale stays below a tenth of it

ERROR, MENDED, WARNING = "error", "mended", "warning"


class FindingType(NamedTuple):
    """One kind of finding."""

    severity: str
    """ERROR: the row cannot be used; MENDED: once the manifest is corrected, it can; WARNING: look at it"""
    meaning: str


KINDS = {
    "missing": FindingType(ERROR, "there is no such file"),
    "unreadable": FindingType(ERROR, "no audio file, no permission, or damaged in the middle"),
    "truncated": FindingType(ERROR, "the file ends before what its header says"),
    "too short": FindingType(ERROR, f"below {MIN_SECONDS} s, of which two tokens of two frames can be made"),
    "non-finite": FindingType(ERROR, "samples are NaN or infinite"),
    "listed twice": FindingType(ERROR, "the path is on an earlier line too"),
    "other length": FindingType(MENDED, "the file has other than the stated number of samples"),
    "other rate": FindingType(MENDED, "the file has another than the stated sample rate"),
    "same audio": FindingType(WARNING, "sample for sample what a file of an earlier line holds, under another path"),
    "silence": FindingType(
        WARNING,
        f"the channels' mean, as training reads it, has a level below {SILENCE_DBFS:.0f} dBFS over the whole clip",
    ),
    "clipping": FindingType(
        WARNING,
        f"at least {CLIPPED_SHARE:.1%} of the samples are in runs of {CLIPPED_RUN} or more at one end of the scale",
    ),
}

_BLOCK_SAMPLES = 1 << 16  # decoded at a time, whatever a file's length
_ROWS_PER_TASK = 16  # few, since files may be hours long
_TASKS_AHEAD = 16  # for each worker, so that a long file keeps nobody waiting

# What the largest sample of a coarse format is as a float; finer ones come within a 16-bit step of 1.
_FULL_SCALE = {"PCM_S8": 127 / 128, "PCM_U8": 127 / 128, "ULAW": 32124 / 32768, "ALAW": 32256 / 32768}
_FULL_SCALE_16_BIT = 32767 / 32768

_PROBED = {"truncated": "truncated", "empty": "too short"}  # probe's words for what has a kind of its own here


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


class Mended(NamedTuple):
    """A manifest's rows without those that cannot be used, with lengths and rates as the files have them."""

    kept: list[int]
    """rows of the old manifest, counted from 0"""
    rows: Iterator[ManifestRow]
    """those of the new one"""
    left_out: list[Rejected]
    num_corrected: int


class _Row(NamedTuple):
    path: str
    num_samples: int
    sample_rate: int


class _Examined(NamedTuple):
    """What a file holds; the digest, of its samples, is empty where there is nothing to compare."""

    faults: list[tuple[str, str]]
    num_samples: int = 0
    sample_rate: int = 0
    digest: bytes = b""


def check_manifest(manifest: Manifest, num_workers: int = 1) -> Report:
    """Compare every row with its file, in `num_workers` processes, with a progress bar on stderr.

    Every file is decoded once, block by block. Raises AudioError where a worker was killed.
    """
    num_rows = len(manifest)
    num_samples, sample_rates = np.zeros(num_rows, dtype=np.int64), np.zeros(num_rows, dtype=np.int32)
    digests = np.zeros((num_rows, 16), dtype=np.uint8)
    has_digest = np.zeros(num_rows, dtype=bool)
    findings = []
    progress = tqdm(total=num_rows, unit=" files", desc="checking", disable=None)
    with progress, closing(_map(_examine_all, _tasks(manifest), num_workers)) as parts:
        for row, examined in enumerate(result for part in parts for result in part):
            findings += [Finding(row, *fault) for fault in examined.faults]
            num_samples[row], sample_rates[row] = examined.num_samples, examined.sample_rate
            if examined.digest:
                digests[row] = np.frombuffer(examined.digest, dtype=np.uint8)
                has_digest[row] = True
            progress.update()
    twice = _listed_twice(manifest)
    has_digest[[finding.row for finding in twice]] = False  # which says already that the audio is the same
    findings += twice + _same_audio(manifest, digests, np.flatnonzero(has_digest))
    order = list(KINDS)
    findings.sort(key=lambda finding: (finding.row, order.index(finding.kind)))
    return Report(findings, num_samples, sample_rates)


def mend(manifest: Manifest, report: Report) -> Mended:
    """Leave out the rows with a finding that is an error, and correct the lengths and rates of the others."""
    reasons: dict[int, list[str]] = {}
    for row, kind, found in report.findings:
        if KINDS[kind].severity == ERROR:
            reasons.setdefault(row, []).append(f"{kind}: {found}")
    kept = [row for row in range(len(manifest)) if row not in reasons]
    corrected = {finding.row for finding in report.findings if KINDS[finding.kind].severity == MENDED}
    return Mended(
        kept,
        (
            ManifestRow(manifest.relative_path(row), int(report.num_samples[row]), int(report.sample_rates[row]))
            for row in kept
        ),
        [Rejected(manifest.relative_path(row), "; ".join(reasons[row])) for row in sorted(reasons)],
        len(corrected - reasons.keys()),
    )


# --- duplicates


def _listed_twice(manifest: Manifest) -> list[Finding]:
    digests = np.empty((len(manifest), 16), dtype=np.uint8)  # of millions of paths: a fifth of what a dict takes
    for row in range(len(manifest)):
        path = posixpath.normpath(manifest.path(row)).encode()
        digests[row] = np.frombuffer(hashlib.blake2b(path, digest_size=16).digest(), dtype=np.uint8)
    return [Finding(row, "listed twice", f"first on line {manifest.line(first)}") for row, first in _repeats(digests)]


def _same_audio(manifest: Manifest, digests: np.ndarray, rows: np.ndarray) -> list[Finding]:
    findings = []
    for place, first_place in _repeats(digests[rows]):
        row, first = int(rows[place]), int(rows[first_place])
        found = f"as on line {manifest.line(first)}, {manifest.relative_path(first)}"
        findings.append(Finding(row, "same audio", found))
    return findings


def _repeats(digests: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (place, first place) of every digest of [N, 16] bytes that was there before."""
    if len(digests) == 0:
        return
    halves = np.ascontiguousarray(digests).view(np.uint64)  # [N, 2]
    order = np.lexsort(halves.T)  # stable: equal ones stay in their order
    is_new = np.append(True, (halves[order[1:]] != halves[order[:-1]]).any(axis=1))
    first = order[np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))]
    repeats = ~is_new
    yield from zip(order[repeats].tolist(), first[repeats].tolist(), strict=True)


# --- processes


def _tasks(manifest: Manifest) -> Iterator[list[_Row]]:
    """Cut the manifest into tasks that hold what a worker needs, made only when their turn comes."""
    for first in range(0, len(manifest), _ROWS_PER_TASK):
        yield [
            _Row(manifest.path(row), int(manifest.num_samples[row]), int(manifest.sample_rates[row]))
            for row in range(first, min(first + _ROWS_PER_TASK, len(manifest)))
        ]


def _map(
    function: Callable[[Sequence[_Row]], list[_Examined]], tasks: Iterable[list[_Row]], num_workers: int
) -> Generator[list[_Examined], None, None]:
    """Yield a function's results in order, from processes that end at once where the caller does."""
    if num_workers <= 1:
        yield from map(function, tasks)
        return
    others = set(active_children())
    pool = ProcessPoolExecutor(num_workers)
    pending: deque[Future[list[_Examined]]] = deque()
    try:
        for task in tasks:
            with _interrupts_held():  # it is here that processes start
                pending.append(pool.submit(function, task))
            if len(pending) >= _TASKS_AHEAD * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        pool.shutdown()
    except BrokenProcessPool:
        raise AudioError(
            "a checking process was killed, by a file that crashes its decoder or for want of memory; "
            "expected all to finish; run again with --workers 1, whose progress shows how far it comes"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(active_children()) - others:
            process.terminate()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait, so that it loses no process half started; and those started inherit that they never see it.

    It reaches all processes of a terminal, and it is for the first to end the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- one file


def _examine_all(rows: Sequence[_Row]) -> list[_Examined]:
    return [_examine(row) for row in rows]


def _examine(row: _Row) -> _Examined:
    """Compare one row with its file."""
    if fault := _absence(row.path):
        return _Examined([fault])
    try:
        num_samples, sample_rate = probe(row.path)
    except AudioError as error:
        reason = str(error).removeprefix(f"{row.path}: ")
        word, _, rest = reason.partition(": ")
        kind = _PROBED.get(word, "unreadable")
        found = (rest or "no samples") if word in _PROBED else reason.removeprefix("unreadable: ")
        return _Examined([(kind, found.split(";")[0])])
    faults = []
    if num_samples < MIN_SECONDS * sample_rate:
        return _Examined([("too short", f"{num_samples / sample_rate:.3f} s")], num_samples, sample_rate)
    if num_samples != row.num_samples:
        faults.append(("other length", f"{num_samples} samples, the manifest says {row.num_samples}"))
    if sample_rate != row.sample_rate:
        faults.append(("other rate", f"{sample_rate} Hz, the manifest says {row.sample_rate} Hz"))
    try:
        sound = _listen(row.path)
    except DECODING_ERRORS as error:
        found = unreadable(row.path, error).removeprefix(f"{row.path}: ").split(";")[0]
        return _Examined([("unreadable", found)])
    if sound.num_samples < num_samples:
        return _Examined([("unreadable", f"only {sound.num_samples} of its {num_samples} samples can be decoded")])
    heard = sound.faults()
    is_comparable = not any(kind in ("silence", "non-finite") for kind, _ in heard)  # all silence is alike
    return _Examined(faults + heard, num_samples, sample_rate, sound.digest.digest() if is_comparable else b"")


def _absence(path: str) -> tuple[str, str] | None:
    """Say why no file, or archive, can be opened at a path; None where there may be one."""
    location = archive.parse(path)
    try:
        os.stat(path if location is None else location.archive)  # noqa: PTH116  # twice as fast as a Path, for each of millions of files
    except (FileNotFoundError, NotADirectoryError):
        return "missing", "there is no such file"
    except OSError as error:
        return "unreadable", error.strerror or str(error)
    return None


def _listen(path: str) -> "_Sound":
    with open_audio(path) as file:
        sound = _Sound(file.samplerate, file.channels, _FULL_SCALE.get(file.subtype, _FULL_SCALE_16_BIT))
        with np.errstate(over="ignore", invalid="ignore"):
            while len(block := file.read(_BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                sound.add(block)
    return sound


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
        # Of the decoded samples, not of the file: the same audio in another container, or with other tags, is found.
        self.digest = hashlib.blake2b(f"{sample_rate} {num_channels} ".encode(), digest_size=16)
        self.last_signs = np.zeros((CLIPPED_RUN, num_channels), dtype=np.int8)

    def add(self, block: np.ndarray) -> None:
        """Take in the next samples, float32 [S, channels]."""
        self.digest.update(block.data)
        self.num_samples += len(block)
        mono = block[:, 0].astype(np.float64)
        for channel in block.T[1:]:
            mono += channel
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

    def faults(self) -> list[tuple[str, str]]:
        """Say what is wrong with all the samples together, as (kind, found)."""
        num_values = self.num_samples * self.num_channels
        if self.num_not_finite:
            return [("non-finite", f"{self.num_not_finite} of {num_values} samples are NaN or infinite")]
        power = self.total_square / self.num_samples - (self.total / self.num_samples) ** 2  # without the offset
        if power < 10 ** (SILENCE_DBFS / 10):
            is_digital = power <= 0
            return [("silence", "digital silence" if is_digital else f"{10 * math.log10(power):.1f} dBFS")]
        share = self.num_clipped / num_values
        if share >= CLIPPED_SHARE:
            over = f", peak {self.peak:.3g}" if self.peak > 1 else ""
            return [("clipping", f"{share:.2%} of the samples in runs at full scale{over}")]
        return []
