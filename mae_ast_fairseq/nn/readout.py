"""Readouts: what is kept of a clip's tokens, one vector a clip, from the features [B, L, C] of a layer.

A mean over all tokens of patches averages over frequency too. `bands` does not: as in M2D and MSM-MAE, the tokens of a
time column are concatenated, and what follows averages over time alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from mae_ast_fairseq.errors import ConfigError


class Readout(NamedTuple):
    """What a readout keeps."""

    by_band: bool
    """the tokens of a time column are concatenated over frequency first"""
    statistics: tuple[str, ...]
    """over the tokens or columns of a clip, one after another: keys of STATISTICS"""


READOUTS = {
    "mean": Readout(False, ("mean",)),
    "mean+max": Readout(False, ("mean", "max")),
    "mean+std": Readout(False, ("mean", "std")),
    "bands": Readout(True, ("mean",)),
    "bands+max": Readout(True, ("mean", "max")),
}
"""The choices of `model.readout` and `--readout`; the first is the paper's."""

LAST, ALL = "last", "all"
"""Choices of layers beside their numbers: the encoder's output, and the output of every layer."""

Layers = int | str | Sequence[int]
"""One layer's number, counted from 1, several, LAST or ALL."""


def possible_readouts(rows: int) -> list[str]:
    """Return the readouts of a token grid of `rows` tokens a time column."""
    return [name for name, readout in READOUTS.items() if rows > 1 or not readout.by_band]


def check_readout(field: str, name: str, rows: int) -> None:
    """Raise ConfigError for a readout that is unknown, or that tokens of the whole height do not have."""
    if name not in possible_readouts(rows):
        found = "needs tokens of several bands, and the model's span all" if name in READOUTS else "is unknown"
        raise ConfigError(f"{field}: {name!r} {found}; expected one of {', '.join(possible_readouts(rows))}")


def readout_width(name: str, rows: int, width: int) -> int:
    """Return D, the length of a readout of features of a width C."""
    readout = READOUTS[name]
    return len(readout.statistics) * width * (rows if readout.by_band else 1)


def layer_numbers(field: str, layers: Layers, num_layers: int) -> list[int]:
    """Return the numbers of layers, `num_layers` for LAST; raises ConfigError for what the encoder does not have."""
    if layers == ALL:
        return list(range(1, num_layers + 1))
    if layers == LAST:
        return [num_layers]
    numbers = [layers] if isinstance(layers, int) else [] if isinstance(layers, str) else list(layers)
    are_known = all(type(number) is int and 1 <= number <= num_layers for number in numbers)
    if not numbers or not are_known or len(set(numbers)) < len(numbers):
        shown = layers if isinstance(layers, (int, str)) else ",".join(map(str, layers))
        raise ConfigError(
            f"{field}: {shown} was given; the model has layers 1 to {num_layers}: expected one of these, different "
            "ones as in 2,4, last or all"
        )
    return numbers


def parse_layers(text: str) -> Layers:
    """Read layers as a person writes them: `3`, `2,4`, `last` or `all`; what is none of these stays as it is."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        return text
    numbers = tuple(map(int, parts))
    return numbers[0] if len(numbers) == 1 else numbers


def columns(features: Tensor, rows: int) -> Tensor:
    """Concatenate the tokens of each time column: [B, L, C] -> [B, T', rows · C], T' = L / rows."""
    return features.unflatten(1, (-1, rows)).flatten(2)


def read_out(name: str, features: Tensor, token_padding_mask: Optional[Tensor], rows: int) -> Tensor:
    """Read a clip's vector out of its tokens, padding left out.

    Args:
        name: a key of READOUTS.
        features: [B, L, C] of any precision.
        token_padding_mask: [B, L] bool, True = padding; None where nothing is padded.
        rows: tokens in a time column.

    Returns:
        [B, D] float32.
    """
    readout = READOUTS[name]
    if readout.by_band:
        features = columns(features, rows)
        token_padding_mask = None if token_padding_mask is None else token_padding_mask[:, ::rows]
    return torch.cat([STATISTICS[statistic](features, token_padding_mask) for statistic in readout.statistics], dim=-1)


def read_out_layers(name: str, layers: Sequence[Tensor], token_padding_mask: Optional[Tensor], rows: int) -> Tensor:
    """Read a clip's vector out of several layers [B, L, C], one after another: [B, layers · D] float32."""
    return torch.cat([read_out(name, layer, token_padding_mask, rows) for layer in layers], dim=-1)


def merge_readouts(name: str, values: np.ndarray, num_tokens: np.ndarray) -> np.ndarray:
    """Merge what was read out of the chunks of a clip, [K, ..., D] with [K] tokens, into that of the clip: [..., D]."""
    if len(values) == 1:
        return values[0]
    statistics = READOUTS[name].statistics
    parts = dict(zip(statistics, np.split(values.astype(np.float64), len(statistics), axis=-1), strict=True))
    weights = num_tokens / num_tokens.sum()
    mean = np.average(parts["mean"], axis=0, weights=weights)
    merged = {"mean": mean}
    if "max" in parts:
        merged["max"] = parts["max"].max(axis=0)
    if "std" in parts:
        variances = parts["std"] ** 2 + (parts["mean"] - mean) ** 2
        merged["std"] = np.sqrt(np.average(variances, axis=0, weights=weights))
    return np.concatenate([merged[statistic] for statistic in statistics], axis=-1).astype(np.float32)


def mean(features: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
    """Average [B, N, C] of any precision over N, padding left out: [B, C] float32."""
    if padding_mask is None:
        return features.mean(dim=1, dtype=torch.float32)
    keep = ~padding_mask[..., None]  # [B, N, 1]
    total = features.masked_fill(~keep, 0.0).sum(dim=1, dtype=torch.float32)
    return total / keep.sum(dim=1).clamp(min=1)


def _max(features: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    if padding_mask is not None:
        features = features.masked_fill(padding_mask[..., None], float("-inf"))
    return features.amax(dim=1).float()


def _std(features: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    deviations = features.float() - mean(features, padding_mask)[:, None]
    if padding_mask is not None:  # before the square, through which a NaN would reach every gradient
        deviations = deviations.masked_fill(padding_mask[..., None], 0.0)
    return mean(deviations.square(), padding_mask).clamp(min=1e-12).sqrt()  # the root has no gradient at 0


STATISTICS: dict[str, Callable[[Tensor, Optional[Tensor]], Tensor]] = {"mean": mean, "max": _max, "std": _std}
"""[B, N, C] and padding mask [B, N] -> [B, C] float32."""
