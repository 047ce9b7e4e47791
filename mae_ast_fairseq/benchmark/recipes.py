"""Composes a recipe without hydra running: what models, tasks and criterions are built from."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mae_ast_fairseq.config.pretraining import MaskingFields, PretrainingTaskFields, require_choice
from mae_ast_fairseq.data.masking import STRATEGIES
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import examples_folder
from mae_ast_fairseq.nn.build import MODELS, ModelSpec

_OF_A_RUNNING_HYDRA = re.compile(r"\$\{(hydra|now|oc\.env):[^}]*\}")
SECTIONS = ("model", "task", "criterion", "optimizer", "optimization")
"""The sections whose fields `--set` may change."""


class Setting(NamedTuple):
    """One `--set section.field=value`."""

    section: str
    field: str
    value: Any


class Recipe(NamedTuple):
    """A recipe, with what was set on the command line."""

    name: str
    """as it was given: a name in examples/ or a path"""
    kind: ModelSpec
    """the model's kind"""
    fields: Any
    """the fields of the model"""
    mask_type: str
    feature_dim: int
    config: DictConfig
    """all sections, without what only a running hydra knows"""


def recipe_names() -> list[str]:
    """Return the names of the pretraining recipes in examples/."""
    return sorted(path.stem for path in examples_folder().glob("*.yaml") if not path.stem.startswith("finetune_"))


def parse_setting(text: str) -> Setting:
    """Read `section.field=value`, the value as YAML has it; raises ConfigError."""
    match = re.fullmatch(r"(\w+)\.(\w+)=(.*)", text, re.DOTALL)
    if match is None or match[1] not in SECTIONS:
        raise ConfigError(
            f"--set {text}: expected section.field=value with a section of {', '.join(SECTIONS)}, as in "
            "model.encoder_layers=6"
        )
    try:
        return Setting(match[1], match[2], OmegaConf.create(f"value: {match[3]}").value)
    except (yaml.YAMLError, OmegaConfBaseException):
        raise ConfigError(f"--set {text}: the value is no YAML; expected a number, a word or true or false") from None


def read_recipes(names: Sequence[str], settings: Sequence[Setting] = ()) -> dict[str, Recipe]:
    """Return the recipes by the names given; raises ConfigError.

    A setting goes to every recipe that has its field (SSAST has no decoder); at least one must have it.
    """
    configs = {name: _load(_find(name)) for name in names}
    for name, config in configs.items():
        if not _is_pretraining(config):
            raise ConfigError(
                f"{name}: no recipe of pretraining; expected one of {', '.join(recipe_names())}, or a path"
            )
    for setting in settings:
        having = [config for config in configs.values() if setting.field in _field_names(config, setting.section)]
        if not having:
            raise ConfigError(
                f"--set {setting.section}.{setting.field}: no such field in {', '.join(names)}; expected one that the "
                "recipe lists"
            )
        for config in having:
            OmegaConf.update(config, f"{setting.section}.{setting.field}", setting.value)
    return {name: _recipe(name, config) for name, config in configs.items()}


def _find(name: str) -> Path:
    path = Path(name) if name.endswith(".yaml") else examples_folder() / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"{name}: there is no such recipe; expected one of {', '.join(recipe_names())}, or a path")
    return path


def _load(path: Path) -> DictConfig:
    """Compose a YAML with what its defaults name; `${hydra:...}` becomes a word, since no hydra runs."""
    try:
        with initialize_config_dir(str(path.parent.resolve()), version_base=None):
            composed = compose(path.stem, overrides=_search_path(path))
        # Not yaml.safe_load, which takes 1e-06 for a word.
        content = OmegaConf.create(_OF_A_RUNNING_HYDRA.sub("benchmark", OmegaConf.to_yaml(composed)))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException, HydraException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: cannot be read ({reason}); expected a recipe as in examples/") from None
    if not isinstance(content, DictConfig) or not all(isinstance(content.get(name), DictConfig) for name in SECTIONS):
        raise ConfigError(f"{path}: expected a recipe that has the sections {', '.join(SECTIONS)}, as in examples/")
    return content


def _search_path(path: Path) -> list[str]:
    """Return what makes hydra look in examples/ too, unless the recipe says itself where to look."""
    has_own = OmegaConf.select(OmegaConf.load(path), "hydra.searchpath") is not None
    return [] if has_own else [f"hydra.searchpath=['{examples_folder()}']"]


def _is_pretraining(config: DictConfig) -> bool:
    kind = MODELS.get(config.model.get("_name"))
    return kind is not None and issubclass(kind.fields, MaskingFields)


def _field_names(config: DictConfig, section: str) -> set[str]:
    if section == "model":
        return {field.name for field in dataclasses.fields(MODELS[config.model["_name"]].fields)}
    return {name for name in config[section] if name != "_name"}


def _recipe(name: str, config: DictConfig) -> Recipe:
    kind = MODELS[config.model["_name"]]
    try:
        model = OmegaConf.to_container(config.model, resolve=True)
        assert isinstance(model, dict)
        model.pop("_name")
        fields = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind.fields), model))
        mask_type, feature_dim = (
            config.task.get(field, getattr(PretrainingTaskFields(), field)) for field in ("mask_type", "feature_dim")
        )
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{name}: its model cannot be read ({reason}); correct the recipe or --set") from None
    require_choice(f"{name}: task.mask_type", mask_type, STRATEGIES)
    if not isinstance(feature_dim, int) or feature_dim < 1:
        raise ConfigError(f"{name}: task.feature_dim: {feature_dim} was given; expected a number of bands above 0")
    return Recipe(name, kind, fields, mask_type, feature_dim, config)
