"""Small models and batches for the tests, with weights and padding in which a mistake shows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.config.pretraining import ClassifierFields, EncoderFields, MaeAstFields, SsastFields
from mae_ast_fairseq.data.masking import Masking, collate
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder
from mae_ast_fairseq.nn.build import MODELS
from mae_ast_fairseq.nn.classifier import AudioClassifier
from mae_ast_fairseq.nn.ssast import Ssast
from mae_ast_fairseq.nn.tokens import TokenGrid

NUM_BANDS = 128
PATCH = {
    "ast_kernel_size_chan": 16,
    "ast_kernel_size_time": 16,
    "ast_kernel_stride_chan": 16,
    "ast_kernel_stride_time": 16,
}
FRAME = {
    "ast_kernel_size_chan": 128,
    "ast_kernel_size_time": 2,
    "ast_kernel_stride_chan": 128,
    "ast_kernel_stride_time": 2,
}
PADDING_VALUE = 1e3  # in padded frames: it must never matter


TINY = {
    **PATCH,
    "encoder_layers": 3,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.0,
    "max_token_length": 256,
}
LABELS = ["dog", "rain", "siren", "speech", "violin"]


def tiny_fields(**changes: Any) -> MaeAstFields:
    """Return the fields of a model of width 48 without dropout, over patches."""
    return MaeAstFields(**{**TINY, "decoder_layers": 2, "decoder_embed_dim": 48, **changes})


def enlarge_weights(module: nn.Module) -> None:
    """Draw weights of unit gain, and biases and LayerNorms away from 0 and 1, so that nothing is nearly linear."""
    for parameter in module.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        else:
            parameter.data += 0.3 * torch.randn_like(parameter)


def tiny_autoencoder(**changes: Any) -> MaskedAutoencoder:
    """Return a model of `tiny_fields(**changes)` in evaluation mode, its statistics set, always the same one."""
    return _tiny("mae_ast", tiny_fields(**changes))


def tiny_ssast(**changes: Any) -> Ssast:
    """Return an SSAST of the same size, likewise."""
    return _tiny("ssast", SsastFields(**{**TINY, **changes}))


def tiny_classifier(**changes: Any) -> AudioClassifier:
    """Return a classifier of LABELS of the same size, likewise."""
    return _tiny("mae_ast_classifier", ClassifierFields(**{**TINY, "labels": LABELS, **changes}))


def _tiny(kind: str, fields: EncoderFields) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[kind].build(fields, NUM_BANDS)
        enlarge_weights(model)
    model.batch_norm.set_statistics(-6.0, 3.0)
    return model.eval()


def log_mel_like(*shape: int, seed: int = 0) -> Tensor:
    """Draw float32 values with about the mean and deviation of log-Mel frames."""
    return torch.from_numpy(np.random.default_rng(seed).normal(-5.5, 3.5, shape).astype(np.float32))


def padded_batch(lengths: Sequence[int]) -> dict[str, Any]:
    """Return `source` [B, T, F] of clips of `lengths` frames and `padding_mask` [B, T], None where all are equal."""
    source = log_mel_like(len(lengths), max(lengths), NUM_BANDS)
    padding_mask = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]  # [B, T]
    source[padding_mask] = PADDING_VALUE
    return {"source": source, "padding_mask": padding_mask if padding_mask.any() else None}


def tiny_batch(grid: TokenGrid, lengths: Sequence[int], mask_type: str = "random_mask") -> dict[str, Any]:
    """Return the keywords of a pretraining forward pass over clips of `lengths` frames."""
    draws = np.random.default_rng(0)
    columns = [grid.num_columns(length) for length in lengths]
    masking = Masking(mask_type, 0.75)
    masks = collate([masking.draw(grid.rows, count, draws) for count in columns])
    indices = {name: None if value is None else torch.from_numpy(value) for name, value in masks._asdict().items()}
    return {**padded_batch(lengths), **indices}


def alone(batch: dict[str, Any], row: int) -> dict[str, Any]:
    """Return one clip of a batch as a batch of its own, all padding cut off."""

    def cut(name: str, mask_name: str) -> Tensor:
        values, mask = batch[name][row : row + 1], batch[mask_name]
        return values if mask is None else values[:, ~mask[row]]

    pairs = {
        "source": "padding_mask",
        "visible": "visible_padding_mask",
        "masked": "masked_padding_mask",
    }
    return {name: cut(name, mask_name) for name, mask_name in pairs.items() if name in batch}


def load_autoencoder(path: Path) -> MaskedAutoencoder:
    """Return the MAE-AST of a checkpoint in evaluation mode."""
    model = build_model(read_checkpoint(path))
    assert isinstance(model, MaskedAutoencoder)
    return model


def golden_checkpoint(golden: Path, kind: str) -> dict[str, Any]:
    """Load the golden checkpoint of `patch` or `frame`, in the layout of the released ones."""
    return torch.load(golden / f"released_{kind}_random.pt", weights_only=True)


def golden_values(golden: Path, kind: str) -> dict[str, Tensor]:
    """Load what was recorded with the golden checkpoint of `patch` or `frame`."""
    with np.load(golden / f"released_{kind}_random.npz") as values:
        return {name: torch.from_numpy(values[name]) for name in values.files}
