"""Fixed interleaved sin/cos positions (Vaswani et al. 2017, section 3.5), for any number of tokens."""

import math
from typing import Optional

import torch
from torch import Tensor, nn


def sinusoidal_positions(num_positions: int, width: int) -> Tensor:
    """Return the table [num_positions, width]: sin at even, cos at odd places, wavelengths up to 10000·2π."""
    position = torch.arange(num_positions, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    angle = position * frequency  # [N, C / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # [N, C / 2, 2] -> [N, C]


class SinusoidalPositions(nn.Module):
    """Adds each token the position of its index in the full sequence.

    Args:
        width: C.
        max_tokens: positions computed in advance; a longer sequence extends the table for good.
    """

    table: Tensor

    def __init__(self, *, width: int, max_tokens: int):
        super().__init__()
        self.width = width
        self.register_buffer("table", sinusoidal_positions(max_tokens, width), persistent=False)

    def _table(self, num_tokens: int) -> Tensor:
        if num_tokens > self.table.shape[0]:
            self.table = sinusoidal_positions(num_tokens, self.width).to(self.table)
        return self.table[:num_tokens]

    def forward(
        self,
        tokens: Tensor,
        num_tokens: int,
        indices: Optional[Tensor] = None,
        padding_mask: Optional[Tensor] = None,
    ) -> Tensor:
        """Return tokens + positions.

        Args:
            tokens: [B, N, C].
            num_tokens: L, the length of the full sequence.
            indices: [B, N] the tokens' indices in the full sequence; None where N = L.
            padding_mask: [B, N] bool, True = padding, which is given position zero.
        """
        table = self._table(num_tokens)
        positions = table if indices is None else table[indices]  # [L, C] or [B, N, C]
        if padding_mask is not None:
            positions = positions.masked_fill(padding_mask[..., None], 0.0)
        return tokens + positions.to(tokens.dtype)
