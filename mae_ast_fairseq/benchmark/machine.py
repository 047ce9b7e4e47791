"""What a benchmark ran on: processor, device, versions, commit."""

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import fairseq
import torch

import mae_ast_fairseq


def describe(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on besides the code."""
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "fairseq": fairseq.__version__,
        "mae_ast_fairseq": mae_ast_fairseq.__version__,
        "commit": _commit(Path(mae_ast_fairseq.__file__).parent),
    }


def _commit(folder: Path) -> str | None:
    """Return the commit of the clone, with a + where files differ from it; None outside one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
