"""hydra imports this in every command of an environment: what fairseq-hydra-train does before it knows our package.

fairseq trains on its defaults where `--config-name` is misspelt, and shows a traceback where the plugin is not found.
The package itself is imported only to say so: `common.user_dir` may mean another copy of it.
"""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

COMMAND = "fairseq-hydra-train"


class SayWhatIsMissing(SearchPathPlugin):
    """Under fairseq-hydra-train, ends the command or names the field in one line."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Look for the recipe, and keep an eye on `common.user_dir`; the search path stays as it is."""
        if Path(sys.argv[0]).name != COMMAND:
            return
        options = get_args()
        folder = Path(options.config_dir or ".")
        is_named = options.config_name or any("recipes=" in each for each in options.overrides) or options.help
        if options.config_name and not options.config_path:
            _check_name(options.config_name, folder)
        elif not is_named and (folder / "base" / "fairseq.yaml").is_file():
            _check_name("", folder)
        utils: Any = sys.modules["fairseq.utils"]
        utils.import_user_module = _with_field_named(utils.import_user_module)


def _check_name(name: str, folder: Path) -> None:
    of_fairseq = Path(str(sys.modules["fairseq"].__file__)).with_name("config")
    if any((each / file).is_file() for each in (folder, of_fairseq) for file in (name, f"{name}.yaml")):
        return
    from mae_ast_fairseq.errors import ConfigError
    from mae_ast_fairseq.recipes import find_recipe

    try:
        find_recipe(name, folder)
    except ConfigError as error:
        sys.exit(f"{COMMAND}: --config-name {error}")


def _with_field_named(original: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(original)
    def import_user_module(args: Any) -> None:
        try:
            original(args)
        except FileNotFoundError as error:
            from mae_ast_fairseq.files import package_folder
            from mae_ast_fairseq.training_error import TrainingError

            raise TrainingError(
                f"common.user_dir: there is no folder {error}; expected that of a plugin; set "
                f"common.user_dir={package_folder()}, or use `mae-ast train`, which finds it"
            ) from None

    return import_user_module
