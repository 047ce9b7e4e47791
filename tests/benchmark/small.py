"""A recipe cut down to a model that steps within milliseconds, and cases of it."""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from mae_ast_fairseq.benchmark.cases import Case
from mae_ast_fairseq.benchmark.loader import synthetic_manifest
from mae_ast_fairseq.benchmark.recipes import read_recipes
from mae_ast_fairseq.benchmark.training import BenchmarkModel, fairseq_config, make_sample

CPU = torch.device("cpu")
SMALL = (
    "model.encoder_layers=2",
    "model.encoder_embed_dim=48",
    "model.encoder_ffn_embed_dim=96",
    "model.encoder_attention_heads=4",
)
SMALL_DECODER = ("model.decoder_embed_dim=48", "model.decoder_layers=2")


def small_recipe(name: str = "mae_ast_patch", *settings: str) -> DictConfig:
    """Return a recipe with a model of two layers."""
    decoder = SMALL_DECODER if name.startswith("mae_ast") else ()
    return read_recipes([name], [*SMALL, *decoder, *settings])[name]


def small_case(recipe: str = "mae_ast_patch", **changes: Any) -> Case:
    """Return a case of one second and two clips, without dropout."""
    case = Case(recipe, "float32", dropout=0.0, attention_dropout=0.0, mask_ratio=None, seconds=1.0, batch_size=2)
    return case._replace(**changes)


def small_config(
    folder: Path, case: Case, *settings: str, manifest: Path | None = None, num_workers: int = 0
) -> DictConfig:
    """Return fairseq's config of a case of a small recipe."""
    return fairseq_config(
        small_recipe(case.recipe, *settings),
        case,
        CPU,
        manifest=manifest or synthetic_manifest(folder, case, case.batch_size),
        save_dir=folder,
        num_workers=num_workers,
    )


def small_model(folder: Path, case: Case, *settings: str) -> tuple[BenchmarkModel, dict[str, Any]]:
    """Return the model and the batch of a case of a small recipe."""
    cfg = small_config(folder, case, *settings)
    return BenchmarkModel(cfg), make_sample(cfg)
