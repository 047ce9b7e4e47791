"""Counts what a step does, without doing it: floating-point operations, dispatched operations, bytes kept for backward.

A step on fake tensors, which have a shape and no values, dispatches what one on real tensors does: any size can be
counted within a second and without memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from mae_ast_fairseq.benchmark.steps import BenchmarkModel

aten = torch.ops.aten


class Operations(NamedTuple):
    """What one training step without its update, and one inference, take."""

    forward_flops: int
    backward_flops: int
    inference_flops: int
    dispatched: int
    """operations that torch's dispatcher calls in forward and backward"""
    kept_bytes: int
    """of what the forward pass keeps for the backward pass, weights left out"""
    static_bytes: int
    """of weights, gradients and optimiser state"""

    @property
    def step_flops(self) -> int:
        """Of forward and backward."""
        return self.forward_flops + self.backward_flops


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # torch has formulas for the GPU's fused attention only. Backward is five matrix products: one is recomputed.
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class Counter(TorchDispatchMode):
    """Counts the operations dispatched within it, and the floating-point operations of their matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.dispatched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operation and count it."""
        result = func(*args, **(kwargs or {}))
        if func.namespace == "prim":  # asks for a tensor's device and the like: of fake tensors alone
            return result
        self.dispatched += 1
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


def count(trainee: BenchmarkModel, sample: dict[str, Any]) -> Operations:
    """Count the operations of a step on a batch; neither the model nor its gradients change."""
    with _fake(trainee, sample) as fake_sample:
        kept_bytes = _kept_bytes(trainee, fake_sample)
        with Counter() as forward:
            loss = trainee.forward(fake_sample)
        with Counter() as backward:
            loss.backward()
        with Counter() as inference:
            trainee.infer(fake_sample)
    return Operations(
        forward.flops,
        backward.flops,
        inference.flops,
        forward.dispatched + backward.dispatched,
        kept_bytes,
        trainee.static_bytes,
    )


def _kept_bytes(trainee: BenchmarkModel, sample: dict[str, Any]) -> int:
    """Add up what the forward pass keeps, each storage once, in a pass of its own: noting it dispatches operations."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainee.forward(sample)
    weights = {tensor.untyped_storage()._cdata for tensor in trainee.model.state_dict(keep_vars=True).values()}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)


@contextmanager
def _fake(trainee: BenchmarkModel, sample: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the model fake weights and the batch fake tensors of the same shapes, for a while."""
    mode = FakeTensorMode()

    def fake(value: Any) -> Any:
        return mode.from_tensor(value) if isinstance(value, Tensor) else value

    net_input = {name: fake(value) for name, value in sample["net_input"].items()}
    tables: list[dict[str, Any]] = [
        table for module in trainee.model.modules() for table in (module._parameters, module._buffers)
    ]
    before = [dict(table) for table in tables]
    try:
        for table in tables:
            table.update({name: fake(tensor) for name, tensor in table.items()})
        with mode:
            yield {**sample, "net_input": net_input}
    finally:
        for table, tensors in zip(tables, before, strict=True):
            table.update(tensors)
