"""Where the package's own files lie, and how others are written: whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mae_ast_fairseq.errors import ConfigError


def package_folder() -> Path:
    """Return the folder of the package, fairseq's `common.user_dir`."""
    return Path(__file__).resolve().parent


def examples_folder() -> Path:
    """Return the folder of the recipes: inside an installed package, beside it in a clone."""
    package = package_folder()
    for folder in (package / "examples", package.parent / "examples"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{package}: its recipes are neither in it nor beside it; install the package again")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its place only when it was written whole; else nothing of it remains."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def prepare_folder(option: str, folder: Path) -> None:
    """Make a folder to write in; raises ConfigError, naming the command's option, where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
        raise ConfigError(f"{option} {folder}: cannot be made ({reason}); expected a folder to write in") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option} {folder}: may not be written; expected a folder to write in; choose another")


def check_file(option: str, path: Path, suffix: str = "") -> None:
    """Raise ConfigError, naming the command's option, unless a file that ends in `suffix` can be written at a path."""
    if path.is_dir() or not path.name.lower().endswith(suffix):
        ending = f" whose name ends in {suffix}" if suffix else ""
        found = "this is a folder" if path.is_dir() else "its name is not that of one"
        raise ConfigError(f"{option} {path}: {found}; expected a file to write{ending}; choose another name")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(
            f"{option} {path}: its folder is not there or may not be written; expected a folder to write in; make "
            f"{path.parent} or choose another"
        )
