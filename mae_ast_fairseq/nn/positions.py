"""Positions of tokens, for any number of them: fixed sin/cos (Vaswani et al. 2017, section 3.5) and learned."""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_ast_fairseq.nn.transformer import INITIAL_STD


def sinusoidal_positions(num_positions: int, width: int) -> Tensor:
    """Return the table [num_positions, width]: sin at even, cos at odd places, wavelengths up to 10000·2π."""
    position = torch.arange(num_positions, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    angle = position * frequency  # [N, C / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # [N, C / 2, 2] -> [N, C]


def _add(tokens: Tensor, positions: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Add positions to tokens [B, N, C], zero at padding."""
    if padding_mask is not None:
        positions = positions.masked_fill(padding_mask[..., None], 0.0)
    return tokens + positions.to(tokens.dtype)


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
        return _add(tokens, table if indices is None else table[indices], padding_mask)  # [L, C] or [B, N, C]


class LearnedPositions(nn.Module):
    """Adds each token the learned position of its index: SSAST's and AST's.

    A clip of fewer columns of tokens takes the first ones; over one of more, all columns are stretched (linear
    interpolation along time), by the clip's own length and not by that of its batch.

    Args:
        width: C.
        num_positions: learned positions, a multiple of `rows`.
        rows: tokens of one column of the grid.
    """

    def __init__(self, *, width: int, num_positions: int, rows: int):
        super().__init__()
        assert num_positions % rows == 0, f"{num_positions} positions do not fill columns of {rows}"
        self.rows = rows
        self.table = nn.Parameter(torch.empty(num_positions, width).normal_(std=INITIAL_STD))

    def forward(
        self,
        tokens: Tensor,
        num_tokens: int,
        indices: Optional[Tensor] = None,
        padding_mask: Optional[Tensor] = None,
    ) -> Tensor:
        """Return tokens + positions, as SinusoidalPositions does.

        Tokens given by `indices` are those of clips of `num_tokens` tokens each.
        """
        if num_tokens <= len(self.table):
            positions = self.table[:num_tokens]  # [L, C]
        else:
            lengths = None if indices is not None or padding_mask is None else (~padding_mask).sum(dim=1)
            positions = self._stretched(num_tokens, lengths)  # [1, L, C] or [B, L, C]
        if indices is not None:
            positions = positions.reshape(num_tokens, -1)[indices]  # [B, N, C]
        return _add(tokens, positions, padding_mask)

    def _stretched(self, num_tokens: int, lengths: Optional[Tensor]) -> Tensor:
        """Interpolate for clips of `lengths` [B] tokens, or one of `num_tokens`: [B, L, C] or [1, L, C]."""
        if lengths is None:
            lengths = torch.full((1,), num_tokens, device=self.table.device)
        table = self.table.unflatten(0, (-1, self.rows))  # [columns, rows, C]
        own, num_columns = len(table), num_tokens // self.rows
        scale = own / (lengths // self.rows).clamp(min=own)  # 1 where the learned ones suffice
        place = (torch.arange(num_columns, device=table.device) + 0.5) * scale[:, None] - 0.5  # [B, L / rows]
        place = place.clamp(0, own - 1)
        below = place.long()
        above = (below + 1).clamp(max=own - 1)
        weight = (place - below)[..., None, None].to(table.dtype)
        return table[below].lerp(table[above], weight).flatten(1, 2)  # [B, L / rows, rows, C] -> [B, L, C]


Positions = SinusoidalPositions | LearnedPositions


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Interpolate learned positions, [rows * columns, C], bilinearly from one (rows, columns) to another.

    As AST does where patches overlap and thus are more: the new grid covers the same bands and seconds.
    """
    if old == new:
        return table
    (rows, columns), width = old, table.shape[1]
    image = table.view(1, columns, rows, width).permute(0, 3, 1, 2)  # [1, C, columns, rows]
    image = F.interpolate(image.float(), size=(new[1], new[0]), mode="bilinear", align_corners=False)
    return image.permute(0, 2, 3, 1).reshape(-1, width).to(table.dtype)  # [rows' * columns', C]
