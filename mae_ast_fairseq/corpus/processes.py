"""Running a function over many items in processes, in order; they all end where the caller does."""

import signal
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import active_children
from typing import TypeVar

from mae_ast_fairseq.errors import AudioError

BLOCK_ITEMS = 1 << 16  # taken ahead at a time: millions of rows are never held at once

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int, items_per_task: int
) -> Generator[Result, None, None]:
    """Yield a function's results in the order of the items.

    One worker is this process. items_per_task: enough to outweigh the way to a worker and back.

    Raises AudioError where a worker was killed.
    """
    if num_workers <= 1:
        yield from map(function, items)
        return
    iterator = iter(items)
    others = set(active_children())
    # Ctrl-C reaches all processes of a terminal, and it is for the first to end the others.
    pool = ProcessPoolExecutor(num_workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        while block := list(islice(iterator, BLOCK_ITEMS)):
            yield from pool.map(function, block, chunksize=items_per_task)
        pool.shutdown()
    except BrokenProcessPool:
        raise AudioError(
            "a process was killed, by a file that crashes its decoder or for want of memory; expected all to finish; "
            "run again with --workers 1, whose progress shows how far it comes"
        ) from None
    finally:
        for process in set(active_children()) - others:
            process.terminate()
        pool.shutdown(cancel_futures=True)  # waits for its thread, which would else meet closed pipes at the very end
