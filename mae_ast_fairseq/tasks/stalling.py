"""Reads that never end, as on a network disk that is gone: the run ends with one line that names the clips."""

import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

from fairseq.data.iterators import EpochBatchIterator

from mae_ast_fairseq.datasets.clips import ClipDataset
from mae_ast_fairseq.training_error import TrainingError

_TIMED_OUT = "DataLoader timed out"
"""What torch says, of the seconds alone."""


def limit_reading(iterator: EpochBatchIterator, dataset: ClipDataset, seconds: int) -> None:
    """Let an iterator's loader processes give each batch in so many seconds; 0: no limit.

    Else a TrainingError says which clips they are reading.
    """
    if iterator.timeout == seconds:  # fairseq hands out the same iterator for each validation
        return
    iterator.timeout = seconds
    make = iterator._get_iterator_for_epoch

    def make_limited(*args: Any, **kwargs: Any) -> Any:
        batches = make(*args, **kwargs)
        if batches is not None:
            batches._itr = _in_time(batches._itr, dataset, seconds)
        return batches

    iterator._get_iterator_for_epoch = make_limited


def _in_time(batches: Iterator[Any], dataset: ClipDataset, seconds: int) -> Iterator[Any]:
    try:
        yield from batches
    except RuntimeError as error:
        if _TIMED_OUT not in str(error):
            raise
        clips = ", ".join(dataset.manifest.path(row) for row in dataset.rows_being_read)
        _end_loaders()
        raise TrainingError(
            f"task.read_timeout_seconds: no batch came within {seconds} seconds; being read: {clips or 'no clip'}; "
            "expected one; look whether its disk answers, or raise the field (0: no limit), and start the same command "
            "again to go on"
        ) from error


def _end_loaders() -> None:
    """End loader processes by force: a signal that asks would wait for the read, and so would the end of this one.

    They are waited for, but not for ever: one that a gone disk holds in the kernel does not end.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise an error for each, wherever this process is then
    loaders = multiprocessing.active_children()
    for process in loaders:
        process.kill()
    for process in loaders:
        process.join(timeout=1)
