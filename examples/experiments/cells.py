"""The cells of the experiments, one pretraining each, and the file in which their results stand."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import atomic_write

HERE = Path(__file__).parent
TABLES = ("ssast", "masking", "pretext")
SCALES = ("cpu", "paper")

Result = dict[str, Any]


class Cell(NamedTuple):
    """One pretraining; tables that ask for the same share it."""

    scale: str
    recipe: str
    pretext: str
    layers: int
    mask_type: str
    ratio: float
    seed: int

    @property
    def name(self) -> str:
        """Return what its folder is called."""
        return "_".join(map(str, self))

    @property
    def tokens(self) -> str:
        """Return `patch` or `frame`."""
        return "frame" if "frame" in self.recipe else "patch"

    @property
    def model(self) -> str:
        """Return what the paper calls it."""
        return "SSAST" if self.recipe.startswith("ssast") else "MAE-AST"

    @property
    def overrides(self) -> list[str]:
        """Return the fields that make it, of a recipe of its scale."""
        return [
            f"recipes={self.recipe}", f"pretext={self.pretext}", f"model.encoder_layers={self.layers}",
            f"task.mask_type={self.mask_type}", f"model.random_mask_prob={self.ratio}", f"common.seed={self.seed}",
        ]  # fmt: skip


def recipe_of(table: str, scale: str) -> Path:
    """Return the path of a table's multirun recipe."""
    return HERE / f"{table}_{scale}.yaml"


def recipes_of(table: str, scale: str) -> list[Path]:
    """Return the paths of all recipes of a table: what is masked otherwise, as frames are, has one of its own."""
    return [recipe_of(table, scale), *sorted(HERE.glob(f"{table}_*_{scale}.yaml"))]


def cells_of(table: str, scale: str) -> list[Cell]:
    """Return the products that a table's recipes sweep over, of each all cells of the first seed first."""
    cells = []
    for path in recipes_of(table, scale):
        params = OmegaConf.to_container(OmegaConf.load(path).hydra.sweeper.params)
        recipes, pretexts, layers, masks, ratios, seeds = (str(values).split(",") for values in params.values())
        cells += [
            Cell(scale, recipe, pretext, int(depth), mask, float(ratio), int(seed))
            for seed, recipe, pretext, depth, mask, ratio in itertools.product(
                seeds, recipes, pretexts, layers, masks, ratios
            )
        ]
    return cells


def key_of(result: Result) -> Cell:
    """Return the cell that a result is of."""
    return Cell(**{name: result[name] for name in Cell._fields})


def read_results(path: Path) -> dict[Cell, Result]:
    """Return the results in a file, of cells that are done; raises ConfigError for a line that is none."""
    results = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: no UTF-8 text; expected results of `run.py`") from None
    for number, line in enumerate(lines, start=1):
        try:
            result = json.loads(line)
            results[key_of(result)] = result
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{path}:{number}: no result of a cell; expected one of `run.py`") from None
    return results


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write results, in the order of their cells."""
    lines = [json.dumps(result) for result in sorted(results, key=key_of)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        stream.write("".join(f"{line}\n" for line in lines).encode())
