"""What is suspicious about the level of audio: samples in another scale than [-1, 1], channels that cancel."""

import math
from threading import Lock

import numpy as np

from mae_ast_fairseq.errors import get_logger

logger = get_logger(__name__)

MAX_PEAK = 1.5  # lossy decoders and masters in floating point reach 1.2 or so
LARGEST_PEAK = 2.0**32  # twice the scale of 32 bits; a sample of 3e38 makes the loss infinite
SCALED_PEAK = 32.0  # -60 dBFS in the scale of 16 bits, and 30 dB above full scale in [-1, 1]
SILENCE_DBFS = -80.0  # 3 steps of 16 bits; the quietest rooms are recorded at -70
CANCELLED_DB = 30.0  # how far the channels' mean lies below them; that of 32 unlike ones lies 15 dB below
MAX_SHOWN = 20  # files of which a process warns that their channels cancel

_SCALES = (16, 24, 32)  # bits
_warned_of_scale = Lock()  # taken once, for good: by one of several threads, and before workers are forked
_warned_of_cancelling: set[str] = set()


def describe_peak(peak: float) -> str:
    """Say in which scale samples above 1 seem to be, and what to do."""
    if peak < SCALED_PEAK:
        return f"samples reach {peak:.3g}; expected [-1, 1]: scale them down"
    for bits in _SCALES:
        if peak <= 2 ** (bits - 1):
            return f"samples reach {peak:.0f}: a scale of {bits} bits; divide by {2 ** (bits - 1)}"
    return f"samples reach {peak:.3g}: no scale of audio; expected [-1, 1]"


def warn_of_scale(peak: float, what: str) -> None:
    """Warn, once a process, where samples lie beyond what [-1, 1] lets expect; `what` names the file or argument."""
    if MAX_PEAK < peak < math.inf and _warned_of_scale.acquire(blocking=False):
        logger.warning(
            "%s: %s, for a model hears another loudness than it was trained with; further such audio is not reported",
            what,
            describe_peak(peak),
        )


def describe_cancelling(channels: float, mean: float) -> str | None:
    """Say how far channels of a power cancel in their mean, of another; None where they do not."""
    if decibels(channels) < SILENCE_DBFS or decibels(mean) > decibels(channels) - CANCELLED_DB:
        return None
    left = f"{decibels(mean):.1f} dBFS" if decibels(mean) >= SILENCE_DBFS else "silence"
    return f"its channels cancel: {decibels(channels):.1f} dBFS each, {left} as their mean"


def warn_of_cancelling(path: object, samples: np.ndarray, mono: np.ndarray) -> None:
    """Warn, once a file, where channels [S, channels] cancel in their mean [S], which is what a model hears."""
    if len(_warned_of_cancelling) > MAX_SHOWN or str(path) in _warned_of_cancelling or not mono.size:
        return
    power = float(np.einsum("s,s->", mono, mono)) / mono.size
    found = describe_cancelling(float(np.einsum("sc,sc->", samples, samples)) / samples.size, power)
    if found:
        _warned_of_cancelling.add(str(path))
        more = "" if len(_warned_of_cancelling) <= MAX_SHOWN else "; further such files are not reported"
        logger.warning("%s: %s, which is what a model hears; turn one channel over, or keep one%s", path, found, more)


def decibels(power: float) -> float:
    """Return a power in decibels: of a square wave at full scale 0."""
    return 10 * math.log10(power) if power > 0 else -math.inf
