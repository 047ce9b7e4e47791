"""Recipes: those of examples/ by name, and a person's own by the path of a YAML."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import examples_folder

PREFIX = "mae_ast_"
"""What may be left out of a recipe's name."""

SEARCH_PATH = "hydra.searchpath"
OF_FAIRSEQ = "config"
"""What fairseq calls a config of its own, which hydra would find first."""
OUR_FOLDERS = ("recipes/", "base/")
ENDINGS = (".yaml", ".yml")


class Recipe(NamedTuple):
    """A recipe as hydra is to be told of it."""

    name: str
    folder: Path
    """that of its file, hydra's `--config-dir`"""
    search_path: tuple[str, ...]
    """further folders in which hydra looks for what it builds on"""
    content: DictConfig | None
    """of one that is not split in two files as those of examples/ are: what would stand in recipes/NAME.yaml"""


def recipe_names() -> list[str]:
    """Return the names of the recipes in examples/."""
    return sorted(path.stem for path in examples_folder().glob("*.yaml"))


def find_recipe(name: str, folder: Path | None = None) -> Recipe:
    """Find a recipe of examples/ by its name, or one in another folder, or at a path; raises ConfigError."""
    names = recipe_names()
    if folder is None and not (name.endswith(ENDINGS) or "/" in name):
        found = next((each for each in (name, PREFIX + name) if each in names), None)
        if found is None:
            _refuse(name, names)
        return Recipe(found, examples_folder(), (), None)
    path = Path(folder or ".", name)
    if not path.name:
        _refuse(name, names)
    path = path if name.endswith(ENDINGS) else path.with_name(path.name + ENDINGS[0])
    if not path.is_file():
        start = "" if folder else f"{Path(name).parent}/"
        _refuse(name, [*names, *sorted(start + each.stem for each in path.parent.glob("*.yaml"))])
    return _own_recipe(path, names)


def _own_recipe(path: Path, names: list[str]) -> Recipe:
    """Return a recipe of a person's own, which finds ours from any folder."""
    try:
        content = OmegaConf.load(path)
        if not isinstance(content, DictConfig):
            raise ConfigError(f"{path}: a list was found; expected a recipe as in examples/, sections with fields")
        further = [str(each) for each in OmegaConf.select(content, SEARCH_PATH) or []]
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read ({reason}); expected a recipe as in examples/") from None
    folder, name = path.parent.resolve(), path.stem
    search_path = (*further, str(examples_folder()))
    if name == OF_FAIRSEQ and set(content) <= {"hydra", "defaults"}:
        raise ConfigError(f"{path}: fairseq has a config of this name; expected another one; rename the file")
    if set(content) <= {"hydra", "defaults"}:  # the first of two files, as in examples/
        return Recipe(name, folder, search_path, None)
    if content.get("defaults"):  # which hydra would look for in recipes/
        content.defaults = [
            f"/{each}" if isinstance(each, str) and each.startswith(OUR_FOLDERS) else each for each in content.defaults
        ]
    name += "_own"  # by the file's own name hydra would find it, and not what is kept of it here
    while name in names or (folder / f"{name}{ENDINGS[0]}").exists():
        name += "_own"
    return Recipe(name, folder, search_path, content)


def _refuse(name: str, names: Sequence[str]) -> NoReturn:
    """Raise ConfigError that lists recipes, those whose names are near first."""
    stem, stems = Path(name).stem, {Path(each).stem: each for each in names}
    near = [*difflib.get_close_matches(stem, stems), *difflib.get_close_matches(PREFIX + stem, stems)]
    listed = ", ".join(dict.fromkeys([*(stems[each] for each in near), *names]))
    raise ConfigError(f"{name or 'no name'}: there is no such recipe; expected one of {listed}, or the path of a YAML")
