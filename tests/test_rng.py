"""A draw depends on seed, stream, epoch and index, and on nothing else."""

import itertools

import numpy as np
import pytest

from mae_ast_fairseq.rng import Stream, generator


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63])
@pytest.mark.parametrize("stream", Stream)
def test_a_generator_is_philox_keyed_by_seed_and_stream(seed: int, stream: Stream) -> None:
    key = np.array([seed % 2**64, stream], dtype=np.uint64)
    counter = np.array([0, 0, 3, 12], dtype=np.uint64)
    by_definition = np.random.Generator(np.random.Philox(key=key, counter=counter))
    ours = generator(seed, stream, epoch=3, index=12)
    np.testing.assert_array_equal(ours.integers(2**63, size=20), by_definition.integers(2**63, size=20))


def test_streams_have_distinct_numbers_that_never_change() -> None:
    # Renumbering a stream would change every run that is resumed.
    assert {stream.name: stream.value for stream in Stream} == {
        "CROP": 0,
        "MASK": 1,
        "AUGMENTATION": 2,
        "REPLACEMENT": 3,
        "ORDER": 4,
        "STATISTICS": 5,
        "ENCODER_LAYER_DROP": 6,
        "DECODER_LAYER_DROP": 7,
        "SAMPLING": 8,
        "MIXUP": 9,
    }


def test_draws_differ_in_seed_stream_epoch_index_and_occurrence() -> None:
    places = itertools.product(range(3), Stream, range(3), range(12), range(3))
    draws = [generator(*place).integers(2**63, size=10) for place in places]
    # No number twice: also none of one clip's later draws is another's earlier one.
    assert len(np.unique(draws)) == 3 * len(Stream) * 3 * 12 * 3 * 10


def test_a_clips_first_occurrence_has_the_draws_of_a_clip_that_comes_once() -> None:
    once, first = generator(1, Stream.CROP, 2, 3), generator(1, Stream.CROP, 2, 3, occurrence=0)
    np.testing.assert_array_equal(once.random(20), first.random(20))


@pytest.mark.parametrize("axis", ["seed", "epoch", "index", "occurrence"])
def test_first_draws_of_neighbours_are_uniform_and_independent(axis: str) -> None:
    count = 4000
    places = [{"seed": 1, "epoch": 1, "index": 1, axis: number} for number in range(count)]
    draws = np.array([generator(stream=Stream.MASK, **place).random() for place in places])
    distance = np.abs(np.sort(draws) - (np.arange(count) + 0.5) / count).max()
    assert distance < 1.95 / count**0.5  # Kolmogorov-Smirnov, p = 0.001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 3.3 / count**0.5
