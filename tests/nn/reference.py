"""MAE-AST again, written as plainly as can be: one clip at a time, no padding, no gathering, explicit softmax."""

from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder
from mae_ast_fairseq.nn.encoder import SpectrogramEncoder
from mae_ast_fairseq.nn.losses import info_nce, reconstruction_error
from mae_ast_fairseq.nn.masked import MaskedPredictor
from mae_ast_fairseq.nn.positions import NoPositions, sinusoidal_positions
from mae_ast_fairseq.nn.ssast import Ssast
from mae_ast_fairseq.nn.transformer import SelfAttention, TransformerLayer, TransformerStack
from tests.tiny import alone, tiny_batch


class Outputs(NamedTuple):
    """What a clip's pretraining pass gives, at its masked tokens."""

    encoded: Tensor  # [V, C]
    reconstruction: Tensor  # [M, P]
    classification: Tensor  # [M, P]
    target: Tensor  # [M, P]


def attention(module: SelfAttention, tokens: Tensor, keep: Optional[Tensor] = None) -> Tensor:
    """Attend [L, C] -> [L, C], head by head; `keep` [L] bool tells which tokens may be attended to."""
    query, key, value = module.q_proj(tokens), module.k_proj(tokens), module.v_proj(tokens)
    head_width = tokens.shape[-1] // module.heads
    heads = []
    for head in range(module.heads):
        part = slice(head * head_width, (head + 1) * head_width)
        scores = query[:, part] @ key[:, part].T / head_width**0.5
        if keep is not None:
            scores[:, ~keep] = float("-inf")
        weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        heads.append(weights @ value[:, part])
    return module.out_proj(torch.cat(heads, dim=-1))


def layer(module: TransformerLayer, tokens: Tensor) -> Tensor:
    """Run one layer over [L, C]."""

    def feed_forward(hidden: Tensor) -> Tensor:
        return module.fc2(F.gelu(module.fc1(hidden)))

    if module.layer_norm_first:
        tokens = tokens + attention(module.self_attn, module.self_attn_layer_norm(tokens))
        return tokens + feed_forward(module.final_layer_norm(tokens))
    tokens = module.self_attn_layer_norm(tokens + attention(module.self_attn, tokens))
    return module.final_layer_norm(tokens + feed_forward(tokens))


def stack(module: TransformerStack, tokens: Tensor) -> Tensor:
    """Run a stack over [L, C]: its LayerNorm at the input after post-, at the end after pre-LayerNorm layers."""
    if not module.layer_norm_first:
        tokens = module.layer_norm(tokens)
    for each in module.layers:
        tokens = layer(each, tokens)
    return module.layer_norm(tokens) if module.layer_norm_first else tokens


def patches(model: SpectrogramEncoder, frames: Tensor) -> Tensor:
    """Cut [T, F] frames into normalised patches [L, P], one by one, time-major."""
    frames = model.batch_norm(frames[None])[0]
    (bands, times), rows = model.grid.kernel, frames.shape[1] // model.grid.kernel[0]
    cut = [
        frames[column * times : (column + 1) * times, row * bands : (row + 1) * bands].flatten()
        for column in range(frames.shape[0] // times)
        for row in range(rows)
    ]
    return torch.stack(cut).to(model.post_extract_proj.weight.dtype)


def pretraining(model: MaskedAutoencoder, frames: Tensor, visible: Tensor, masked: Tensor) -> Outputs:
    """Run one clip of [T, F] frames with its `visible` [V] and `masked` [M] tokens."""
    values = patches(model, frames)
    tokens = torch.stack([model.post_extract_proj(values[index]) for index in visible])
    if not isinstance(model.positions, NoPositions):
        tokens = tokens + sinusoidal_positions(len(values), tokens.shape[1]).to(tokens)[visible]
    encoded = stack(model.encoder, tokens)

    projected = encoded if model.post_enc_proj is None else model.post_enc_proj(encoded)
    places = visible.tolist()
    full = torch.stack(
        [projected[places.index(index)] if index in places else model.decoder_mask_emb for index in range(len(values))]
    )
    if not isinstance(model.decoder_positions, NoPositions):
        full = full + sinusoidal_positions(len(values), full.shape[1]).to(full)
    decoded = stack(model.decoder, full)[masked]
    return Outputs(
        encoded,
        model.final_proj_reconstruction(decoded),
        model.final_proj_classification(decoded),
        values[masked],
    )


def ssast(model: Ssast, frames: Tensor, visible: Tensor, masked: Tensor) -> Outputs:
    """Run one clip of [T, F] frames through SSAST; `encoded` is [L, C]."""
    values = patches(model, frames)
    places = visible.tolist()
    tokens = [model.post_extract_proj(row) if index in places else model.mask_emb for index, row in enumerate(values)]
    encoded = stack(model.encoder, torch.stack(tokens) + model.positions.table[: len(values)])

    def head(module: torch.nn.Sequential) -> Tensor:
        first, _, last = module
        return last(first(encoded[masked]).clamp(min=0))

    return Outputs(
        encoded,
        head(model.final_proj_reconstruction),
        head(model.final_proj_classification),
        values[masked],
    )


def assert_losses_do_not_depend_on_the_batch(model: MaskedPredictor, lengths: tuple[int, ...]) -> None:
    """Compare both losses of clips of `lengths` frames, padded in one batch, with those of each by itself."""

    def losses(batch: dict[str, Any]) -> Tensor:
        reconstruction, classification, target, padding_mask, *_ = model(**batch)
        error = reconstruction_error(reconstruction, target, padding_mask)
        return torch.stack([error, info_nce(classification, target, padding_mask).loss])

    batch = tiny_batch(model.grid, lengths)
    together = losses(batch)
    for row in range(len(lengths)):
        by_itself = losses(alone(batch, row))[:, 0]
        num_masked = by_itself.shape[1]
        torch.testing.assert_close(together[:, row, :num_masked], by_itself, atol=1e-5, rtol=1e-5)
        assert not together[:, row, num_masked:].any()
