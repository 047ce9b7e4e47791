"""Where commands write: folders that must be there and open for writing."""

import os
from pathlib import Path

from mae_ast_fairseq.errors import ConfigError


def prepare_folder(option: str, folder: Path) -> None:
    """Make a folder to write in; raises ConfigError, naming the command's option, where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
        raise ConfigError(f"{option} {folder}: cannot be made ({reason}); expected a folder to write in") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option} {folder}: may not be written; expected a folder to write in; choose another")


def printable(name: str) -> str:
    """Replace the bytes of a file name that are not UTF-8."""
    return name.encode(errors="replace").decode()
