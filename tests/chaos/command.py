"""A command in a process of its own, forked off this one, which has imported what takes seconds."""

import atexit
import contextlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from fairseq_cli import hydra_train

from mae_ast_fairseq.cli import main as mae_ast
from mae_ast_fairseq.tasks.base import AudioTask
from tests.training import EXAMPLES, config

HANGS_SECONDS = 120.0
_POLL_SECONDS = 0.005


config("mae_ast_tiny", "task.data=/nowhere")  # hydra looks for its plugins once


class Stall(NamedTuple):
    """An update that takes longer than it should."""

    update: int
    seconds: float


class Command:
    """A running command; what it prints goes to `log`, and each update's loss, as it happens, to `record`."""

    def __init__(
        self, argv: Sequence[str], log: Path, record: Optional[Path] = None, stall: Optional[Stall] = None
    ) -> None:
        self.log, self.record = log, record
        self.code: Optional[int] = None
        """exit code, or minus the signal that ended it; None while it runs"""
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _become(argv, log, record, stall)

    def is_running(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is None

    def wait_until(self, happens: Callable[[], bool], seconds: float = HANGS_SECONDS) -> bool:
        """Return whether it happens while the command runs; raises TimeoutError."""
        end = time.monotonic() + seconds
        while not happens():
            if not self.is_running():
                return happens()
            if time.monotonic() > end:
                raise TimeoutError(f"nothing happens for {seconds:.0f} s; see {self.log}")
            time.sleep(_POLL_SECONDS)
        return True

    def wait(self, seconds: float = HANGS_SECONDS) -> int:
        """Return the exit code; raises TimeoutError."""
        self.wait_until(lambda: not self.is_running(), seconds)
        assert self.code is not None
        return self.code

    def send(self, number: signal.Signals, to_group: bool = False) -> None:
        if self.is_running():
            (os.killpg if to_group else os.kill)(self.pid, number)

    def kill(self) -> bool:
        """Kill it without a warning; return whether it was still running."""
        self.send(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def end(self) -> None:
        """Kill it with all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.kill()

    def limit_files(self, num_bytes: int) -> None:
        """Let no file grow beyond so many bytes: what is written there fails, as on a full disk. -1: no limit."""
        if self.is_running():
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))

    def updates(self) -> list[tuple[int, str]]:
        """Return the number and the loss, in hexadecimal digits, of every update that it has begun so far."""
        if self.record is None or not self.record.is_file():
            return []
        lines = self.record.read_text().splitlines()
        return [(int(number), loss) for number, loss in map(str.split, lines)]

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.is_file() else ""


@contextlib.contextmanager
def renamed_away(path: Path) -> Iterator[None]:
    """Let a file or folder have another name for a while."""
    away = path.with_name(f"away-{path.name}")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


def _become(argv: Sequence[str], log: Path, record: Optional[Path], stall: Optional[Stall]) -> None:
    """Be the command from here on: never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell has started this in background
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, source in enumerate((os.open(os.devnull, os.O_RDONLY), out, out)):
            os.dup2(source, descriptor)
        os.chdir(EXAMPLES.parent)
        sys.argv = list(argv)
        if record is not None:
            _note_updates(record, stall)
        code = (mae_ast if argv[0] == "mae-ast" else hydra_train.cli_main)() or 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:  # what Python prints where nobody catches it
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _note_updates(record: Path, stall: Optional[Stall]) -> None:
    """Write number and loss of each update where a kill does not reach them."""
    descriptor = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    original = AudioTask.train_step

    def train_step(self: AudioTask, *args: object, update_num: int, **kwargs: object) -> object:
        result = original(self, *args, update_num=update_num, **kwargs)
        os.write(descriptor, f"{update_num} {float(result[0]).hex()}\n".encode())
        if stall is not None and update_num == stall.update:
            time.sleep(stall.seconds)
        return result

    AudioTask.train_step = train_step
