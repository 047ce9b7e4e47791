"""Times the loader alone: how many clips a second one worker brings, decoded, as log-Mel frames and masked."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from fairseq import tasks

from mae_ast_fairseq.benchmark.cases import Case
from mae_ast_fairseq.benchmark.loop import Data, fairseq_config
from mae_ast_fairseq.benchmark.quiet import quiet
from mae_ast_fairseq.benchmark.recipes import Recipe
from mae_ast_fairseq.corpus.scan import find_audio
from mae_ast_fairseq.corpus.synthetic import write_corpus
from mae_ast_fairseq.data.manifest import ManifestRow, write_manifest
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn import fbank

NUM_FILES = 16  # of the synthetic corpus; its manifest names each as often as clips are wanted
NUM_WARM_UP_BATCHES = 2
SPLIT = "train"


@contextmanager
def synthetic_data(seconds: float, num_clips: int, num_workers: int) -> Iterator[Data]:
    """Write FLAC files of equal length and a manifest of `num_clips` rows to a folder that goes away again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder, num_clips=NUM_FILES, seconds=(seconds, seconds))
        num_samples = round(seconds * fbank.SAMPLE_RATE)
        files = find_audio(folder)
        rows = [ManifestRow(files[clip % len(files)], num_samples, fbank.SAMPLE_RATE) for clip in range(num_clips)]
        write_manifest(folder / f"{SPLIT}.tsv", folder, rows)
        yield Data(folder, SPLIT, num_workers)


def manifest_data(manifest: Path, num_workers: int) -> Data:
    """Return a person's own manifest as data; raises ConfigError unless it is `NAME.tsv`."""
    if manifest.suffix != ".tsv" or not manifest.is_file():
        raise ConfigError(f"--manifest {manifest}: there is no such file NAME.tsv; expected a manifest of the loader's")
    return Data(manifest.absolute().parent, manifest.stem, num_workers)


def clips_per_second(recipe: Recipe, case: Case, data: Data, num_batches: int) -> float:
    """Return how many clips a second the loader brings to someone who only takes them.

    That many batches are timed, or fewer where the manifest ends; raises ConfigError where it has too few.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        cfg = fairseq_config(recipe, case, torch.device("cpu"), Path(folder), 1, data)
        task = tasks.setup_task(cfg.task)
        task.build_model(cfg.model)
        task.load_dataset(data.split)
        batches = task.get_batch_iterator(
            task.dataset(data.split),
            max_sentences=case.batch_size,
            num_workers=data.num_workers,
            data_buffer_size=cfg.dataset.data_buffer_size,
        ).next_epoch_itr(shuffle=False)
        if len(batches) <= NUM_WARM_UP_BATCHES:
            raise ConfigError(
                f"{data.folder / data.split}.tsv: gives {len(batches)} batches of {case.batch_size} clips; expected "
                f"more than {NUM_WARM_UP_BATCHES}; lower --batch-size or give a longer manifest"
            )
        start, num_clips = 0.0, 0
        for number, batch in enumerate(batches, start=1):
            if number > NUM_WARM_UP_BATCHES:
                num_clips += batch["nsentences"]
            elif number == NUM_WARM_UP_BATCHES:
                start = time.perf_counter()
            if number == NUM_WARM_UP_BATCHES + num_batches:
                break
        return num_clips / (time.perf_counter() - start)
