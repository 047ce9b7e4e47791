"""Odd values of model, task and criterion fields, as fairseq-hydra-train takes them from its command line."""

import copy
import dataclasses
import json
import os
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mae_ast_fairseq.config.classification import (
    ClassificationCriterionFields,
    ClassificationTaskFields,
    FinetuningFields,
)
from mae_ast_fairseq.config.pretraining import (
    MaeAstFields,
    PretrainingCriterionFields,
    PretrainingTaskFields,
    SsastFields,
)
from mae_ast_fairseq.errors import ConfigError
from tests.fuzz.harness import Subject, require
from tests.fuzz.texts import draw
from tests.training import SMALL, SMALL_ENCODER, build_parts, config

_RECIPES = {
    "mae_ast_patch": (MaeAstFields, PretrainingTaskFields, SMALL),
    "mae_ast_frame": (MaeAstFields, PretrainingTaskFields, SMALL),
    "ssast_patch": (SsastFields, PretrainingTaskFields, SMALL_ENCODER),
    "finetune_any": (FinetuningFields, ClassificationTaskFields, SMALL_ENCODER),
}
_ODD_NUMBERS = (
    *("0", "-1", "1", "2", "3", "7", "16", "17", "128", "1000", "1001", "1000000", "1000001", "2147483647"),
    *(
        "2147483648",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        f"1{'0' * 400}",
    ),
    *("1e308", "1e400", "0.5", "1.0", "1.5", "1e-300", "nan", "inf", "-inf", ".nan", ".inf", "'7'", "'16 '"),
)
_ODD_TEXTS = (
    *(
        "null",
        "true",
        "false",
        "''",
        "[]",
        "[1,2]",
        "{}",
        "{a:1}",
        "[[]]",
        "'é'",
        "'日本語'",
        "'\x1b[31mred'",
        "'a\tb'",
    ),
    *("'\x85'", "'\u202e'", "'a\tb'", f"'{'a' * 3_000}'", "relu", "gelu", "batch", "utterance", "dataset", "mean+max"),
    *("all", "'2,4'", "'0,99'", "'1,,2'", "/etc/passwd", "/dev/null", "/nowhere/x.pt", ".", "tiny", "'1:0.5'"),
    *("'nan:1'", "[nan]", "['1',x]", "chunk_mask", "retain_spans", "random_mask_batched", "learned", "none"),
    *("sinusoidal", "refuse", "transformer", "'${x}'", "'${oc.env:HOME}'"),
)
_MEMORY_BYTES = 1 << 30  # which a machine is said to have
_OF_HYDRA = (HydraException, OmegaConfBaseException)
_BASE: dict[str, DictConfig] = {}


def _prepare(folder: Path) -> str:
    """Compose the recipes, and write a labelled corpus of no audio, as none is read before a batch is; return it."""
    for split in ("train", "valid"):
        (folder / f"{split}.tsv").write_text(f"{folder}\na.wav\t16000\nb.wav\t17000\n")
        (folder / f"{split}.lbl").write_text("dog\nrain\n")
    for recipe, (_, _, small) in _RECIPES.items():
        _BASE[recipe] = config(recipe, f"task.data={folder}", *small)
    return str(folder)


def _make(folder: str, rng: np.random.Generator) -> bytes:
    recipe = draw(list(_RECIPES), rng)
    model, task, _ = _RECIPES[recipe]
    criterion = ClassificationCriterionFields if task is ClassificationTaskFields else PretrainingCriterionFields
    parts = {"model": model, "task": task, "criterion": criterion}
    overrides = [recipe]
    for _ in range(rng.integers(1, 4)):
        part = draw(("model", "model", "task", "task", "criterion"), rng)
        field = draw([each.name for each in dataclasses.fields(parts[part]) if each.name != "data"], rng)
        value = draw(_ODD_NUMBERS if rng.random() < 0.7 else _ODD_TEXTS, rng)
        overrides.append(f"++{part}.{field}={value}")
    return json.dumps(overrides).encode()


def _attempt(data: bytes, folder: Path) -> None:
    recipe, *overrides = json.loads(data)
    cfg = copy.deepcopy(_BASE[recipe])  # composing it again would take a second
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, cfg)
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    except _OF_HYDRA as error:
        raise ConfigError(f"hydra itself refuses it, as {type(error).__name__}") from None
    with patch.object(os, "sysconf", lambda name: _MEMORY_BYTES if name == "SC_PHYS_PAGES" else 1):
        task, model, _ = build_parts(cfg)
    task.load_dataset("train")
    require(all(bool(torch.isfinite(value).all()) for value in model.parameters()), "weights are not finite")


SUBJECT = Subject(1_500, _prepare, _make, _attempt)
