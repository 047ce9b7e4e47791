"""How recipes compose: on a base that lists every field, and from any folder."""

import dataclasses
import runpy
from pathlib import Path

import pytest
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import hydra_init
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tests.training import EXAMPLES

pytestmark = pytest.mark.filterwarnings(r"ignore:\s*'\w+' is validated against ConfigStore schema")

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
CHOSEN_SECTIONS = {
    "task": TASK_DATACLASS_REGISTRY,
    "model": MODEL_DATACLASS_REGISTRY,
    **{name: REGISTRIES[name]["dataclass_registry"] for name in ("criterion", "optimizer", "lr_scheduler")},
}
FAIRSEQ_SECTIONS = ("common", "checkpoint", "dataset", "distributed_training", "optimization", "ema")


def composed(name: str, *overrides: str, folder: Path = EXAMPLES) -> DictConfig:
    """Compose a config as fairseq-hydra-train does."""
    hydra_init(name)
    with initialize_config_dir(str(folder), version_base="1.1"):
        return compose(name, overrides=["task.data=/data", *overrides])


def test_each_recipe_has_a_file_that_names_it_and_sets_nothing():
    assert sorted(path.stem for path in (EXAMPLES / "recipes").glob("*.yaml")) == NAMES
    for name in NAMES:
        assert OmegaConf.load(EXAMPLES / f"{name}.yaml") == {"defaults": ["_self_", f"recipes/{name}"]}


@pytest.mark.parametrize("name", NAMES)
def test_recipes_list_every_field_and_only_those(name):
    config = composed(name)
    for section, registry in CHOSEN_SECTIONS.items():
        fields = [f for f in dataclasses.fields(registry[config[section]._name]) if f.name != "_name"]
        listed = set(config[section]) - {"_name"}
        assert listed <= {field.name for field in fields}
        # What is another field's value need not be listed.
        assert {field.name for field in fields if not str(field.default).startswith("${")} <= listed


def test_every_field_of_fairseq_can_be_overridden():
    config = composed("finetune_any", "checkpoint.keep_best_checkpoints=3", "ema.store_ema=true")
    assert (config.checkpoint.keep_best_checkpoints, config.ema.store_ema) == (3, True)
    for section in FAIRSEQ_SECTIONS:
        fields = FairseqConfig.__dataclass_fields__[section].type
        assert set(config[section]) == {field.name for field in dataclasses.fields(fields)}


def test_the_folder_of_a_sweep_is_named_before_hydra_s_resolver_is_there():
    with initialize_config_dir(str(EXAMPLES), version_base="1.1"):
        config = compose("finetune_esc50", return_hydra_config=True)
    assert "${hydra:" not in OmegaConf.to_container(config.hydra.sweep)["dir"]


def write_own(folder: Path, text: str) -> None:
    """Write a recipe `own`, and the file that names it."""
    (folder / "recipes").mkdir()
    (folder / "own.yaml").write_text(f"hydra: {{searchpath: ['{EXAMPLES}']}}\ndefaults: [_self_, recipes/own]\n")
    (folder / "recipes" / "own.yaml").write_text(text)


@pytest.mark.parametrize("name", ["mae_ast_tiny", "mae_ast_tiny_frame"])
def test_a_recipe_copied_to_another_folder_composes(tmp_path, name):
    text = (EXAMPLES / "recipes" / f"{name}.yaml").read_text()
    write_own(tmp_path, text.replace("\nmodel:\n", "\nmodel:\n  mask_length: 7\n"))
    assert composed("own", folder=tmp_path) == composed(name, "model.mask_length=7")
    (tmp_path / "own.yaml").write_text("defaults: [_self_, recipes/own]")
    own = composed("own", f"hydra.searchpath=['{EXAMPLES}']", folder=tmp_path)
    assert own == composed(name, "model.mask_length=7")


def test_a_recipe_of_ones_own_is_another_one_and_changes(tmp_path):
    write_own(
        tmp_path,
        "# @package _global_\ndefaults: [mae_ast_tiny, _self_]\nmodel: {encoder_layers: 2}\ncommon: {seed: 3}\n",
    )
    own = composed("own", folder=tmp_path)
    assert own == composed("mae_ast_tiny", "model.encoder_layers=2", "common.seed=3")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("defaults: [mae_ast_tiny, _self_]\nmodel: {encoder_layers: 2}\n", "'recipes' not in"),
        ("# @package _global_\ndefaults: [mae_ast_tiny, _self_]\nmodels: {encoder_layers: 2}\n", "'models' not in"),
        ("# @package _global_\ndefaults: [mae_ast_tiny, _self_]\ncommon: {sed: 2}\n", "'sed' not in"),
    ],
)
def test_what_fairseq_would_not_read_is_an_error(tmp_path, text, fault):
    write_own(tmp_path, text)
    with pytest.raises((HydraException, OmegaConfBaseException), match=fault):
        composed("own", folder=tmp_path)


def test_the_table_of_fields_is_up_to_date():
    docs = EXAMPLES.parent / "docs"
    page = runpy.run_path(str(docs / "fields.py"))["fields_page"]()
    assert (docs / "fields.md").read_text(encoding="utf-8") == page, "write it again: python docs/fields.py"
