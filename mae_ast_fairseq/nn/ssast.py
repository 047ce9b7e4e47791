"""SSAST (Gong et al. 2022), MAE-AST's predecessor, on the same parts: mask tokens run through the whole encoder.

A controlled comparison rather than a copy: tokens, masks, layers and losses are MAE-AST's, there are no CLS tokens,
and one pass gives both predictions.
"""

from typing import Any, Optional

import torch
from torch import Tensor, nn

from mae_ast_fairseq.nn.encoder import Features, Predictions, SpectrogramEncoder
from mae_ast_fairseq.nn.transformer import INITIAL_DEVIATION, gather_tokens, scatter_tokens


class Ssast(SpectrogramEncoder):
    """SSAST: encodes the full sequence, one learned embedding in the masked tokens' place, and predicts those.

    Args: those of SpectrogramEncoder; its grid is without overlap.
    """

    def __init__(self, **encoder_arguments: Any):
        super().__init__(**encoder_arguments)
        self.grid.require_no_overlap()
        self.mask_emb: Optional[nn.Parameter] = nn.Parameter(torch.empty(self.width).normal_(std=INITIAL_DEVIATION))
        self.final_proj_reconstruction: Optional[nn.Module] = _head(self.width, self.grid.patch_size)
        self.final_proj_classification: Optional[nn.Module] = _head(self.width, self.grid.patch_size)

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        visible: Optional[Tensor] = None,
        masked: Optional[Tensor] = None,
        visible_padding_mask: Optional[Tensor] = None,
        masked_padding_mask: Optional[Tensor] = None,
    ) -> Predictions:
        """Predict the masked tokens; arguments as MaskedAutoencoder.forward has them."""
        assert visible is not None and masked is not None, "pretraining needs the visible and masked tokens"
        patches = self.patches(source, padding_mask)
        tokens_mask = self.token_padding_mask(padding_mask)
        encoded = self.encode(*self.embed_visible(patches, visible, visible_padding_mask, tokens_mask))
        predicted = gather_tokens(encoded, masked)  # [B, M, C]
        assert self.final_proj_reconstruction is not None and self.final_proj_classification is not None
        return Predictions(
            reconstruction=self.final_proj_reconstruction(predicted),
            classification=self.final_proj_classification(predicted),
            target=gather_tokens(patches, masked),
            padding_mask=masked_padding_mask,
        )

    def embed_visible(
        self,
        patches: Tensor,
        visible: Tensor,
        visible_padding_mask: Optional[Tensor],
        token_padding_mask: Optional[Tensor],
    ) -> Features:
        """Embed all L tokens, the mask embedding in place of those that are not visible: [B, L, C]."""
        assert self.mask_emb is not None, "the mask embedding was removed"
        num_tokens = patches.shape[1]
        projected = self.project(gather_tokens(patches, visible))
        tokens = scatter_tokens(self.mask_emb, projected, num_tokens, visible, visible_padding_mask)
        tokens = self.dropout_input(tokens)
        if self.positions is not None:
            tokens = self.positions(tokens, num_tokens, padding_mask=token_padding_mask)
        return Features(tokens, token_padding_mask)

    def remove_pretraining_modules(self) -> None:
        """Drop the mask embedding and the heads, which only pretraining needs."""
        self.mask_emb = None
        self.final_proj_reconstruction = None
        self.final_proj_classification = None


def _head(width: int, patch_size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, patch_size))
