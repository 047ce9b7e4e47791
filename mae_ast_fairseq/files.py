"""Where the package's own files lie, and how others are written: whole or not at all."""

import atexit
import errno
import fcntl
import json
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO

from mae_ast_fairseq.errors import ConfigError

MAX_JSON_BYTES = 1 << 26
"""Of a file of JSON that is read; the record of an extraction names each clip that is broken."""


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
def atomic_write(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file that takes its place only when it was written whole; else nothing of it remains.

    `durable`: it is on the disk before it takes its place, and its place before this returns.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial(paths: Iterable[Path]) -> None:
    """Remove what killed processes have left of files that they wrote by `atomic_write`, and that nobody writes now."""
    wanted = set(paths)
    for folder in {path.parent for path in wanted}:
        for partial in folder.glob(".*.tmp"):
            if folder / partial.name[1:].rsplit(".", 2)[0] in wanted:
                partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: str | Path) -> BufferedReader:
    """Open a file to read its bytes; raises OSError also for a pipe or a device, which might never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "this is a pipe or a device, no file", str(path))
    return open(descriptor, "rb")  # noqa: PTH123


def read_json(path: str | Path) -> Any:
    """Read a file of JSON; raises OSError, or ValueError for what is none, or is longer than MAX_JSON_BYTES."""
    with open_regular(path) as stream:
        text = stream.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES:,} bytes")
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no UTF-8 text") from None
    except RecursionError:
        raise ValueError("lists or objects too deep in each other") from None


_locks: dict[Path, IO[str]] = {}


def lock(path: Path) -> None:
    """Keep other processes out of what a file stands for; raises ConfigError where one is in it.

    The lock is the system's and ends with its process, however that ends, so that no stale one is left.
    """
    path = path.resolve()
    if path in _locks:
        return
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise ConfigError(
            f"{path.parent}: in use by {owner}; expected a folder that nothing else writes in; wait for it, end it, or "
            "name another folder"
        ) from None
    if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
        file.close()
        lock(path)  # its owner has just removed it
        return
    os.register_at_fork(after_in_child=file.close)  # else a loader's worker would hold it longer than its parent lives
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _locks[path] = file


def unlock(path: Path) -> None:
    """Let other processes into what was locked."""
    path = path.resolve()
    path.unlink(missing_ok=True)
    _locks.pop(path).close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out meanwhile."""
    lock(path)
    try:
        yield
    finally:
        unlock(path)


@atexit.register
def _unlock_all() -> None:
    for path in list(_locks):
        unlock(path)


def is_there(path: Path) -> bool:
    """Return whether there is something at a path; in a folder that may not be read, nothing is found."""
    return os.path.exists(path)  # noqa: PTH110 Path.exists raises PermissionError


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
