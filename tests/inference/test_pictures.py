"""Which clips are drawn, alike for a seed, of all lengths, and with others that may stand in for them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.inference.pictures import choose_clips, picture_name

lengths = st.lists(st.integers(1, 10_000_000), min_size=1, max_size=40).map(np.array)


@given(lengths, st.integers(1, 50), st.integers(0, 2**32))
def test_clips_are_different_ones_by_rising_length_each_with_longer_ones_behind_it(num_samples, count, seed):
    parts = choose_clips(num_samples, count, seed)
    assert len(parts) == min(count, len(num_samples))
    assert all(len(part) for part in parts)
    drawn = np.concatenate(parts)
    assert len(set(drawn.tolist())) == len(drawn)
    assert (np.diff(num_samples[drawn]) >= 0).all()
    assert num_samples.max() == num_samples[drawn[-1]]


def test_a_seed_draws_the_same_clips_and_another_others():
    num_samples = np.random.default_rng(0).integers(1_000, 100_000, size=500)
    first, again, other = ([int(part[0]) for part in choose_clips(num_samples, 4, seed)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_each_clip_is_of_another_part_of_the_audio():
    num_samples = np.full(1_000, 16_000)
    places = [int(part[0]) for part in choose_clips(num_samples, 4, 7)]
    assert [place // 250 for place in places] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("path", "name"),
    [("a/b/dog.bark.wav", "03_dog.bark"), ("x" * 70 + ".flac", "03_" + "x" * 50), ("zip/a.zip:7:9", "03_a")],
)
def test_a_picture_is_called_by_its_number_and_its_file(path, name):
    assert picture_name(3, path) == name
