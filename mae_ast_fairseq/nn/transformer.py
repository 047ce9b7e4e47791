"""Transformer layers (Vaswani et al. 2017) with the released checkpoints' names, post- and pre-LayerNorm."""

from collections.abc import Callable
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mae_ast_fairseq.rng import Stream, generator

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}
"""The choices of `model.activation_fn`; gelu is the exact one, by erf."""

INITIAL_STD = 0.02

MAX_UNFUSED_SCORES = 512 * 512
"""Up to so many pairs of tokens, bfloat16 attention on a CPU is by plain products."""


def gather_tokens(tokens: Tensor, indices: Tensor) -> Tensor:
    """Pick the tokens [B, N, C] at `indices` [B, N] out of [B, L, C]."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))


def scatter_tokens(
    filler: Tensor, tokens: Tensor, num_tokens: int, indices: Tensor, padding_mask: Optional[Tensor] = None
) -> Tensor:
    """Put tokens [B, N, C] at their `indices` [B, N] of a full sequence [B, L, C], the filler [C] everywhere else.

    `padding_mask` [B, N] bool, True = padding of `tokens`, which goes nowhere.
    """
    # Padded indices point at token 0; they are sent to one place past the end, and that is cut off.
    num_places = num_tokens
    if padding_mask is not None:
        indices = indices.masked_fill(padding_mask, num_tokens)
        num_places = num_tokens + 1
    batch_size, _, width = tokens.shape
    full = filler.to(tokens.dtype).expand(batch_size, num_places, width)
    full = full.scatter(1, indices[..., None].expand_as(tokens), tokens)  # [B, L (+ 1), C]
    return full[:, :num_tokens]


def attend(query: Tensor, key: Tensor, value: Tensor, keep: Optional[Tensor] = None, dropout: float = 0.0) -> Tensor:
    """Attend by scaled inner products, fused by torch where that is the fastest.

    Args:
        query: [B, H, N, C / H].
        key: [B, H, L, C / H].
        value: [B, H, L, C / H].
        keep: [B, 1, 1, L] bool, True where a token may be attended to; None: everywhere.
        dropout: of the attention weights.

    Returns:
        [B, H, N, C / H].
    """
    is_half_on_cpu = query.device.type == "cpu" and query.dtype is torch.bfloat16
    is_short = query.shape[2] * key.shape[2] <= MAX_UNFUSED_SCORES
    if is_half_on_cpu and (is_short or dropout > 0):
        return _attend_by_products(query, key, value, keep, dropout)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=keep, dropout_p=dropout)


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor, keep: Optional[Tensor], dropout: float) -> Tensor:
    # On a CPU, torch's fused attention multiplies in float32 whatever it is given; matrix products in bfloat16 are
    # several times as fast, which pays until the scores no longer fit into the cache.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # [B, H, N, L]
    if keep is not None:
        scores += torch.zeros_like(keep, dtype=scores.dtype).masked_fill_(~keep, float("-inf"))
    return F.dropout(scores.softmax(dim=-1), dropout) @ value


def _linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.normal_(linear.weight, std=INITIAL_STD)
    nn.init.zeros_(linear.bias)
    return linear


class SelfAttention(nn.Module):
    """Multi-head self-attention.

    Args:
        width: C.
        heads: number of heads; C is a multiple of it.
        dropout: dropout of the attention weights while training.
    """

    def __init__(self, *, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.k_proj = _linear(width, width)
        self.v_proj = _linear(width, width)
        self.q_proj = _linear(width, width)
        self.out_proj = _linear(width, width)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, L, C] -> [B, H, L, C / H]

    def forward(self, tokens: Tensor, keep: Optional[Tensor], queries: Optional[Tensor] = None) -> Tensor:
        """Return [B, N, C], attended by `queries` [B, N, C] (None: by all tokens) over `tokens` [B, L, C].

        `keep` [B, 1, 1, L] bool is True where a token may be attended to; None: everywhere.
        """
        attended = attend(
            self._split(self.q_proj(tokens if queries is None else queries)),
            self._split(self.k_proj(tokens)),
            self._split(self.v_proj(tokens)),
            keep,
            self.dropout if self.training else 0.0,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))  # [B, H, N, C / H] -> [B, N, C]


class TransformerLayer(nn.Module):
    """One layer: self-attention and feed-forward, each with dropout, residual and LayerNorm.

    Args:
        width: C.
        ffn_width: width of the feed-forward layer.
        heads: attention heads.
        activation: one of ACTIVATIONS.
        dropout: after attention and after the feed-forward layer.
        attention_dropout: of the attention weights.
        activation_dropout: after the activation.
        layer_norm_first: pre-LayerNorm instead of post-LayerNorm.
    """

    def __init__(
        self,
        *,
        width: int,
        ffn_width: int,
        heads: int,
        activation: str,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        layer_norm_first: bool,
    ):
        super().__init__()
        self.self_attn = SelfAttention(width=width, heads=heads, dropout=attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = _linear(width, ffn_width)
        self.fc2 = _linear(ffn_width, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)
        self.activation_dropout = nn.Dropout(activation_dropout)
        self.layer_norm_first = layer_norm_first

    def _feed_forward(self, tokens: Tensor) -> Tensor:
        hidden = self.activation_dropout(self.activation(self.fc1(tokens)))
        return self.dropout(self.fc2(hidden))

    def forward(self, tokens: Tensor, keep: Optional[Tensor], at: Optional[Tensor] = None) -> Tensor:
        """Transform `tokens` [B, L, C]; `keep` as in SelfAttention.

        With `at` [B, N], only the tokens at these indices are computed, [B, N, C]: the others still are keys and
        values, but need neither query nor feed-forward in a last layer whose output nobody reads there.
        """
        residual = tokens if at is None else gather_tokens(tokens, at)
        if self.layer_norm_first:
            normed = self.self_attn_layer_norm(tokens)
            queries = None if at is None else gather_tokens(normed, at)
            residual = residual + self.dropout(self.self_attn(normed, keep, queries))
            return residual + self._feed_forward(self.final_layer_norm(residual))
        queries = None if at is None else residual
        attended = self.dropout(self.self_attn(tokens, keep, queries))
        residual = self.self_attn_layer_norm(residual + attended)
        return self.final_layer_norm(residual + self._feed_forward(residual))


class TransformerStack(nn.Module):
    """Layers with the LayerNorm of their stack: at its input (post-LayerNorm) or its end (pre-LayerNorm).

    Args:
        num_layers: N.
        width: C.
        dropout: at the stack's input and in its layers.
        layer_norm_first: pre-LayerNorm.
        checkpoint_activations: recompute each layer in the backward pass.
        layer_drop: probability of leaving out a layer in an update.
        layer_drop_stream: what the draws for that come from.
        layer: the other arguments of a TransformerLayer.
    """

    def __init__(
        self,
        num_layers: int,
        *,
        width: int,
        dropout: float,
        layer_norm_first: bool,
        checkpoint_activations: bool = False,
        layer_drop: float = 0.0,
        layer_drop_stream: Stream = Stream.ENCODER_LAYER_DROP,
        **layer: Any,
    ):
        super().__init__()
        self.width = width
        self.layers = nn.ModuleList(
            TransformerLayer(width=width, dropout=dropout, layer_norm_first=layer_norm_first, **layer)
            for _ in range(num_layers)
        )
        self.layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm_first = layer_norm_first
        self.checkpoint_activations = checkpoint_activations
        self.layer_drop = layer_drop
        self.layer_drop_stream = layer_drop_stream
        self.layer_drop_seed = torch.initial_seed()
        """`common.seed`, which fairseq gives torch before it builds a model"""
        self.num_updates: Optional[int] = None
        """the update that layer drop is drawn from, alike on all processes; None: torch's generator draws"""

    def _kept_layers(self) -> list[bool]:
        num_layers = len(self.layers)
        if not self.training or self.layer_drop == 0:
            return [True] * num_layers
        if self.num_updates is None:
            numbers = torch.rand(num_layers).tolist()
        else:
            rng = generator(self.layer_drop_seed, self.layer_drop_stream, index=self.num_updates)
            numbers = rng.random(num_layers).tolist()
        return [number >= self.layer_drop for number in numbers]

    def forward(
        self,
        tokens: Tensor,
        padding_mask: Optional[Tensor] = None,
        *,
        at: Optional[Tensor] = None,
        output_layer: Optional[int] = None,
        collect: Optional[list[Tensor]] = None,
    ) -> Tensor:
        """Run the stack over `tokens` [B, L, C].

        Args:
            tokens: [B, L, C].
            padding_mask: [B, L] bool, True = padding; None where nothing is padded.
            at: [B, N] indices; the last layer is computed, and the output given, only there.
            output_layer: return the output of this layer, counted from 1, before any LayerNorm of the stack's end.
            collect: a list that takes the output of each layer, likewise.

        Returns:
            [B, L, C], or [B, N, C] with `at`.
        """
        keep = None if padding_mask is None else ~padding_mask[:, None, None, :]
        if not self.layer_norm_first:
            tokens = self.layer_norm(tokens)
        tokens = self.dropout(tokens)
        for number, (layer, is_kept) in enumerate(zip(self.layers, self._kept_layers(), strict=True), start=1):
            is_last = number == len(self.layers)
            if not is_kept:
                tokens = gather_tokens(tokens, at) if is_last and at is not None else tokens
            elif self.checkpoint_activations and torch.is_grad_enabled():
                tokens = checkpoint(layer, tokens, keep, at if is_last else None, use_reentrant=False)
            else:
                tokens = layer(tokens, keep, at if is_last else None)
            if collect is not None:
                collect.append(tokens)
            if number == output_layer:
                return tokens
        return self.layer_norm(tokens) if self.layer_norm_first else tokens
