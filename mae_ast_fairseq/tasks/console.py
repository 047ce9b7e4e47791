"""The console of a training run: what a person needs; all that is logged stands in the run folder's log alone."""

import logging
import os
import re
import sys

from fairseq.logging import progress_bar
from tqdm import tqdm

from mae_ast_fairseq.tasks.launch import is_first_process

OURS = __name__.partition(".")[0]
_FAIRSEQ_HAS_TO_SAY = re.compile(
    r"loaded checkpoint|overflow|early stop|stopping training|done training", re.IGNORECASE
)
_PYTHONS_WARNINGS = "py.warnings"


class Bar(tqdm):
    """A progress bar without a thread, since loader processes are forked beside it."""

    monitor_interval = 0


class _BesideBar:
    """stderr, where a bar makes room for a line."""

    def __init__(self) -> None:
        self._owner = os.getpid()

    def write(self, text: str) -> None:
        if os.getpid() != self._owner:  # a loader's process, which has a copy of the bar
            sys.stderr.write(text)
            return
        with Bar.external_write_mode(file=sys.stderr):
            sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Lines(logging.Formatter):
    """The time and the message, with its level where that is one to look at."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return f"{record.asctime} {level}{record.message}"


def is_for_a_person(record: logging.LogRecord) -> bool:
    """Tell whether a person needs what is logged: ours, warnings, and little of fairseq's remarks.

    Python's own warnings speak to those who write programs. fairseq's figures have a way of their own.
    """
    if record.name == _PYTHONS_WARNINGS:
        return False
    if record.levelno >= logging.WARNING:
        return True
    if not is_first_process():
        return False
    if record.name.split(".")[0] == OURS:
        return True
    is_fairseqs = record.name.startswith("fairseq")
    return is_fairseqs and _FAIRSEQ_HAS_TO_SAY.search(record.getMessage()) is not None


def settle_console(has_fairseqs_figures: bool) -> None:
    """Show on stderr what is for a person; figures in a format of fairseq's stay on stdout, as they were.

    Called where hydra has set up what is logged where.
    """
    logging.captureWarnings(True)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr):
            if has_fairseqs_figures:
                _show_figures(handler.formatter)
            handler.setLevel(logging.NOTSET)
            handler.setStream(_BesideBar())
            handler.setFormatter(_Lines())
            handler.addFilter(is_for_a_person)


def _show_figures(formatter: logging.Formatter | None) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(formatter)
    others = [each for each in progress_bar.logger.handlers if type(each) is not logging.StreamHandler]
    progress_bar.logger.handlers = [*others, handler]
