"""The masked autoencoder of MAE-AST (paper section 2): a deep encoder of what is visible, a shallow decoder of all."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from mae_ast_fairseq import fbank
from mae_ast_fairseq.draws import Stream, generator
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.normalization import InputNormalization
from mae_ast_fairseq.nn.positions import SinusoidalPositions
from mae_ast_fairseq.nn.transformer import TransformerStack, gather_tokens
from mae_ast_fairseq.tokens import TokenGrid


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


class Features(NamedTuple):
    """Features of tokens, as HuBERT's `extract_features` returns them."""

    features: Tensor
    """[B, L, C]"""
    token_padding_mask: Optional[Tensor]
    """[B, L] bool, True = padding; None where nothing is padded"""


class MaskedAutoencoder(nn.Module):
    """MAE-AST: encodes the visible tokens of a log-Mel spectrogram and predicts the masked ones.

    Args:
        grid: how frames become tokens; without overlap.
        encoder: the stack of the encoder.
        decoder: the stack of the decoder.
        encoder_width: C of the encoder.
        decoder_width: C of the decoder.
        project_encoded: a linear layer between the two, needed where their widths differ.
        normalization: `dataset`, `batch` or `utterance`.
        dropout_input: dropout of the projected tokens when masking.
        encoder_layer_drop: probability of leaving out an encoder layer in an update.
        decoder_layer_drop: the same for the decoder.
        encoder_positions: add positions to the encoder's input.
        decoder_positions: add positions to the decoder's input.
        max_tokens: positions computed in advance.
    """

    def __init__(
        self,
        *,
        grid: TokenGrid,
        encoder: TransformerStack,
        decoder: TransformerStack,
        encoder_width: int,
        decoder_width: int,
        project_encoded: bool = False,
        normalization: str = "batch",
        dropout_input: float = 0.0,
        encoder_layer_drop: float = 0.0,
        decoder_layer_drop: float = 0.0,
        encoder_positions: bool = True,
        decoder_positions: bool = True,
        max_tokens: int = 2048,
    ):
        super().__init__()
        grid.require_no_overlap()
        self.grid = grid
        self.batch_norm = InputNormalization(statistics=normalization)
        self.post_extract_proj = nn.Linear(grid.patch_size, encoder_width)
        self.dropout_input = nn.Dropout(dropout_input)
        self.enc_sine_pos_embed = (
            SinusoidalPositions(width=encoder_width, max_tokens=max_tokens) if encoder_positions else None
        )
        self.encoder = encoder
        self.encoder_layer_drop = encoder_layer_drop

        self.post_enc_proj = nn.Linear(encoder_width, decoder_width) if project_encoded else None
        self.decoder_mask_emb: Optional[nn.Parameter] = nn.Parameter(torch.rand(decoder_width))
        self.dec_sine_pos_embed = (
            SinusoidalPositions(width=decoder_width, max_tokens=max_tokens) if decoder_positions else None
        )
        self.decoder: Optional[TransformerStack] = decoder
        self.decoder_layer_drop = decoder_layer_drop
        self.final_proj_reconstruction: Optional[nn.Linear] = nn.Linear(decoder_width, grid.patch_size)
        self.final_proj_classification: Optional[nn.Linear] = nn.Linear(decoder_width, grid.patch_size)
        self.num_updates: Optional[int] = None

    def set_num_updates(self, num_updates: int) -> None:
        """Tell the model the update it is in: layer drop is drawn from it, alike on all processes.

        Where nobody tells, as in plain PyTorch, it is drawn from torch's own generator on the CPU.
        """
        self.num_updates = num_updates

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
        """
        assert visible is not None and masked is not None, "pretraining needs the visible and masked tokens"
        patches = self.patches(source, padding_mask)
        num_tokens = patches.shape[1]
        encoded = self.forward_encoder(
            gather_tokens(patches, visible), num_tokens, visible, visible_padding_mask, masking=True
        )
        decoded = self.forward_decoder(
            encoded, num_tokens, visible, visible_padding_mask, masked, self.token_padding_mask(padding_mask)
        )
        assert self.final_proj_reconstruction is not None and self.final_proj_classification is not None
        return Predictions(
            reconstruction=self.final_proj_reconstruction(decoded),
            classification=self.final_proj_classification(decoded),
            target=gather_tokens(patches, masked),
            padding_mask=masked_padding_mask,
        )

    def patches(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Cut [B, T, F] log-Mel frames into normalised patches [B, L, P] float32."""
        source = source.float()
        if padding_mask is not None:  # whatever stands there, NaN even, reaches nothing
            source = source.masked_fill(padding_mask[..., None], 0.0)
        return self.grid.patchify(self.batch_norm(source, padding_mask))

    def token_padding_mask(self, padding_mask: Optional[Tensor]) -> Optional[Tensor]:
        """Turn a mask [B, T] of frames into one of tokens [B, L]; None stays None."""
        return None if padding_mask is None else self.grid.token_padding_mask(padding_mask)

    def embed(
        self,
        patches: Tensor,
        num_tokens: int,
        indices: Optional[Tensor] = None,
        padding_mask: Optional[Tensor] = None,
        *,
        masking: bool = False,
    ) -> Tensor:
        """Project patches [B, N, P] to the encoder's width and add positions: [B, N, C]."""
        tokens = self.post_extract_proj(patches.to(self.post_extract_proj.weight.dtype))
        if masking:
            tokens = self.dropout_input(tokens)
        if self.enc_sine_pos_embed is not None:
            tokens = self.enc_sine_pos_embed(tokens, num_tokens, indices, padding_mask)
        return tokens

    def forward_encoder(
        self,
        patches: Tensor,
        num_tokens: int,
        indices: Optional[Tensor] = None,
        padding_mask: Optional[Tensor] = None,
        *,
        masking: bool = False,
        output_layer: Optional[int] = None,
    ) -> Tensor:
        """Encode patches [B, N, P] that stand at `indices` [B, N] of L tokens (None: all of them) to [B, N, C]."""
        tokens = self.embed(patches, num_tokens, indices, padding_mask, masking=masking)
        return self.encoder(
            tokens,
            padding_mask,
            kept_layers=self._kept_layers(self.encoder, self.encoder_layer_drop, Stream.ENCODER_LAYER_DROP),
            output_layer=output_layer,
        )

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
        tokens = self._fill_in(encoded, num_tokens, visible, visible_padding_mask)
        if self.dec_sine_pos_embed is not None:
            tokens = self.dec_sine_pos_embed(tokens, num_tokens, padding_mask=token_padding_mask)
        return self.decoder(
            tokens,
            token_padding_mask,
            at=masked,
            kept_layers=self._kept_layers(self.decoder, self.decoder_layer_drop, Stream.DECODER_LAYER_DROP),
        )

    def _fill_in(
        self, encoded: Tensor, num_tokens: int, visible: Tensor, visible_padding_mask: Optional[Tensor]
    ) -> Tensor:
        # Padding of `visible` points at token 0; it is sent to one place past the end, and that is cut off.
        num_places = num_tokens
        if visible_padding_mask is not None:
            visible = visible.masked_fill(visible_padding_mask, num_tokens)
            num_places = num_tokens + 1
        batch_size, _, width = encoded.shape
        assert self.decoder_mask_emb is not None
        tokens = self.decoder_mask_emb.to(encoded.dtype).expand(batch_size, num_places, width)
        tokens = tokens.scatter(1, visible[..., None].expand_as(encoded), encoded)  # [B, L (+ 1), C]
        return tokens[:, :num_tokens]

    def _kept_layers(self, stack: TransformerStack, rate: float, stream: Stream) -> Optional[list[bool]]:
        if not self.training or rate == 0:
            return None
        if self.num_updates is None:
            draws = torch.rand(len(stack.layers)).tolist()
        else:
            draws = generator(0, stream, index=self.num_updates).random(len(stack.layers)).tolist()
        return [draw >= rate for draw in draws]

    def extract_features(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: bool = False,
        ret_conv: bool = False,
        output_layer: Optional[int] = None,
        visible: Optional[Tensor] = None,
        visible_padding_mask: Optional[Tensor] = None,
    ) -> Features:
        """Encode clips, with HuBERT's signature.

        Args:
            source: [B, S] waveform at 16 kHz in [-1, 1], or [B, T, F] log-Mel frames, not normalised.
            padding_mask: [B, S] or [B, T] bool, True = padding, at the end of a clip.
            mask: encode only the tokens at `visible`.
            ret_conv: return the projected tokens with positions instead.
            output_layer: return this layer's output, counted from 1; None: the encoder's.
            visible: [B, V] token indices, needed with `mask`.
            visible_padding_mask: [B, V] bool, True = padding.

        Raises:
            ConfigError: `output_layer` outside 1..N, `mask` without `visible`, a source or a padding mask of another
                shape or type.
            AudioError: a waveform is shorter than one window.
        """
        num_layers = len(self.encoder.layers)
        if output_layer is not None and not 1 <= output_layer <= num_layers:
            raise ConfigError(f"output_layer: {output_layer} was given; expected 1 to {num_layers}, or None")
        if mask and visible is None:
            raise ConfigError("mask: true was given without visible; pass the indices [B, V] of visible tokens")
        check_source(source, padding_mask, self.grid.feature_dim)
        if source.dim() == 2:
            source, padding_mask = waveform_to_frames(source, padding_mask, self.grid.feature_dim)
        patches = self.patches(source, padding_mask)
        num_tokens, indices, tokens_mask = patches.shape[1], None, self.token_padding_mask(padding_mask)
        if mask and visible is not None:
            patches, indices, tokens_mask = gather_tokens(patches, visible), visible, visible_padding_mask
        if ret_conv:
            return Features(self.embed(patches, num_tokens, indices, tokens_mask, masking=mask), tokens_mask)
        encoded = self.forward_encoder(
            patches, num_tokens, indices, tokens_mask, masking=mask, output_layer=output_layer
        )
        return Features(encoded, tokens_mask)

    def remove_pretraining_modules(self) -> None:
        """Drop the decoder and the heads, which only pretraining needs."""
        self.decoder = None
        self.decoder_mask_emb = None
        self.post_enc_proj = None
        self.dec_sine_pos_embed = None
        self.final_proj_reconstruction = None
        self.final_proj_classification = None


def check_source(source: Tensor, padding_mask: Optional[Tensor], feature_dim: int) -> None:
    """Raise ConfigError unless `source` is [B, S] or [B, T, feature_dim], and `padding_mask` bool of its first two."""
    if source.dim() not in (2, 3) or (source.dim() == 3 and source.shape[2] != feature_dim):
        raise ConfigError(
            f"source: a tensor of shape {list(source.shape)} was given; expected waveforms [B, S] at 16 kHz or log-Mel "
            f"frames [B, T, {feature_dim}]; one clip alone is a batch of one"
        )
    if padding_mask is not None and (padding_mask.shape != source.shape[:2] or padding_mask.dtype != torch.bool):
        raise ConfigError(
            f"padding_mask: {padding_mask.dtype} of shape {list(padding_mask.shape)} was given; expected torch.bool of "
            f"shape {list(source.shape[:2])}, True at padding"
        )


def waveform_to_frames(
    waveform: Tensor, padding_mask: Optional[Tensor], feature_dim: int
) -> tuple[Tensor, Optional[Tensor]]:
    """Turn [B, S] waveforms at 16 kHz and their padding mask into [B, T, F] log-Mel frames and theirs [B, T].

    A frame is padding where any sample of its window is.
    """
    frames = fbank.log_mel(waveform, num_mel_bins=feature_dim)
    if padding_mask is not None:
        last_samples = padding_mask[:, fbank.FRAME_LENGTH - 1 :: fbank.FRAME_SHIFT]
        padding_mask = last_samples[:, : frames.shape[1]]  # [B, T]
    return frames, padding_mask
