"""Masks are exact partitions, chunked where they should be, and even over the grid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.data.masking import (
    CHUNK_SIDES,
    STRATEGIES,
    Mask,
    Masking,
    _first_cover,
    check_ratio,
    chunk_mask,
    collate,
    num_visible,
    random_mask,
)
from mae_ast_fairseq.errors import ConfigError

ratios = st.one_of(st.sampled_from([0.01, 0.25, 0.5, 0.75, 0.99]), st.floats(0.01, 0.99))
grid_sizes = st.tuples(st.integers(1, 9), st.integers(1, 70)).filter(lambda size: size[0] * size[1] >= 2)
seeds = st.integers(0, 2**32 - 1)


def picture(mask: Mask, rows: int, columns: int) -> np.ndarray:
    """Draw a mask as [columns, rows] of bool, True = masked."""
    masked = np.zeros(rows * columns, dtype=bool)
    masked[mask.masked] = True
    return masked.reshape(columns, rows)


def run_lengths(masked: np.ndarray) -> np.ndarray:
    """Measure the runs of True in [L]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], masked, [False]])))
    return edges[1::2] - edges[::2]


def covered_by_squares(masked: np.ndarray, side: int) -> np.ndarray:
    """Tell which cells lie in a wholly masked square, the outside counting as masked; [columns, rows]."""
    padded = np.pad(masked, side - 1, constant_values=True)
    whole = np.lib.stride_tricks.sliding_window_view(padded, (side, side)).all(axis=(2, 3))
    inside = np.pad(whole, ((side - 1, side - 1), (side - 1, side - 1)))
    reach = np.lib.stride_tricks.sliding_window_view(inside, (side, side)).any(axis=(2, 3))
    return reach[side - 1 : side - 1 + masked.shape[0], side - 1 : side - 1 + masked.shape[1]]


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(size=grid_sizes, ratio=ratios, seed=seeds, span_length=st.integers(1, 20))
def test_visible_and_masked_partition_the_tokens(strategy, size, ratio, seed, span_length) -> None:
    rows, columns = size
    mask = Masking(strategy, ratio, span_length).draw(rows, columns, np.random.default_rng(seed))
    num_tokens = rows * columns
    assert len(mask.visible) == max(1, int((1 - ratio) * num_tokens))
    assert sorted(np.concatenate(mask).tolist()) == list(range(num_tokens))
    for indices in mask:
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_generator_alone_decides_a_mask(strategy) -> None:
    masks = [Masking(strategy, 0.75).draw(8, 62, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(masks[0].masked, masks[1].masked)
    assert not np.array_equal(masks[0].masked, masks[2].masked)


@pytest.mark.parametrize(
    ("num_tokens", "ratio", "expected"),
    [(496, 0.75, 124), (499, 0.75, 124), (3, 0.75, 1), (2, 0.01, 1), (10, 0.9, 1)],
)
def test_num_visible_rounds_down_but_keeps_one(num_tokens, ratio, expected) -> None:
    assert num_visible(num_tokens, ratio) == expected


@pytest.mark.parametrize(
    ("rows", "columns", "ratio"),
    [*((*grid, ratio) for grid in ((8, 62), (1, 499)) for ratio in (0.25, 0.75, 0.9)), (1, 12, 0.75), (8, 2, 0.75)],
)
def test_chunks_cover_every_position_alike(rows: int, columns: int, ratio: float) -> None:
    generator = np.random.Generator(np.random.Philox(key=[1, 2]))
    counts = np.zeros(rows * columns)
    for _ in range(20_000):
        counts[chunk_mask(rows, columns, ratio, generator).masked] += 1
    np.testing.assert_allclose(counts / 20_000, ratio, rtol=0.1)


@given(rows=st.integers(1, 9), columns=st.integers(1, 40), seed=seeds, side=st.integers(1, 12))
def test_a_chunk_is_one_clipped_rectangle_and_never_wraps(rows, columns, seed, side) -> None:
    height = 1 if rows == 1 else side
    places = (columns + side - 1) * (rows + height - 1)
    corner = np.random.default_rng(seed).integers(places, size=1)
    column, row = divmod(int(corner[0]), rows + height - 1)
    column, row = column - (side - 1), row - (height - 1)  # in [1 - side, N - 1]
    expected = np.zeros((columns, rows), dtype=bool)
    expected[max(column, 0) : column + side, max(row, 0) : row + height] = True
    assert expected.any()
    assert np.array_equal(_first_cover(rows, columns, side, height, corner).reshape(columns, rows) == 0, expected)


@given(seed=seeds)
def test_the_first_of_overlapping_chunks_owns_a_token(seed) -> None:
    rows, columns, side = 4, 9, 3
    corners = np.random.default_rng(seed).integers((columns + 2) * (rows + 2), size=12)
    alone = np.stack([_first_cover(rows, columns, side, side, corners[i : i + 1]) == 0 for i in range(12)])
    expected = np.where(alone.any(axis=0), alone.argmax(axis=0), 12)
    assert np.array_equal(_first_cover(rows, columns, side, side, corners), expected)


def test_chunked_patches_lie_in_squares_of_one_drawn_side() -> None:
    generator = np.random.default_rng(5)
    in_squares = {"chunk": [], "random": []}
    for _ in range(300):
        for name, mask in (
            ("chunk", chunk_mask(8, 62, 0.75, generator)),
            ("random", random_mask(8, 62, 0.75, generator)),
        ):
            masked = picture(mask, 8, 62)
            in_squares[name].append((covered_by_squares(masked, 3) & masked).sum() / masked.sum())
    # Only the last chunk, trimmed, may lie in no whole square: at most 24 of 372 tokens.
    assert min(in_squares["chunk"]) > 1 - 24.5 / 372
    assert np.mean(in_squares["random"]) < 0.75


def test_every_side_is_drawn_equally_often() -> None:
    generator = np.random.default_rng(6)
    largest = []
    for _ in range(1_500):
        masked = picture(chunk_mask(100, 100, 0.0025, generator), 100, 100)  # 25 tokens: one to three squares
        windows = (np.lib.stride_tricks.sliding_window_view(masked, (side, side)) for side in CHUNK_SIDES)
        largest.append(sum(window.all(axis=(2, 3)).any() for window in windows))
    # Of sides 3, 4, 5 the largest whole square shows; those cut off at an edge make it a little smaller.
    np.testing.assert_allclose(np.bincount(largest, minlength=4)[1:] / 1_500, 1 / 3, atol=0.08)


def test_chunked_frames_come_in_spans_of_the_length_asked_for() -> None:
    generator = np.random.default_rng(7)
    spans = [run_lengths(picture(chunk_mask(1, 499, 0.5, generator, 10), 1, 499)[:, 0]) for _ in range(300)]
    singles = [run_lengths(picture(random_mask(1, 499, 0.5, generator), 1, 499)[:, 0]) for _ in range(300)]
    # Inside the clip only the trimmed last span can leave runs shorter than 10: at most 9 tokens of it.
    assert all((inner[1:-1] < 10).sum() <= 9 for inner in spans)
    assert np.mean(np.concatenate(spans)) > 10
    assert np.mean(np.concatenate(singles)) == pytest.approx(2, abs=0.1)  # 1 / (1 - 0.5), geometric


@given(lengths=st.lists(st.integers(2, 60), min_size=1, max_size=6), ratio=ratios, seed=seeds)
def test_collate_keeps_every_mask_and_pads_with_zero(lengths, ratio, seed) -> None:
    generator = np.random.default_rng(seed)
    masks = [random_mask(1, length, ratio, generator) for length in lengths]
    batch = collate(masks)
    for field in ("visible", "masked"):
        padded, padding_mask = getattr(batch, field), getattr(batch, f"{field}_padding_mask")
        counts = [len(getattr(mask, field)) for mask in masks]
        assert (padding_mask is None) == (len(set(counts)) == 1)
        for row, mask in enumerate(masks):
            indices = getattr(mask, field)
            assert padded[row].tolist() == indices.tolist() + [0] * (max(counts) - len(indices))
            if padding_mask is not None:
                assert padding_mask[row].tolist() == [i >= len(indices) for i in range(max(counts))]


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5, float("nan")])
def test_refuses_a_ratio_that_masks_nothing_or_everything(ratio: float) -> None:
    with pytest.raises(ConfigError, match=f"random_mask_prob: found {ratio}"):
        check_ratio(ratio)
