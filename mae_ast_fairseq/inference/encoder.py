"""A pretrained encoder in plain PyTorch: waveforms in, features out; without fairseq."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor, nn

from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.config.pretraining import require_choice
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.inference.chunks import min_seconds
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder
from mae_ast_fairseq.nn.readout import LAST, Layers, check_readout, columns, layer_numbers, read_out_layers
from mae_ast_fairseq.nn.tokens import TokenGrid

Waveforms = Tensor | np.ndarray | Sequence[Tensor | np.ndarray]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Encoded(NamedTuple):
    """What an encoder makes of some clips. Frequency rows of one time column follow each other."""

    hidden_states: list[Tensor]
    """N times [B, L, C], the output of each layer, as `extract_features` gives it with `output_layer` 1 to N"""
    features: Tensor
    """[B, L, C], the output of the encoder"""
    token_padding_mask: Tensor
    """[B, L] bool, True = padding, whose features mean nothing"""
    clip: Tensor
    """[B, D] float32, the readout of the layers asked for, one layer after another"""
    frames: Tensor
    """[B, T', rows · C], `features` of the tokens of a time column concatenated over frequency; [B, L, C] for frames"""
    frame_padding_mask: Tensor
    """[B, T'] bool, True = padding"""
    frame_seconds: Tensor
    """[T'] float32, the time in the clip at the centre of what a column covers"""
    seconds: Tensor
    """[L] float32, the same for each token"""
    rows: Tensor
    """[L] int64, a token's place along frequency, 0 the lowest; always 0 for frame tokens"""


def load_pretrained(
    path: str | Path,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    ignore_unknown: Collection[str] = (),
) -> "PretrainedEncoder":
    """Return the encoder of a checkpoint, ours or in the released layout, ready for `model(waveform)`.

    path: a file, a folder that `mae-ast export --to huggingface` wrote, `tiny`, or a model on the Hugging Face hub,
        `user/name` or `user/name@revision`, of which safetensors and JSON alone are fetched.
    precision: `float32`, `bfloat16` or `float16`; log-Mel frames are computed and normalised in float32 anyway.
    ignore_unknown: fields of the file's model that are unknown here and, as you know, change nothing.

    Raises CheckpointError, which names file and key, and ConfigError for an unknown precision. Only tensors and plain
    values are read from the file, and nothing in it is executed.
    """
    require_choice("precision", precision, PRECISIONS)
    encoder = build_model(read_checkpoint(path, ignore_unknown))
    encoder.remove_pretraining_modules()
    return PretrainedEncoder(encoder).to(device, PRECISIONS[precision]).eval()


class PretrainedEncoder(nn.Module):
    """An encoder, in evaluation mode, that takes waveforms at 16 kHz and computes no gradients.

    A clip's result does not depend on what it is batched with. All clips of a call are one batch: give long lists in
    parts, or use `mae-ast extract`.
    """

    def __init__(self, encoder: SpectrogramEncoder):
        super().__init__()
        self.encoder = encoder

    @property
    def num_layers(self) -> int:
        """Layers of the encoder (N)."""
        return self.encoder.num_layers

    @property
    def width(self) -> int:
        """Width of the features (C)."""
        return self.encoder.width

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Return the features [L, C] of a waveform [S] at 16 kHz in [-1, 1], or [B, L, C] of [B, S] without padding."""
        source, _ = self._batch(waveform[None] if waveform.dim() == 1 else waveform, None)
        features, _ = self.encoder.extract_features(source)
        return features[0] if waveform.dim() == 1 else features

    @torch.no_grad()
    def encode(
        self,
        waveforms: Waveforms,
        lengths: Optional[Sequence[int] | Tensor] = None,
        readout: str = "mean",
        layers: Layers = LAST,
    ) -> Encoded:
        """Encode clips of any lengths in one batch.

        Args:
            waveforms: at 16 kHz, floating point in [-1, 1]: a list of 1-D ones, or all padded at their ends, [B, S].
            lengths: [B] samples of each clip in a padded batch; None: nothing is padded.
            readout: how a clip's vector is read out of its tokens: mean, mean+max, mean+std, and of patches bands or
                bands+max.
            layers: of which layers: a number from 1, several, `last` (the encoder's output) or `all`.

        Raises:
            AudioError: a clip that is too short for one token or not finite, by its number, counted from 0.
            ConfigError: an argument of another shape or type.
        """
        rows = self.encoder.grid.rows
        check_readout("readout", readout, rows)
        numbers = layer_numbers("layers", layers, self.num_layers)
        states = self.encoder.hidden_states(*self._batch(waveforms, lengths))
        features, mask = states.features, states.token_padding_mask
        if mask is None:
            mask = torch.zeros(features.shape[:2], dtype=torch.bool, device=features.device)
        read = [features] if layers == LAST else [states.layers[number - 1] for number in numbers]
        seconds = token_seconds(self.encoder.grid, features.shape[1]).to(features.device)
        return Encoded(
            hidden_states=states.layers,
            features=features,
            token_padding_mask=mask,
            clip=read_out_layers(readout, read, mask, rows),
            frames=columns(features, rows),
            frame_padding_mask=mask[:, ::rows],
            frame_seconds=seconds[::rows],
            seconds=seconds,
            rows=torch.arange(features.shape[1], device=features.device) % rows,
        )

    def _batch(
        self, waveforms: Waveforms, lengths: Optional[Sequence[int] | Tensor]
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Return float32 [B, S] on the encoder's device, and where some of it is padding [B, S], both checked."""
        if isinstance(waveforms, (Tensor, np.ndarray)):
            source = torch.as_tensor(waveforms)
            if source.dim() != 2 or not len(source):
                raise ConfigError(
                    f"waveforms: shape {list(source.shape)} was given; expected [clips, samples], or a list of 1-D ones"
                )
            lengths = _checked_lengths([source.shape[1]] * len(source) if lengths is None else lengths, source)
        elif lengths is not None:
            raise ConfigError("lengths: given with a list of waveforms, which have their own; leave it out")
        else:
            clips = _checked_list(waveforms)
            lengths = torch.tensor([len(clip) for clip in clips])
            source = nn.utils.rnn.pad_sequence(clips, batch_first=True)
        _check_samples(source, lengths, self.encoder.grid)
        source = source.to(next(self.parameters()).device, torch.float32)
        padding_mask = torch.arange(source.shape[1], device=source.device) >= lengths.to(source.device)[:, None]
        source = source.masked_fill(padding_mask, 0.0)
        for number in (~torch.isfinite(source).all(dim=1)).nonzero().flatten().tolist():
            raise AudioError(f"clip {number}: NaN or infinite samples; expected finite ones; leave the clip out")
        return source, padding_mask if int(lengths.min()) < source.shape[1] else None


def token_seconds(grid: TokenGrid, num_tokens: int) -> Tensor:
    """Return the time in seconds at the centre of each token: float32 [L]."""
    return (token_samples(grid, num_tokens) / fbank.SAMPLE_RATE).float()


def token_samples(grid: TokenGrid, num_tokens: int) -> Tensor:
    """Return the sample at the centre of each token, or halfway between two: float64 [L]."""
    columns = torch.arange(num_tokens, dtype=torch.float64) // grid.rows
    num_samples = (grid.kernel[1] - 1) * fbank.FRAME_SHIFT + fbank.FRAME_LENGTH  # that a token's frames cover
    return columns * (grid.stride[1] * fbank.FRAME_SHIFT) + num_samples / 2


def _checked_list(waveforms: Sequence[Tensor | np.ndarray]) -> list[Tensor]:
    clips = [torch.as_tensor(waveform) for waveform in waveforms]
    if not clips:
        raise ConfigError("waveforms: an empty list was given; expected at least one waveform")
    first = clips[0]
    for number, clip in enumerate(clips):
        if clip.dim() != 1 or clip.dtype != first.dtype or clip.device != first.device:
            raise ConfigError(
                f"waveforms: clip {number} has shape {list(clip.shape)}, {clip.dtype}, {clip.device}; expected "
                f"[samples], one channel, and as clip 0 {first.dtype}, {first.device}"
            )
    return clips


def _checked_lengths(lengths: Sequence[int] | Tensor, source: Tensor) -> Tensor:
    values = torch.as_tensor(lengths).cpu()
    is_integer = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if not is_integer or values.shape != source.shape[:1] or int(values.max()) > source.shape[1]:
        raise ConfigError(
            f"lengths: {values.tolist()} was given; expected {len(source)} whole numbers of samples, at most "
            f"{source.shape[1]} each"
        )
    return values


def _check_samples(source: Tensor, lengths: Tensor, grid: TokenGrid) -> None:
    """Raise AudioError for what is no audio, or, naming the clip, for what no token can be made of."""
    if not source.is_floating_point():
        raise AudioError(
            f"waveforms: {source.dtype} was given; expected floating point in [-1, 1]; divide 16-bit samples by 32768"
        )
    num_tokens = grid.num_tokens(fbank.num_frames(lengths))
    for number in (num_tokens < 1).nonzero().flatten().tolist():
        needed = round(min_seconds(grid) * fbank.SAMPLE_RATE)
        raise AudioError(
            f"clip {number}: {int(lengths[number])} samples give no token of the model; expected at least {needed} at "
            f"16 kHz ({min_seconds(grid):.3f} s); leave the clip out"
        )
