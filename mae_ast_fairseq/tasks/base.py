"""What the fairseq tasks share: folders of manifests, broken files, and the statistics of the input."""

import math
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, Optional, cast

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.data.iterators import EpochBatchIterator
from fairseq.logging import metrics
from fairseq.optim import FairseqOptimizer
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf
from torch import nn

from mae_ast_fairseq.checkpoints.version import own_state, read_state
from mae_ast_fairseq.config.pretraining import require_choice
from mae_ast_fairseq.corpus.statistics import (
    FILE_NAME,
    NUM_CLIPS,
    Statistics,
    measure_manifest,
    pool,
    read_statistics,
)
from mae_ast_fairseq.datasets.clips import ClipDataset
from mae_ast_fairseq.errors import AudioError, ConfigError, get_logger
from mae_ast_fairseq.nn.build import check_memory
from mae_ast_fairseq.nn.normalization import InputNormalization
from mae_ast_fairseq.tasks.best import (
    METRIC,
    forget_former_runs,
    leave_out_nan,
    patience,
    settle_direction,
    take_patience,
)
from mae_ast_fairseq.tasks.console import settle_console
from mae_ast_fairseq.tasks.field_types import settle_model_types
from mae_ast_fairseq.tasks.launch import (
    check_checkpoint,
    check_together,
    data_folders,
    is_first_process,
    is_training_command,
    settle_data,
    spare_fairseq_the_folders,
)
from mae_ast_fairseq.tasks.patches import install
from mae_ast_fairseq.tasks.preemption import listen
from mae_ast_fairseq.tasks.progress import close_former_curves
from mae_ast_fairseq.tasks.resume import (
    Clips,
    Stored,
    changed_batches,
    changed_score,
    check_same_run,
    find_stored,
    first_subset,
    from_first_process,
    keep_place,
    say_new_best,
)
from mae_ast_fairseq.tasks.run_folder import LAST_CHECKPOINT, prepare_run_folder
from mae_ast_fairseq.tasks.skipping import SkippedUpdates
from mae_ast_fairseq.tasks.stalling import limit_reading
from mae_ast_fairseq.training_error import without_traceback

logger = get_logger(__name__)


class AudioTask(FairseqTask):
    """A task on the clips of `{split}.tsv` in `task.data`; its config has the fields of AudioTaskFields."""

    cfg: Any

    @without_traceback
    def __init__(self, cfg: Any, from_checkpoint: bool = False):
        super().__init__(cfg)
        self._from_checkpoint = from_checkpoint
        self._has_said_nan = False
        require_choice("task.on_changed_data", cfg.on_changed_data, ["restart", "refuse"])
        self._clips: dict[str, Clips] = {}
        self._has_gone_on = False
        self._skipped = SkippedUpdates(cfg.max_skipped_updates)
        if not from_checkpoint:
            install()
            self._prepare_run()

    def _prepare_run(self) -> None:
        # Processes that fairseq itself starts, one a GPU, know nothing of hydra.
        if is_training_command() or torch.distributed.is_initialized():
            listen()
            settle_console(has_fairseqs_figures=self._run_setting("common.log_format") is not None)
            if not self._run_setting("checkpoint.no_save"):
                restores_last = self._run_setting("checkpoint.restore_file") == LAST_CHECKPOINT
                keeps_last = not self._run_setting("checkpoint.no_last_checkpoints")
                folder = Path(self._run_setting("checkpoint.save_dir"))
                prepare_run_folder(folder, needs_last=restores_last, keeps_last=keeps_last)

    @without_traceback
    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model, and take from it the token grid that datasets need."""
        if not (from_checkpoint or self._from_checkpoint):
            settle_model_types(cfg)
            settle_data(self.cfg)
            forget_former_runs()
            close_former_curves()
            if self.continued is not None:
                check_same_run(self.continued, self._run_setting)
            check_memory(lambda: super(AudioTask, self).build_model(cfg))
        model = super().build_model(cfg, from_checkpoint)
        self.grid = model.grid
        return model

    @without_traceback
    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the criterion; at the launch of a training command, also look whether what its config names is there.

        fairseq builds the criterion last before it lists the data folder, with a traceback where there is none.
        """
        if is_training_command() and not (self._from_checkpoint or from_checkpoint):
            self._check_launch()
        criterion = super().build_criterion(cfg, from_checkpoint)
        self._directions = {**criterion.maximize, **self.maximize}
        if not (self._from_checkpoint or from_checkpoint):
            settle_direction(self.cfg._get_root(), self._directions)
            spare_fairseq_the_folders(self.cfg._get_root())
        return criterion

    @property
    @abstractmethod
    def maximize(self) -> dict[str, bool]:
        """Of the figures over a whole validation set that the task logs, whether more is better."""

    @property
    @abstractmethod
    def undefined(self) -> dict[str, str]:
        """Why some of them may be NaN, in words."""

    @cached_property
    def continued(self) -> Optional[Stored]:
        """What the checkpoint says that this run goes on from; None for one from scratch."""
        return from_first_process(lambda: find_stored(self._run_setting))

    def state_dict(self) -> dict[str, Any]:
        """Return what checkpoints keep besides weights: the clips trained on, and how long none was better."""
        clips = {name: each._asdict() for name, each in self._clips.items()}
        return {**super().state_dict(), **own_state(clips=clips, patience=patience()._asdict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a checkpoint has of a task; raises CheckpointError where a later version wrote it."""
        read_state(Path("the checkpoint"), state_dict)
        super().load_state_dict(state_dict)

    def _check_launch(self) -> None:
        self._folders()
        check_together(self._run_setting)
        restore_file = self._run_setting("checkpoint.restore_file")
        if restore_file != LAST_CHECKPOINT and self.continued is None:
            check_checkpoint("checkpoint.restore_file", restore_file)
        # fairseq itself would say nothing of a misspelt one and start from scratch
        check_checkpoint("checkpoint.finetune_from_model", self._run_setting("checkpoint.finetune_from_model"))

    def _folders(self, cfg: Any = None) -> list[Path]:
        """Return the folders of the data; raises ConfigError where one is not there."""
        cfg = cfg or self.cfg
        if OmegaConf.is_missing(cfg, "data") or not cfg.data:
            raise ConfigError(
                "task.data: nothing was given; expected the folder of train.tsv and valid.tsv; add task.data=/folder"
            )
        return data_folders(cfg.data)

    def _run_setting(self, key: str) -> Any:
        """Return a field of the run's config by its full name, such as `checkpoint.save_dir`; None: it has none.

        The task's config hangs in that of the run, or of the checkpoint, which in a released one lacks much.
        """
        return OmegaConf.select(self.cfg._get_root(), key, throw_on_resolution_failure=False)

    def _clip_settings(self, cfg: Any, split: str) -> dict[str, Any]:
        """Return the keywords that a dataset of either task takes; all but `dataset.train_subset` validate."""
        return {
            "grid": self.grid,
            "seed": cfg.seed,
            "training": split == self._train_subset,
            "max_sample_size": cfg.max_sample_size,
            "min_sample_size": cfg.min_sample_size,
            "max_keep_size": cfg.max_keep_size,
            "random_crop": cfg.random_crop,
        }

    @property
    def _train_subset(self) -> str:
        return self._run_setting("dataset.train_subset") or "train"

    def has_sharded_data(self, split: str) -> bool:
        """Return False: several folders are trained on together, and not an epoch each."""
        return False

    @without_traceback
    def get_batch_iterator(
        self,
        dataset: ClipDataset,
        max_tokens: Optional[int] = None,
        *,
        num_workers: int = 0,
        data_buffer_size: int = 0,
        **kwargs: Any,
    ) -> Any:
        """Batch a dataset; raises ConfigError where its longest crop does not fit into `max_tokens`."""
        self._batched = dataset
        longest = int(dataset.sizes.max())
        if max_tokens is not None and max_tokens < longest:
            field_name = "max_tokens" if dataset.training else "max_tokens_valid"
            raise ConfigError(
                f"dataset.{field_name}: {max_tokens} samples is less than the longest crop of "
                f"{dataset.manifest.name}, {longest} samples; raise it or lower task.max_sample_size"
            )
        # The trainer would have fairseq leave out what is longer than max_tokens, by indices that count repeated clips.
        kwargs["max_positions"] = None
        if num_workers == 0:
            # fairseq's buffer would make batches in a thread: a process that ends in the middle of one may abort.
            data_buffer_size = 0
        iterator = super().get_batch_iterator(
            dataset, max_tokens=max_tokens, num_workers=num_workers, data_buffer_size=data_buffer_size, **kwargs
        )
        if num_workers > 0:
            limit_reading(iterator, dataset, self.cfg.read_timeout_seconds)
        if dataset.training and not self._from_checkpoint:
            self._go_on(dataset, iterator)
        return iterator

    def _go_on(self, dataset: ClipDataset, iterator: EpochBatchIterator) -> None:
        """Note what is trained on, for checkpoints, and compare it with what the run goes on from.

        fairseq has set the checkpoint's best score before, and the iterator's place in the epoch afterwards.
        """
        splits = {"train": dataset, "valid": self.datasets.get(first_subset(self._run_setting, "valid"))}
        clips = {name: Clips(len(each.manifest), each.fingerprint) for name, each in splits.items() if each is not None}
        self._clips = clips
        if self.continued is None or self.continued.is_warm_start or self._has_gone_on:
            return
        self._has_gone_on = True
        changes = changed_batches(self.continued, self._run_setting, clips)
        keep_place(iterator, self.continued, changes, refuses=self.cfg.on_changed_data == "refuse")
        reasons = changed_score(self.continued, self._run_setting, clips)
        if reasons and hasattr(checkpoint_utils.save_checkpoint, "best"):
            say_new_best(reasons)
            forget_former_runs()
        elif hasattr(checkpoint_utils.save_checkpoint, "best"):
            take_patience(self.continued.patience)

    def _num_shown(self, iterator: EpochBatchIterator) -> int:
        """Count the batches of a validation that each process is shown, fillers with them.

        Only training heeds `dataset.max_valid_steps`, the last batch's number from 0.
        """
        last = None if self._from_checkpoint else self._run_setting("dataset.max_valid_steps")
        return len(iterator) if last is None else min(len(iterator), last + 1)

    def max_positions(self) -> None:
        """Return None: there are positions for any length."""
        return None

    # --- steps, and broken files

    @without_traceback
    def train_step(self, sample: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Do one step, after a look at how many files proved broken."""
        self._check_bad_files(sample)
        self._skipped.add(sample["id"])
        return super().train_step(sample, *args, **kwargs)

    @without_traceback
    def skip_update(self, optimizer: FairseqOptimizer) -> None:
        """Skip the running update, whose gradient is not finite; raises AudioError past `task.max_skipped_updates`."""
        self._skipped.skip(self.datasets[self._train_subset].manifest, optimizer)

    def optimizer_step(self, optimizer: FairseqOptimizer, model: nn.Module, update_num: int) -> None:
        """Update the weights, unless this update is skipped."""
        if not self._skipped.end():
            self.step(optimizer, update_num)

    def step(self, optimizer: FairseqOptimizer, update_num: int) -> None:
        """Update the weights."""
        optimizer.step()

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log what the criterion says; of an update that is skipped, nothing that counts."""
        if criterion.training and self._skipped.is_skipping:
            metrics.log_scalar("loss", math.nan, weight=0)
        else:
            super().reduce_metrics(logging_outputs, criterion)

    @without_traceback
    def valid_step(self, sample: dict[str, Any], model: nn.Module, criterion: Any) -> Any:
        """Validate on one batch, and keep what the figures over the whole set are made of."""
        if not sample:  # fairseq's trainer would show a batch again; its validation command does not
            raise ConfigError(
                "distributed_training.distributed_world_size: a process has no batch left to validate, where others "
                "have; expected as many for each; validate in one process"
            )
        self._check_bad_files(sample)
        model.eval()
        with torch.no_grad():
            measured = criterion.measure(model, sample)
            self.keep_validated(sample, model, measured.output)
        return measured[:3]

    @abstractmethod
    def keep_validated(self, sample: dict[str, Any], model: nn.Module, output: Any) -> None:
        """Keep of a batch of validation what is needed of the model's output."""

    def post_validate(self, model: nn.Module, stats: dict[str, Any], agg: Any) -> None:
        """Keep a NaN out of the choice of the best checkpoint, which the first validation set makes; say so once."""
        message = leave_out_nan(self._run_setting(METRIC), stats, self._directions, self.undefined)
        if message and self._has_validated_first and not self._has_said_nan:
            self._has_said_nan = True
            if is_first_process():
                logger.warning("%s: %s", self._batched.manifest.name, message)

    @property
    def _has_validated_first(self) -> bool:
        """Tell whether the latest validation is of the first set, which chooses the best checkpoint."""
        return self._batched is self.datasets.get(first_subset(self._run_setting, "valid"))

    def _check_bad_files(self, sample: dict[str, Any]) -> None:
        if sample["num_bad_files"] > 0:
            self._stop_past_max_bad_fraction()

    def _stop_past_max_bad_fraction(self) -> None:
        for dataset in self.datasets.values():
            bad_rows = dataset.bad_rows
            fraction = len(bad_rows) / len(dataset.manifest)
            if dataset.replacements_exhausted or fraction > self.cfg.max_bad_fraction:
                raise AudioError(
                    f"{dataset.manifest.name}: {len(bad_rows)} of {len(dataset.manifest)} files ({fraction:.1%}) are "
                    f"broken, the first of them {dataset.manifest.path(bad_rows[0])}; expected at most "
                    f"task.max_bad_fraction={self.cfg.max_bad_fraction}; fix or remove them (each was logged with "
                    "its reason), or raise the field"
                )

    # --- statistics of the data

    @without_traceback
    def begin_epoch(self, epoch: int, model: nn.Module) -> None:
        """Fill the model's input statistics before the first update, unless a checkpoint has brought them.

        Here processes also tell each other which files proved broken.
        """
        self._share_bad_files(model)
        normalization = cast(InputNormalization, model.batch_norm)
        if normalization.is_set:
            return
        values = torch.zeros(2, dtype=torch.float64, device=normalization.running_mean.device)
        if is_first_process():
            values = torch.tensor(self._statistics(), dtype=values.dtype, device=values.device)
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(values, src=0)
        statistics = Statistics(*values.tolist())
        logger.info("log-Mel mean %.4f, standard deviation %.4f", statistics.mean, statistics.std)
        normalization.set_statistics(*statistics)

    def _share_bad_files(self, model: nn.Module) -> None:
        if not torch.distributed.is_initialized():
            return
        device = next(model.parameters()).device
        for dataset in self.datasets.values():
            is_bad = dataset.is_bad.to(device)
            torch.distributed.all_reduce(is_bad, torch.distributed.ReduceOp.MAX)
            dataset.is_bad.copy_(is_bad)
        self._stop_past_max_bad_fraction()

    def _statistics(self) -> Statistics:
        paths = [folder / FILE_NAME for folder in self._folders()]
        if all(path.is_file() for path in paths):
            logger.info("taking the data's mean and deviation from %s", ", ".join(map(str, paths)))
            return self._pooled(paths)
        logger.info("measuring the data's mean and deviation over at most %d clips", NUM_CLIPS)
        measured = measure_manifest(
            self.datasets[self._train_subset].manifest,
            feature_dim=self.cfg.feature_dim,
            max_sample_size=self.cfg.max_sample_size,
        )
        return measured.statistics

    def _pooled(self, paths: list[Path]) -> Statistics:
        """Return what the folders' stats.json say, each with the weight of its audio in the training set."""
        statistics = [read_statistics(path, self.cfg.feature_dim) for path in paths]
        dataset = self.datasets[self._train_subset]
        parts = np.searchsorted(dataset.manifest.part_starts, dataset.rows, side="right") - 1
        return pool(statistics, np.bincount(parts, weights=dataset.sizes, minlength=len(paths)).tolist())
