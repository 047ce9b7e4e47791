"""How commands print."""

import math
from typing import Any


def printable(name: str) -> str:
    """Replace the bytes of a file name that are not UTF-8."""
    return name.encode(errors="replace").decode()


def without_nan(value: Any) -> Any:
    """Return a value for JSON, which has no NaN: null takes its place."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
