"""A labelled synthetic corpus for demos and tests: every class has its own shape in time and frequency."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf

SAMPLE_RATE = 16_000


def write_corpus(
    folder: str | Path,
    *,
    num_clips: int,
    seconds: tuple[float, float] = (1.0, 4.0),
    seed: int = 0,
) -> None:
    """Write `{class}_{index}.flac` files, 16-bit mono at 16 kHz, the classes taking turns.

    Durations are uniform over `seconds`. Each clip follows from the seed and its index alone.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    labels = list(CLASSES)
    for index in range(num_clips):
        generator = np.random.Generator(np.random.Philox(key=[seed, index]))
        label = labels[index % len(labels)]
        num_samples = round(generator.uniform(*seconds) * SAMPLE_RATE)
        waveform = synthesize(label, num_samples, generator)
        sf.write(Path(folder) / f"{label}_{index}.flac", waveform, SAMPLE_RATE, subtype="PCM_16")


def synthesize(label: str, num_samples: int, generator: np.random.Generator) -> np.ndarray:
    """Draw one clip of a class at 16 kHz: float32 [num_samples], within [-1, 1], over a faint noise floor."""
    times = np.arange(num_samples) / SAMPLE_RATE
    waveform = CLASSES[label](times, generator) + 0.002 * generator.standard_normal(num_samples)
    level = generator.uniform(0.2, 0.8) / np.abs(waveform).max(initial=1e-9)
    return (waveform * level).astype(np.float32)


# Each takes the samples' times in seconds [S] and a generator.


def _tone(times: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Level lines: one steady pitch and its octave."""
    frequency = generator.uniform(200, 1700)
    return np.sin(2 * np.pi * frequency * times) + 0.5 * np.sin(4 * np.pi * frequency * times)


def _chirp(times: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Slanted lines: a pitch that sweeps between two frequencies, up or down, again and again."""
    low, high = generator.uniform(200, 800), generator.uniform(2000, 3400)
    period = generator.uniform(0.4, 1.0)
    phase = times / period % 1
    if generator.random() < 0.5:
        phase = 1 - phase
    return np.sin(_phase(low * (high / low) ** phase, times))


def _noise_burst(times: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Upright bars: noise that starts sharply and dies away, at a regular beat."""
    period, decay = generator.uniform(0.2, 0.5), generator.uniform(0.02, 0.06)
    return generator.standard_normal(len(times)) * np.exp(-(times % period) / decay)


def _harmonic_voice(times: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A stack of waving lines under two formants, in syllables: harmonics of a moving pitch."""
    pitch = generator.uniform(90, 220) * (1 + 0.15 * np.sin(2 * np.pi * generator.uniform(1, 3) * times))
    phase = _phase(pitch, times)
    formants = generator.uniform(300, 800), generator.uniform(1000, 2500)
    waveform = np.zeros(len(times))
    for harmonic in range(1, int(3500 / pitch.max(initial=90)) + 1):
        gain = sum(np.exp(-0.5 * ((harmonic * pitch - formant) / 200) ** 2) for formant in formants)
        waveform += (gain + 0.05) * np.sin(harmonic * phase)
    syllables = 0.5 - 0.5 * np.cos(2 * np.pi * generator.uniform(2, 4) * times)
    return waveform * syllables


def _phase(frequency: np.ndarray, times: np.ndarray) -> np.ndarray:
    return 2 * np.pi * np.cumsum(frequency) * (times[1] - times[0] if len(times) > 1 else 0)


CLASSES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "tone": _tone,
    "chirp": _chirp,
    "noise_burst": _noise_burst,
    "harmonic_voice": _harmonic_voice,
}
