"""Fine-tunes in the test's own process, on tones whose pitch is their label."""

import json
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile as sf
import torch
from fairseq import tasks
from fairseq_cli import hydra_validate
from fairseq_cli import train as fairseq_train
from torch import nn

from mae_ast_fairseq.config.pretraining import EncoderFields
from mae_ast_fairseq.nn.build import MODELS
from mae_ast_fairseq.tasks.classification import MaeAstClassificationTask
from tests.tiny import PATCH
from tests.training import config, recorded

PITCHES = {"low": 200.0, "middle": 800.0, "high": 3_000.0}
RECIPE = "finetune_fsdd"
TINY = {
    "encoder_layers": 2,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
}
QUICK = (
    *(f"model.{name}={value}" for name, value in TINY.items()),
    "dataset.max_tokens=null",
    "dataset.batch_size=8",
    "task.frequency_mask=0",
    "task.time_mask=0",
)


def write_tones(
    folder: Path, *, num_train: int = 24, num_valid: int = 9, names: Sequence[str] = tuple(PITCHES)
) -> Path:
    """Write clips of 0.3 to 0.6 s, each a tone in noise, with manifests and labels; return the folder."""
    rng = np.random.default_rng(0)
    audio = folder / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", num_train), ("valid", num_valid)):
        lines, labels = [str(audio)], []
        for clip in range(count):
            name = list(PITCHES)[clip % len(PITCHES)]
            time = np.arange(int(rng.uniform(0.3, 0.6) * 16_000)) / 16_000
            tone = 0.3 * np.sin(2 * np.pi * PITCHES[name] * rng.uniform(0.9, 1.1) * time)
            sf.write(audio / f"{split}{clip}.wav", tone + 0.02 * rng.standard_normal(len(time)), 16_000)
            lines.append(f"{split}{clip}.wav\t{len(time)}")
            labels.append(name)
        (folder / f"{split}.tsv").write_text("\n".join([*lines, ""]))
        (folder / f"{split}.lbl").write_text("\n".join([*labels, ""]))
    (folder / "labels.txt").write_text("\n".join([*names, ""]))
    return folder


class Finetuned(NamedTuple):
    """What happened in a run."""

    losses: list[float]
    """the summed loss of every training batch, in full precision"""
    logged: dict[str, list[dict[str, float]]]
    """what was logged of every update (`train_inner`) and of every validation of each subset, without prefixes"""


def number(value: Any) -> float:
    """Read a number as fairseq logs it: null where the metric that chooses the best is NaN."""
    return math.nan if value is None else float(value)


def finetune(data: Path | str, *overrides: str, recipe: str = RECIPE) -> Finetuned:
    """Train as configured and return what happened."""
    run = Finetuned([], defaultdict(list))

    def keep(record: logging.LogRecord) -> None:
        if record.getMessage().startswith("{"):
            values = json.loads(record.getMessage()).items()
            prefix = f"{record.name}_"
            run.logged[record.name].append({key.removeprefix(prefix): number(value) for key, value in values})

    with recorded(MaeAstClassificationTask, run.losses, keep):
        fairseq_train.main(config(recipe, f"task.data={data}", *QUICK, *overrides))
    return run


def validate(checkpoint: Path, data: Path | str, *overrides: str) -> dict[str, dict[str, float]]:
    """Run fairseq's validation command on a checkpoint; return what it shows of each subset, without prefixes."""
    shown: dict[str, dict[str, float]] = {}

    def keep(record: logging.LogRecord) -> None:
        values = json.loads(record.getMessage()).items() if record.getMessage().startswith("{") else ()
        prefix = f"{record.name}_"
        shown[record.name] = {key.removeprefix(prefix): float(value) for key, value in values if prefix in key}

    with recorded(MaeAstClassificationTask, [], keep):
        hydra_validate.validate(
            config(RECIPE, f"task.data={data}", *QUICK, f"++common_eval.path={checkpoint}", *overrides)
        )
    return shown


def set_up(data: Path | str, *overrides: str) -> tuple[MaeAstClassificationTask, nn.Module, Any]:
    """Build task and model of the quick recipe as fairseq does; return them and the config."""
    cfg = config(RECIPE, f"task.data={data}", *QUICK, *overrides)
    task = tasks.setup_task(cfg.task)
    return task, task.build_model(cfg.model), cfg


def pretrained(path: Path, kind: str = "mae_ast", **changes: Any) -> Path:
    """Write a checkpoint of a tiny pretrained model of a kind, random but for its input statistics."""
    decoder = {"decoder_embed_dim": 48, "decoder_ffn_embed_dim": 96, "decoder_layers": 1} if kind == "mae_ast" else {}
    fields: EncoderFields = MODELS[kind].fields(
        **{**PATCH, **TINY, "max_token_length": 64, "normalization": "dataset", **decoder, **changes}
    )
    torch.manual_seed(1)
    model = MODELS[kind].build(fields, 128)
    if fields.normalization == "dataset":
        model.batch_norm.set_statistics(-6.0, 3.0)
    cfg = {
        "model": {"_name": kind, **vars(fields)},
        "task": {"_name": "mae_ast_pretraining", "feature_dim": 128, "mask_type": "chunk_mask"},
    }
    torch.save({"args": None, "cfg": cfg, "model": model.state_dict()}, path)
    return path
