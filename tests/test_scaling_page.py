"""docs/scaling.md has every recipe of pretraining, with the number of weights that it has."""

import re
from pathlib import Path

import pytest
from fairseq import tasks
from torch._subclasses.fake_tensor import FakeTensorMode

import mae_ast_fairseq
from mae_ast_fairseq.benchmark.recipes import recipe_names
from tests.training import config

PAGE = (Path(mae_ast_fairseq.__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
ROWS = [line.split(" | ") for line in PAGE.splitlines() if re.match(r"\| `(mae|ssast)_", line)]
OF_RECIPE = {name: row for row in ROWS for name in re.findall(r"`(\w+)`", row[0])}


def test_the_table_of_memory_has_every_recipe():
    assert OF_RECIPE.keys() == set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_has_the_weights_that_the_table_says(name):
    cfg = config(name, "task.data=/data")
    with FakeTensorMode():  # which takes no memory
        model = tasks.setup_task(cfg.task).build_model(cfg.model)
    num_weights = sum(weight.numel() for weight in model.parameters())
    assert OF_RECIPE[name][1] == f"{num_weights / 1e6:.1f} M"
