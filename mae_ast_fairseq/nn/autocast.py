"""Mathematics in float32 whatever a training loop asks of matrix products."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(tensor: Tensor) -> AbstractContextManager:
    """Leave autocast off on the device of `tensor`; on a device that has none, as torch's meta device, do nothing."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
