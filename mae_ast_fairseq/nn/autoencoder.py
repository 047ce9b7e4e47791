"""The masked autoencoder of MAE-AST (paper section 2): a deep encoder of what is visible, a shallow decoder of all."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mae_ast_fairseq.nn.encoder import EncoderParts
from mae_ast_fairseq.nn.losses import reconstruction_error
from mae_ast_fairseq.nn.masked import MaskedPredictor, Predictions, TokenPlaces
from mae_ast_fairseq.nn.positions import Positions
from mae_ast_fairseq.nn.transformer import scatter_tokens


class SwappedErrors(NamedTuple):
    """Squared errors of the reconstruction, summed over the masked tokens of a batch."""

    own: Tensor
    """[] from what the encoder gave of the clip itself"""
    swapped: Tensor
    """[] from what it gave of another clip"""


class MaskedAutoencoder(MaskedPredictor):
    """MAE-AST: encodes the visible tokens of a log-Mel spectrogram and predicts the masked ones.

    Args:
        parts: the encoder's; its grid is without overlap.
        decoder: called with tokens [B, L, C], their padding mask [B, L] or None and `at=` indices [B, M], it returns
            what the heads read there, [B, M, C].
        decoder_width: C of the decoder.
        decoder_positions: added to the decoder's input.
        project_encoded: a linear layer between encoder and decoder, needed where their widths differ.
        head_init_scale: the heads' initial weights, as a multiple of torch's.
    """

    pretraining_modules = (
        *MaskedPredictor.pretraining_modules,
        *("decoder", "decoder_mask_emb", "decoder_positions", "post_enc_proj"),
    )

    def __init__(
        self,
        parts: EncoderParts,
        *,
        decoder: nn.Module,
        decoder_width: int,
        decoder_positions: Positions,
        project_encoded: bool = False,
        head_init_scale: float = 1.0,
    ):
        super().__init__(parts)
        self.post_enc_proj = nn.Linear(self.width, decoder_width) if project_encoded else None
        self.decoder_mask_emb = nn.Parameter(torch.rand(decoder_width))
        self.decoder_positions = decoder_positions
        self.decoder = decoder
        self.final_proj_reconstruction = nn.Linear(decoder_width, self.grid.patch_size)
        self.final_proj_classification = nn.Linear(decoder_width, self.grid.patch_size)
        self.scale_heads(head_init_scale)

    def forward_decoder(self, encoded: Tensor, places: TokenPlaces) -> Tensor:
        """Fill in the mask embedding, add positions and decode: [B, V, C] -> [B, M, C] at the masked tokens."""
        if self.post_enc_proj is not None:
            encoded = self.post_enc_proj(encoded)
        num_tokens, token_padding_mask = places.num_tokens, places.token_padding_mask
        tokens = scatter_tokens(self.decoder_mask_emb, encoded, num_tokens, places.visible, places.visible_padding_mask)
        tokens = self.decoder_positions(tokens, num_tokens, token_padding_mask)
        return self.decoder(tokens, token_padding_mask, at=places.masked)

    def swapped_errors(self, predictions: Predictions) -> SwappedErrors:
        """Reconstruct each clip from what the encoder gave of itself, and of the clip before it in the batch.

        Each clip keeps its own indices. Both times the decoder gets the smaller of the two clips' numbers of visible
        tokens, so that nothing but their content differs. A decoder that paints an average by position does not mind.
        """
        encoded, padding_mask = predictions.encoded
        own, places = predictions.reconstruction, predictions.places
        if padding_mask is not None:
            places = places._replace(visible_padding_mask=padding_mask | padding_mask.roll(1, dims=0))
            own = self.final_proj_reconstruction(self.forward_decoder(encoded, places))
        swapped = self.final_proj_reconstruction(self.forward_decoder(encoded.roll(1, dims=0), places))
        target, masked_padding_mask = predictions.target, predictions.padding_mask
        return SwappedErrors(
            reconstruction_error(own, target, masked_padding_mask).sum(),
            reconstruction_error(swapped, target, masked_padding_mask).sum(),
        )
