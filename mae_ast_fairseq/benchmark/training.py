"""Recipes inside fairseq's own trainer, timed part by part: single updates in turns, or fairseq's whole loop."""

import copy
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from fairseq import tasks, utils
from fairseq.data.iterators import CountingIterator
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from fairseq_cli import train as fairseq_train
from omegaconf import DictConfig, OmegaConf
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.benchmark import timer

from mae_ast_fairseq.benchmark.cases import Case
from mae_ast_fairseq.benchmark.timing import spread

LOG_MEL_MEAN, LOG_MEL_STD = -6.0, 4.0  # about those of speech; speed does not depend on them
NUM_WARM_UP = 2  # updates: the optimiser's state is made in the first, the loader's workers start before it
PARTS = ("forward", "backward", "optimizer", "wait")
"""What an update's time goes to: the optimiser's is for scaling and clipping gradients too, the wait is for a batch."""


def fairseq_config(
    recipe: DictConfig, case: Case, device: torch.device, *, manifest: Path, save_dir: Path, num_workers: int = 0
) -> DictConfig:
    """Return fairseq's config of a recipe for a case, without interpolations; nothing is written outside `save_dir`.

    No layer is dropped, with which updates would differ by chance.
    """
    changes = {
        "common.tensorboard_logdir": None,
        "common.wandb_project": None,
        "common.log_file": None,
        "common.log_format": "none",
        "common.cpu": device.type == "cpu",
        "common.fp16": case.precision == "float16",
        "common.bf16": case.precision == "bfloat16",
        "common.amp": False,
        "checkpoint.save_dir": str(save_dir),
        "checkpoint.no_save": True,
        "dataset.train_subset": manifest.stem,
        "dataset.num_workers": num_workers,
        "dataset.batch_size": case.batch_size,
        "dataset.max_tokens": None,
        "dataset.disable_validation": True,
        "task.data": str(manifest.absolute().parent),
        "task.data_weights": None,
        "task.max_sample_size": case.num_samples,
        "task.min_sample_size": None,
        "task.max_keep_size": None,
        "optimization.stop_time_hours": 0.0,
        "optimization.update_freq": [1],
    }
    model = {
        "dropout": case.dropout,
        "dropout_input": case.dropout,
        "attention_dropout": case.attention_dropout,
        "random_mask_prob": case.mask_ratio,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
    }
    changes |= {f"model.{name}": value for name, value in model.items() if name in recipe.model and value is not None}
    cfg = copy.deepcopy(recipe)
    for name, value in changes.items():
        OmegaConf.update(cfg, name, value)
    resolved: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    return OmegaConf.create(resolved, flags={"struct": True})


def make_sample(cfg: DictConfig) -> dict[str, Any]:
    """Return a batch as the loader would bring it, on the device of the config."""
    task = tasks.setup_task(cfg.task)
    with FakeTensorMode():
        task.build_model(cfg.model)  # for its tokens and masks alone: its weights take neither time nor memory
    task.load_dataset(cfg.dataset.train_subset)
    dataset = task.dataset(cfg.dataset.train_subset)
    sample = dataset.collater([dataset[index] for index in range(cfg.dataset.batch_size)])
    return sample if cfg.common.cpu else utils.move_to_cuda(sample)


class BenchmarkModel:
    """A model with criterion and optimiser inside fairseq's trainer, whose parts are timed."""

    def __init__(self, cfg: DictConfig):
        metrics.reset()
        self.cfg = cfg
        self.task = tasks.setup_task(cfg.task)
        model = self.task.build_model(cfg.model)
        model.batch_norm.set_statistics(LOG_MEL_MEAN, LOG_MEL_STD)
        self.criterion = self.task.build_criterion(cfg.criterion)
        self.trainer = Trainer(cfg, self.task, model, self.criterion)
        self._updates: list[dict[str, float]] = []
        self._restart()
        self.model: Any = self.trainer.model
        self.criterion.forward = self._timed("forward", self.criterion.forward)
        optimizer = self.trainer.optimizer
        optimizer.backward = self._timed("backward", optimizer.backward)
        optimizer.multiply_grads = self._timed("optimizer", optimizer.multiply_grads)
        self.trainer.clip_grad_norm = self._timed("optimizer", self.trainer.clip_grad_norm)
        self.task.optimizer_step = self._timed("optimizer", self.task.optimizer_step)
        self._train_step = self.trainer.train_step
        self.trainer.train_step = self._noted_step

    def time(self, sample: dict[str, Any]) -> dict[str, float]:
        """Take one update and one inference; return the seconds of their parts, without what fairseq adds to them."""
        self._restart()
        try:
            self.trainer.train_step([sample])
        finally:
            self.trainer.zero_grad()  # other rows' models need the memory
        seconds = self._updates.pop()
        seconds["forward_backward"] = seconds["forward"] + seconds["backward"]
        seconds["update"] = seconds["forward_backward"] + seconds["optimizer"]
        self.model.eval()
        start = timer()
        with torch.no_grad():
            self.model.extract_features(sample["net_input"]["source"])
        return {**seconds, "inference": timer() - start}

    def batches(self) -> CountingIterator:
        """Return an epoch of the task's own loader."""
        return self.trainer.get_train_iterator(epoch=1).next_epoch_itr()

    def run_loop(self, batches: Iterator[dict[str, Any]], num_updates: int) -> dict[str, Any]:
        """Train with fairseq's loop on what batches there are, at most so many; return where the time went."""
        total = min(NUM_WARM_UP + num_updates, getattr(batches, "total", NUM_WARM_UP + num_updates))
        watched = CountingIterator(iter(self._timed("wait", batches.__next__), None), total=total)
        epoch = types.SimpleNamespace(epoch=1, next_epoch_idx=1, next_epoch_itr=lambda **_: watched)
        self._restart()
        fairseq_train.train(self.cfg, self.trainer, self.task, epoch)
        return summarize(self._updates[NUM_WARM_UP:])

    def _restart(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._end = timer()

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = timer()
            try:
                return function(*args, **kwargs)
            finally:
                self._seconds[part] += timer() - start

        return timed

    def _noted_step(self, samples: list[dict[str, Any]]) -> Any:
        """Take an update; note its parts, and its time since the one before ended."""
        result = self._train_step(samples, raise_oom=True)  # which fairseq would pass over
        self._updates.append({"total": timer() - self._end, **self._seconds})
        self._restart()
        return result


def summarize(updates: list[dict[str, float]]) -> dict[str, Any]:
    """Return the spread of each part of updates in seconds, and the fractions of all their time."""
    parts = {name: [update[name] for update in updates] for name in ("total", "optimizer", "wait")}
    parts["forward_backward"] = [update["forward"] + update["backward"] for update in updates]
    parts["other"] = [update["total"] - sum(update[name] for name in PARTS) for update in updates]
    total = sum(parts["total"])
    return {
        "num_updates": len(updates),
        "seconds_of_parts": {name: spread(values) for name, values in parts.items()},
        "wait_share": sum(parts["wait"]) / total,
        "other_share": sum(parts["other"]) / total,
    }
