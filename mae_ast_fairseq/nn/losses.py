"""The two losses of MAE-AST (paper section 2.3): reconstruction error and InfoNCE, as pure functions in float32."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from mae_ast_fairseq.nn.autocast import without_autocast


class InfoNce(NamedTuple):
    """InfoNCE of each masked token and whether it was retrieved."""

    loss: Tensor
    """[B, M] float32, in nats, 0 at padding"""
    correct: Tensor
    """[B, M] bool, False at padding"""


def reconstruction_error(prediction: Tensor, target: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
    """Return the mean over a patch's values of the squared error.

    Args:
        prediction: [B, M, P], any float type.
        target: [B, M, P] normalised patch values.
        padding_mask: [B, M] bool, True = padding.

    Returns:
        [B, M] float32, 0 at padding.
    """
    error = (prediction.float() - target.float()).square().mean(dim=-1)
    return error if padding_mask is None else error.masked_fill(padding_mask, 0.0)


def info_nce(prediction: Tensor, target: Tensor, padding_mask: Optional[Tensor] = None) -> InfoNce:
    """Return InfoNCE_i = -log(exp(c_i·x_i) / Σ_j exp(c_i·x_j)), j over the masked tokens of the same utterance.

    Plain inner products: no temperature and no length normalisation.

    Args:
        prediction: [B, M, P] the classification head's outputs c, any float type.
        target: [B, M, P] normalised patch values x.
        padding_mask: [B, M] bool, True = padding; padded tokens are nobody's negatives.

    Returns:
        InfoNce of [B, M] losses in nats and hits; a hit is a token whose own patch scores highest.
    """
    # Under autocast a matrix product would come back in half precision.
    with without_autocast(prediction):
        scores = prediction.float() @ target.float().transpose(1, 2)  # [B, M, P] @ [B, P, M] -> [B, M, M]
    if padding_mask is not None:
        scores = scores.masked_fill(padding_mask[:, None, :], float("-inf"))
    own_patch = torch.arange(scores.shape[-1], device=scores.device)
    loss = scores.logsumexp(dim=-1) - scores.diagonal(dim1=1, dim2=2)
    correct = scores.argmax(dim=-1) == own_patch
    if padding_mask is not None:
        loss, correct = loss.masked_fill(padding_mask, 0.0), correct & ~padding_mask
    return InfoNce(loss, correct)
