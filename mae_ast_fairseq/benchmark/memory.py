"""Peak memory of one case, measured in a process of its own: `python -m mae_ast_fairseq.benchmark.memory`.

The process reads the case as JSON from standard input and prints what it measured as JSON.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mae_ast_fairseq.benchmark.cases import Case, make_sample
from mae_ast_fairseq.benchmark.limits import HEADROOM, is_out_of_memory, reason, require_memory
from mae_ast_fairseq.benchmark.operations import count
from mae_ast_fairseq.benchmark.recipes import Setting, read_recipes
from mae_ast_fairseq.benchmark.steps import BenchmarkModel

# Every tensor of some size is mapped on its own and given back at once, so that the peak is of what was in use.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}

_RESET_PEAK = "5"  # what proc(5) has for clear_refs
_WARM_UP_SECONDS = 0.5
_SIGKILL = 9
_STATUS = Path("/proc/self/status")


def measure(case: Case, settings: Sequence[Setting], device: torch.device, num_threads: int) -> dict[str, Any]:
    """Return the memory of a case's training step in bytes, or {"error": reason} where it does not fit."""
    request = {
        "case": case._asdict(),
        "settings": [setting._asdict() for setting in settings],
        "device": str(device),
        "num_threads": num_threads,
    }
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(request),
        env={**os.environ, **ALLOCATOR},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode == -_SIGKILL:
        return {"error": "not enough memory: the process was killed"}
    if child.returncode != 0:
        raise RuntimeError(f"the process that measures memory failed:\n{child.stderr}")
    return json.loads(child.stdout.splitlines()[-1])


def main() -> int:
    """Measure the case that standard input names."""
    request = json.load(sys.stdin)
    _volunteer()
    torch.set_num_threads(request["num_threads"])
    case = Case(**request["case"])
    settings = [Setting(**setting) for setting in request["settings"]]
    try:
        result: dict[str, Any] = _peak(case, settings, torch.device(request["device"]))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        result = {"error": reason(error)}
    print(json.dumps(result))
    return 0


def _volunteer() -> None:
    """Ask the kernel to kill this process rather than another where memory runs out."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return  # not Linux, or not allowed


def _peak(case: Case, settings: Sequence[Setting], device: torch.device) -> dict[str, Any]:
    recipe = read_recipes([case.recipe], settings)[case.recipe]
    trainee = BenchmarkModel(recipe, case.model_key, device)
    sample = make_sample(recipe, case, device)
    require_memory(HEADROOM * count(trainee, sample).kept_bytes + trainee.pending_bytes, device)
    trainee.allocate_all()
    # A step first: libraries load, threads start, and caches fill up. Where its peak cannot be forgotten, a small one.
    small = case._replace(seconds=min(case.seconds, _WARM_UP_SECONDS), batch_size=1)
    _step(trainee, sample if _forget_peak(device) else make_sample(recipe, small, device))
    _forget_peak(device)
    before = _in_use(device)
    _step(trainee, sample)
    peak = _peak_so_far(device)
    return {"step_bytes": peak - before, "peak_bytes": peak, "static_bytes": trainee.static_bytes}


def _step(trainee: BenchmarkModel, sample: dict[str, Any]) -> None:
    """Take a step whose gradients lie where they are already: what comes on top is the step's own."""
    for gradient in (parameter.grad for parameter in trainee.parameters):
        if gradient is not None:
            gradient.zero_()
    trainee.forward(sample).backward()
    trainee.update(sample)


def _forget_peak(device: torch.device) -> bool:
    """Begin a new peak; False where the system cannot."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _in_use(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS") if _STATUS.exists() else _peak_so_far(device)


def _peak_so_far(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


if __name__ == "__main__":
    sys.exit(main())
