"""Lets a size that does not fit fail as an error of its row, and knows such an error."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MARKS = ("can't allocate memory", "out of memory", "not enough memory")


@contextmanager
def limited_memory() -> Iterator[None]:
    """Refuse to this process, for a while, what the machine does not have free: Linux would kill it for using it."""
    try:
        free = _bytes_of("/proc/meminfo", "MemAvailable") + _bytes_of("/proc/self/status", "VmData")
    except OSError:  # not Linux
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    hard_limit = before[1]
    resource.setrlimit(resource.RLIMIT_DATA, (free if hard_limit < 0 else min(free, hard_limit), hard_limit))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _bytes_of(file: str, name: str) -> int:
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def or_error(measure: Callable[[], Any]) -> Any:
    """Return what was measured, or {"error": reason} where memory ran out."""
    try:
        return measure()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(mark in str(error) for mark in _MARKS):
            raise
        return {"error": f"not enough memory: {str(error)[:120]}".splitlines()[0]}
