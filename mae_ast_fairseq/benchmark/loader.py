"""Synthetic data for the loader, and how many clips a second the loader brings."""

import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mae_ast_fairseq.benchmark.cases import Case
from mae_ast_fairseq.corpus.scan import find_audio
from mae_ast_fairseq.corpus.synthetic import write_corpus
from mae_ast_fairseq.data.manifest import ManifestRow, write_manifest
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn import fbank

NUM_FILES = 16  # of a synthetic corpus; its manifest names each as often as clips are wanted
NUM_WARM_UP_BATCHES = 2


def synthetic_manifest(folder: Path, case: Case, num_clips: int) -> Path:
    """Return a manifest of `num_clips` clips of a case's length; their files are written below `folder` once."""
    audio = folder / f"{case.num_samples}"
    if not audio.exists():
        write_corpus(audio, num_clips=NUM_FILES, seconds=(case.seconds, case.seconds))
    files = find_audio(audio)
    rows = [ManifestRow(files[clip % len(files)], case.num_samples, fbank.SAMPLE_RATE) for clip in range(num_clips)]
    write_manifest(audio / "train.tsv", audio, rows)
    return audio / "train.tsv"


def clips_per_second(batches: Iterable[dict[str, Any]], num_batches: int) -> float:
    """Return how many clips a second a loader brings to someone who only takes them.

    So many batches are timed after a warm-up, or what the loader has; raises ConfigError where it has none.
    """
    batches = iter(batches)
    for _ in range(NUM_WARM_UP_BATCHES):
        next(batches, None)
    start = time.perf_counter()
    num_clips = sum(batch["nsentences"] for batch in itertools.islice(batches, num_batches))
    if num_clips == 0:
        raise ConfigError(
            f"the manifest gives no more than {NUM_WARM_UP_BATCHES} batches; lower --batch-size or give a longer one"
        )
    return num_clips / (time.perf_counter() - start)
