"""Data for the loader, synthetic or a person's own, and how many clips a second the loader brings."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mae_ast_fairseq.benchmark.cases import Case
from mae_ast_fairseq.corpus.scan import find_audio
from mae_ast_fairseq.corpus.synthetic import write_corpus
from mae_ast_fairseq.data.manifest import ManifestRow, write_manifest
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn import fbank

NUM_FILES = 16  # of a synthetic corpus; its manifest names each as often as clips are wanted
NUM_WARM_UP_BATCHES = 2


class Data(NamedTuple):
    """A manifest on its way through the loader: `{split}.tsv` in a folder."""

    folder: Path
    split: str


def synthetic_data(folder: Path, case: Case, num_clips: int) -> Data:
    """Return `num_clips` clips of a case's length; their FLAC files are written below `folder` once."""
    audio = folder / f"{case.num_samples}"
    if not audio.exists():
        write_corpus(audio, num_clips=NUM_FILES, seconds=(case.seconds, case.seconds))
    files = find_audio(audio)
    rows = [ManifestRow(files[clip % len(files)], case.num_samples, fbank.SAMPLE_RATE) for clip in range(num_clips)]
    write_manifest(audio / "train.tsv", audio, rows)
    return Data(audio, "train")


def manifest_data(manifest: Path) -> Data:
    """Return a person's own manifest as data; raises ConfigError unless it is `NAME.tsv`."""
    if manifest.suffix != ".tsv" or not manifest.is_file():
        raise ConfigError(f"--manifest {manifest}: there is no such file NAME.tsv; expected a manifest of the loader's")
    return Data(manifest.absolute().parent, manifest.stem)


def clips_per_second(batches: Iterable[dict[str, Any]], num_batches: int) -> float:
    """Return how many clips a second a loader brings to someone who only takes them.

    So many batches are timed after a warm-up, or what the loader has; raises ConfigError where it has none.
    """
    start, num_clips = 0.0, 0
    for number, batch in enumerate(batches, start=1):
        if number == NUM_WARM_UP_BATCHES:
            start = time.perf_counter()
        elif number > NUM_WARM_UP_BATCHES:
            num_clips += batch["nsentences"]
        if number == NUM_WARM_UP_BATCHES + num_batches:
            break
    if num_clips == 0:
        raise ConfigError(
            f"the manifest gives no more than {NUM_WARM_UP_BATCHES} batches; lower --batch-size or give a longer one"
        )
    return num_clips / (time.perf_counter() - start)
