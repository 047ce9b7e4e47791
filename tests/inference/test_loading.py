"""Clips are loaded in order, few batches ahead, and files are known by their headers."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from mae_ast_fairseq.inference.loading import BATCHES_AHEAD, FileList, load_ahead


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_loading_keeps_the_order_and_stays_few_batches_ahead(num_workers: int) -> None:
    begun = []

    def load(number: int) -> int:
        begun.append(number)
        return -number

    batches = [range(first, first + 2) for first in range(0, 40, 2)]
    for batch, loaded in zip(batches, load_ahead(load, batches, num_workers), strict=True):
        assert loaded == [-number for number in batch]
        assert max(begun) < batch.stop + 2 * BATCHES_AHEAD
    assert sorted(begun) == list(range(40))


def test_an_error_of_a_worker_reaches_the_reader() -> None:
    def load(number: int) -> int:
        raise RuntimeError(f"number {number}")

    with pytest.raises(RuntimeError, match="number 0"):
        list(load_ahead(load, [[0, 1]], 2))


def test_files_are_a_manifest_of_their_headers(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((441, 2)), 44_100)
    files = FileList([str(tmp_path / "a.wav"), str(tmp_path / "no.wav")])
    assert (files.num_samples.tolist(), files.sample_rates.tolist()) == ([441, 0], [44_100, 16_000])
    assert files.num_samples_at_16k.tolist() == [160, 0]
    assert (len(files), files.path(0), files.relative_path(0)) == (2, str(tmp_path / "a.wav"), "a.wav")
    assert list(files.errors) == [1]
    assert "there is no such file" in str(files.errors[1])
