"""Normalisation of the log-Mel input to mean 0 and standard deviation 0.5 (paper section 3.1), padding excluded."""

import math
from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor, nn

from mae_ast_fairseq.errors import ConfigError, UserError

STD = 0.5
EPSILON = 1e-5
MOMENTUM = 0.1


class UnsetStatisticsError(UserError):
    """A model with `normalization=dataset` is used before its statistics were filled."""


def moments(frames: Tensor, padding_mask: Optional[Tensor], dim: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of `frames` [B, T, F] over `dim`, padded frames left out.

    Their shapes broadcast against [B, T, F].
    """
    if padding_mask is None:
        variance, mean = torch.var_mean(frames, dim=dim, correction=0, keepdim=True)
        return mean, variance
    keep = ~padding_mask[..., None]  # [B, T, 1]
    count = (keep.sum(dim=dim, keepdim=True) * frames.shape[-1]).clamp(min=1)
    mean = frames.masked_fill(~keep, 0.0).sum(dim=dim, keepdim=True) / count
    variance = (frames - mean).square().masked_fill(~keep, 0.0).sum(dim=dim, keepdim=True) / count
    return mean, variance


class InputNormalization(nn.Module):
    """Normalises log-Mel frames; a derived class says by which mean and variance.

    The buffers carry the names of torch's BatchNorm, as released checkpoints have them, and stay float32 under
    `.half()` and `.bfloat16()`.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    initial_mean, initial_variance = 0.0, 1.0
    """NaN where the model cannot be used before they are set"""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.full((1,), self.initial_mean))
        self.register_buffer("running_var", torch.full((1,), self.initial_variance))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        # Kept on the host, so that a training step need not ask the device.
        self.is_set = math.isfinite(self.initial_mean)

    def moments(self, frames: Tensor, padding_mask: Optional[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the mean and variance by which `frames` [B, T, F] are normalised."""
        raise NotImplementedError

    def set_statistics(self, mean: float, std: float) -> None:
        """Fill the buffers with the mean and standard deviation of log-Mel values.

        Raises ConfigError for values that nothing can be divided by, as those of silence alone.
        """
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ConfigError(
                f"the data's log-Mel mean is {mean} and its standard deviation {std}; expected finite numbers "
                "and a standard deviation above 0; check that the files are not all silent"
            )
        self.running_mean.fill_(mean)
        self.running_var.fill_(std**2)
        self.is_set = True

    def forward(self, frames: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Normalise `frames` [B, T, F] float32; `padding_mask` [B, T] bool, True = padding."""
        mean, variance = self.moments(frames, padding_mask)
        return (frames - mean) * (torch.rsqrt(variance + EPSILON) * STD)

    def inverse(self, normalised: Tensor, frames: Tensor) -> Tensor:
        """Turn normalised values [B, T', F] back into log-Mel ones, in evaluation mode, without padding.

        frames: [B, T, F] float32, the whole input that was normalised: `utterance` takes its statistics.
        """
        assert not self.training, "a batch's statistics are not kept"
        mean, variance = self.moments(frames, None)
        return normalised * ((variance + EPSILON).sqrt() / STD) + mean

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "InputNormalization":
        def keep_type(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_type, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.is_set = bool(torch.isfinite(self.running_mean).all() and torch.isfinite(self.running_var).all())


class DatasetNormalization(InputNormalization):
    """Normalises by fixed values, filled once by `set_statistics` or from a checkpoint."""

    initial_mean, initial_variance = math.nan, math.nan

    def moments(self, frames: Tensor, padding_mask: Optional[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the values that were set; raises UnsetStatisticsError where none were."""
        if not self.is_set:
            raise UnsetStatisticsError(
                "model.normalization: dataset was given, but the data's mean and standard deviation were never set; "
                "train or load a checkpoint first, call set_statistics, or choose utterance"
            )
        return self.running_mean, self.running_var


class BatchNormalization(InputNormalization):
    """Normalises by the values of the batch while training, with running averages for evaluation."""

    def moments(self, frames: Tensor, padding_mask: Optional[Tensor]) -> tuple[Tensor, Tensor]:
        """Return those of the batch, or in evaluation the running averages."""
        if not self.training:
            return self.running_mean, self.running_var
        mean, variance = moments(frames, padding_mask, dim=(0, 1, 2))
        with torch.no_grad():
            count = frames.numel() if padding_mask is None else (~padding_mask).sum() * frames.shape[-1]
            unbiased = variance * (count / (count - 1))
            self.running_mean.lerp_(mean.flatten(), MOMENTUM)
            self.running_var.lerp_(unbiased.flatten(), MOMENTUM)
            self.num_batches_tracked += 1
        return mean, variance


class UtteranceNormalization(InputNormalization):
    """Normalises each clip by its own values."""

    def moments(self, frames: Tensor, padding_mask: Optional[Tensor]) -> tuple[Tensor, Tensor]:
        """Return those of each clip: [B, 1, 1]."""
        return moments(frames, padding_mask, dim=(1, 2))


NORMALIZATIONS: dict[str, type[InputNormalization]] = {
    "dataset": DatasetNormalization,
    "batch": BatchNormalization,
    "utterance": UtteranceNormalization,
}
"""The choices of `model.normalization`."""
