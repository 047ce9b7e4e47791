"""Mutated audio of every format that soundfile writes, whole and in an archive, through all that reads it."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf

from mae_ast_fairseq.corpus.check import _examine
from mae_ast_fairseq.corpus.scan import AudioInfo, examine
from mae_ast_fairseq.data.audio import load_audio, samples_at_16k
from mae_ast_fairseq.data.manifest import ManifestRow
from mae_ast_fairseq.errors import AudioError
from tests.fuzz.harness import Subject, is_one_line, require
from tests.fuzz.mutations import mutate

_LEFT_OUT = ("RAW", "SD2")  # without a header, or with a second file
_SAMPLES_PER_BYTE = 8_192  # silence in FLAC, Opus and Vorbis
_MANY_SAMPLES = 1 << 25  # of which decoding takes seconds: a mutated header may state so many at 16 kHz of few at 1 kHz
_RATES = (8_000, 16_000, 44_100)


def _prepare(folder: Path) -> list[bytes]:
    """Write a fifth of a second of a chirp in every format, at several rates, mono and stereo."""
    files = []
    path = folder / "audio"
    formats = [kind for kind in sf.available_formats() if kind not in _LEFT_OUT]
    coded = [(kind, subtype) for kind in formats for subtype in sf.available_subtypes(kind)]
    for number, (kind, subtype) in enumerate(coded):
        for rate, channels in ((_RATES[number % 3], 1 + number % 2), (16_000, 1)):
            time = np.arange(rate // 5) / rate
            wave = 0.3 * np.sin(2 * np.pi * 200 * time * (1 + 5 * time))
            try:
                sf.write(path, np.stack([wave] * channels, 1), rate, format=kind, subtype=subtype)
            except sf.SoundFileError:  # not every codec takes every rate and number of channels
                continue
            files.append(path.read_bytes())
    return files


def _make(files: list[bytes], rng: np.random.Generator) -> bytes:
    data = files[rng.integers(len(files))]
    if rng.random() < 0.1:
        data = b"ID3\3\0\0" + bytes(int(byte) for byte in rng.integers(0, 128, 4)) + data
    return mutate(data, rng)


def _attempt(data: bytes, folder: Path) -> None:
    path = folder / "audio.bin"
    path.write_bytes(data)
    held: Any = examine(path)
    if not isinstance(held, AudioInfo):
        require(held.kind.isprintable() and len(str(held)) < 1_000, f"the fault {str(held)[:3_000]!r}")
        try:
            load_audio(path, num_samples=16_000, expect_rate=None)
        finally:
            _check_parts(data, path, 0, 16_000)
        return
    stated, rate = held
    require(0 < stated <= _SAMPLES_PER_BYTE * len(data) + 65_536, f"{stated} samples in {len(data)} bytes")
    total = samples_at_16k(stated, rate)
    _examine(ManifestRow(str(path), stated, rate))
    _check_parts(data, path, stated, rate)
    if total > _MANY_SAMPLES:
        return
    waveform = load_audio(path, expect_samples=stated, expect_rate=rate)
    require(len(waveform) == total and bool(np.isfinite(waveform).all()), f"{len(waveform)} samples of {total}")
    start = total // 3
    crop = load_audio(path, start, 1_000, stated, rate)
    require(len(crop) == min(1_000, total - start), f"a crop of {len(crop)} samples at {start} of {total}")


def _check_parts(data: bytes, path: Path, num_samples: int, rate: int) -> None:
    """Read a crop of the same bytes inside an archive, where they must give no other kind of error."""
    archive = path.with_name("parts.zip")
    archive.write_bytes(b"PK" + data + b"behind")
    part = f"{archive}:2:{len(data)}"
    try:
        load_audio(part, 0, 1_000, num_samples or None, rate if num_samples else None)
    except AudioError as error:
        require(is_one_line(error), f"the message {str(error)!r}")


SUBJECT = Subject(26_000, _prepare, _make, _attempt)
