"""The token grid: cutting and joining are inverse, and a clip's tokens do not depend on its padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.tokens import TokenGrid

PATCHES = TokenGrid(feature_dim=128, kernel=(16, 16), stride=(16, 16))
FRAME_TOKENS = TokenGrid(feature_dim=128, kernel=(128, 2), stride=(128, 2))
OVERLAPPING = TokenGrid(feature_dim=128, kernel=(16, 16), stride=(10, 10))


@st.composite
def grids(draw: st.DrawFn, overlap: bool) -> TokenGrid:
    bands, times = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    if not overlap:
        return TokenGrid(bands * draw(st.integers(1, 4)), (bands, times), (bands, times))
    stride = draw(st.integers(1, bands)), draw(st.integers(1, times))
    multiple = draw(st.integers(1, 4)) * bands
    extra = draw(st.integers(0, bands - 1)) if stride[0] < bands else 0
    return TokenGrid(multiple + extra, (bands, times), stride)


def numbered(grid: TokenGrid, num_frames: int, batch: int = 2) -> torch.Tensor:
    """Make frames whose values are all different, [B, T, F]."""
    shape = (batch, num_frames, grid.feature_dim)
    return torch.arange(batch * num_frames * grid.feature_dim, dtype=torch.float32).reshape(shape)


@given(grids(overlap=False), st.integers(0, 30))
def test_unpatchify_inverts_patchify(grid: TokenGrid, num_frames: int) -> None:
    frames = numbered(grid, num_frames)
    whole = grid.num_columns(num_frames) * grid.kernel[1]
    assert torch.equal(grid.unpatchify(grid.patchify(frames)), frames[:, :whole])


@given(st.one_of(grids(overlap=False), grids(overlap=True)), st.integers(0, 30))
def test_every_token_is_its_own_cut_of_the_frames(grid: TokenGrid, num_frames: int) -> None:
    frames = numbered(grid, num_frames)
    patches = grid.patchify(frames)
    (bands, times), (band_stride, time_stride) = grid.kernel, grid.stride
    assert patches.shape == (2, grid.num_tokens(num_frames), grid.patch_size)
    for index in range(patches.shape[1]):
        column, row = divmod(index, grid.rows)
        t, f = column * time_stride, row * band_stride
        cut = frames[:, t : t + times, f : f + bands]
        assert cut.shape == (2, times, bands)
        assert torch.equal(patches[:, index], cut.flatten(1))  # time-major


@given(st.one_of(grids(overlap=False), grids(overlap=True)), st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_padding_leaves_each_clip_the_tokens_it_has_alone(grid: TokenGrid, lengths: list[int]) -> None:
    num_frames = torch.tensor(lengths)
    frame_padding_mask = torch.arange(max(lengths)) >= num_frames[:, None]
    token_padding_mask = grid.token_padding_mask(frame_padding_mask)
    expected = torch.arange(grid.num_tokens(max(lengths))) >= grid.num_tokens(num_frames)[:, None]
    assert torch.equal(token_padding_mask, expected)


@given(st.one_of(grids(overlap=False), grids(overlap=True)), st.integers(0, 200))
def test_num_columns_is_the_number_of_whole_kernels(grid: TokenGrid, num_frames: int) -> None:
    starts = range(0, num_frames, grid.stride[1])
    assert grid.num_columns(num_frames) == sum(start + grid.kernel[1] <= num_frames for start in starts)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
@pytest.mark.parametrize("grid", [PATCHES, FRAME_TOKENS, OVERLAPPING])
def test_counts_take_arrays(grid: TokenGrid, kind) -> None:
    num_frames = [0, 1, 2, 15, 16, 31, 32, 998]
    assert grid.num_tokens(kind(num_frames)).tolist() == [grid.num_tokens(length) for length in num_frames]


@pytest.mark.parametrize(
    ("grid", "rows", "patch_size", "num_tokens"),
    [(PATCHES, 8, 256, 496), (FRAME_TOKENS, 1, 256, 499), (OVERLAPPING, 12, 256, 1188)],
)
def test_sizes_of_ten_seconds(grid: TokenGrid, rows: int, patch_size: int, num_tokens: int) -> None:
    assert (grid.rows, grid.patch_size, grid.num_tokens(998)) == (rows, patch_size, num_tokens)


def test_frame_tokens_are_cut_without_a_copy() -> None:
    frames = numbered(FRAME_TOKENS, 10, batch=1)
    assert FRAME_TOKENS.patchify(frames).data_ptr() == frames.data_ptr()


def test_the_gradient_of_patchify_counts_how_often_a_value_is_used() -> None:
    grid = TokenGrid(feature_dim=4, kernel=(2, 3), stride=(1, 2))
    frames = torch.zeros(1, 6, 4, requires_grad=True)
    grid.patchify(frames).sum().backward()
    columns = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0, 0.0])  # starts 0 and 2, three frames each
    bands = torch.tensor([1.0, 2.0, 2.0, 1.0])
    assert torch.equal(frames.grad, torch.outer(columns, bands)[None])


@pytest.mark.parametrize(
    ("feature_dim", "kernel", "stride", "message"),
    [
        (128, (24, 16), (24, 16), r"ast_kernel_size_chan: found 24, .*divisor of feature_dim = 128"),
        (16, (32, 16), (16, 16), r"ast_kernel_size_chan: found 32, expected a divisor of feature_dim = 16"),
        (128, (16, 16), (16, 17), r"ast_kernel_stride_time: found 17, expected at most 16"),
        (128, (16, 16), (17, 16), r"ast_kernel_stride_chan: found 17, expected at most 16"),
        (128, (16, 0), (16, 16), r"ast_kernel_size_time: found 0"),
        (128, (-16, 16), (16, 16), r"ast_kernel_size_chan: found -16"),
        (128, (16, 16), (0, 16), r"ast_kernel_stride_chan: found 0"),
        (128, (16, 16), (16, 1.5), r"ast_kernel_stride_time: found 1\.5"),
        (0, (16, 16), (16, 16), r"feature_dim: found 0"),
    ],
)
def test_refuses_a_bad_cut_by_the_name_of_its_field(feature_dim, kernel, stride, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenGrid(feature_dim, kernel, stride)


@pytest.mark.parametrize(
    ("stride", "message"),
    [
        ((16, 10), r"ast_kernel_stride_time: found 10, expected 16"),
        ((10, 16), r"ast_kernel_stride_chan: found 10, expected 16"),
    ],
)
def test_overlap_cannot_be_joined_and_can_be_refused(stride: tuple[int, int], message: str) -> None:
    grid = TokenGrid(128, (16, 16), stride)
    with pytest.raises(ConfigError, match=message):
        grid.require_no_overlap()
    with pytest.raises(ConfigError, match=message):
        grid.unpatchify(grid.patchify(numbered(grid, 32)))
