"""How much memory there is, and what an error looks like where there is too little."""

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

import torch

GIBIBYTE = 2**30
HEADROOM = 1.2
"""Memory that a step takes, at most, for each byte kept for the backward pass: temporaries come on top."""

_MARKS = ("can't allocate memory", "out of memory", "not enough memory")


class NotEnoughMemoryError(Exception):
    """A size does not fit; the message is the reason that is reported for its row."""


def available_bytes(device: torch.device) -> int | None:
    """Return the memory that can still be had on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kibibytes = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kibibytes is None else int(kibibytes) * 1024


def release_memory() -> None:
    """Hand freed memory back to the system, for other processes: glibc keeps blocks of up to 32 MiB to itself."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def require_memory(num_bytes: float, device: torch.device) -> None:
    """Raise NotEnoughMemoryError where less than `num_bytes` can be had."""
    available = available_bytes(device)
    if available is not None and num_bytes > available:
        raise NotEnoughMemoryError(
            f"not enough memory: needs about {num_bytes / GIBIBYTE:.1f} GiB, {available / GIBIBYTE:.1f} GiB are free"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out."""
    if isinstance(error, MemoryError | NotEnoughMemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _MARKS)


def reason(error: BaseException) -> str:
    """Return one line on an error that `is_out_of_memory`."""
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, NotEnoughMemoryError) else f"not enough memory: {first[:120]}"
