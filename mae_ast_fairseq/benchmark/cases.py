"""What is measured: rows, the product of recipes and sizes."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

from omegaconf import DictConfig

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.build import build_grid
from mae_ast_fairseq.nn.tokens import MIN_TOKENS

SWEEP_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)
SWEEP_RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9)


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
    def model_key(self) -> tuple[Any, ...]:
        """What its model depends on: cases that differ in their sizes alone share one."""
        return self[:4]

    @property
    def num_samples(self) -> int:
        """Length of its clips."""
        return round(self.seconds * fbank.SAMPLE_RATE)


def product(recipes: Sequence[str], choices: Mapping[str, Sequence[Any]]) -> list[Case]:
    """Return every combination, the recipes changing fastest: rows to compare stand, and run, side by side."""
    points = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    return [Case(recipe, **point) for point in points for recipe in recipes]


def sweep(recipes: Sequence[str], choices: Mapping[str, Sequence[Any]]) -> list[Case]:
    """Return the cases of two lines through the first clip length and ratio: over lengths, and over ratios."""
    lengths = product(recipes, {**choices, "seconds": SWEEP_SECONDS, "mask_ratio": choices["mask_ratio"][:1]})
    ratios = product(recipes, {**choices, "seconds": choices["seconds"][:1], "mask_ratio": SWEEP_RATIOS})
    return list(dict.fromkeys([*lengths, *ratios]))


def require_tokens(recipe: DictConfig, case: Case) -> None:
    """Raise ConfigError where the clips of a case are too short."""
    num_tokens = build_grid(recipe.model, recipe.task.feature_dim).num_tokens(fbank.num_frames(case.num_samples))
    if num_tokens < MIN_TOKENS:
        raise ConfigError(
            f"--seconds {case.seconds:g}: gives {num_tokens} tokens of {case.recipe}; expected at least {MIN_TOKENS}"
        )
