"""What fairseq 0.12 does wrong where it has no hook for a plugin: each patch says why, and has a test.

`install` is called when one of our tasks is set up to train: so they are in force under fairseq-hydra-train as
elsewhere, and not where another plugin's task is trained or one of our checkpoints is loaded.
"""

import atexit
import functools
import math
import os
import queue
import shutil
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import fairseq
import torch
from fairseq import checkpoint_utils, utils
from fairseq.data.iterators import BackgroundConsumer
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.logging import progress_bar
from fairseq.optim.fp16_optimizer import _FP16OptimizerMixin
from fairseq.trainer import Trainer
from omegaconf import OmegaConf
from torch import Tensor

from mae_ast_fairseq.errors import get_logger
from mae_ast_fairseq.files import atomic_write
from mae_ast_fairseq.tasks.best import patience
from mae_ast_fairseq.tasks.distributed import partners_needed
from mae_ast_fairseq.tasks.preemption import stop_if_asked
from mae_ast_fairseq.tasks.progress import FollowedBar, current_run, followed
from mae_ast_fairseq.tasks.resume import OWN_FOLDER
from mae_ast_fairseq.tasks.run_folder import LAST_CHECKPOINT
from mae_ast_fairseq.training_error import TrainingError

logger = get_logger(__name__)

VERSION = "0.12"
MASTERS = "master_weights"
NUM_TRIES, PAUSE_SECONDS = 3, 2.5
_COPIED_BYTES = 1 << 24
MAX_SECONDS_OF_READERS = 5.0


def install() -> None:
    """Patch fairseq, once; another version than 0.12 is left alone, and said to be."""
    if not fairseq.__version__.startswith(VERSION):
        logger.warning(
            "fairseq %s is not patched; expected %s: checkpoints may be cut off by a kill or a full disk, and several "
            "processes cannot resume",
            *(fairseq.__version__, VERSION),
        )
        return
    _patch(distributed_utils, "_broadcast_object_slow", _broadcast_plain)
    _patch(checkpoint_utils, "torch_persistent_save", lambda original: save_whole)
    _patch(checkpoint_utils, "PathManager", lambda original: _WholeCopies)
    _patch(_FP16OptimizerMixin, "state_dict", _with_masters)
    _patch(_FP16OptimizerMixin, "load_state_dict", _take_masters)
    _patch(utils, "clip_grad_norm_", _where_gradients_are)
    _patch(Trainer, "clip_grad_norm", _skip_non_finite)
    _patch(Trainer, "load_checkpoint", partners_needed())
    _patch(checkpoint_utils, "load_checkpoint", _own_first)
    _patch(progress_bar, "progress_bar", _follow)
    atexit.unregister(_end_readers)
    atexit.register(_end_readers)
    if command := sys.modules.get("fairseq_cli.train"):
        _patch(command, "train", _unless_finished)
        _patch(command, "validate_and_save", _stop_when_asked)


def _patch(owner: Any, name: str, patch: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    if getattr(original, "is_patch", False):
        return
    patched = patch(original)
    patched.is_patch = True
    setattr(owner, name, patched)


def _end_readers() -> None:
    """Let the threads that read ahead end before the interpreter does: one that is in a torch operation then aborts it.

    Each ends after the batch that it makes, for which it may need room in its queue.
    """
    latest = time.monotonic() + MAX_SECONDS_OF_READERS
    for reader in threading.enumerate():
        if isinstance(reader, BackgroundConsumer):
            reader._max_len = 0
            while reader.is_alive() and time.monotonic() < latest:
                with suppress(queue.Empty):
                    reader._queue.get(timeout=0.1)


def _broadcast_plain(original: Callable[..., Any]) -> Callable[..., Any]:
    """Send a checkpoint to the other processes as tensors and plain values, which alone torch >= 2.6 reads.

    fairseq sends its config as a DictConfig, and a class of its own in the place of tensors.
    """

    @functools.wraps(original)
    def broadcast(value: Any, *args: Any) -> Any:
        if isinstance(value, dict) and OmegaConf.is_config(value.get("cfg")):
            value = {**value, "cfg": OmegaConf.to_container(value["cfg"])}
        with torch.serialization.safe_globals([distributed_utils._TensorPlaceholder]):
            return original(value, *args)

    return broadcast


def save_whole(state: Any, filename: str, async_write: bool = False) -> None:
    """Write a checkpoint that takes its place when it is on the disk and can be read; raises TrainingError.

    Where a disk was full, fairseq tries again where it had stopped in the file, and reports success.
    """

    def write(stream: BinaryIO) -> None:
        torch.save(state, stream)
        stream.flush()
        zipfile.ZipFile(stream.name).close()

    _write_whole(Path(filename), write)


class _WholeCopies(PathManager):
    """Copies checkpoint_best.pt and checkpoint_last.pt whole or not at all; fairseq writes over the former ones."""

    @staticmethod
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        def write(stream: BinaryIO) -> None:
            with Path(src_path).open("rb") as source:
                shutil.copyfileobj(source, stream, _COPIED_BYTES)

        _write_whole(Path(dst_path), write)
        return True


def _write_whole(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file that takes its place when it is on the disk, with NUM_TRIES; raises TrainingError."""
    for num_left in reversed(range(NUM_TRIES)):
        try:
            with atomic_write(path, durable=True) as stream:
                write(stream)
            if run := current_run():
                run.saved(path)
            return
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
            if not num_left:
                raise TrainingError(
                    f"{path}: this checkpoint cannot be written ({reason}, {NUM_TRIES} times); expected room for it on "
                    "its disk; make some and start the same command again, which goes on from the last one"
                ) from None
            logger.warning("%s: cannot be written (%s); trying again", path, reason)
            time.sleep(PAUSE_SECONDS)


def _with_masters(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the float32 weights of a bfloat16 or float16 run beside the moments: the model's own are rounded ones."""

    @functools.wraps(original)
    def state_dict(self: Any) -> dict[str, Any]:
        return {**original(self), MASTERS: [weight.detach() for weight in _masters(self)]}

    return state_dict


def _take_masters(original: Callable[..., Any]) -> Callable[..., Any]:
    """Go on from the float32 weights that a checkpoint holds; earlier ones have none."""

    @functools.wraps(original)
    def load_state_dict(self: Any, state: dict[str, Any], *args: Any) -> None:
        original(self, {name: value for name, value in state.items() if name != MASTERS}, *args)
        stored = state.get(MASTERS, [])
        for weight, value in zip(_masters(self), stored, strict=bool(stored)):
            weight.data.copy_(value)

    return load_state_dict


def _masters(optimizer: Any) -> list[Tensor]:
    """Return the float32 weights of an optimiser: one for each of the model, or one flat one for each device."""
    weights = optimizer.fp32_params
    return list(weights.values() if isinstance(weights, dict) else weights)


def _where_gradients_are(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Clip gradients on their own device, all in one pass.

    On a machine with a GPU fairseq takes the norm there and ends a run on the CPU, and it asks for each tensor's alone.
    """

    @functools.wraps(original)
    def clip_grad_norm_(params: Any, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        weights = [params] if isinstance(params, Tensor) else list(params)
        grads = [weight.grad for weight in weights if weight.grad is not None]
        is_plain = all(grad.dtype is torch.float32 for grad in grads) and not any(hasattr(w, "expert") for w in weights)
        if aggregate_norm_fn or not grads or not is_plain:
            return original(weights, max_norm, aggregate_norm_fn)
        norm = torch.nn.utils.get_total_norm(grads)
        if max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(weights, max_norm, norm)
        return norm

    return clip_grad_norm_


def _skip_non_finite(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let the task skip an update whose gradient is NaN or infinite; fairseq ends the run without naming its clips."""

    @functools.wraps(original)
    def clip_grad_norm(self: Any, clip_norm: float) -> Tensor:
        norm = original(self, clip_norm)
        skip = getattr(self.task, "skip_update", None)
        if skip is None or bool(torch.isfinite(norm)):
            return norm
        skip(self.optimizer)
        return torch.zeros_like(norm)

    return clip_grad_norm


def _own_first(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let a run go on from its own last checkpoint where `restore_file`, of another folder, is what it started from."""

    @functools.wraps(original)
    def load_checkpoint(cfg: Any, trainer: Any, **kwargs: Any) -> Any:
        stored = getattr(trainer.task, "continued", None)
        if stored is not None and stored.field == OWN_FOLDER and cfg.restore_file != LAST_CHECKPOINT:
            logger.info("going on from %s: %s was for the first start", stored.path, cfg.restore_file)
            cfg = OmegaConf.merge(cfg, {"restore_file": LAST_CHECKPOINT})
        return original(cfg, trainer, **kwargs)

    return load_checkpoint


def _unless_finished(original: Callable[..., Any]) -> Callable[..., Any]:
    """Say of a finished run that it is; fairseq does one update more at each restart."""

    @functools.wraps(original)
    @partners_needed()
    def train(cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> Any:
        num_updates, max_update = trainer.get_num_updates(), cfg.optimization.max_update or math.inf
        if 0 < cfg.checkpoint.patience <= patience().num_runs:
            logger.info(
                "this run is finished: %d validations were no better, of checkpoint.patience=%d; raise it to go on",
                *(patience().num_runs, cfg.checkpoint.patience),
            )
            return [None], True
        if num_updates < max_update:
            with followed(cfg, trainer) as run:
                valid_losses, should_stop = original(cfg, trainer, task, epoch_itr)
            if should_stop or epoch_itr.epoch >= (cfg.optimization.max_epoch or math.inf):
                run.close()
            return valid_losses, should_stop
        logger.info(
            "this run is finished: %d of optimization.max_update=%d updates are done; raise it to go on",
            *(num_updates, max_update),
        )
        return [None], True

    return train


def _follow(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let the run have all figures, and show them for a person where no format of fairseq's is asked for.

    fairseq has figures of every update, a bar for each epoch and one more for each validation, or a line an interval.
    """

    @functools.wraps(original)
    def progress_bar(iterator: Any, log_format: Any = None, *args: Any, **kwargs: Any) -> Any:
        run = current_run()
        if run is None:
            return original(iterator, log_format, *args, **kwargs)
        if kwargs.get("wandb_project") and run.name and "WANDB_NAME" not in os.environ:
            kwargs["wandb_run_name"] = run.name  # fairseq calls all runs "checkpoints", the folder that these lie in
        bar = original(iterator, log_format or ("simple" if kwargs.get("log_file") else "none"), *args, **kwargs)
        return FollowedBar(bar, run, iterator, kwargs["epoch"], is_validation=kwargs.get("prefix") is not None)

    return progress_bar


def _stop_when_asked(original: Callable[..., Any]) -> Callable[..., Any]:
    """Save and end after the running update where a signal has asked for it; fairseq saves nothing."""

    @functools.wraps(original)
    def validate_and_save(
        cfg: Any, trainer: Any, task: Any, epoch_itr: Any, valid_subsets: Any, end_of_epoch: bool
    ) -> Any:
        def save() -> None:
            checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, epoch_itr, None)

        is_last = trainer.get_num_updates() >= (cfg.optimization.max_update or math.inf)
        is_validated = is_last or end_of_epoch  # what another start would not make up for
        saves = None if cfg.checkpoint.no_save else save
        if not is_validated:
            stop_if_asked(trainer.device, saves)
        try:
            result = original(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch)
        finally:
            if run := current_run():
                run.say()
        if is_validated:
            stop_if_asked(trainer.device, saves)
        return result

    return validate_and_save
