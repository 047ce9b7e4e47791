"""`log.jsonl`, the figures of a training run: a JSON object a line, which other programs may follow as it grows."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_ast_fairseq.errors import get_logger
from mae_ast_fairseq.files import atomic_write

logger = get_logger(__name__)

FILE_NAME = "log.jsonl"


def read_figures(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log as they were written; figures that were not finite are NaN.

    Each has `kind` (train_inner: since the line before it; train: of an epoch; valid: of a validation, with `subset`),
    `num_updates`, `epoch`, `wall` (seconds of training, over all starts of the run), and the figures by their names. A
    line that is cut off, as a killed run leaves its last one, is passed over.
    """
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # the second of brackets in brackets
            continue
        if isinstance(values, dict) and type(values.get("num_updates")) is int:
            found.append({name: math.nan if value is None else value for name, value in values.items()})
    return found


class FigureLog:
    """Writes a log, from an update on: what it has of later ones, which are done again, is taken out of it."""

    def __init__(self, path: Path, num_updates: int):
        self.path = path
        self._has_failed = False
        if path.is_file():
            kept = [values for values in read_figures(path) if values["num_updates"] <= num_updates]
            with atomic_write(path) as stream:
                stream.writelines(_line(values) for values in kept)

    def write(self, values: Mapping[str, Any]) -> None:
        """Add a line, which is in the file when this returns; a disk that is full is warned of once."""
        try:
            with self.path.open("ab") as stream:
                stream.write(_line(values))
        except OSError as error:
            if not self._has_failed:
                logger.warning("%s: cannot be written (%s); figures will be missing", self.path, error.strerror)
            self._has_failed = True


def _line(values: Mapping[str, Any]) -> bytes:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
    return (json.dumps(finite) + "\n").encode()
