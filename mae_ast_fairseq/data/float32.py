"""A tensor that stays float32 on its way from the loader to the model.

fairseq's trainer casts every float32 tensor of a batch to the training precision, with which log-Mel values lose up to
0.03 before they are normalised. The batch therefore carries its frames as a tensor that moves between devices as any
other and declines to be cast.
"""

from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor


class Float32Tensor(Tensor):
    """A float32 tensor whose `.to()` changes its device and never its type.

    Operations on it give plain tensors, as with `nn.Parameter`.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(tensor: Tensor) -> "Float32Tensor":
        """Wrap a float32 tensor without a copy."""
        assert tensor.dtype is torch.float32
        return tensor.as_subclass(Float32Tensor)

    @property
    def plain(self) -> Tensor:
        """The same values as a plain tensor, without a copy."""
        return self.as_subclass(Tensor)

    def to(self, *args: Any, **kwargs: Any) -> "Float32Tensor":
        """Move as `Tensor.to` does, leaving the type as it is."""
        copy = bool(kwargs.pop("copy", False))
        device, _, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        moved = self.plain.to(device=device or self.device, non_blocking=non_blocking, copy=copy)
        return Float32Tensor.of(moved)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Float32Tensor":
        return memo.setdefault(id(self), Float32Tensor.of(self.plain.clone()))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Saved as a plain tensor, which `torch.load(weights_only=True)` takes.
        return self.plain.__reduce_ex__(protocol)

    def pin_memory(self, *args: Any, **kwargs: Any) -> "Float32Tensor":
        """Pin as `Tensor.pin_memory` does."""
        return Float32Tensor.of(self.plain.pin_memory(*args, **kwargs))


def _reduce(tensor: Float32Tensor) -> tuple[Any, tuple[Tensor]]:
    return Float32Tensor.of, (tensor.plain,)


# Loader workers hand tensors over in shared memory, by a rule that torch registers for each type of tensor.
ForkingPickler.register(Float32Tensor, _reduce)
