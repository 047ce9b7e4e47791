"""Readouts are their plain definitions over a clip's own tokens, and those of chunks merge into that of the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.readout import (
    READOUTS,
    Layers,
    check_readout,
    columns,
    layer_numbers,
    mean,
    merge_readouts,
    parse_layers,
    possible_readouts,
    read_out,
    readout_width,
)
from tests.tiny import PADDING_VALUE

ROWS, WIDTH = 4, 5
NUM_COLUMNS = (6, 4, 1)  # of each clip
OF_TOKENS = {"mean": [np.mean], "mean+max": [np.mean, np.max], "mean+std": [np.mean, np.std]}
OF_COLUMNS = {"bands": [np.mean], "bands+max": [np.mean, np.max]}


def plain(name: str, tokens: np.ndarray, rows: int = ROWS) -> np.ndarray:
    """Read one clip's tokens [L, C] out, as the definitions say: [D]."""
    if name in OF_TOKENS:
        return np.concatenate([statistic(tokens, axis=0) for statistic in OF_TOKENS[name]])
    of_columns = [
        np.concatenate([tokens[column * rows + row] for row in range(rows)]) for column in range(len(tokens) // rows)
    ]
    return np.concatenate([statistic(of_columns, axis=0) for statistic in OF_COLUMNS[name]])


def padded_tokens(padding: float) -> tuple[Tensor, Tensor]:
    """Return tokens [B, L, C], every clip's and every band's about a mean of their own, and padding mask [B, L]."""
    draws = np.random.default_rng(0)
    shape = (len(NUM_COLUMNS), max(NUM_COLUMNS) * ROWS, WIDTH)
    features = draws.normal(np.tile([-3.0, 0.0, 2.0, 7.0], max(NUM_COLUMNS))[:, None], 2.0, shape)
    mask = torch.arange(shape[1]) >= ROWS * torch.tensor(NUM_COLUMNS)[:, None]
    return torch.from_numpy(features.astype(np.float32)).masked_fill(mask[..., None], padding), mask


# --- what is read out


@pytest.mark.parametrize("padding", [PADDING_VALUE, np.nan, -np.inf])
@pytest.mark.parametrize("name", READOUTS)
def test_a_readout_is_its_definition_over_a_clips_own_tokens(name: str, padding: float) -> None:
    features, mask = padded_tokens(padding)
    found = read_out(name, features, mask, ROWS)
    assert (found.dtype, found.shape[1]) == (torch.float32, readout_width(name, ROWS, WIDTH))
    for row, count in enumerate(NUM_COLUMNS):
        expected = plain(name, features[row, : count * ROWS].double().numpy())
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=2e-6)
    assert not found.isnan().any()


@pytest.mark.parametrize("name", READOUTS)
def test_without_a_mask_nothing_is_padding(name: str) -> None:
    features, _ = padded_tokens(PADDING_VALUE)
    expected = plain(name, features[0].double().numpy())
    np.testing.assert_allclose(read_out(name, features[:1], None, ROWS)[0], expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", possible_readouts(1))
def test_tokens_of_the_whole_height_are_their_own_columns(name: str) -> None:
    features, mask = padded_tokens(np.nan)
    found = read_out(name, features, mask, rows=1)
    for row, count in enumerate(NUM_COLUMNS):
        expected = plain(name, features[row, : count * ROWS].double().numpy(), rows=1)
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=2e-6)


def test_columns_are_the_tokens_of_a_time_beside_each_other() -> None:
    features = torch.randn(2, 3 * ROWS, WIDTH)
    found = columns(features, ROWS)
    assert found.shape == (2, 3, ROWS * WIDTH)
    for column in range(3):
        for row in range(ROWS):
            band = found[:, column, row * WIDTH : (row + 1) * WIDTH]
            assert band.equal(features[:, column * ROWS + row])
    assert columns(features, 1).equal(features)


def test_the_mean_leaves_padding_out() -> None:
    features = torch.randn(2, 5, 3)
    padding_mask = torch.tensor([[False] * 5, [False, False, True, True, True]])
    features[padding_mask] = PADDING_VALUE
    expected = torch.stack([features[0].mean(0), features[1, :2].mean(0)])
    torch.testing.assert_close(mean(features, padding_mask), expected)
    torch.testing.assert_close(mean(features[:1]), expected[:1])


def test_half_precision_is_summed_in_float32() -> None:
    features = torch.full((1, 1000, 1), 1.0078125, dtype=torch.bfloat16)
    for mask in (None, torch.zeros(1, 1000, dtype=torch.bool)):
        found = mean(features, mask)
        assert found.dtype is torch.float32
        assert found.item() == 1.0078125


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", READOUTS)
def test_features_of_half_precision_are_read_out_as_in_float32(name: str, dtype: torch.dtype) -> None:
    features, mask = padded_tokens(np.nan)
    half = 100 * features.to(dtype)  # squares of which float16 does not hold
    found = read_out(name, half, mask, ROWS)
    torch.testing.assert_close(found, read_out(name, half.float(), mask, ROWS))
    assert found.dtype is torch.float32


# --- chunks


@given(
    name=st.sampled_from(list(READOUTS)),
    num_columns=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    offset=st.sampled_from([0.0, 30.0]),
)
def test_merged_chunks_are_what_is_read_out_of_the_whole(name: str, num_columns: list[int], offset: float) -> None:
    num_tokens = ROWS * np.array(num_columns)
    draws = np.random.default_rng(sum(num_columns))
    whole = draws.normal(offset, 2.0, (2, num_tokens.sum(), WIDTH)).astype(np.float32)  # of two layers
    parts = [
        read_out(name, part, None, ROWS).numpy() for part in torch.from_numpy(whole).split(num_tokens.tolist(), dim=1)
    ]
    merged = merge_readouts(name, np.stack(parts), num_tokens)
    assert merged.dtype == np.float32
    expected = [plain(name, layer.astype(np.float64)) for layer in whole]
    np.testing.assert_allclose(merged, expected, rtol=1e-5, atol=1e-5)


# --- gradients


@pytest.mark.parametrize("padding", [PADDING_VALUE, np.nan])
@pytest.mark.parametrize("name", READOUTS)
def test_gradients_are_finite_and_padding_has_none(name: str, padding: float) -> None:
    features, mask = padded_tokens(padding)
    features.requires_grad_()
    read_out(name, features, mask, ROWS).square().sum().backward()
    assert features.grad is not None and features.grad.isfinite().all()
    assert (features.grad[mask] == 0).all()
    assert (features.grad[~mask] != 0).all()


@pytest.mark.parametrize("masked", [False, True])
def test_the_deviation_of_constant_tokens_is_0_and_has_no_gradient(masked: bool) -> None:
    features = torch.full((2, 2 * ROWS, WIDTH), 7.0, requires_grad=True)
    mask = torch.zeros(2, 2 * ROWS, dtype=torch.bool) if masked else None
    average, deviation = read_out("mean+std", features, mask, ROWS).chunk(2, dim=-1)
    torch.testing.assert_close(deviation, torch.zeros(2, WIDTH), atol=2e-6, rtol=0)
    (average.sum() + deviation.sum()).backward()
    torch.testing.assert_close(features.grad, torch.full_like(features, 1 / (2 * ROWS)))


# --- names


def test_readouts_by_band_are_of_tokens_of_several_bands() -> None:
    assert possible_readouts(ROWS) == list(READOUTS) == [*OF_TOKENS, *OF_COLUMNS]
    assert possible_readouts(1) == list(OF_TOKENS)
    for rows in (1, ROWS):
        for name in possible_readouts(rows):
            check_readout("readout", name, rows)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("max", ROWS, "a.b: 'max' is unknown; expected one of mean, mean+max, mean+std, bands, bands+max"),
        ("max", 1, "a.b: 'max' is unknown; expected one of mean, mean+max, mean+std"),
        ("", 1, "a.b: '' is unknown; expected one of mean, mean+max, mean+std"),
        *(
            (name, 1, f"a.b: '{name}' needs tokens of several bands, and the model's span all; expected one of mean, ")
            for name in OF_COLUMNS
        ),
    ],
)
def test_a_readout_that_is_not_there_is_named(name: str, rows: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_readout("a.b", name, rows)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("3", 3),
        ("2,4", (2, 4)),
        ("4,2", (4, 2)),
        ("12,1,7", (12, 1, 7)),
        *((text, text) for text in ("last", "all", "foo", "", ",", "2,", "2,,4", "2, 4", "-1", "1.5", "²", "٣")),
    ],
)
def test_layers_are_read_as_written(text: str, layers: Layers) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize(
    ("layers", "numbers"), [("last", [3]), ("all", [1, 2, 3]), (2, [2]), ((1, 3), [1, 3]), ([3, 1], [3, 1])]
)
def test_layers_are_numbers_from_1(layers: Layers, numbers: list[int]) -> None:
    assert layer_numbers("layers", layers, 3) == numbers


@pytest.mark.parametrize(
    ("text", "shown"),
    [*((text, text) for text in ("0", "4", "2,9", "0,1", "2,", "foo", "LAST", "-1")), ("09", "9"), ("", "")],
)
def test_layers_that_are_not_there_are_named(text: str, shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        layer_numbers("a.b", parse_layers(text), 3)
    assert str(caught.value) == (
        f"a.b: {shown} was given; the model has layers 1 to 3: "
        "expected one of these, different ones as in 2,4, last or all"
    )


def test_no_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"layers: .* the model has layers 1 to 3"):
        layer_numbers("layers", [], 3)
