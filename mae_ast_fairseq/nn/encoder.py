"""The encoder of every model: log-Mel frames to patches, to tokens with positions, through transformer layers."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.levels import warn_of_scale
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.normalization import InputNormalization
from mae_ast_fairseq.nn.positions import Positions
from mae_ast_fairseq.nn.readout import LAST, Layers, layer_numbers
from mae_ast_fairseq.nn.tokens import TokenGrid
from mae_ast_fairseq.nn.transformer import TransformerStack, gather_tokens


class Features(NamedTuple):
    """Features of tokens, as HuBERT's `extract_features` returns them."""

    features: Tensor
    """[B, L, C]"""
    token_padding_mask: Optional[Tensor]
    """[B, L] bool, True = padding; None where nothing is padded"""


class HiddenStates(NamedTuple):
    """The outputs of every layer of an encoder."""

    layers: list[Tensor]
    """N times [B, L, C], as `extract_features` gives them with `output_layer` 1 to N"""
    features: Tensor
    """[B, L, C], as it gives them without"""
    token_padding_mask: Optional[Tensor]
    """[B, L] bool, True = padding; None where nothing is padded"""


class EncoderParts(NamedTuple):
    """What a SpectrogramEncoder is put together from."""

    grid: TokenGrid
    """how frames become tokens"""
    normalization: InputNormalization
    """of the log-Mel frames"""
    positions: Positions
    """added to the tokens"""
    dropout_input: float
    """dropout of the projected tokens when masking"""
    stack: TransformerStack
    """the transformer layers, of width C"""


class SpectrogramEncoder(nn.Module):
    """Encodes log-Mel spectrograms: what MAE-AST, SSAST and the classifier have in common."""

    pretraining_modules: tuple[str, ...] = ()
    """names of the modules and parameters that only pretraining needs"""

    def __init__(self, parts: EncoderParts):
        super().__init__()
        self.grid = parts.grid
        self.width = parts.stack.width
        self.batch_norm = parts.normalization
        self.post_extract_proj = nn.Linear(self.grid.patch_size, self.width)
        self.dropout_input = nn.Dropout(parts.dropout_input)
        self.positions = parts.positions
        self.encoder = parts.stack
        self.num_updates: Optional[int] = None

    @property
    def num_layers(self) -> int:
        """Layers of the encoder (N)."""
        return len(self.encoder.layers)

    def set_num_updates(self, num_updates: int) -> None:
        """Tell the model the update it is in: layer drop is drawn from it, alike on all processes.

        Where nobody tells, as in plain PyTorch, it is drawn from torch's own generator on the CPU.
        """
        self.num_updates = num_updates
        for module in self.modules():
            if isinstance(module, TransformerStack):
                module.num_updates = num_updates

    def patches(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Cut [B, T, F] log-Mel frames into normalised patches [B, L, P] float32."""
        source = source.float()
        if padding_mask is not None:  # whatever stands there, NaN even, reaches nothing
            source = source.masked_fill(padding_mask[..., None], 0.0)
        return self.grid.patchify(self.batch_norm(source, padding_mask))

    def project(self, patches: Tensor) -> Tensor:
        """Project patches [B, N, P] to the encoder's width: [B, N, C]."""
        return self.post_extract_proj(patches.to(self.post_extract_proj.weight.dtype))

    def embed(self, patches: Tensor, token_padding_mask: Optional[Tensor]) -> Tensor:
        """Project all patches of clips [B, L, P] and add positions: [B, L, C]."""
        return self.positions(self.project(patches), patches.shape[1], token_padding_mask)

    def embed_visible(
        self,
        patches: Tensor,
        visible: Tensor,
        visible_padding_mask: Optional[Tensor],
        token_padding_mask: Optional[Tensor],
    ) -> Features:
        """Embed what a masked pass reads of all patches [B, L, P]: here the visible ones alone, [B, V, C]."""
        tokens = self.dropout_input(self.project(gather_tokens(patches, visible)))
        tokens = self.positions(tokens, patches.shape[1], token_padding_mask, visible, visible_padding_mask)
        return Features(tokens, visible_padding_mask)

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
            mask: hide what is not `visible`, as the model does in pretraining: MAE-AST encodes only the visible
                tokens, SSAST all of them with its mask embedding in the hidden ones' place.
            ret_conv: return the projected tokens with positions instead.
            output_layer: return this layer's output, counted from 1; None: the encoder's.
            visible: [B, V] token indices, needed with `mask`.
            visible_padding_mask: [B, V] bool, True = padding.

        Raises:
            ConfigError: `output_layer` outside 1..N, `mask` without `visible`, a source or a padding mask of another
                shape or type.
            AudioError: a waveform is shorter than one window, or no clip as long as a token.
        """
        if output_layer is not None and not 1 <= output_layer <= self.num_layers:
            raise ConfigError(f"output_layer: {output_layer} was given; expected 1 to {self.num_layers}, or None")
        if mask and visible is None:
            raise ConfigError("mask: true was given without visible; pass the indices [B, V] of visible tokens")
        patches, tokens_mask = self.read(source, padding_mask)
        if mask and visible is not None:
            embedded = self.embed_visible(patches, visible, visible_padding_mask, tokens_mask)
        else:
            embedded = Features(self.embed(patches, tokens_mask), tokens_mask)
        if ret_conv:
            return embedded
        return embedded._replace(features=self.encoder(*embedded, output_layer=output_layer))

    def hidden_states(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> HiddenStates:
        """Encode clips as `extract_features` does, and keep what every layer gives."""
        patches, tokens_mask = self.read(source, padding_mask)
        layers: list[Tensor] = []
        features = self.encoder(self.embed(patches, tokens_mask), tokens_mask, collect=layers)
        return HiddenStates(layers, features, tokens_mask)

    def layer_features(
        self, source: Tensor, padding_mask: Optional[Tensor], layers: Layers
    ) -> tuple[list[Tensor], Optional[Tensor]]:
        """Encode clips as `extract_features` does; return what some layers give, and the tokens' padding mask."""
        if isinstance(layers, int) or layers == LAST:
            output_layer = layers if isinstance(layers, int) else None
            features, mask = self.extract_features(source, padding_mask, output_layer=output_layer)
            return [features], mask
        states = self.hidden_states(source, padding_mask)
        numbers = layer_numbers("layers", layers, self.num_layers)
        return [states.layers[number - 1] for number in numbers], states.token_padding_mask

    def read(self, source: Tensor, padding_mask: Optional[Tensor]) -> Features:
        """Turn waveforms [B, S] or frames [B, T, F] into patches [B, L, P] and their padding mask [B, L]."""
        check_source(source, padding_mask, self.grid.feature_dim)
        if source.dim() == 2:
            if not self.training:
                _warn_of_scale(source, padding_mask)
            source, padding_mask = waveform_to_frames(source, padding_mask, self.grid.feature_dim)
        if self.grid.num_tokens(source.shape[1]) == 0:
            raise AudioError(
                f"source: {source.shape[1]} frames of 10 ms were given, less than a token; expected at least "
                f"{self.grid.kernel[1]}; give longer clips, or pad them"
            )
        return Features(self.patches(source, padding_mask), self.grid.token_padding_mask(padding_mask))

    def remove_pretraining_modules(self) -> None:
        """Drop what only pretraining needs."""
        for name in self.pretraining_modules:
            setattr(self, name, None)


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


def _warn_of_scale(waveform: Tensor, padding_mask: Optional[Tensor]) -> None:
    """Warn once of waveforms [B, S] beyond [-1, 1]; this waits for the device, as a training step must not."""
    if waveform.is_floating_point() and waveform.numel():
        heard = waveform.detach() if padding_mask is None else waveform.detach().masked_fill(padding_mask, 0.0)
        warn_of_scale(float(heard.abs().max()), "source")


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
