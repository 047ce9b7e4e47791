"""Decoding a crop of an audio file: mono, 16 kHz, float32, and no more of the file than the crop needs."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Protocol

import numpy as np
import soundfile as sf
import soxr

from mae_ast_fairseq.data import archive
from mae_ast_fairseq.data.ffmpeg import MediaFile
from mae_ast_fairseq.data.lengths import NOT_INSTALLED, Extent, Fault, measure
from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.files import open_regular
from mae_ast_fairseq.levels import LARGEST_PEAK, warn_of_cancelling, warn_of_scale

SAMPLE_RATE = 16_000

# What opening, seeking or reading raises: libsndfile's own errors, the system's, and what numpy and soundfile
# make of a header that lies (an array of 2^63 samples, a RAW file without a rate).
DECODING_ERRORS = (sf.SoundFileError, OSError, MemoryError, OverflowError, ValueError, TypeError)

# Of what is recorded for ears or bats, in hertz: a header that states another is wrong, and so would be the length.
MIN_RATE, MAX_RATE = 1_000, 768_000

# libsndfile writes 2^63 - 1 where a header states no length (FLAC from a pipe); 10^14 samples are 198 years.
MAX_SAMPLES = 10**14

# libsndfile 1.2 seeks to the wrong sample in the last page of an Ogg Vorbis file. A page holds at most 255
# packets of 1,024 samples, so whoever wants samples of the last 2^18 starts decoding before them.
_VORBIS_TAIL_SAMPLES = 1 << 18

# After a seek these decoders have lost what they carry from frame to frame (MP3's bit reservoir, Opus's
# predictor): the first samples are wrong, in MP3 up to 4,500 of them. So decode more before, and drop it.
_PREROLL_SAMPLES = dict.fromkeys(("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III", "OPUS"), 1 << 14)

# libsndfile cannot seek in these, or lands elsewhere.
_SEQUENTIAL = frozenset({"GSM610", "G721_32", "G723_24", "G723_40"})

# In these it says that it can seek, and fails.
_UNSEEKABLE = ("AIFF DWVW", "PAF PCM_24")
_BLOCK_SAMPLES = 1 << 16  # decoded at a time, on the way to a crop

# Decoded on both sides of a crop before resampling. soxr's filter reaches about 10 ms at 16 kHz.
_MARGIN_SECONDS = 0.05


def load_audio(
    path: str | Path,
    start: int = 0,
    num_samples: int | None = None,
    expect_samples: int | None = None,
    expect_rate: int | None = SAMPLE_RATE,
) -> np.ndarray:
    """Decode a crop of an audio file, or of one inside a zip archive (`data/archive.py`), as mono at 16 kHz.

    `start` and `num_samples` count samples at 16 kHz; a crop that reaches over the file's end is cut there,
    and None means the file's rest. `expect_samples` counts at the file's own rate, as a manifest does; it and
    `expect_rate` are compared with the file unless None.

    Returns float32 [S], the mean over the channels. A whole file has S = ceil(samples * 16000 / rate). A crop
    equals that slice of the whole file: exactly, but for Opus (about 1e-3) and resampled files (about 1e-6).
    Raises AudioError, also for NaN and infinity, and for files that hold less or more than their header says; where
    `expect_samples` is given, tests of this that take reading a whole file are left to whoever wrote it down.
    """
    try:
        with open_audio(path, expect_samples) as file:
            _check_header(path, file, expect_samples, expect_rate)
            total = samples_at_16k(file.frames, file.samplerate)
            if not 0 <= start < total:
                _refuse(path, f"the crop starts at sample {start} of {total} at 16 kHz", "a start inside the file")
            stop = total if num_samples is None else min(start + num_samples, total)
            decode = _decode_mono if file.samplerate == SAMPLE_RATE else _decode_resampled
            waveform = decode(path, file, start, stop)
    except AudioError:
        raise
    except DECODING_ERRORS as error:
        remedy = _REMEDY if archive.parse(path) is None else f"correct the path or {archive.REPACK}, then the manifest"
        found = decoding_fault(path, error)
        raise AudioError(f"{path}: {found}; expected {_READABLE}; {remedy}") from None
    _check_peak(path, waveform)
    return waveform


class ClipList(Protocol):
    """What manifests and lists of files have in common; rows count from 0."""

    def __len__(self) -> int: ...

    @property
    def num_samples(self) -> np.ndarray:
        """Count each file's samples at its own rate: int64 [N]."""

    @property
    def sample_rates(self) -> np.ndarray:
        """Return each file's rate in Hz: int32 [N]."""

    @property
    def num_samples_at_16k(self) -> np.ndarray:
        """Count each file's samples at 16 kHz: int64 [N]."""

    def path(self, row: int) -> str:
        """Return the path of a file."""

    def where(self, row: int) -> str:
        """Name a row for messages; empty where the path says all."""


def load_row(clips: ClipList, row: int, start: int = 0, num_samples: int | None = None) -> np.ndarray:
    """Decode a crop of a clip as `load_audio` does, whose file must be as long and of the rate as is stated."""
    stated_samples, stated_rate = int(clips.num_samples[row]), int(clips.sample_rates[row])
    return load_audio(clips.path(row), start, num_samples, stated_samples, stated_rate)


class AudioFile(sf.SoundFile):
    """A file in libsndfile's hands, whose `frames` are those that its bytes hold."""

    def __init__(self, source: str | Path | BinaryIO, extent: Extent):
        self._num_samples = extent.num_samples
        self.fault: Fault | None = extent.fault
        super().__init__(source)

    @property
    def frames(self) -> int:
        """Return the number of samples in each channel."""
        return super().frames if self._num_samples is None else self._num_samples

    @cached_property
    def subtype(self) -> str:
        """Return how samples are coded; kept, since libsndfile takes a list of names through for each answer."""
        return super().subtype

    @cached_property
    def _is_seekable(self) -> bool:
        return super().seekable() and not f"{self.format} {self.subtype}".startswith(_UNSEEKABLE)

    def seekable(self) -> bool:
        """Say whether samples can be reached without those before them; soundfile asks at each read."""
        return self._is_seekable

    @property
    def is_sequential(self) -> bool:
        """Say whether libsndfile cannot seek in such audio, so that it must be decoded from its start."""
        return self.subtype in _SEQUENTIAL or not self.seekable()

    def skip(self, num_samples: int) -> bool:
        """Go from the start to a sample; False where there are fewer before it."""
        if not self.is_sequential:
            return self.seek(num_samples) == num_samples
        while num_samples and (num_read := len(self.read(min(num_samples, _BLOCK_SAMPLES), dtype="float32"))):
            num_samples -= num_read
        return not num_samples


@contextmanager
def open_audio(path: str | Path, expect_samples: int | None = None) -> Iterator[AudioFile | MediaFile]:
    """Open an audio file, or `archive.zip:offset:length`; raises AudioError or one of DECODING_ERRORS.

    What is wrong with its length is in its `fault`. Where `expect_samples` is given, no more of it is read for this
    than a crop may cost.
    """
    with open_bytes(path) as stream:
        extent = measure(stream, expect_samples)
        if extent.fault is not None and extent.fault.kind in ("unreadable", NOT_INSTALLED):
            _refuse_fault(path, extent.fault)
        try:
            file = open_measured(path, stream, extent)
        except sf.SoundFileError:
            if extent.fault is None:
                raise
            _refuse_fault(path, extent.fault)
        with file:
            yield file


def open_bytes(path: str | Path) -> BinaryIO:
    """Open the bytes of a file, or of `archive.zip:offset:length`; raises AudioError or OSError."""
    location = archive.parse(path)
    return open_regular(path) if location is None else archive.open_part(location)


def open_measured(path: str | Path, stream: BinaryIO, extent: Extent) -> AudioFile | MediaFile:
    """Open audio whose bytes have been measured; raises one of DECODING_ERRORS."""
    if extent.media is not None:
        return MediaFile(stream, extent.media, extent.num_samples)
    stream.seek(0)
    return AudioFile(extent.source or (path if archive.parse(path) is None else stream), extent)


def samples_at_16k(num_samples: Any, sample_rate: Any) -> Any:
    """Count the samples that a file of `num_samples` at `sample_rate` has at 16 kHz: the ceiling, exactly.

    Takes and gives an int, or an integer array.
    """
    return -(-num_samples * SAMPLE_RATE // sample_rate)


def decoding_fault(path: str | Path, error: BaseException) -> str:
    """Say in a few words why a file cannot be decoded."""
    location = archive.parse(path)
    file = Path(path if location is None else location.archive)
    if not file.exists():
        return "there is no such file"
    if file.is_dir():
        return "this is a folder"
    reason = getattr(error, "error_string", "") or str(error) or type(error).__name__
    if any(text in reason for text in _SAID_OF_DAMAGE):
        reason = "it is damaged"
    return f"cannot be decoded ({reason.removeprefix('Error : ').rstrip('.')})"


# What libsndfile says of a file that is there, where it cannot follow it any further; above all MP3.
_SAID_OF_DAMAGE = ("File does not exist", "Unspecified internal error")
_READABLE = "audio that libsndfile or FFmpeg reads"
_REMEDY = "correct the path, fetch or convert the file again, or rewrite the manifest with `mae-ast manifest`"


def _refuse(path: str | Path, found: str, expected: str, remedy: str = _REMEDY) -> NoReturn:
    raise AudioError(f"{path}: {found}; expected {expected}; {remedy}")


def _refuse_fault(path: str | Path, fault: Fault) -> NoReturn:
    if fault.kind == NOT_INSTALLED:
        raise AudioError(f"{path}: {fault}; expected {_READABLE}; install it, or convert the file to FLAC")
    _refuse(path, str(fault), _READABLE if fault.kind == "unreadable" else "as much audio as its header states")


def _check_header(
    path: str | Path, file: AudioFile | MediaFile, expect_samples: int | None, expect_rate: int | None
) -> None:
    if expect_rate is not None and file.samplerate != expect_rate:
        column = "the manifest's third column states a rate other than 16 kHz; rewrite it with `mae-ast manifest`"
        _refuse(path, f"its sample rate is {file.samplerate} Hz", f"{expect_rate} Hz", column)
    if expect_samples is not None and file.frames != expect_samples:
        _refuse(path, f"it has {file.frames} samples", f"{expect_samples}, as the manifest says")
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        _refuse(path, f"rate: its header states {file.samplerate} Hz", f"{MIN_RATE:,} to {MAX_RATE:,} Hz")
    if file.fault is not None:
        _refuse_fault(path, file.fault)
    if file.frames == 0:
        _refuse(path, "it holds no samples", "audio")
    if file.frames > MAX_SAMPLES:
        _refuse(path, "its header does not state how long it is", "a length", "convert it from file to file")


def _decode_mono(path: str | Path, file: AudioFile | MediaFile, start: int, stop: int) -> np.ndarray:
    """Decode samples start .. stop, counted at the file's own rate, and mix the channels to float32 [S]."""
    begin = start - _PREROLL_SAMPLES.get(file.subtype, 0)
    if file.subtype == "VORBIS":
        begin = min(start, file.frames - _VORBIS_TAIL_SAMPLES)
    begin = max(0, begin)
    if begin or file.subtype == "OPUS":  # which libsndfile begins elsewhere where its first page is not of sample 0
        file.skip(begin)
    samples = file.read(stop - begin, dtype="float32")
    if (end := begin + len(samples)) != stop:
        _refuse(path, f"only {end} of its {file.frames} samples can be decoded", "as many as its header states")
    samples = samples[start - begin :]
    if samples.ndim == 1:
        return samples
    # numpy's mean over so short an axis takes ten times as long, and a matrix product wakes BLAS threads.
    mono = samples[:, 0].copy()
    for channel in samples.T[1:]:
        mono += channel
    mono /= samples.shape[1]
    warn_of_cancelling(path, samples, mono)
    return mono


def _decode_resampled(path: str | Path, file: AudioFile | MediaFile, start: int, stop: int) -> np.ndarray:
    """Decode samples start .. stop, counted at 16 kHz, of a file at another rate: float32 [stop - start].

    The decoded part begins at a sample that falls on the 16 kHz grid, so that every crop has the phase of the
    whole, and has a margin on both sides, so that its borders carry no trace of where it was cut.
    """
    rate = file.samplerate
    common = math.gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // common, rate // common
    margin = math.ceil(_MARGIN_SECONDS * rate)
    first_block = max(0, start // up - math.ceil(margin / down))
    begin = first_block * down
    end = min(-(-stop * rate // SAMPLE_RATE) + margin, file.frames)
    samples = _decode_mono(path, file, begin, end)
    if end == file.frames:
        # soxr rounds the number of samples, we take the ceiling: silence after the end yields the last one.
        samples = np.append(samples, np.zeros(rate // SAMPLE_RATE + 1, dtype=np.float32))
    offset = start - first_block * up
    return soxr.resample(samples, rate, SAMPLE_RATE)[offset : offset + stop - start]


def _check_peak(path: str | Path, waveform: np.ndarray) -> None:
    peak = float(np.maximum(waveform.max(initial=0), -waveform.min(initial=0)))  # NaN where a sample is
    if not math.isfinite(peak):
        num_bad = np.count_nonzero(~np.isfinite(waveform))
        _refuse(path, f"{num_bad} of {len(waveform)} samples are NaN or infinite", "finite samples")
    if peak > LARGEST_PEAK:
        _refuse(path, f"samples reach {peak:.3g}", f"at most {LARGEST_PEAK:.0f}, and [-1, 1] of sound")
    warn_of_scale(peak, str(path))
