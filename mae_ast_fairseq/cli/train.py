"""`mae-ast train`: fairseq-hydra-train on a recipe, from any folder, in one process or as one of many."""

import argparse
import re
import sys
import warnings
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from mae_ast_fairseq.errors import ConfigError, UserError, printable
from mae_ast_fairseq.files import package_folder, prepare_folder
from mae_ast_fairseq.recipes import SEARCH_PATH, Recipe, find_recipe

if TYPE_CHECKING:
    from omegaconf import DictConfig

EXAMPLE = (
    "mae-ast train mae_ast_tiny task.data=data hydra.run.dir=runs/a optimization.lr=1e-3\n"
    "  mae-ast train my/recipes/wide.yaml task.data=data -m optimization.lr=1e-3,5e-4 common.seed=1,2\n"
    "  mae-ast train mae_ast_tiny --cfg job\n"
    "  torchrun --nproc_per_node 8 -m mae_ast_fairseq.cli train mae_ast_patch task.data=data hydra.run.dir=runs/b\n"
    "  srun mae-ast train mae_ast_patch task.data=data hydra.run.dir=runs/b\n\n"
    "What follows RECIPE is hydra's: fields (docs/fields.md), and options such as -m (one run for each combination),\n"
    "--cfg job (show the config) and --help (the recipe's). A number does where optimization.lr or update_freq want a\n"
    "list. Under torchrun and Slurm's srun, distributed_training follows from what these say of each process.\n"
    "Exit codes: 0; 2 with a line that says what to mend; 75 where a signal asked the run to end and it has saved."
)

_NUMBER = r"[-+.\deE]+"
_NUMBERS_FOR_LISTS = re.compile(rf"(\+{{0,2}}optimization\.(?:lr|update_freq))=({_NUMBER}(?:,{_NUMBER})*)")
_MISTAKE_IN_TRACEBACK = re.compile(r"^mae_ast_fairseq\S*Error: (.+)$", re.MULTILINE)
_OF_NO_USE_TO_A_PERSON = r"(?s).*(version_base|automatic_schema_matching)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("recipe", metavar="RECIPE", nargs="?", default="", help="of examples/, mae_ast_ left out or not, or a YAML")
    add("rest", metavar="FIELD=VALUE", nargs=argparse.REMAINDER, help="fields to set, and hydra's options")


def run(args: argparse.Namespace) -> int:
    """Train; exits with the run's code."""
    if re.match(r"[+~]*[\w.]+=", args.recipe):
        raise ConfigError(f"{args.recipe}: a recipe comes first, as in `mae-ast train mae_ast_tiny {args.recipe}`")
    from hydra._internal.utils import get_args_parser

    options, unknown = get_args_parser().parse_known_intermixed_args(args.rest)
    if unknown:
        raise ConfigError(f"{unknown[0]}: there is no such option; expected one of hydra's, or FIELD=VALUE")
    flags = [each for each in args.rest if each not in options.overrides]
    recipe = find_recipe(args.recipe, options.config_dir and Path(options.config_dir))
    from mae_ast_fairseq.tasks.distributed import overrides_of_process
    from mae_ast_fairseq.tasks.launch import field_of

    names = set(map(field_of, options.overrides))
    ours = [f"{name}={value}" for name, value in _about_recipe(recipe).items() if name not in names]
    overrides = [*ours, *map(as_list, options.overrides), *overrides_of_process(options.multirun)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _OF_NO_USE_TO_A_PERSON)
        _run_hydra(recipe, [*overrides, *flags])  # in this order: hydra wants all overrides in one place
    return 0


def as_list(override: str) -> str:
    """Return an override with a number in brackets where its field wants a list; each number of a sweep by itself."""
    found = _NUMBERS_FOR_LISTS.fullmatch(override)
    return override if found is None else f"{found[1]}={','.join(f'[{each}]' for each in found[2].split(','))}"


def _quoted(text: object) -> str:
    """Return a text as hydra's overrides have it, whatever it holds."""
    return "'" + str(text).replace("'", r"\'") + "'"


def _about_recipe(recipe: Recipe) -> dict[str, str]:
    """Return the overrides by which hydra and fairseq find what a recipe builds on, from any folder."""
    found = {"common.user_dir": _quoted(package_folder())}
    if recipe.search_path:
        found[SEARCH_PATH] = f"[{','.join(map(_quoted, recipe.search_path))}]"
    if recipe.content is not None:
        found["+recipes"] = recipe.name
    return found


def _run_hydra(recipe: Recipe, arguments: Sequence[str]) -> None:
    """Let hydra compose the config and run it, as fairseq-hydra-train does, with a person's mistakes in one line."""
    import hydra
    from fairseq.dataclass.initialize import hydra_init
    from hydra.core.config_store import ConfigStore
    from hydra.core.utils import env_override
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    hydra_init(recipe.name)
    if recipe.content is not None:
        ConfigStore.instance().store(group="recipes", name=recipe.name, node=recipe.content, package="_global_")
    begun = []

    @wraps(_train)
    def train(cfg: "DictConfig") -> float:
        begun.append(True)
        return _train(cfg, recipe.content)

    main = hydra.main(config_path="pkg://fairseq.config", config_name=recipe.name, version_base="1.1")(train)
    sys.argv[1:] = [*arguments, "--config-dir", str(recipe.folder)]
    try:
        with env_override({"HYDRA_FULL_ERROR": "1"}):  # else hydra itself would exit, with its own words
            main()
    except UserError:
        raise
    except OSError as error:
        if begun:
            raise
        raise ConfigError(
            f"hydra.run.dir: {error.filename}: it cannot be made ({error.strerror}); expected a folder to write in; "
            "name another"
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{' '.join(str(error).split())}; docs/fields.md lists the fields") from error
    except ValueError as error:
        if begun:
            raise
        # Of hydra, which means a file by a section's value, and has not said which, and of a recipe's first line.
        sections = [each for each in arguments if re.match(r"\+*(?!recipes)\w+=", each)]
        place = f"{', '.join(sections)}: set a section field by field" if sections else recipe.name
        raise ConfigError(f"{place}: {' '.join(str(error).split())}; docs/fields.md lists the fields") from error


def _check_folders(cfg: "DictConfig") -> None:
    """Make the folders that a run writes in; raises ConfigError where fairseq would show a traceback."""
    if cfg.distributed_training.distributed_rank:
        return
    folders = {"checkpoint.save_dir": not cfg.checkpoint.no_save, "common.tensorboard_logdir": True}
    for name, is_used in folders.items():
        section, field = name.split(".")
        if is_used and cfg[section][field]:
            prepare_folder(name, Path(cfg[section][field]))


def _train(cfg: "DictConfig", content: "DictConfig | None") -> float:
    """Train one run of a recipe, of one's own with this content, in a process that hydra has prepared."""
    from fairseq_cli.hydra_train import _hydra_main
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException
    from torch.multiprocessing import ProcessExitedException
    from torch.multiprocessing.spawn import ProcessException

    from mae_ast_fairseq.cli import EXIT_USER_ERROR, PROG
    from mae_ast_fairseq.tasks.console import settle_console
    from mae_ast_fairseq.tasks.distributed import settle_processes
    from mae_ast_fairseq.tasks.launch import field_of, leave_out_former_schedule
    from mae_ast_fairseq.tasks.precision import settle_precision

    settle_console(has_fairseqs_figures=cfg.common.log_format is not None)
    given = frozenset(map(field_of, HydraConfig.get().overrides.task))
    leave_out_former_schedule(cfg, given)
    settle_precision(cfg, given, content)
    try:
        how = settle_processes(cfg)
        _check_folders(cfg)
        return _hydra_main(cfg, **how)
    except (UserError, OmegaConfBaseException) as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        mistake = " ".join(str(error).split())
    except ProcessException as error:  # of those that fairseq has started, one a GPU
        if isinstance(error, ProcessExitedException):
            if error.exit_code < 0:  # by a signal, as where memory was short
                print(printable(f"{PROG} train: {error.msg}; what it logged says more"), file=sys.stderr)
            sys.exit(error.exit_code if error.exit_code >= 0 else 128 - error.exit_code)
        said = _MISTAKE_IN_TRACEBACK.findall(error.msg)
        if not said:
            raise
        mistake = said[-1]
    # Not by hydra, which would say again what the person has just typed.
    print(printable(f"{PROG} train: {mistake}"), file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)
