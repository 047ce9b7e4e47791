"""Positions of tokens, for any number of them: fixed sin/cos (Vaswani et al. 2017, section 3.5) and learned."""

import math
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_ast_fairseq.nn.transformer import INITIAL_STD, gather_tokens


def sinusoidal_positions(num_positions: int, width: int) -> Tensor:
    """Return the table [num_positions, width]: sin at even, cos at odd places, wavelengths up to 10000·2π."""
    position = torch.arange(num_positions, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * (-math.log(10_000.0) / width))
    angle = position * frequency  # [N, C / 2]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # [N, C / 2, 2] -> [N, C]


class Positions(nn.Module):
    """Adds each token the position of its index in the full sequence."""

    def full_table(self, num_tokens: int, padding_mask: Optional[Tensor]) -> Tensor:
        """Return the positions [L, C] of a full sequence of L tokens, or [B, L, C] of clips of their own lengths.

        padding_mask: [B, L] bool, True = padding; None where nothing is padded or the lengths are not known.
        """
        raise NotImplementedError

    def forward(
        self,
        tokens: Tensor,
        num_tokens: int,
        token_padding_mask: Optional[Tensor] = None,
        visible: Optional[Tensor] = None,
        visible_padding_mask: Optional[Tensor] = None,
    ) -> Tensor:
        """Return tokens + positions.

        Args:
            tokens: [B, L, C], or [B, V, C] with `visible`.
            num_tokens: L, the length of the full sequence.
            token_padding_mask: [B, L] bool, True = padding, which is given position zero.
            visible: [B, V] the tokens' indices in the full sequence; None where all of it is given.
            visible_padding_mask: [B, V] bool, likewise.
        """
        positions, padding_mask = self.full_table(num_tokens, token_padding_mask), token_padding_mask
        if visible is not None:
            is_shared = positions.dim() == 2
            positions = positions[visible] if is_shared else gather_tokens(positions, visible)  # [B, V, C]
            padding_mask = visible_padding_mask
        if padding_mask is not None:
            positions = positions.masked_fill(padding_mask[..., None], 0.0)
        return tokens + positions.to(tokens.dtype)


class NoPositions(Positions):
    """Adds nothing."""

    def forward(self, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the tokens."""
        return tokens


class SinusoidalPositions(Positions):
    """Adds fixed positions, sines and cosines.

    Args:
        width: C.
        max_tokens: positions computed in advance; a longer sequence extends the table for good.
    """

    table: Tensor

    def __init__(self, *, width: int, max_tokens: int):
        super().__init__()
        self.width = width
        self.register_buffer("table", sinusoidal_positions(max_tokens, width), persistent=False)

    def full_table(self, num_tokens: int, padding_mask: Optional[Tensor]) -> Tensor:
        """Return the first rows of the table: [L, C]."""
        if num_tokens > self.table.shape[0]:
            self.table = sinusoidal_positions(num_tokens, self.width).to(self.table)
        return self.table[:num_tokens]


class LearnedPositions(Positions):
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

    def full_table(self, num_tokens: int, padding_mask: Optional[Tensor]) -> Tensor:
        """Return the first ones, [L, C], or all of them stretched: [L, C], or [B, L, C] by the clips' own lengths."""
        if num_tokens <= len(self.table):
            return self.table[:num_tokens]
        if padding_mask is None:
            whole = torch.full((1,), num_tokens, device=self.table.device)
            return self._stretched(num_tokens, whole)[0]
        return self._stretched(num_tokens, (~padding_mask).sum(dim=1))

    def _stretched(self, num_tokens: int, lengths: Tensor) -> Tensor:
        """Interpolate for clips of `lengths` [B] tokens, of which the longest has `num_tokens`: [B, L, C]."""
        table = self.table.unflatten(0, (-1, self.rows))  # [columns, rows, C]
        own, num_columns = len(table), num_tokens // self.rows
        scale = own / (lengths // self.rows).clamp(min=own)  # 1 where the learned ones suffice
        place = (torch.arange(num_columns, device=table.device) + 0.5) * scale[:, None] - 0.5  # [B, L / rows]
        place = place.clamp(0, own - 1)
        below = place.long()
        above = (below + 1).clamp(max=own - 1)
        weight = (place - below)[..., None, None].to(table.dtype)
        return table[below].lerp(table[above], weight).flatten(1, 2)  # [B, L / rows, rows, C] -> [B, L, C]


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
