"""Running a function over many items in processes, in order; they all end where the caller does."""

import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import active_children
from typing import TypeVar

from mae_ast_fairseq.errors import AudioError

TASKS_AHEAD = 16  # for each worker, so that a long file keeps nobody waiting

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int, items_per_task: int
) -> Generator[Result, None, None]:
    """Yield a function's results in the order of the items, which are taken only a little ahead.

    One worker is this process. items_per_task: enough to outweigh the way to a worker and back.

    Raises AudioError where a worker was killed.
    """
    if num_workers <= 1:
        yield from map(function, items)
        return
    iterator = iter(items)
    tasks = iter(lambda: list(islice(iterator, items_per_task)), [])
    others = set(active_children())
    pool = ProcessPoolExecutor(num_workers)
    pending: deque[Future[list[Result]]] = deque()
    try:
        for task in tasks:
            with _interrupts_held():  # it is here that processes start
                pending.append(pool.submit(_apply, function, task))
            if len(pending) >= TASKS_AHEAD * num_workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
        pool.shutdown()
    except BrokenProcessPool:
        raise AudioError(
            "a process was killed, by a file that crashes its decoder or for want of memory; expected all to finish; "
            "run again with --workers 1, whose progress shows how far it comes"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(active_children()) - others:
            process.terminate()


def _apply(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait, so that it loses no process half started; and those started inherit that they never see it.

    It reaches all processes of a terminal, and it is for the first to end the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
