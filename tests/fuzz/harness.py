"""Runs a subject's cases in a process of their own, and finds what none of them may do.

A case must end as accepted, with a sane result, or as a UserError of one printable line. Anything else is a finding:
another exception, a crash of the process, a hang, or more memory than MAX_BYTES beside what the process began with.
"""

import logging
import multiprocessing
import os
import resource
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mae_ast_fairseq.errors import UserError

MAX_SECONDS = 60  # of one case, however busy the machine
MAX_BYTES = 3 << 30
MAX_CHARACTERS = 2_000  # of a message
MAX_FINDINGS = 50  # of a subject, past which it is ended
ACCEPTED, REFUSED = "accepted", "refused"


class UnsoundError(Exception):
    """What was accepted is not sane."""


class Subject(NamedTuple):
    """A kind of input."""

    num_cases: int
    """in a full run"""
    prepare: Callable[[Path], Any]
    """makes in a folder what the cases have in common, such as the files that are mutated"""
    make: Callable[[Any, np.random.Generator], bytes]
    """makes the input of a case"""
    attempt: Callable[[bytes, Path], None]
    """reads an input in an empty folder; raises UserError where it is refused, UnsoundError where it is not sane"""


class Finding(NamedTuple):
    """A case that was neither accepted nor refused as it should be."""

    seed: int
    fault: str
    detail: str = ""


class Tally(NamedTuple):
    """How the cases of a subject ended."""

    outcomes: Counter[str]
    findings: list[Finding]

    @property
    def num_cases(self) -> int:
        """Count all cases."""
        return sum(self.outcomes.values()) + len(self.findings)


def require(is_sound: bool, found: str) -> None:
    """Raise UnsoundError where a result is not sane."""
    if not is_sound:
        raise UnsoundError(found)


def is_one_line(message: object) -> bool:
    """Tell whether a message can be shown: one line of no more than MAX_CHARACTERS that a terminal only prints."""
    return str(message).isprintable() and 0 < len(str(message)) <= MAX_CHARACTERS


def case(subject: Subject, prepared: Any, seed: int) -> bytes:
    """Make the input of a case: always the same of one seed."""
    return subject.make(prepared, np.random.default_rng(seed))


def run(subject: Subject, seeds: Sequence[int], progress: Callable[[], object]) -> Tally:
    """Run the cases of some seeds, one after the other; a process that was lost is followed by another."""
    tally = Tally(Counter(), [])
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        prepared = subject.prepare(Path(folder))
        while seeds and len(tally.findings) < MAX_FINDINGS:
            for seed, outcome, detail in _supervise(subject, prepared, seeds):
                if outcome in (ACCEPTED, REFUSED):
                    tally.outcomes[outcome] += 1
                else:
                    tally.findings.append(Finding(seed, outcome, detail))
                seeds = seeds[1:]
                progress()
                if len(tally.findings) == MAX_FINDINGS:
                    break
    return tally


def _supervise(subject: Subject, prepared: Any, seeds: Sequence[int]) -> Iterator[tuple[int, str, str]]:
    """Yield how cases end, up to the first that ends its process or has to be ended."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(subject, prepared, seeds, sender), daemon=True)
    process.start()
    sender.close()
    try:
        for seed in seeds:
            try:
                if not receiver.poll(MAX_SECONDS):
                    yield seed, "hang", f"more than {MAX_SECONDS} s"
                    return
                outcome, detail = receiver.recv()
            except EOFError:
                process.join()
                yield seed, "crash", _ending(process.exitcode or 0)
                return
            yield seed, outcome, detail
    finally:
        process.kill()
        process.join()
        receiver.close()


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _work(subject: Subject, prepared: Any, seeds: Sequence[int], sender: Connection) -> None:
    """Run cases with bounds on memory; what decoders say on stderr is dropped."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _bound_memory()
    with tempfile.TemporaryDirectory(prefix="fuzz-case-") as folder:
        for seed in seeds:
            data = case(subject, prepared, seed)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            outcome, detail = judge(subject, data, Path(folder))
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
            if grown > MAX_BYTES // 2:
                outcome, detail = "memory", f"{grown >> 20} MiB"
            sender.send((outcome, detail))
            _empty(Path(folder))


def _bound_memory() -> None:
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = num_pages * resource.getpagesize() + MAX_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


class _Log(logging.Handler):
    """Remembers the first record of a case that is not one printable line."""

    found = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a record."""
        message = record.getMessage()
        if not (self.found or is_one_line(message)):
            self.found = repr(message[:MAX_CHARACTERS])


_log = _Log()


def judge(subject: Subject, data: bytes, folder: Path) -> tuple[str, str]:
    """Run one case in this process, and return how it ended."""
    logging.root.handlers[:], _log.found = [_log], ""
    outcome, detail = _judge(subject, data, folder)
    return ("log", _log.found) if _log.found and outcome in (ACCEPTED, REFUSED) else (outcome, detail)


def _judge(subject: Subject, data: bytes, folder: Path) -> tuple[str, str]:
    try:
        subject.attempt(data, folder)
    except UserError as error:
        return REFUSED if is_one_line(error) else "message", repr(str(error)[:MAX_CHARACTERS])
    except UnsoundError as error:
        return "unsound", str(error)
    except BaseException as error:
        return type(error).__name__, traceback.format_exc()
    return ACCEPTED, ""
