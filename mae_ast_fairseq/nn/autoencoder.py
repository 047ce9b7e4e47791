"""The masked autoencoder of MAE-AST (paper section 2): a deep encoder of what is visible, a shallow decoder of all."""

from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from mae_ast_fairseq.nn.losses import reconstruction_error
from mae_ast_fairseq.nn.masked import MaskedPredictor, Predictions
from mae_ast_fairseq.nn.positions import Positions
from mae_ast_fairseq.nn.transformer import TransformerStack, scatter_tokens
from mae_ast_fairseq.rng import Stream


class SwappedErrors(NamedTuple):
    """Squared errors of the reconstruction, summed over the masked tokens of a batch."""

    own: Tensor
    """[] from what the encoder gave of the clip itself"""
    swapped: Tensor
    """[] from what it gave of another clip"""


class MaskedAutoencoder(MaskedPredictor):
    """MAE-AST: encodes the visible tokens of a log-Mel spectrogram and predicts the masked ones.

    Args:
        decoder: the stack of the decoder.
        decoder_width: C of the decoder.
        project_encoded: a linear layer between encoder and decoder, needed where their widths differ.
        decoder_layer_drop: probability of leaving out a decoder layer in an update.
        decoder_positions: adds positions to the decoder's input; None: nothing is added.
        head_init_scale: the heads' initial weights, as a multiple of torch's.
        encoder_arguments: the keywords of SpectrogramEncoder; its grid is without overlap.
    """

    def __init__(
        self,
        *,
        decoder: TransformerStack,
        decoder_width: int,
        project_encoded: bool = False,
        decoder_layer_drop: float = 0.0,
        decoder_positions: Optional[Positions] = None,
        head_init_scale: float = 1.0,
        **encoder_arguments: Any,
    ):
        super().__init__(**encoder_arguments)
        self.post_enc_proj = nn.Linear(self.width, decoder_width) if project_encoded else None
        self.decoder_mask_emb: Optional[nn.Parameter] = nn.Parameter(torch.rand(decoder_width))
        self.decoder_positions = decoder_positions
        self.decoder: Optional[TransformerStack] = decoder
        self.decoder_layer_drop = decoder_layer_drop
        self.final_proj_reconstruction = nn.Linear(decoder_width, self.grid.patch_size)
        self.final_proj_classification = nn.Linear(decoder_width, self.grid.patch_size)
        self.scale_heads(head_init_scale)

    def forward_decoder(
        self,
        encoded: Tensor,
        num_tokens: int,
        visible: Tensor,
        visible_padding_mask: Optional[Tensor],
        masked: Tensor,
        token_padding_mask: Optional[Tensor],
    ) -> Tensor:
        """Fill in the mask embedding, add positions and decode: [B, V, C] -> [B, M, C] at the masked tokens."""
        assert self.decoder is not None and self.decoder_mask_emb is not None, "the decoder was removed"
        if self.post_enc_proj is not None:
            encoded = self.post_enc_proj(encoded)
        tokens = scatter_tokens(self.decoder_mask_emb, encoded, num_tokens, visible, visible_padding_mask)
        if self.decoder_positions is not None:
            tokens = self.decoder_positions(tokens, num_tokens, padding_mask=token_padding_mask)
        return self.decoder(
            tokens,
            token_padding_mask,
            at=masked,
            kept_layers=self._kept_layers(self.decoder, self.decoder_layer_drop, Stream.DECODER_LAYER_DROP),
        )

    def swapped_errors(
        self,
        predictions: Predictions,
        num_tokens: int,
        visible: Tensor,
        masked: Tensor,
        token_padding_mask: Optional[Tensor],
    ) -> SwappedErrors:
        """Reconstruct each clip from what the encoder gave of itself, and of the clip before it in the batch.

        Each clip keeps its own indices. Both times the decoder gets the smaller of the two clips' numbers of visible
        tokens, so that nothing but their content differs. A decoder that paints an average by position does not mind.

        Args:
            predictions: of the batch, by `forward`.
            num_tokens: L.
            visible: [B, V] token indices.
            masked: [B, M] token indices.
            token_padding_mask: [B, L] bool, True = padding; None where nothing is padded.
        """
        assert self.final_proj_reconstruction is not None
        encoded, padding_mask = predictions.encoded
        reconstructions = []
        if padding_mask is None:
            reconstructions.append(predictions.reconstruction)
        else:
            padding_mask = padding_mask | padding_mask.roll(1, dims=0)
        for states in (encoded, encoded.roll(1, dims=0))[len(reconstructions) :]:
            decoded = self.forward_decoder(states, num_tokens, visible, padding_mask, masked, token_padding_mask)
            reconstructions.append(self.final_proj_reconstruction(decoded))
        return SwappedErrors(
            *(
                reconstruction_error(reconstruction, predictions.target, predictions.padding_mask).sum()
                for reconstruction in reconstructions
            )
        )

    def remove_pretraining_modules(self) -> None:
        """Drop the decoder and the heads, which only pretraining needs."""
        super().remove_pretraining_modules()
        self.decoder = None
        self.decoder_mask_emb = None
        self.post_enc_proj = None
        self.decoder_positions = None
