"""Runs fairseq's own training loop on a recipe and splits its time: the step, waiting for the loader, and the rest."""

import functools
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq import tasks
from fairseq.data.iterators import CountingIterator
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.initialize import add_defaults
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from fairseq_cli import train as fairseq_train
from omegaconf import DictConfig, OmegaConf

from mae_ast_fairseq.benchmark.cases import LOG_MEL_MEAN, LOG_MEL_STD, Case, fields_of, make_sample
from mae_ast_fairseq.benchmark.quiet import quiet
from mae_ast_fairseq.benchmark.recipes import Recipe
from mae_ast_fairseq.benchmark.timing import Clock, device_clock, spread
from mae_ast_fairseq.data.float32 import Float32Tensor
from mae_ast_fairseq.nn import fbank

NUM_WARM_UP = 2  # updates: the optimiser's state is made in the first, the loader's workers start before it


class Update(NamedTuple):
    """Seconds of one update of fairseq's loop, from the end of the one before to its own."""

    total: float
    forward_backward: float
    optimizer: float
    """scaling and clipping gradients, and the optimiser's step"""
    wait: float
    """for a batch of the loader"""

    @property
    def other(self) -> float:
        """What is neither the step nor waiting: fairseq's loop."""
        return self.total - self.forward_backward - self.optimizer - self.wait


class Data(NamedTuple):
    """A manifest on its way through the loader: `{split}.tsv` in a folder."""

    folder: Path
    split: str
    num_workers: int


def run_loop(recipe: Recipe, case: Case, device: torch.device, num_updates: int, data: Data | None) -> dict[str, Any]:
    """Train for some updates with fairseq's trainer; return medians and shares of the time an update takes.

    Without `data`, one synthetic batch is there at once each time; with it, the task's own loader brings batches.
    """
    clock = device_clock(device)
    with tempfile.TemporaryDirectory() as folder, quiet():
        cfg = fairseq_config(recipe, case, device, Path(folder), NUM_WARM_UP + num_updates, data)
        metrics.reset()
        task = tasks.setup_task(cfg.task)
        model = task.build_model(cfg.model)
        model.batch_norm.set_statistics(LOG_MEL_MEAN, LOG_MEL_STD)
        trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
        recorder = Recorder(trainer, task, clock)
        if data is None:
            sample = make_sample(recipe, case, torch.device("cpu"))
            sample["net_input"]["source"] = Float32Tensor.of(sample["net_input"]["source"])
            trainer.reset_dummy_batch(sample)
            epoch: Any = SyntheticEpoch(sample, NUM_WARM_UP + num_updates)
        else:
            epoch = recorder.watch(trainer.get_train_iterator(epoch=1))
        fairseq_train.train(cfg, trainer, task, epoch)
    return summarize(recorder.updates[NUM_WARM_UP:])


def summarize(updates: list[Update]) -> dict[str, Any]:
    """Return the spread of each part in seconds, and the shares of all updates' time."""
    parts = ("total", "forward_backward", "optimizer", "wait", "other")
    seconds = {part: [getattr(update, part) for update in updates] for part in parts}
    total = sum(seconds["total"])
    return {
        "num_updates": len(updates),
        "seconds_of_parts": {part: spread(values)._asdict() for part, values in seconds.items()},
        "wait_share": sum(seconds["wait"]) / total,
        "other_share": sum(seconds["other"]) / total,
    }


def fairseq_config(
    recipe: Recipe, case: Case, device: torch.device, folder: Path, num_updates: int, data: Data | None
) -> DictConfig:
    """Return the full config of fairseq for a recipe and a case, which writes nothing outside `folder`."""
    cfg = OmegaConf.merge(OmegaConf.structured(FairseqConfig), recipe.config)
    assert isinstance(cfg, DictConfig)
    add_defaults(cfg)  # lifts the struct flag as well
    changes: dict[str, dict[str, Any]] = {
        "common": {
            "user_dir": None,
            "tensorboard_logdir": None,
            "wandb_project": None,
            "log_file": None,
            "log_format": "none",
            "cpu": device.type == "cpu",
            "fp16": case.precision == "float16",
            "bf16": case.precision == "bfloat16",
            "amp": False,
        },
        "checkpoint": {"save_dir": str(folder), "no_save": True, "restore_file": "checkpoint_last.pt"},
        "dataset": {
            "train_subset": data.split if data else "train",
            "num_workers": data.num_workers if data else 0,
            "batch_size": case.batch_size,
            "max_tokens": None,
            "disable_validation": True,
        },
        "task": {
            "data": str(data.folder if data else folder),
            "data_weights": None,
            "max_sample_size": round(case.seconds * fbank.SAMPLE_RATE),
            "min_sample_size": None,
            "max_keep_size": None,
        },
        "model": vars(fields_of(recipe, case)),
        "optimization": {"max_update": num_updates, "max_epoch": 0, "stop_time_hours": 0.0, "update_freq": [1]},
    }
    if case.mask_ratio is not None:
        changes["model"] |= {"random_mask_prob": case.mask_ratio}
    resolved = OmegaConf.to_container(OmegaConf.merge(cfg, changes), resolve=True, enum_to_str=True)
    assert isinstance(resolved, dict)
    return OmegaConf.create(resolved, flags={"struct": True})


class Recorder:
    """Stands between fairseq's trainer and what it calls, and notes how long that takes."""

    def __init__(self, trainer: Any, task: Any, clock: Clock):
        self.updates: list[Update] = []
        self.clock = clock
        self._seconds = dict.fromkeys(("forward_backward", "optimizer", "wait"), 0.0)
        self._end = clock()
        task.train_step = self._timed("forward_backward", task.train_step)
        task.optimizer_step = self._timed("optimizer", task.optimizer_step)
        trainer.clip_grad_norm = self._timed("optimizer", trainer.clip_grad_norm)
        trainer.optimizer.multiply_grads = self._timed("optimizer", trainer.optimizer.multiply_grads)
        trainer.train_step = self._update(trainer.train_step)

    def watch(self, epoch: Any) -> Any:
        """Time what fairseq's loop waits for the batches of an epoch iterator."""
        begin = epoch.next_epoch_itr

        def next_epoch_itr(**arguments: Any) -> CountingIterator:
            inner = begin(**arguments)
            return CountingIterator(iter(self._timed("wait", inner.__next__), None), start=inner.n, total=len(inner))

        epoch.next_epoch_itr = next_epoch_itr
        return epoch

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.clock()
            try:
                return function(*args, **kwargs)
            finally:
                self._seconds[part] += self.clock() - start

        return timed

    def _update(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(train_step)
        def timed(*args: Any, **kwargs: Any) -> Any:
            result = train_step(*args, **kwargs)
            end = self.clock()
            self.updates.append(Update(end - self._end, **self._seconds))
            self._end = end
            self._seconds = dict.fromkeys(self._seconds, 0.0)
            return result

        return timed


class SyntheticEpoch:
    """An epoch of one and the same batch, as fairseq's loop iterates over epochs."""

    epoch = next_epoch_idx = 1

    def __init__(self, sample: dict[str, Any], num_updates: int):
        self.sample = sample
        self.num_updates = num_updates

    def next_epoch_itr(self, **_: Any) -> CountingIterator:
        """Return the batches."""
        return CountingIterator(itertools.repeat(self.sample, self.num_updates), total=self.num_updates)
