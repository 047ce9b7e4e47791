"""Losses are what the paper's formulas say, in float32, and padding has no part in them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mae_ast_fairseq.nn.losses import info_nce, reconstruction_error

B, M, P = 4, 11, 24
LENGTHS = (11, 4, 1, 0)  # masked tokens of each utterance


@pytest.fixture
def prediction() -> Tensor:
    return torch.randn(B, M, P, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def target() -> Tensor:
    return 0.5 * torch.randn(B, M, P, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def padding_mask() -> Tensor:
    return torch.arange(M) >= torch.tensor(LENGTHS)[:, None]  # [B, M]


def naive_info_nce(prediction: Tensor, target: Tensor) -> Tensor:
    """Return [M] losses of one utterance [M, P] in double precision, by the formula."""
    losses = []
    for c in prediction.double():
        losses.append([torch.exp(c @ x) for x in target.double()])
    return torch.stack([-torch.log(row[i] / sum(row)) for i, row in enumerate(losses)])


def test_reconstruction_error_is_the_mean_squared_error_of_each_patch(prediction, target) -> None:
    error = reconstruction_error(prediction, target)
    expected = np.zeros((B, M))
    for b in range(B):
        for m in range(M):
            differences = prediction[b, m].double().numpy() - target[b, m].double().numpy()
            expected[b, m] = sum(difference**2 for difference in differences) / P
    np.testing.assert_allclose(error, expected, rtol=1e-6)


def test_info_nce_is_the_formula(prediction, target) -> None:
    nce = info_nce(prediction, target)
    for b in range(B):
        scores = np.array([[float(c.double() @ x.double()) for x in target[b]] for c in prediction[b]])
        expected = [-np.log(np.exp(scores[i, i]) / np.exp(scores[i]).sum()) for i in range(M)]
        np.testing.assert_allclose(nce.loss[b], expected, atol=1e-5)
        np.testing.assert_array_equal(nce.correct[b], [scores[i].argmax() == i for i in range(M)])


def test_info_nce_has_the_gradient_of_the_formula(prediction, target) -> None:
    weights = torch.linspace(0.5, 2.0, M)  # each token's gradient must be its own
    prediction.requires_grad_()
    (info_nce(prediction, target).loss * weights).sum().backward()
    naive = prediction.detach().double().requires_grad_()
    sum((naive_info_nce(naive[b], target[b]) * weights).sum() for b in range(B)).backward()
    torch.testing.assert_close(prediction.grad, naive.grad.float(), atol=1e-5, rtol=1e-5)


def test_padding_leaves_the_losses_of_others_alone_and_is_zero(prediction, target, padding_mask) -> None:
    nce = info_nce(prediction, target, padding_mask)
    error = reconstruction_error(prediction, target, padding_mask)
    assert not nce.loss[padding_mask].any()
    assert not nce.correct[padding_mask].any()
    assert not error[padding_mask].any()
    for b, length in enumerate(LENGTHS[:3]):
        own = info_nce(prediction[b : b + 1, :length], target[b : b + 1, :length])
        torch.testing.assert_close(nce.loss[b, :length], own.loss[0], atol=1e-6, rtol=1e-6)
        assert nce.correct[b, :length].equal(own.correct[0])
        own_error = reconstruction_error(prediction[b, :length], target[b, :length])
        assert error[b, :length].equal(own_error)


@pytest.mark.parametrize("loss", ["reconstruction", "info_nce"])
def test_padding_has_no_gradient(loss: str, prediction, target, padding_mask) -> None:
    prediction.requires_grad_()
    if loss == "info_nce":
        info_nce(prediction, target, padding_mask).loss.sum().backward()
        # Alone in its utterance, a token has no negatives and nothing to learn.
        no_gradient = padding_mask | (padding_mask.sum(1, keepdim=True) == M - 1)
    else:
        reconstruction_error(prediction, target, padding_mask).sum().backward()
        no_gradient = padding_mask
    assert (prediction.grad == 0).all(dim=-1).equal(no_gradient)  # a NaN is not 0


@pytest.mark.parametrize("loss", [reconstruction_error, lambda *args: info_nce(*args).loss])
def test_half_precision_predictions_give_float32_losses(loss, prediction, target) -> None:
    half = prediction.bfloat16()
    assert loss(half, target).dtype is torch.float32
    assert loss(half, target).equal(loss(half.float(), target))


@pytest.mark.parametrize("loss", [reconstruction_error, lambda *args: info_nce(*args).loss])
def test_losses_are_float32_under_autocast(loss, prediction, target) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = loss(prediction, target)
    assert under_autocast.equal(loss(prediction, target))


def test_accuracy_of_random_predictions_is_chance() -> None:
    utterances, tokens = 400, 25
    draws = torch.Generator().manual_seed(0)
    prediction = torch.randn(utterances, tokens, P, generator=draws)
    target = torch.randn(utterances, tokens, P, generator=draws)
    # One hit in an utterance on average, with about the deviation of a Poisson count.
    assert abs(int(info_nce(prediction, target).correct.sum()) - utterances) < 4 * utterances**0.5


def test_loss_of_uninformed_predictions_is_log_of_the_number_of_tokens(target) -> None:
    nce = info_nce(torch.zeros(B, M, P), target)
    torch.testing.assert_close(nce.loss, torch.full((B, M), float(np.log(M))))


def test_predictions_of_the_target_are_all_correct(target) -> None:
    assert info_nce(100 * target / target.norm(dim=-1, keepdim=True), target).correct.all()


@pytest.mark.parametrize(("utterances", "num_tokens"), [(400, M), (200, 64), (25, 501)])
def test_silence_is_retrieved_by_chance_only(utterances: int, num_tokens: int) -> None:
    draws = torch.Generator().manual_seed(0)
    prediction = torch.randn(utterances, num_tokens, 256, generator=draws).requires_grad_()
    nce = info_nce(prediction, torch.full((utterances, num_tokens, 256), -1.7133))
    nce.loss.sum().backward()
    # Equal scores are a tie up to the rounding of the matrix product, so this is a statistic too.
    assert abs(int(nce.correct.sum()) - utterances) < 4 * utterances**0.5
    expected = torch.full_like(nce.loss, float(np.log(num_tokens)))
    torch.testing.assert_close(nce.loss, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(prediction.grad, torch.zeros_like(prediction), atol=1e-4, rtol=0)


def test_large_scores_stay_finite(target) -> None:
    prediction = (1e4 * target).requires_grad_()
    nce = info_nce(prediction, target)
    nce.loss.sum().backward()
    assert torch.isfinite(nce.loss).all()
    assert torch.isfinite(prediction.grad).all()
