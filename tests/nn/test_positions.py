"""Positions follow the closed formula and the released checkpoints, for any index and length."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mae_ast_fairseq.nn.positions import LearnedPositions, SinusoidalPositions, resize_positions, sinusoidal_positions
from tests.tiny import golden_checkpoint

WIDTH = 48
ROWS = 3


@pytest.fixture
def positions() -> SinusoidalPositions:
    return SinusoidalPositions(width=WIDTH, max_tokens=32)


def test_table_is_sin_and_cos_interleaved_with_base_10000() -> None:
    table = sinusoidal_positions(500, WIDTH)
    expected = np.zeros((500, WIDTH))
    for position in range(500):
        for pair in range(WIDTH // 2):
            angle = position / 10_000 ** (2 * pair / WIDTH)
            expected[position, 2 * pair : 2 * pair + 2] = np.sin(angle), np.cos(angle)
    np.testing.assert_allclose(table, expected, atol=1e-4)  # float32 angles, as in the released files


@pytest.mark.parametrize("kind", ["patch", "frame"])
@pytest.mark.parametrize("stack", ["enc", "dec"])
def test_table_equals_the_released_checkpoints(golden, kind: str, stack: str) -> None:
    released = golden_checkpoint(golden, kind)["model"][f"{stack}_sine_pos_embed.pe"][0]
    torch.testing.assert_close(sinusoidal_positions(*released.shape), released, atol=1e-6, rtol=0)


def test_all_tokens_are_given_the_table_from_its_start(positions) -> None:
    tokens = torch.randn(2, 7, WIDTH)
    assert positions(tokens, 7).equal(tokens + sinusoidal_positions(7, WIDTH))


def test_a_token_is_given_the_position_of_its_index(positions) -> None:
    indices = torch.tensor([[0, 3, 19], [5, 6, 7]])
    given = positions(torch.zeros(2, 3, WIDTH), 20, None, indices)
    table = sinusoidal_positions(20, WIDTH)
    for row, column in np.ndindex(2, 3):
        assert given[row, column].equal(table[indices[row, column]])


@pytest.mark.parametrize("indices", [None, torch.tensor([[2, 4, 6], [1, 0, 0]])])
def test_padding_is_given_zero(positions, indices) -> None:
    padding_mask = torch.tensor([[False, False, False], [False, True, True]])
    num_tokens = 3 if indices is None else 8
    masks = (padding_mask,) if indices is None else (None, indices, padding_mask)
    given = positions(torch.zeros(2, 3, WIDTH), num_tokens, *masks)
    assert (given == 0).all(dim=-1).equal(padding_mask)
    assert given[~padding_mask].equal(positions(torch.zeros(2, 3, WIDTH), num_tokens, None, indices)[~padding_mask])


def test_a_longer_clip_extends_the_table_with_equal_values(positions) -> None:
    given = positions(torch.zeros(1, 100, WIDTH), 100)[0]
    assert given.equal(sinusoidal_positions(100, WIDTH))
    assert positions(torch.zeros(1, 32, WIDTH), 32)[0].equal(given[:32])


def test_a_table_extended_while_serving_can_be_trained_with(positions) -> None:
    with torch.inference_mode():
        positions(torch.zeros(1, 40, WIDTH), 40)
    tokens = torch.zeros(1, 40, WIDTH, requires_grad=True)
    positions(tokens, 40).square().sum().backward()
    torch.testing.assert_close(tokens.grad[0], 2 * sinusoidal_positions(40, WIDTH))


def test_half_precision_tokens_stay_so(positions) -> None:
    given = positions.bfloat16()(torch.zeros(1, 100, WIDTH, dtype=torch.bfloat16), 100)
    assert given[0].equal(sinusoidal_positions(100, WIDTH).bfloat16())


def test_table_is_not_saved(positions) -> None:
    assert positions.state_dict() == {}
    assert [name for name, _ in positions.named_buffers()] == ["table"]


# --- learned


@pytest.fixture
def learned() -> LearnedPositions:
    return LearnedPositions(width=WIDTH, num_positions=5 * ROWS, rows=ROWS)


def given(positions, num_tokens: int, *arguments, batch_size: int = 1, places: int | None = None) -> torch.Tensor:
    """Return what is added to tokens."""
    return positions(torch.zeros(batch_size, places or num_tokens, WIDTH), num_tokens, *arguments)


def test_learned_positions_are_cut_for_a_shorter_clip(learned) -> None:
    assert given(learned, 3 * ROWS)[0].equal(learned.table[: 3 * ROWS])
    assert given(learned, 5 * ROWS)[0].equal(learned.table)


@pytest.mark.parametrize("num_columns", [6, 10, 23])
def test_learned_positions_are_interpolated_along_time_for_a_longer_clip(learned, num_columns: int) -> None:
    image = learned.table.view(5, ROWS * WIDTH).T[None]  # [1, rows * C, columns]
    expected = F.interpolate(image, size=num_columns, mode="linear", align_corners=False)[0].T
    torch.testing.assert_close(given(learned, num_columns * ROWS)[0], expected.reshape(-1, WIDTH))


def test_learned_positions_stretch_by_a_clips_own_length_and_not_by_its_batch(learned) -> None:
    lengths = [8 * ROWS, 6 * ROWS, 4 * ROWS]
    padding_mask = torch.arange(8 * ROWS) >= torch.tensor(lengths)[:, None]
    together = given(learned, 8 * ROWS, padding_mask, batch_size=3)
    for row, length in zip(together, lengths, strict=True):
        torch.testing.assert_close(row[:length], given(learned, length)[0])
        assert not row[length:].any()


@pytest.mark.parametrize("num_columns", [4, 8])
def test_learned_positions_are_given_by_index(learned, num_columns: int) -> None:
    indices = torch.tensor([[0, 3, 11], [5, 6, 7]])
    table = given(learned, num_columns * ROWS)[0]
    picked = given(learned, num_columns * ROWS, None, indices, batch_size=2, places=3)
    assert picked.equal(table[indices])


def test_visible_tokens_take_their_clips_own_stretched_positions(learned) -> None:
    padding_mask = torch.arange(8 * ROWS) >= torch.tensor([8 * ROWS, 6 * ROWS])[:, None]
    indices = torch.tensor([[0, 3, 23], [5, 6, 17]])
    table = given(learned, 8 * ROWS, padding_mask, batch_size=2)
    picked = given(learned, 8 * ROWS, padding_mask, indices, batch_size=2, places=3)
    assert picked.equal(torch.stack([own[places] for own, places in zip(table, indices, strict=True)]))


def test_learned_positions_are_learned(learned) -> None:
    given(learned, 2 * ROWS).sum().backward()
    assert learned.table.grad[: 2 * ROWS].eq(1).all() and not learned.table.grad[2 * ROWS :].any()
    assert set(learned.state_dict()) == {"table"}


def test_resizing_a_plane_of_positions_keeps_it_a_plane() -> None:
    def plane(rows: int, columns: int) -> torch.Tensor:
        # As a share of bands and seconds, which both grids cover.
        column, row = np.divmod(np.arange(rows * columns), rows)
        place = np.stack([(row + 0.5) / rows, (column + 0.5) / columns], axis=1)
        return torch.from_numpy(place.astype(np.float32))

    resized = resize_positions(plane(8, 20), (8, 20), (12, 33)).view(33, 12, 2)
    inner = (slice(2, -2), slice(1, -1))  # beyond the outermost centres values are repeated
    torch.testing.assert_close(resized[inner], plane(12, 33).view(33, 12, 2)[inner])


def test_resizing_to_the_same_grid_changes_nothing() -> None:
    table = torch.randn(12, WIDTH)
    assert resize_positions(table, (3, 4), (3, 4)).equal(table)
