"""SSAST (Gong et al. 2022), MAE-AST's predecessor, on the same parts: mask tokens run through the whole encoder.

A controlled comparison rather than a copy: tokens, masks, layers and losses are MAE-AST's, there are no CLS tokens,
and one pass gives both predictions.
"""

from typing import Optional

import torch
from torch import Tensor, nn

from mae_ast_fairseq.nn.encoder import EncoderParts, Features
from mae_ast_fairseq.nn.masked import MaskedPredictor, TokenPlaces
from mae_ast_fairseq.nn.transformer import INITIAL_STD, gather_tokens, scatter_tokens


class Ssast(MaskedPredictor):
    """SSAST: encodes the full sequence, one learned embedding in the masked tokens' place, and predicts those.

    Args:
        parts: the encoder's; its grid is without overlap.
        head_init_scale: the heads' initial weights, as a multiple of torch's.
    """

    pretraining_modules = (*MaskedPredictor.pretraining_modules, "mask_emb")

    def __init__(self, parts: EncoderParts, *, head_init_scale: float = 1.0):
        super().__init__(parts)
        self.mask_emb = nn.Parameter(torch.empty(self.width).normal_(std=INITIAL_STD))
        self.final_proj_reconstruction = _head(self.width, self.grid.patch_size)
        self.final_proj_classification = _head(self.width, self.grid.patch_size)
        self.scale_heads(head_init_scale)

    def forward_decoder(self, encoded: Tensor, places: TokenPlaces) -> Tensor:
        """Pick the masked ones of all encoded tokens: there is no decoder."""
        return gather_tokens(encoded, places.masked)

    def embed_visible(
        self,
        patches: Tensor,
        visible: Tensor,
        visible_padding_mask: Optional[Tensor],
        token_padding_mask: Optional[Tensor],
    ) -> Features:
        """Embed all L tokens, the mask embedding in place of those that are not visible: [B, L, C]."""
        num_tokens = patches.shape[1]
        projected = self.project(gather_tokens(patches, visible))
        tokens = scatter_tokens(self.mask_emb, projected, num_tokens, visible, visible_padding_mask)
        tokens = self.positions(self.dropout_input(tokens), num_tokens, token_padding_mask)
        return Features(tokens, token_padding_mask)


def _head(width: int, patch_size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, patch_size))
