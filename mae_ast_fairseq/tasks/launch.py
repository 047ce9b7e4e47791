"""Where fairseq-hydra-train meets a person: relative paths and what must be there."""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.optim.lr_scheduler import LR_SCHEDULER_DATACLASS_REGISTRY
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd
from omegaconf import DictConfig, OmegaConf, open_dict

from mae_ast_fairseq.checkpoints.names import FILE_ENDINGS
from mae_ast_fairseq.data.manifest import Manifest, read_manifest
from mae_ast_fairseq.errors import ConfigError, ManifestError

MINIMA = {
    **dict.fromkeys(("common.log_interval", "dataset.validate_interval", "checkpoint.save_interval"), 1),
    "dataset.num_workers": 0,
}
"""of fields that fairseq reads; of a smaller value it says nothing, or a traceback"""

MIN_WARMUP, MAX_WARMUP = 0.05, 0.5
"""Fraction of a run that is warm-up, outside which the launch says so."""


def is_training_command() -> bool:
    """Tell whether hydra runs this process, as it does under fairseq-hydra-train."""
    return HydraConfig.initialized()


def is_on_cpu(cfg: DictConfig) -> bool:
    """Tell whether a run of this config trains on the CPU."""
    return cfg.common.cpu or not torch.cuda.is_available()


def field_of(override: str) -> str:
    """Return the field that an override of the command line sets, as hydra writes it: `+task.data=x`."""
    return override.lstrip("+").partition("=")[0]


def leave_out_former_schedule(cfg: DictConfig, given: Collection[str]) -> None:
    """Take out of a config, in place, what a recipe says of its schedule where the command line names another kind.

    given: the fields on the command line, which stay. Else fairseq complains of fields that the person has not typed.
    """
    kind = LR_SCHEDULER_DATACLASS_REGISTRY.get(cfg.lr_scheduler.get("_name"))
    if kind is None or "lr_scheduler._name" not in given:
        return
    for name in [name for name in cfg.lr_scheduler if name not in kind.__dataclass_fields__]:
        if f"lr_scheduler.{name}" not in given:
            with open_dict(cfg.lr_scheduler):
                del cfg.lr_scheduler[name]


def is_first_process() -> bool:
    """Tell whether this is the only process, or the first of many."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def schedule_warning(warmup_updates: int | None, max_update: int | None) -> str | None:
    """Return a warning where the warm-up is less than 5 % or more than half of the run; None where it is neither."""
    if warmup_updates is None or not max_update:  # a schedule without one, or a run without an end
        return None
    if MIN_WARMUP * max_update <= warmup_updates <= MAX_WARMUP * max_update:
        return None
    fault = "short: the encoder may collapse" if warmup_updates < MIN_WARMUP * max_update else "long: little is left"
    return (
        f"lr_scheduler.warmup_updates: {warmup_updates} is {warmup_updates / max_update:.1%} of "
        f"optimization.max_update={max_update}, which is {fault}; expected {MIN_WARMUP:.0%} to {MAX_WARMUP:.0%} of it"
    )


def data_folders(data: Any) -> list[Path]:
    """Return the folders of `task.data`: a list of them, or a text in which `:` separates them.

    A text that is the path of a folder as it stands is that folder. Relative ones count from where the command was
    started. Raises ConfigError where one is not there.
    """
    named = _named_folders(data)
    for name, folder in named:
        if not name:
            raise ConfigError(
                f"task.data: {str(data)!r} has an empty name; expected folders; take out the {os.pathsep!r} too "
                "many, or name the current folder by ."
            )
        if not folder.is_dir():
            raise ConfigError(
                f"task.data: there is no folder {folder}; expected one that holds train.tsv and valid.tsv, as `mae-ast "
                f"manifest` writes them{_remark_on_separator(data)}"
            )
    return [folder for _, folder in named]


def _named_folders(data: Any) -> list[tuple[str, Path]]:
    """Return each name in `task.data` with the path that it means."""
    start = get_original_cwd() if is_training_command() else "."
    names = _listed(data)
    if len(names) > 1 and not _is_list(data) and Path(start, str(data)).is_dir():
        names = [str(data)]
    return [(name, Path(start, name).absolute()) for name in names]


def settle_data(cfg: Any) -> None:
    """Write into a task's config, in place, what names its data in one form, whatever YAML read it as.

    Folders become text, one or a list; the weights, fractions: a list. So does the run's config in which it hangs, of
    which fairseq gave the task a copy. Raises ConfigError where either cannot be.
    """
    if OmegaConf.is_missing(cfg, "data") or not cfg.data:
        return
    settled: dict[str, Any] = {"data": [str(name) for name in cfg.data] if _is_list(cfg.data) else str(cfg.data)}
    if cfg.get("data_weights") is not None:
        settled["data_weights"] = read_weights(cfg.data_weights, len(data_folders(cfg.data)))
    for part in (cfg, OmegaConf.select(cfg._get_root(), "task")):
        if part is not None:
            part.update(settled)


def spare_fairseq_the_folders(run: DictConfig) -> None:
    """Look for sets such as valid1.tsv that `dataset.valid_subset` leaves out, and keep fairseq from doing so.

    It takes every `:` of `task.data` for a separator, wants a text, and ends in a traceback. Raises ConfigError where
    there are some and the run does not say that they are to be left out.
    """
    dataset, data = OmegaConf.select(run, "dataset"), OmegaConf.select(run, "task.data")
    if dataset is None or data is None:  # of a released checkpoint
        return
    if not (dataset.ignore_unused_valid_subsets or dataset.combine_valid_subsets or dataset.disable_validation):
        found = {path.stem for _, folder in _named_folders(data) for path in folder.glob("valid*[0-9].tsv")}
        if others := sorted(found - set(dataset.valid_subset.split(","))):
            raise ConfigError(
                f"dataset.valid_subset: {dataset.valid_subset} was given, and task.data has {', '.join(others)} too; "
                f"expected all of them; set 'dataset.valid_subset=\"{','.join([dataset.valid_subset, *others])}\"', or "
                "dataset.ignore_unused_valid_subsets=true to leave them out"
            )
    OmegaConf.update(run, "dataset.ignore_unused_valid_subsets", True)


def _remark_on_separator(data: Any) -> str:
    if _is_list(data) or os.pathsep not in str(data):
        return ""
    return f" ({os.pathsep!r} separates folders; where one is in a name, give a list, as in 'task.data=[/a:b,/c]')"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _listed(value: Any) -> list[str]:
    """Return what a list holds, or what `:` separates in a text."""
    return [str(item) for item in value] if _is_list(value) else str(value).split(os.pathsep)


def read_checked(path: Path) -> Manifest:
    """Read a manifest; raises ManifestError also where its root, the folder of its audio, is not there."""
    manifest = read_manifest(path)
    if not Path(manifest.root).exists():
        raise ManifestError(
            f"{path}:1: there is no folder {manifest.root}; expected the root of the audio files; correct the line, or "
            "write the manifest again with `mae-ast manifest`"
        )
    return manifest


def read_weights(weights: Any, num_folders: int) -> list[float] | None:
    """Return the numbers of `task.data_weights`; raises ConfigError where they do not match the manifests."""
    if weights is None:
        return None
    numbers = weights_in_one_form(weights)
    if len(numbers) != num_folders or not all(0 < number <= 1 for number in numbers):
        raise ConfigError(
            f"task.data_weights: {weights!r} was given; expected {num_folders} fractions above 0 and at most 1, one "
            "for each folder of task.data, as in [1,0.25] or 1:0.25 (in YAML in quotes, or it is read as one number)"
        )
    return numbers


def weights_in_one_form(weights: Any) -> list[float]:
    """Return the numbers of `task.data_weights`; none where they are not numbers."""
    try:
        return [float(weight) for weight in _listed(weights)]
    except (ValueError, TypeError):
        return []


def check_checkpoint(field: str, path: str | None) -> None:
    """Raise ConfigError where a checkpoint to start from is not there: fairseq would start from scratch."""
    if path is None or Path(path).is_file():
        return
    if field.startswith("checkpoint.") and not path.endswith(FILE_ENDINGS):
        raise ConfigError(
            f"{field}: there is no file {path}; expected one that fairseq's training wrote; of a model on the hub, or "
            f"its folder, `mae-ast export {path} --to released --out FILE` makes one: name that FILE"
        )
    raise ConfigError(
        f"{field}: there is no file {path}; expected a checkpoint; correct the path (relative ones count from "
        f"{Path.cwd()}), or leave the field out to start from scratch"
    )


def check_together(setting: Callable[[str], Any]) -> None:
    """Raise ConfigError where fields that fairseq reads have no sense or exclude each other: it gives a traceback.

    setting: what a field of the run's config is, by its full name.
    """
    if setting("common.fp16") and setting("common.amp"):
        raise ConfigError("common.amp: true was given with common.fp16=true; expected one of them; set one to false")
    for name, least in MINIMA.items():
        if (value := setting(name)) is not None and value < least:
            raise ConfigError(f"{name}: {value} was given; expected at least {least}; raise it")
    if setting("optimization.lr") == []:
        raise ConfigError("optimization.lr: it is empty; expected the rate, or one for each epoch; name one")
    if any(each < 1 for each in setting("optimization.update_freq") or ()):
        raise ConfigError(
            f"optimization.update_freq: {setting('optimization.update_freq')} was given; expected batches for an "
            "update, at least 1; raise it"
        )
    if setting("checkpoint.save_dir") == "":
        raise ConfigError("checkpoint.save_dir: it is empty; expected a folder; name one, or leave the field out")
    names = ("_name", "warmup_updates", "max_update", "lr_period_updates", "total_num_update")
    schedule, warmup, last, period, total = (setting(f"lr_scheduler.{name}") for name in names)
    if schedule == "polynomial_decay" and total <= 0:
        raise ConfigError(
            f"lr_scheduler.total_num_update: {total:g} was given, by default optimization.max_update; expected the "
            "update at which the rate has fallen; set either, also where optimization.max_epoch ends the run"
        )
    if schedule != "cosine" or period > 0:
        return
    ends_in_warmup = 0 < (setting("optimization.max_update") or 0) < warmup
    if not (ends_in_warmup or warmup < (last or 0)):
        raise ConfigError(
            f"lr_scheduler.warmup_updates: {warmup} was given with lr_scheduler.max_update={last}, by default that of "
            "optimization, which leaves the cosine no update; lower the first, or raise optimization.max_update"
        )
