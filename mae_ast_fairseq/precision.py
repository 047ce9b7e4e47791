"""Which floating-point type the processor multiplies fastest: some are five times faster in bfloat16, some slower."""

import time
from functools import cache

import torch
import torch.nn.functional as F

MARGIN = 1.25
"""So many times as fast bfloat16 must be, for what it costs besides: copies of weights, and rounding."""

_SECONDS = 0.025  # for each type
_SIZE = (512, 192, 768)  # tokens, width and width of the feed-forward layer of the tiny recipe


@cache
def fastest_on_cpu() -> str:
    """Return `bfloat16` or `float32`, after trying both for some 50 ms; for the life of a process always the same."""
    is_faster = MARGIN * _seconds(torch.bfloat16) < _seconds(torch.float32)
    return "bfloat16" if is_faster else "float32"


def fastest(device: torch.device) -> str:
    """Return what a device multiplies fastest with the range of float32: `bfloat16` or `float32`."""
    if device.type == "cpu":
        return fastest_on_cpu()
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def _seconds(dtype: torch.dtype) -> float:
    """Return the least time of a linear layer in a precision."""
    num_tokens, width, ffn_width = _SIZE
    source, weight = torch.ones(num_tokens, width, dtype=dtype), torch.ones(ffn_width, width, dtype=dtype)
    F.linear(source, weight)  # the first call chooses a kernel
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        F.linear(source, weight)
        times.append(time.perf_counter() - start)
    return min(times)
