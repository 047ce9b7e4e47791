"""What is measured: the product of recipes and sizes, and the model and the synthetic batch of each case."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from torch import nn

from mae_ast_fairseq.benchmark.recipes import Recipe
from mae_ast_fairseq.data import masking
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.inference.encoder import PRECISIONS
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.build import build_grid
from mae_ast_fairseq.nn.tokens import MIN_TOKENS

LOG_MEL_MEAN, LOG_MEL_STD = -6.0, 4.0  # about those of speech; speed does not depend on them


class ModelKey(NamedTuple):
    """What a model depends on: cases that differ in their sizes alone share one."""

    recipe: str
    precision: str
    dropout: Optional[float]
    attention_dropout: Optional[float]


class Case(NamedTuple):
    """One row of the benchmark; what is None is as the recipe has it."""

    recipe: str
    precision: str
    dropout: Optional[float]
    attention_dropout: Optional[float]
    mask_ratio: Optional[float]
    seconds: float
    batch_size: int

    @property
    def model_key(self) -> ModelKey:
        """What its model depends on."""
        return ModelKey(self.recipe, self.precision, self.dropout, self.attention_dropout)

    def of_recipe(self, recipe: str) -> "Case":
        """Return the same case of another recipe."""
        return self._replace(recipe=recipe)


class Choices(NamedTuple):
    """What rows are the product of."""

    recipes: Sequence[str]
    precisions: Sequence[str]
    dropouts: Sequence[Optional[float]]
    attention_dropouts: Sequence[Optional[float]]
    mask_ratios: Sequence[Optional[float]]
    seconds: Sequence[float]
    batch_sizes: Sequence[int]


class Sizes(NamedTuple):
    """Tokens of each clip of a case."""

    num_tokens: int
    num_visible: int
    num_masked: int


def product(choices: Choices) -> list[Case]:
    """Return every combination, the recipes changing fastest: rows to compare stand, and run, side by side."""
    slow = (*choices[1:5], *choices[5:])
    return [Case(recipe, *values) for values in itertools.product(*slow) for recipe in choices.recipes]


def sweep(choices: Choices, seconds: Sequence[float], mask_ratios: Sequence[float]) -> list[Case]:
    """Return the cases of two lines through the first clip length and ratio: over lengths, and over ratios."""
    lengths = product(choices._replace(seconds=seconds, mask_ratios=choices.mask_ratios[:1]))
    ratios = product(choices._replace(seconds=choices.seconds[:1], mask_ratios=mask_ratios))
    return list(dict.fromkeys([*lengths, *ratios]))


def fields_of(recipe: Recipe, key: ModelKey | Case) -> Any:
    """Return the model fields of a case: its dropouts, and no layer drop, with which updates would differ."""
    changes: dict[str, Any] = {"encoder_layerdrop": 0.0}
    if hasattr(recipe.fields, "decoder_layerdrop"):
        changes["decoder_layerdrop"] = 0.0
    if key.dropout is not None:
        changes |= {"dropout": key.dropout, "dropout_input": key.dropout}
    if key.attention_dropout is not None:
        changes["attention_dropout"] = key.attention_dropout
    return dataclasses.replace(recipe.fields, **changes)


def mask_ratio_of(recipe: Recipe, case: Case) -> float:
    """Return the share of masked tokens of a case."""
    return recipe.fields.random_mask_prob if case.mask_ratio is None else case.mask_ratio


def sizes_of(recipe: Recipe, case: Case) -> Sizes:
    """Count the tokens of a case; raises ConfigError where a clip is too short."""
    grid = build_grid(recipe.fields, recipe.feature_dim)
    num_tokens = grid.num_tokens(fbank.num_frames(round(case.seconds * fbank.SAMPLE_RATE)))
    if num_tokens < MIN_TOKENS:
        raise ConfigError(
            f"--seconds {case.seconds:g}: gives {num_tokens} tokens of {case.recipe}; expected at least {MIN_TOKENS}"
        )
    num_visible = masking.num_visible(num_tokens, mask_ratio_of(recipe, case))
    return Sizes(num_tokens, num_visible, num_tokens - num_visible)


def build_model(recipe: Recipe, key: ModelKey, device: torch.device) -> nn.Module:
    """Return the model of a case for training, as fairseq would place it: in its precision but for normalisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = recipe.kind.build(fields_of(recipe, key), recipe.feature_dim)
    model.batch_norm.set_statistics(LOG_MEL_MEAN, LOG_MEL_STD)
    return model.to(device=device, dtype=PRECISIONS[key.precision]).train()


def make_sample(recipe: Recipe, case: Case, device: torch.device) -> dict[str, Any]:
    """Return a batch as the dataset would collate it: noise of log-Mel scale, with masks of the recipe's kind."""
    draws = np.random.default_rng(0)
    grid = build_grid(recipe.fields, recipe.feature_dim)
    num_frames = fbank.num_frames(round(case.seconds * fbank.SAMPLE_RATE))
    shape = (case.batch_size, num_frames, recipe.feature_dim)
    source = torch.from_numpy(draws.normal(LOG_MEL_MEAN, LOG_MEL_STD, shape).astype(np.float32))
    masks_of = masking.Masking(recipe.mask_type, mask_ratio_of(recipe, case), recipe.fields.mask_length)
    num_masks = 1 if masks_of.shared else case.batch_size
    masks = [masks_of.draw(grid.rows, grid.num_columns(num_frames), draws) for _ in range(num_masks)]
    batch = masking.collate(masks * (case.batch_size // num_masks))
    return {
        "id": torch.arange(case.batch_size),
        "nsentences": case.batch_size,
        "ntokens": batch.masked.size,
        "num_bad_files": 0,
        "net_input": {
            "source": source.to(device),
            "padding_mask": None,
            "visible": torch.from_numpy(batch.visible).to(device),
            "masked": torch.from_numpy(batch.masked).to(device),
            "visible_padding_mask": None,
            "masked_padding_mask": None,
        },
    }
