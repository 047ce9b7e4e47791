"""The figures of collapse against their definitions, and where they say that something is wrong."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ast_fairseq.evaluation.collapse import (
    MIN_GAIN,
    MIN_RANK_FRACTION,
    MIN_SPREAD,
    TokenMoments,
    diagnose,
    effective_rank,
    token_moments,
    token_spread,
)

WIDTH = 12


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1, shape).astype(np.float32))


def add(one: TokenMoments, other: TokenMoments) -> TokenMoments:
    return TokenMoments(*(left + right for left, right in zip(one, other, strict=True)))


def by_definition(clips: list[torch.Tensor]) -> tuple[float, float]:
    """Spread and rank of clips [L, C], as the definitions say: from the deviations themselves, by their SVD."""
    tokens = torch.cat(clips).double()
    deviations = torch.cat([clip.double() - clip.double().mean(dim=0) for clip in clips])
    spread = deviations.square().mean().sqrt() / tokens.square().mean().sqrt()
    fractions = torch.linalg.svdvals(deviations)
    fractions = fractions / fractions.sum()
    return float(spread), float(torch.exp(-(fractions * fractions.clamp(min=1e-300).log()).sum()))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(0, 10))
def test_padded_clips_give_what_the_definitions_say(lengths: list[int], seed: int) -> None:
    clips = [draw(length, WIDTH, seed=seed + length) for length in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=torch.nan)
    padding_mask = torch.arange(padded.shape[1]) >= torch.tensor(lengths)[:, None]
    moments = token_moments(padded, padding_mask)
    spread, rank = by_definition(clips)
    assert int(moments.num_tokens) == sum(lengths)
    assert token_spread(moments) == pytest.approx(spread, abs=1e-5)
    if max(lengths) > 1:
        assert effective_rank(moments) == pytest.approx(rank, rel=1e-2)


def test_batches_add_up_to_the_whole() -> None:
    tokens = draw(6, 15, WIDTH)
    whole, parts = token_moments(tokens), add(token_moments(tokens[:2]), token_moments(tokens[2:]))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_tokens_alike_have_no_spread_and_tokens_along_one_line_rank_one() -> None:
    alike = draw(4, 1, WIDTH).expand(4, 9, WIDTH)
    assert token_spread(token_moments(alike)) == pytest.approx(0, abs=1e-6)
    line = draw(4, 9, 1) * draw(WIDTH)
    assert effective_rank(token_moments(line)) == pytest.approx(1, abs=1e-2)


def test_directions_of_equal_strength_all_count() -> None:
    tokens = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])[None]
    assert effective_rank(token_moments(tokens)) == pytest.approx(WIDTH, rel=1e-5)
    assert token_spread(token_moments(tokens)) == pytest.approx(1)


def test_half_precision_is_measured_in_float32() -> None:
    tokens = draw(2, 30, WIDTH).bfloat16()
    for half, full in zip(token_moments(tokens), token_moments(tokens.float()), strict=True):
        assert torch.equal(half, full)


@pytest.mark.parametrize(
    ("figures", "named"),
    [
        ((MIN_SPREAD - 0.01, 50.0, 0.5), "token_spread"),
        ((0.7, MIN_RANK_FRACTION * 192 - 0.1, 0.5), "effective_rank"),
        ((0.7, 50.0, MIN_GAIN - 0.01), "content_gain"),
    ],
)
def test_the_figure_at_fault_is_named_with_the_mend(figures: tuple[float, float, float], named: str) -> None:
    message = diagnose(*figures, max_rank=192)
    assert message is not None
    assert [name for name in ("token_spread", "effective_rank", "content_gain") if name in message] == [named]
    assert "optimization.lr" in message
    assert "head_init_scale=0.01" in message


@pytest.mark.parametrize("gain", [MIN_GAIN, None])
def test_healthy_figures_say_nothing(gain: float | None) -> None:
    assert diagnose(MIN_SPREAD, MIN_RANK_FRACTION * 192, gain, 192) is None


def test_few_tokens_have_few_directions() -> None:
    assert diagnose(0.7, 5.0, None, max_rank=20) is None
    assert diagnose(0.7, 5.0, None, max_rank=192) is not None


@pytest.mark.parametrize("figures", [(float("nan"), 50.0, 0.5), (0.7, float("nan"), 0.5), (0.7, 50.0, float("inf"))])
def test_figures_that_are_not_finite_are_a_fault_of_their_own(figures: tuple[float, float, float]) -> None:
    message = diagnose(*figures, max_rank=192)
    assert message is not None
    assert "not finite" in message


def test_tokens_that_are_not_finite_have_no_rank() -> None:
    tokens = draw(2, 5, WIDTH)
    tokens[0, 0, 0] = torch.inf
    assert np.isnan(effective_rank(token_moments(tokens)))
