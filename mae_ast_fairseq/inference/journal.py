"""How far an extraction has come: a small JSON file beside its output, by which a restart goes on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import atomic_write

_REMEDY = "choose another folder, or pass --overwrite to start anew"


class Journal:
    """What was done so far under which settings, in a file that is replaced whole or not at all.

    Args:
        path: the file; what it says is taken over.
        settings: plain values on which the output depends.
        num_chunks: chunks of the plan.

    Raises:
        ConfigError: the file was written under other settings, or is no journal.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], num_chunks: int):
        self.path = path
        self.settings = dict(settings)
        self.num_chunks = num_chunks
        self.num_done = 0
        """chunks of the plan, from its first on, that are in the output"""
        self.bad: dict[int, str] = {}
        """clips without features, and why"""
        self.is_complete = False
        self.is_resumed = path.exists()
        if self.is_resumed:
            self._read()

    def save(self) -> None:
        """Write the file."""
        content = {
            "settings": self.settings,
            "num_chunks": self.num_chunks,
            "num_done": self.num_done,
            "is_complete": self.is_complete,
            "bad": [[clip, self.bad[clip]] for clip in sorted(self.bad)],
        }
        with atomic_write(self.path) as stream:
            stream.write(json.dumps(content, indent=1).encode())

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            found = dict(content["settings"])
            num_chunks, self.num_done = int(content["num_chunks"]), int(content["num_done"])
            self.bad = {int(clip): str(reason) for clip, reason in content["bad"]}
            self.is_complete = bool(content["is_complete"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path}: {error!r}; expected the state of an extraction; {_REMEDY}") from None
        for name in sorted(found.keys() | self.settings.keys()):
            if found.get(name) != self.settings.get(name):
                raise ConfigError(
                    f"{self.path}: the features there were begun with {name} {_shown(found.get(name))}; now it is "
                    f"{_shown(self.settings.get(name))}; {_REMEDY}"
                )
        if num_chunks != self.num_chunks or not 0 <= self.num_done <= num_chunks:
            raise ConfigError(
                f"{self.path}: {self.num_done} of {num_chunks} chunks are done; expected at most "
                f"{self.num_chunks}, as these clips have; {_REMEDY}"
            )


def _shown(value: Any) -> str:
    return value[:16] if isinstance(value, str) else str(value)
