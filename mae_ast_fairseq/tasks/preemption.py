"""Signals that ask a run to end, as a cluster's scheduler sends them: it saves first, and can go on later."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Optional

import torch

from mae_ast_fairseq.errors import get_logger

logger = get_logger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
EXIT_SAVED = 75
"""EX_TEMPFAIL: the run was asked to end, has saved, and goes on where it is started again."""
EXIT_UNSAVED = 128 + signal.SIGTERM
"""The run was asked to end, and writes no checkpoints: another start would begin anew."""

_asked: list[signal.Signals] = []


def listen() -> None:
    """Take the first of SIGNALS as a request to save and end; a second one ends the process at once.

    Of the processes that fairseq starts, one a GPU, a second one ends only that which has started them.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _asked.clear()
    owner = os.getpid()
    has_parent = multiprocessing.parent_process() is not None

    def ask(number: int, frame: Optional[FrameType]) -> None:
        if os.getpid() != owner:  # a loader's worker, which the running update may still need
            return
        _asked.append(signal.Signals(number))
        for each in SIGNALS:
            # A scheduler asks all processes, and the one that has started the others hands on what it was sent.
            signal.signal(each, signal.SIG_IGN if has_parent else signal.SIG_DFL)
        os.write(2, f"{signal.Signals(number).name}: saving after this update; a second signal ends at once\n".encode())

    for each in SIGNALS:
        signal.signal(each, ask)


def stop_if_asked(device: torch.device, save: Optional[Callable[[], None]]) -> None:
    """Save and exit with EXIT_SAVED where this process, or another one of the run, was asked to end.

    `save` is None in a run that writes no checkpoints, which ends with EXIT_UNSAVED.
    """
    is_asked = bool(_asked)
    if torch.distributed.is_initialized():
        flag = torch.tensor(int(is_asked), device=device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        is_asked = bool(flag)
    if not is_asked:
        return
    name = _asked[0].name if _asked else "a signal to another process"
    if save is None:
        logger.info("ended by %s: nothing is saved, as checkpoint.no_save=true says", name)
        sys.exit(EXIT_UNSAVED)
    save()
    logger.info("ended by %s: saved; start the same command again to go on", name)
    sys.exit(EXIT_SAVED)
