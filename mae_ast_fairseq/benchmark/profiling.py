"""The heaviest operators of one training step, as torch's profiler sees them."""

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mae_ast_fairseq.benchmark.steps import BenchmarkModel

NUM_OPERATORS = 15


def heaviest_operators(trainee: BenchmarkModel, sample: dict[str, Any], device: torch.device) -> list[dict[str, Any]]:
    """Return the operators of a step (update included) with the most time of their own, in seconds, and their share."""
    is_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    trainee.forget_gradients()
    with profile(activities=activities) as profiler:
        trainee.forward(sample).backward()
        trainee.update(sample)
    trainee.forget_gradients()
    averages = profiler.key_averages()
    microseconds = {
        event.key: (event.self_device_time_total if is_cuda else event.self_cpu_time_total, event.count)
        for event in averages
    }
    total = sum(time for time, _ in microseconds.values())
    heaviest = sorted(microseconds.items(), key=lambda item: -item[1][0])[:NUM_OPERATORS]
    return [
        {"operator": name, "calls": calls, "seconds": time / 1e6, "share": time / total}
        for name, (time, calls) in heaviest
    ]
