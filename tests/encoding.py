"""Encodes test files by PyAV, where it is installed."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest


def require_av():
    return pytest.importorskip("av", reason="PyAV is not installed: pip install 'mae_ast_fairseq[av]'")


def tone(num_samples: int, rate: int, num_channels: int = 1) -> np.ndarray:
    """A swept tone in noise that swells, and channels that differ: float32 [S, channels]."""
    time, rng = np.arange(num_samples)[:, None] / rate, np.random.default_rng(3)
    noise = 0.05 * np.sin(3 * time) ** 2 * rng.standard_normal((num_samples, num_channels))
    return (0.1 * np.sin(2 * np.pi * (300 + 40 * np.sin(time)) * time) + noise).astype(np.float32)


def encode(
    path: Path, container: str, codec: str, waveform: np.ndarray, rate: int, gap=0, bit_rate=0, **options
) -> Path:
    """Encode samples [S, channels]; `gap` is how many samples the clock jumps ahead in the middle."""
    av = require_av()
    layout = {1: "mono", 2: "stereo"}[waveform.shape[1]]
    with av.open(str(path), "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        if bit_rate:
            stream.bit_rate = bit_rate
        context = stream.codec_context
        context.format = next((f.name for f in context.codec.audio_formats if "s16" in f.name), context.format.name)
        context.open()
        resampler = av.AudioResampler(context.format, layout, rate, frame_size=context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        place = 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            part.pts = place + gap * (place > len(waveform) // 2)
            place += part.samples
            for packet in stream.encode(part):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return path


def decode(path: Path) -> np.ndarray:
    """Decode a whole file as FFmpeg does, without a seek: [S, channels] in [-1, 1]."""
    av = require_av()
    with av.open(str(path)) as container:
        stream = container.streams.best("audio")
        parts = []
        for frame in container.decode(stream):
            values = frame.to_ndarray()
            parts.append(values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels))
    values = np.concatenate(parts)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    return values if values.dtype.kind == "f" else values / np.float32(-float(np.iinfo(values.dtype).min))
