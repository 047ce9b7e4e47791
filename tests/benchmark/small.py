"""A recipe cut down to a model that steps within milliseconds, and cases of it."""

from typing import Any

import torch

from mae_ast_fairseq.benchmark.cases import Case
from mae_ast_fairseq.benchmark.recipes import Recipe, Setting, parse_setting, read_recipes

CPU = torch.device("cpu")
SMALL = (
    "model.encoder_layers=2",
    "model.encoder_embed_dim=48",
    "model.encoder_ffn_embed_dim=96",
    "model.encoder_attention_heads=4",
)
SMALL_DECODER = ("model.decoder_embed_dim=48", "model.decoder_layers=2")


def small_recipes(*names: str, settings: tuple[str, ...] = ()) -> dict[str, Recipe]:
    """Return recipes with a model of two layers, by the names given."""
    return read_recipes(names, small_settings(*names, settings=settings))


def small_settings(*names: str, settings: tuple[str, ...] = ()) -> list[Setting]:
    """Return what makes recipes small, and other settings."""
    decoder = SMALL_DECODER if any(name.startswith("mae_ast") for name in names) else ()
    return [parse_setting(text) for text in (*SMALL, *decoder, *settings)]


def small_case(recipe: str = "mae_ast_patch", **changes: Any) -> Case:
    """Return a case of one second and two clips, without dropout."""
    case = Case(recipe, "float32", dropout=0.0, attention_dropout=0.0, mask_ratio=None, seconds=1.0, batch_size=2)
    return case._replace(**changes)
