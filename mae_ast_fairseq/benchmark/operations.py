"""Counts what a step does, without doing it: floating-point operations and dispatched ones.

A step on fake tensors, which have a shape and no values, dispatches what one on real tensors does: any size can be
counted within seconds and without memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mae_ast_fairseq.benchmark.training import BenchmarkModel

aten = torch.ops.aten


FORMULAS: dict[Any, Callable[..., int]] = {
    # torch has formulas for the GPU's fused attention only; they take shapes.
    aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, query, key, value, *_, **__: sdpa_backward_flop_count(gradient, query, key, value)
    ),
}


class DispatchCounter(TorchDispatchMode):
    """Counts the operations that torch's dispatcher calls within it."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operation and count it."""
        if func.namespace != "prim":  # asks for a tensor's device and the like: of fake tensors alone
            self.dispatched += 1
        return func(*args, **(kwargs or {}))


def count(trained: BenchmarkModel, sample: dict[str, Any]) -> dict[str, int]:
    """Return the operations of forward, backward and inference on a batch; neither model nor gradients change."""
    forward, backward, inference = (FlopCounterMode(display=False, custom_mapping=FORMULAS) for _ in range(3))
    model = trained.model
    with _fake(model, sample) as fake_sample:
        with DispatchCounter() as counter:
            with forward:
                loss = trained.criterion(model.train(), fake_sample)[0]
            with backward:
                loss.backward()
        with inference, torch.no_grad():
            model.eval().extract_features(fake_sample["net_input"]["source"])
    flops = [counted.get_total_flops() for counted in (forward, backward, inference)]
    return {
        "forward_flops": flops[0],
        "backward_flops": flops[1],
        "inference_flops": flops[2],
        "step_flops": flops[0] + flops[1],
        "dispatched": counter.dispatched,
    }


@contextmanager
def _fake(model: nn.Module, sample: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the model fake weights and the batch fake tensors of the same shapes, for a while."""
    with FakeTensorMode() as mode:
        weights: dict[str, Tensor] = {
            name: mode.from_tensor(tensor) for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        }
        net_input = {
            name: None if value is None else mode.from_tensor(value.as_subclass(Tensor))
            for name, value in sample["net_input"].items()
        }
        with _reparametrize_module(model, weights):
            yield {**sample, "net_input": net_input}
