"""Runs fairseq's training loop in the test's own process, configured from `examples/` as the command does it."""

import json
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fairseq import tasks, utils
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.logging import progress_bar
from fairseq.tasks import FairseqTask
from fairseq_cli import train as fairseq_train
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from mae_ast_fairseq.tasks.preemption import SIGNALS
from mae_ast_fairseq.tasks.pretraining import MaeAstPretrainingTask

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

QUICK = (
    "common.user_dir=null",
    "common.log_format=json",
    "common.log_interval=1",
    "common.tensorboard_logdir=null",
    "common.cpu=true",
    "checkpoint.no_save=true",
    "dataset.num_workers=0",
    "dataset.data_buffer_size=0",
    "dataset.max_tokens=100000",
    "task.max_bad_fraction=0.2",
    "optimization.max_update=4",
    "lr_scheduler.warmup_updates=2",
)
SMALL_ENCODER = (
    "model.encoder_layers=2",
    "model.encoder_embed_dim=48",
    "model.encoder_ffn_embed_dim=96",
    "model.encoder_attention_heads=4",
)
SMALL = (
    *SMALL_ENCODER,
    "model.decoder_layers=1",
    "model.decoder_embed_dim=48",
    "model.decoder_attention_heads=4",
)


class Run(NamedTuple):
    """What happened in a training run."""

    losses: list[float]
    """the summed loss of every training batch, in full precision"""
    updates: list[dict[str, float]]
    """what was logged of every update"""
    validations: list[dict[str, float]]
    """what was logged of every validation"""


def config(recipe: str, *overrides: str) -> DictConfig:
    """Compose a recipe with quick settings and overrides, as fairseq-hydra-train does."""
    hydra_init(recipe)
    with initialize_config_dir(str(EXAMPLES), version_base="1.1"):
        cfg = compose(recipe, overrides=["checkpoint.save_dir=/nowhere", *QUICK, *overrides])
    add_defaults(cfg)
    with open_dict(cfg):
        cfg.pop("hydra", None)
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    OmegaConf.set_struct(cfg, True)
    return cfg


@contextmanager
def hydra_left_as_it_was() -> Iterator[None]:
    """Take back what `mae-ast train` changes in its process, where it is run in a test's."""
    root = logging.getLogger()
    handlers, figures, level = root.handlers[:], progress_bar.logger.handlers[:], root.level
    asking = {each: signal.getsignal(each) for each in SIGNALS}
    yield
    root.handlers[:], progress_bar.logger.handlers[:] = handlers, figures
    root.setLevel(level)
    logging.captureWarnings(False)
    for each, handler in asking.items():
        signal.signal(each, handler)
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None  # by which tasks know that hydra runs them
    ConfigStore.instance().repo.pop("recipes", None)


@contextmanager
def recorded(task: type[FairseqTask], losses: list[float], keep: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Note the summed loss of every training batch of a task, and hand on what fairseq logs."""

    def train_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original_step(self, *args, **kwargs)
        losses.append(float(result[0]))
        return result

    original_step, original_level = task.train_step, progress_bar.logger.level
    handler = logging.Handler()
    handler.emit = keep  # type: ignore[method-assign]
    progress_bar.logger.addHandler(handler)
    progress_bar.logger.setLevel(logging.INFO)
    task.train_step = train_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        task.train_step = original_step  # type: ignore[method-assign]
        progress_bar.logger.removeHandler(handler)
        progress_bar.logger.setLevel(original_level)


def train(recipe: str, *overrides: str) -> Run:
    """Train as configured and return what happened."""
    run = Run([], [], [])

    def keep(record: logging.LogRecord) -> None:
        kept = {"train_inner": run.updates, "valid": run.validations}.get(record.name)
        if kept is not None:
            values = json.loads(record.getMessage()).items()
            kept.append({key: float("nan" if value is None else value) for key, value in values})

    with recorded(MaeAstPretrainingTask, run.losses, keep):
        fairseq_train.main(config(recipe, *overrides))
    return run


def build(recipe: str, *overrides: str) -> tuple[MaeAstPretrainingTask, nn.Module, FairseqCriterion]:
    """Build the task, the model and the criterion of a recipe, in fairseq's order."""
    return build_parts(config(recipe, *overrides))


def build_parts(cfg: DictConfig) -> tuple[MaeAstPretrainingTask, nn.Module, FairseqCriterion]:
    """Build the same of a config."""
    utils.set_torch_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    return task, task.build_model(cfg.model), task.build_criterion(cfg.criterion)
