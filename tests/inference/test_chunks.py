"""Clips are cut and batched so that nothing of them is lost, doubled or moved."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.inference.chunks import (
    BATCHES_SORTED,
    cut_windows,
    min_seconds,
    plan_batches,
    plan_chunks,
    plan_windows,
    shard_rows,
    tokens_of,
)
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.tokens import TokenGrid

GRIDS = [
    TokenGrid(feature_dim=128, kernel=(16, 16), stride=(16, 16)),
    TokenGrid(feature_dim=128, kernel=(128, 2), stride=(128, 2)),
    TokenGrid(feature_dim=128, kernel=(16, 16), stride=(10, 10)),
]


@given(
    grid=st.sampled_from(GRIDS),
    num_samples=st.lists(st.integers(0, 100_000), max_size=12),
    chunk_seconds=st.floats(0.2, 3),
)
def test_chunks_hold_every_token_of_every_clip_once_and_its_frames(grid, num_samples, chunk_seconds) -> None:
    chunks = plan_chunks(np.array(num_samples, dtype=np.int64), grid, chunk_seconds)
    assert (np.diff(chunks.clips) >= 0).all()
    for clip, total in enumerate(num_samples):
        own = np.flatnonzero(chunks.clips == clip)
        assert chunks.num_tokens[own].sum() == grid.num_tokens(fbank.num_frames(total))
        columns_before = 0
        for chunk in own:
            # The chunk alone has so many tokens, and begins where the token does in the whole.
            begin, count = int(chunks.starts[chunk]), int(chunks.num_samples[chunk])
            assert grid.num_tokens(fbank.num_frames(count)) == chunks.num_tokens[chunk] > 0
            assert begin == columns_before * grid.stride[1] * fbank.FRAME_SHIFT
            columns_before += chunks.num_tokens[chunk] // grid.rows
            if chunk != own[-1]:
                assert begin + count <= total
                assert count <= chunk_seconds * 16_000
        assert not len(own) or begin + count == total


def test_frames_of_chunks_are_those_of_the_whole_to_their_last_window() -> None:
    waveform = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 50_000).astype(np.float32))
    for grid in GRIDS:
        chunks = plan_chunks(np.array([50_000]), grid, 0.7)
        whole = grid.patchify(fbank.log_mel(waveform)[None])[0]
        parts = [
            grid.patchify(fbank.log_mel(waveform[start : start + length])[None])[0]
            for start, length in zip(chunks.starts, chunks.num_samples, strict=True)
        ]
        assert [len(part) for part in parts] == chunks.num_tokens.tolist()
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=0)


@given(lengths=st.lists(st.integers(1, 400), max_size=60), max_tokens=st.integers(1, 2_000))
def test_batches_hold_every_chunk_once_within_the_limit_and_pad_little(lengths, max_tokens) -> None:
    num_tokens = np.array(lengths, dtype=np.int64)
    batches = list(plan_batches(num_tokens, max_tokens))
    assert sorted(chunk for batch in batches for chunk in batch) == list(range(len(lengths)))
    for batch in batches:
        own = num_tokens[batch]
        padded = len(own) * own.max()
        assert padded <= max_tokens or len(own) == 1
        assert 1 - own.sum() / padded <= 0.1


@given(lengths=st.lists(st.integers(1, 400), max_size=60), max_tokens=st.integers(1, 2_000))
def test_chunks_wait_for_those_before_them_only_while_few_are_in_memory(lengths, max_tokens) -> None:
    done: set[int] = set()
    for batch in plan_batches(np.array(lengths, dtype=np.int64), max_tokens):
        done |= set(batch.tolist())
        first_missing = next(chunk for chunk in range(len(lengths) + 1) if chunk not in done)
        waiting = sum(lengths[chunk] for chunk in done if chunk > first_missing)
        assert waiting <= BATCHES_SORTED * max_tokens + max(lengths)


def test_clips_of_one_length_fill_a_batch() -> None:
    assert [batch.tolist() for batch in plan_batches(np.full(10, 7), 21)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


@given(st.integers(0, 1_000), st.integers(1, 40))
def test_shards_in_order_are_all_rows_once(num_rows: int, num_shards: int) -> None:
    shards = [shard_rows(num_rows, rank, num_shards) for rank in range(num_shards)]
    assert [row for shard in shards for row in shard] == list(range(num_rows))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize("grid", GRIDS)
def test_the_shortest_clip_with_a_token(grid: TokenGrid) -> None:
    num_samples = round(min_seconds(grid) * 16_000)
    counts = [int(grid.num_tokens(fbank.num_frames(count))) for count in (num_samples - 1, num_samples)]
    assert counts == [0, grid.rows]
    with pytest.raises(ConfigError, match="too short for one token"):
        plan_chunks(np.array([16_000]), grid, (num_samples - 1) / 16_000)


def test_tokens_stand_in_for_seconds() -> None:
    assert [tokens_of(1.6, grid) for grid in GRIDS] == [80, 80, 16 * 12]


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [
        (1, [(0, 1)]),
        (10, [(0, 10)]),
        (11, [(0, 10), (1, 11)]),
        (14, [(0, 10), (4, 14)]),
        (18, [(0, 10), (4, 14), (8, 18)]),
        (20, [(0, 10), (4, 14), (8, 18), (10, 20)]),
    ],
)
def test_windows_are_a_hop_apart_and_the_last_ends_with_the_file(num_samples: int, expected) -> None:
    assert cut_windows(num_samples, 10, 4) == expected


def test_every_sample_is_in_a_window() -> None:
    for num_samples in range(1, 100):
        windows = cut_windows(num_samples, 16, 7)
        assert set().union(*(range(*window) for window in windows)) == set(range(num_samples))


def test_windows_of_clips_are_chunks_and_short_clips_have_none() -> None:
    grid = GRIDS[1]  # two frames a token: 880 samples are two tokens
    chunks = plan_windows(np.array([2_000, 879, 880]), grid, length=1_000, hop=600, min_tokens=2)
    assert chunks.clips.tolist() == [0, 0, 0, 2]
    assert chunks.starts.tolist() == [0, 600, 1_000, 0]
    assert chunks.num_samples.tolist() == [1_000, 1_000, 1_000, 880]
    assert chunks.num_tokens.tolist() == [2, 2, 2, 2]
