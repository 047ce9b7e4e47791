"""Composes recipes without hydra running, as fairseq would have them: all of its sections, each field checked."""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import examples_folder
from mae_ast_fairseq.recipes import recipe_names as names_in_examples

_OF_A_RUNNING_HYDRA = re.compile(r"\$\{(hydra|now|oc\.env):[^}]*\}")


def recipe_names() -> list[str]:
    """Return the names of the pretraining recipes in examples/."""
    return [name for name in names_in_examples() if not name.startswith("finetune_")]


def read_recipes(names: Sequence[str], settings: Sequence[str] = ()) -> dict[str, DictConfig]:
    """Return fairseq's config of each recipe, a name in examples/ or the path of a YAML; raises ConfigError.

    A setting `section.field=value` goes to every recipe that has its field (SSAST has no decoder); at least one must.
    """
    recipes = {name: _load(name) for name in names}
    for setting in settings:
        if re.match(r"\w+\.\w+=", setting) is None:
            raise ConfigError(f"--set {setting}: expected section.field=value, as in model.encoder_layers=6")
        reasons = []
        for recipe in recipes.values():
            try:
                recipe.merge_with_dotlist([setting])
            except (yaml.YAMLError, OmegaConfBaseException) as error:
                reasons.append(str(error).splitlines()[0])
        if len(reasons) == len(recipes):
            raise ConfigError(
                f"--set {setting}: cannot be used ({', '.join(dict.fromkeys(reasons))}); expected a field of "
                f"{' or '.join(names)} and a value of its type, as in model.encoder_layers=6"
            )
    return recipes


def _load(name: str) -> DictConfig:
    """Compose a YAML with what its defaults name; `${hydra:...}` becomes a word, since no hydra runs."""
    path = Path(name) if name.endswith(".yaml") else examples_folder() / f"{name}.yaml"
    others = f"expected one of {', '.join(recipe_names())}, or a path"
    if not path.is_file():
        raise ConfigError(f"{name}: there is no such recipe; {others}")
    try:
        # hydra looks in examples/ too, unless the recipe says itself where to look.
        has_own = OmegaConf.select(OmegaConf.load(path), "hydra.searchpath") is not None
        search_path = [] if has_own else [f"hydra.searchpath=['{examples_folder()}']"]
        with initialize_config_dir(str(path.parent.resolve()), version_base=None):
            composed = compose(path.stem, overrides=search_path)
        # Not yaml.safe_load, which takes 1e-06 for a word.
        content = OmegaConf.create(_OF_A_RUNNING_HYDRA.sub("benchmark", OmegaConf.to_yaml(composed)))
        recipe = OmegaConf.merge(OmegaConf.structured(FairseqConfig), content)
        assert isinstance(recipe, DictConfig)
        add_defaults(recipe)
        OmegaConf.set_struct(recipe, True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException, HydraException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path}: cannot be read ({reason}); expected a recipe as in examples/") from None
    if "random_mask_prob" not in (recipe.model or {}):
        raise ConfigError(f"{name}: no recipe of pretraining; {others}")
    return recipe
