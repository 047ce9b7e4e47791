"""Where fairseq-hydra-train meets a person: relative paths and what must be there."""

import os
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd

from mae_ast_fairseq.data.manifest import Manifest, read_manifest
from mae_ast_fairseq.errors import ConfigError, ManifestError

MIN_WARMUP, MAX_WARMUP = 0.05, 0.5
"""Fraction of a run that is warm-up, outside which the launch says so."""


def is_training_command() -> bool:
    """Tell whether hydra runs this process, as it does under fairseq-hydra-train."""
    return HydraConfig.initialized()


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


def data_folders(data: str) -> list[Path]:
    """Return the folders of `task.data`, separated by `:`; relative ones count from where the command was started.

    Raises ConfigError where one is not there.
    """
    start = get_original_cwd() if is_training_command() else "."
    folders = [Path(start, folder).absolute() for folder in data.split(os.pathsep)]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                f"task.data: there is no folder {folder}; expected one that holds train.tsv and valid.tsv, "
                "as `mae-ast manifest` writes them"
            )
    return folders


def read_checked(path: Path) -> Manifest:
    """Read a manifest; raises ManifestError also where its root, the folder of its audio, is not there."""
    manifest = read_manifest(path)
    if not Path(manifest.root).exists():
        raise ManifestError(
            f"{path}:1: there is no folder {manifest.root}; expected the root of the audio files; correct the line, or "
            "write the manifest again with `mae-ast manifest`"
        )
    return manifest


def read_weights(weights: str | None, num_folders: int) -> list[float] | None:
    """Return the numbers of `task.data_weights`; raises ConfigError where they do not match the manifests."""
    if weights is None:
        return None
    try:
        numbers = [float(weight) for weight in str(weights).split(os.pathsep)]
    except ValueError:
        numbers = []
    if len(numbers) != num_folders or not all(0 < number <= 1 for number in numbers):
        raise ConfigError(
            f"task.data_weights: {weights!r} was given; expected {num_folders} fractions above 0 and at most 1, one "
            f"for each folder of task.data, separated by {os.pathsep!r}, as in 1:0.25"
        )
    return numbers


def check_checkpoint(field: str, path: str | None) -> None:
    """Raise ConfigError where a checkpoint to start from is not there: fairseq would start from scratch."""
    if path is not None and not Path(path).is_file():
        raise ConfigError(
            f"{field}: there is no file {path}; expected a checkpoint; correct the path (relative ones count from "
            f"{Path.cwd()}), or leave the field out to start from scratch"
        )
