"""Whether an encoder still tells tokens apart: the figures that see a collapse which falling losses hide.

Pure functions in float32 and float64. Two failures are known. Tokens of a clip become alike, and the decoder paints an
average by position: `token_spread` and `content_gain` see it. Or tokens come to differ in a few directions only:
`effective_rank` sees it.
"""

import math
from typing import NamedTuple, Optional

import torch
from torch import Tensor

MIN_SPREAD = 0.2
MIN_RANK_FRACTION = 0.08
MIN_GAIN = 0.05
"""Bounds below which a run is called collapsed. In docs/features, six collapsed runs end at ranks of 1 to 10 of 192,
twelve healthy ones at 55 or more; the spread sees only tokens that are all alike, and the gain four of the six."""


class TokenMoments(NamedTuple):
    """Sums over the tokens of some clips; those of several batches or processes add up."""

    scatter: Tensor
    """[C, C] float64, Σ over clips and their tokens of (token - clip's mean) (token - clip's mean)ᵀ"""
    energy: Tensor
    """[] float64, Σ of the tokens' squared lengths"""
    num_tokens: Tensor
    """[] float64"""


def token_moments(tokens: Tensor, padding_mask: Optional[Tensor] = None) -> TokenMoments:
    """Return the sums of tokens [B, L, C] of any precision; `padding_mask` [B, L] bool, True = padding."""
    tokens = tokens.float()
    if padding_mask is None:
        num_tokens = tokens.new_full((len(tokens), 1, 1), tokens.shape[1])
    else:
        tokens = tokens.masked_fill(padding_mask[..., None], 0.0)
        num_tokens = (~padding_mask).sum(dim=1)[:, None, None].float()
    deviations = tokens - tokens.sum(dim=1, keepdim=True) / num_tokens.clamp(min=1)
    if padding_mask is not None:
        deviations = deviations.masked_fill(padding_mask[..., None], 0.0)
    flat = deviations.flatten(0, 1)  # [B · L, C]
    return TokenMoments(
        scatter=(flat.T @ flat).double(),
        energy=tokens.square().sum(dtype=torch.float64),
        num_tokens=num_tokens.sum(dtype=torch.float64),
    )


def token_spread(moments: TokenMoments) -> float:
    """Return RMS(tokens - their clip's mean) / RMS(tokens): 0 where all tokens of a clip are alike, at most 1."""
    return float((moments.scatter.trace() / moments.energy.clamp(min=1e-30)).sqrt())


def effective_rank(moments: TokenMoments) -> float:
    """Return exp(entropy of the normalised singular values of the deviations): 1 to C (Roy and Vetterli 2007).

    NaN where a token is not finite, as float16 may give.
    """
    if not moments.scatter.isfinite().all():
        return float("nan")
    singular_values = torch.linalg.eigvalsh(moments.scatter.cpu()).clamp(min=0).sqrt()
    fractions = singular_values / singular_values.sum().clamp(min=1e-30)
    return float(torch.special.entr(fractions).sum().exp())


def diagnose(spread: float, rank: float, gain: Optional[float], max_rank: int) -> Optional[str]:
    """Return what is wrong with an encoder's tokens, and the fix, in one line; None where nothing is.

    Args:
        spread: `token_spread`.
        rank: `effective_rank`.
        gain: relative growth of the error where clips swap what the encoder gave; None: not measured.
        max_rank: the smaller of the encoder's width and the number of tokens.
    """
    if not all(map(math.isfinite, (spread, rank, 0.0 if gain is None else gain))):
        return "the encoder gives values that are not finite; use float32 or bfloat16, and a lower optimization.lr"
    least = MIN_RANK_FRACTION * max_rank
    faults = []
    if spread < MIN_SPREAD:
        faults.append(f"tokens of a clip are nearly alike (token_spread {spread:.3f}, expected {MIN_SPREAD} or more)")
    if rank < least:
        faults.append(
            f"tokens differ in few directions (effective_rank {rank:.2f}, expected {least:.1f} or more of {max_rank})"
        )
    if gain is not None and gain < MIN_GAIN:
        faults.append(f"the decoder hardly reads the encoder (content_gain {gain:.3f}, expected {MIN_GAIN} or more)")
    if not faults:
        return None
    return (
        f"the encoder has collapsed: {'; '.join(faults)}. Its features will be poor, however the loss falls; begin "
        "anew with a lower optimization.lr, a longer lr_scheduler.warmup_updates and model.head_init_scale=0.01"
    )
