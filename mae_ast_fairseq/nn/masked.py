"""What models that are pretrained have in common: some tokens are hidden, and two heads predict them."""

from abc import abstractmethod
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.encoder import EncoderParts, Features, SpectrogramEncoder
from mae_ast_fairseq.nn.transformer import gather_tokens


class TokenPlaces(NamedTuple):
    """Where the tokens of a batch stand in the full sequences of L tokens."""

    num_tokens: int
    """L"""
    visible: Tensor
    """[B, V] indices, ascending"""
    visible_padding_mask: Optional[Tensor]
    """[B, V] bool, True = padding; None where nothing is padded"""
    masked: Tensor
    """[B, M] indices, ascending"""
    token_padding_mask: Optional[Tensor]
    """[B, L] bool, True = padding; None where nothing is padded"""


class Predictions(NamedTuple):
    """What pretraining compares, at the masked tokens in ascending order."""

    reconstruction: Tensor
    """[B, M, P] output of the reconstruction head"""
    classification: Tensor
    """[B, M, P] output of the classification head"""
    target: Tensor
    """[B, M, P] float32 normalised patch values"""
    padding_mask: Optional[Tensor]
    """[B, M] bool, True = padding; None where nothing is padded"""
    encoded: Features
    """what the encoder gave: of the visible tokens, [B, V, C], in MAE-AST, of all in SSAST"""
    places: TokenPlaces
    """where visible and masked tokens stand"""

    def of_first(self, num_clips: int) -> "Predictions":
        """Return those of the first clips of the batch."""

        def cut(part: Any) -> Any:
            return part[:num_clips] if torch.is_tensor(part) else part

        return Predictions(
            *map(cut, self[:4]), encoded=Features(*map(cut, self.encoded)), places=TokenPlaces(*map(cut, self.places))
        )


class MaskedPredictor(SpectrogramEncoder):
    """Encodes what a mask leaves of a spectrogram, and predicts the masked tokens by two heads.

    A subclass makes the heads, [..., C] -> [..., P] each. The grid is without overlap.
    """

    final_proj_reconstruction: nn.Module
    """predicts the patch itself"""
    final_proj_classification: nn.Module
    """predicts what InfoNCE compares with the patches"""
    pretraining_modules: tuple[str, ...] = ("final_proj_reconstruction", "final_proj_classification")

    def __init__(self, parts: EncoderParts):
        super().__init__(parts)
        self.grid.require_no_overlap()

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        visible: Optional[Tensor] = None,
        masked: Optional[Tensor] = None,
        visible_padding_mask: Optional[Tensor] = None,
        masked_padding_mask: Optional[Tensor] = None,
    ) -> Predictions:
        """Predict the masked tokens from the visible ones.

        Args:
            source: [B, T, F] float32 log-Mel frames, not normalised.
            padding_mask: [B, T] bool, True = padding; None where nothing is padded.
            visible: [B, V] token indices, ascending.
            masked: [B, M] token indices, ascending.
            visible_padding_mask: [B, V] bool, True = padding; None where nothing is padded.
            masked_padding_mask: [B, M] bool, the same for `masked`.

        Raises:
            ConfigError: no visible or masked tokens, or a source or a padding mask of another shape or type.
            AudioError: no clip is as long as a token.
        """
        if visible is None or masked is None:
            missing = "visible" if visible is None else "masked"
            raise ConfigError(
                f"{missing}: nothing was given; expected token indices, as a batch of the pretraining task has them; "
                "features without masks are what extract_features gives"
            )
        patches, tokens_mask = self.read(source, padding_mask)
        places = TokenPlaces(patches.shape[1], visible, visible_padding_mask, masked, tokens_mask)
        embedded = self.embed_visible(patches, visible, visible_padding_mask, tokens_mask)
        encoded = self.encoder(*embedded)
        decoded = self.forward_decoder(encoded, places)
        return Predictions(
            reconstruction=self.final_proj_reconstruction(decoded),
            classification=self.final_proj_classification(decoded),
            target=gather_tokens(patches, masked),
            padding_mask=masked_padding_mask,
            encoded=Features(encoded, embedded.token_padding_mask),
            places=places,
        )

    def scale_heads(self, scale: float) -> None:
        """Multiply the initial weights and bias of each head's last layer.

        As torch draws them, predictions start further from the patches than zero is, and making all tokens alike is
        the fastest way to silence them. Near zero, the first gradient is that of what the heads are to say.
        """
        with torch.no_grad():
            for head in (self.final_proj_reconstruction, self.final_proj_classification):
                last = head[-1] if isinstance(head, nn.Sequential) else head
                assert isinstance(last, nn.Linear)
                last.weight.mul_(scale)
                last.bias.mul_(scale)

    @abstractmethod
    def forward_decoder(self, encoded: Tensor, places: TokenPlaces) -> Tensor:
        """Turn what the encoder gives into what the heads read: [B, M, C] at the masked tokens."""
