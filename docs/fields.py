"""Writes docs/fields.md, the table of all fields of a recipe, from the dataclasses that define them.

python docs/fields.py
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY

import mae_ast_fairseq  # noqa: F401  (registers tasks, models and criterions)

FILE = Path(__file__).with_suffix(".md")
INTRODUCTION = """# The fields of a recipe

Written by `python docs/fields.py` from the code; do not edit it by hand. Any field can be set in a recipe or on the
command line, as in `model.encoder_layers=6`. The defaults here are the code's; recipes begin with the values of
[examples/base](../examples/base).
"""
CHOICES = {
    "task": (TASK_DATACLASS_REGISTRY, ["mae_ast_pretraining", "mae_ast_classification"]),
    "model": (MODEL_DATACLASS_REGISTRY, ["mae_ast", "ssast", "mae_ast_classifier"]),
    "criterion": (REGISTRIES["criterion"]["dataclass_registry"], ["mae_ast", "mae_ast_classification"]),
    "optimizer": (REGISTRIES["optimizer"]["dataclass_registry"], ["fused_adam", "layerwise_adam"]),
    "lr_scheduler": (
        REGISTRIES["lr_scheduler"]["dataclass_registry"],
        ["polynomial_decay", "cosine", "step_decay", "fixed"],
    ),
}
"""What recipes choose from by a section's `_name`."""
FAIRSEQ_SECTIONS = ("optimization", "dataset", "checkpoint", "common", "distributed_training", "ema")
IN_WORDS = {
    "maximize_best_checkpoint_metric": "as the metric has it",
    "distributed_world_size": "number of GPUs",
    "distributed_num_procs": "number of GPUs",
    "device_id": "LOCAL_RANK, or 0",
}


def fields_page() -> str:
    """Return the content of docs/fields.md."""
    parts = [INTRODUCTION]
    for section, (registry, names) in CHOICES.items():
        parts.append(fields_table(section, {f"`{name}`": registry[name] for name in names}))
    for section in FAIRSEQ_SECTIONS:
        parts.append(fields_table(section, {"default": FairseqConfig.__dataclass_fields__[section].type}))
    return "\n".join(parts)


def fields_table(section: str, kinds: Mapping[str, Any]) -> str:
    """Return the table of a section: a row for each field, a column of defaults for each dataclass, and the help."""
    fields = {field.name: field for kind in kinds.values() for field in dataclasses.fields(kind)}
    fields.pop("_name")
    lines = [f"## {section}\n", f"| field | {' | '.join(kinds)} | what it is |", "|---|" + "---|" * len(kinds) + "---|"]
    for name, field in fields.items():
        defaults = [default_text(kind.__dataclass_fields__.get(name)) for kind in kinds.values()]
        help_text = " ".join((field.metadata.get("help") or "").split()).replace("|", "\\|").replace("<", "\\<")
        lines.append(f"| `{name}` | {' | '.join(defaults)} | {help_text} |")
    return "\n".join([*lines, ""])


def default_text(field: Any) -> str:
    """Return a field's default as YAML has it; nothing where there is no such field."""
    if field is None:
        return ""
    if field.name in IN_WORDS:
        return IN_WORDS[field.name]
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    value = getattr(value, "value", value)  # of an enum
    return f"`{value}`" if value and isinstance(value, str) else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    FILE.write_text(fields_page(), encoding="utf-8")
