"""One update as torch's profiler sees it: its heaviest operators, and the memory it takes."""

from typing import Any

import numpy as np
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mae_ast_fairseq.benchmark.training import BenchmarkModel

NUM_OPERATORS = 15


def heaviest_operators(trained: BenchmarkModel, sample: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the operators of an update with the most time of their own, in seconds, and their fraction of all."""
    is_cuda = trained.trainer.cuda
    averages = _profile(trained, sample).key_averages()
    # What an operator starts on a GPU is listed beside it, and counted in it already.
    events = [event for event in averages if event.device_type == DeviceType.CPU and not event.is_user_annotation]
    seconds = [(event.self_device_time_total if is_cuda else event.self_cpu_time_total) / 1e6 for event in events]
    total = sum(seconds)
    heaviest = np.argsort(seconds)[::-1][:NUM_OPERATORS]
    return [
        {
            "operator": events[place].key,
            "calls": events[place].count,
            "own_seconds": seconds[place],
            "share": seconds[place] / total,
        }
        for place in heaviest
    ]


def peak_memory(trained: BenchmarkModel, sample: dict[str, Any]) -> dict[str, int]:
    """Return the bytes of weights, gradients and optimiser state, and of what comes on top at an update's peak."""
    trainer, parameters = trained.trainer, list(trained.model.parameters())
    trainer.train_step([sample])
    trainer.zero_grad = lambda: None  # gradients stay where they lie, so that they are not the update's
    try:
        events: list[Any] = _profile(trained, sample).profiler.kineto_results.events()  # type: ignore[union-attr]
    finally:
        del trainer.zero_grad
        trainer.zero_grad()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type().name.lower() == trainer.device.type
    ]
    step = int(np.cumsum([num_bytes for _, num_bytes in sorted(changes)]).max(initial=0))
    size = parameters[0].element_size()
    # Weights and gradients, below float32 those of the optimiser as well, and Adam's two moments.
    bytes_per_weight = 2 * size + (8 if size < 4 else 0) + 8
    static = bytes_per_weight * sum(parameter.numel() for parameter in parameters)
    return {"step_bytes": step, "static_bytes": static, "peak_bytes": static + step}


def _profile(trained: BenchmarkModel, sample: dict[str, Any]) -> profile:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], profile_memory=True) as profiler:
        trained.trainer.train_step([sample])
    return profiler
