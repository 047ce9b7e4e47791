"""Features of many clips to disk, resumable: plan, journal, encoder and store put together."""

import time
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.inference.features import EncodedBatch, Job, encode_batches, too_short
from mae_ast_fairseq.inference.journal import Journal
from mae_ast_fairseq.inference.stores import Store

SAVE_SECONDS = 10.0  # of work at most that a kill costs


class Report(NamedTuple):
    """What an extraction did."""

    num_clips: int
    """with features, this time or before"""
    num_tokens: int
    """of them"""
    num_resumed: int
    """chunks that an earlier run had done"""
    bad: dict[int, str]
    """clips without features, and why"""
    seconds: float
    """of this time"""


def extract(job: Job, store: Store, journal: Journal, warn: Callable[[str], None]) -> Report:
    """Encode the clips of a job into a store, from where the journal says on.

    Clips that cannot be read or are too short get no features; `warn` is told why of each. However the run ends, what
    was done is kept and the journal knows. Raises AudioError where no clip at all has features, and then leaves
    nothing.
    """
    begin, num_resumed = time.monotonic(), journal.num_done
    if not journal.is_complete:
        _note_short(job, journal, warn)
        if journal.num_done < journal.num_chunks:
            _encode(job, store, journal, warn)
        elif not journal.is_resumed:
            store.open(is_resumed=False)
        if len(job.rows) and len(journal.bad) == len(job.rows):
            store.remove()
            journal.path.unlink(missing_ok=True)
            raise AudioError(f"none of the {len(job.rows)} clips has features; the first: {journal.bad[0]}")
        store.finish(journal.bad)
        journal.is_complete = True
        journal.save()
    is_good = ~np.isin(job.chunks.clips, list(journal.bad))
    return Report(
        num_clips=len(job.rows) - len(journal.bad),
        num_tokens=int(job.chunks.num_tokens[is_good].sum()),
        num_resumed=num_resumed,
        bad=dict(sorted(journal.bad.items())),
        seconds=time.monotonic() - begin,
    )


def _encode(job: Job, store: Store, journal: Journal, warn: Callable[[str], None]) -> None:
    """Encode what is not done yet."""
    store.open(journal.is_resumed)
    journal.save()
    num_chunks = np.bincount(job.chunks.clips, minlength=len(job.rows))
    is_last = job.chunks.numbers == num_chunks[job.chunks.clips] - 1  # [K]
    num_before = int(is_last[: journal.num_done].sum())
    saved = time.monotonic()
    batches = encode_batches(job, first=journal.num_done)
    with (
        closing(batches),
        tqdm(total=len(job.rows), initial=num_before, unit=" clips", desc="encoding", disable=None) as bar,
    ):
        try:
            for batch in batches:
                _keep(job, batch, store, journal, warn)
                journal.num_done = batch.chunks.stop
                bar.update(int(is_last[batch.chunks].sum()))
                if time.monotonic() - saved > SAVE_SECONDS:
                    store.flush()
                    journal.save()
                    saved = time.monotonic()
        finally:
            store.flush()
            journal.save()


def _keep(job: Job, batch: EncodedBatch, store: Store, journal: Journal, warn: Callable[[str], None]) -> None:
    """Write the features of a batch, and note the clips that could not be read."""
    for chunk, value in zip(range(batch.chunks.start, batch.chunks.stop), batch.values, strict=True):
        clip = int(job.chunks.clips[chunk])
        if isinstance(value, AudioError):
            _note_bad(journal, clip, str(value), warn)
            store.discard(clip)
        elif clip not in journal.bad:
            store.write(chunk, value)


def _note_short(job: Job, journal: Journal, warn: Callable[[str], None]) -> None:
    """Note the clips that have no chunk."""
    num_samples = job.clips.num_samples_at_16k
    has_chunk = np.bincount(job.chunks.clips, minlength=len(job.rows)) > 0
    for clip in np.flatnonzero(~has_chunk).tolist():
        _note_bad(journal, clip, str(too_short(job.clips, job.rows[clip], num_samples, job.model)), warn)


def _note_bad(journal: Journal, clip: int, reason: str, warn: Callable[[str], None]) -> None:
    if clip not in journal.bad:
        warn(reason)
    journal.bad[clip] = reason
