"""The fairseq task `mae_ast_pretraining`: manifests in, masked log-Mel tokens to the model."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, cast

from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import register_task
from torch import nn

from mae_ast_fairseq.config.pretraining import PretrainingTaskFields, check_pretraining_task, require_choice
from mae_ast_fairseq.data.concat import join
from mae_ast_fairseq.data.masking import STRATEGIES, Masking, check_ratio
from mae_ast_fairseq.datasets.pretraining import MaskedAudioDataset
from mae_ast_fairseq.errors import ConfigError, get_logger
from mae_ast_fairseq.evaluation.collapse import diagnose
from mae_ast_fairseq.extras import require
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder, SwappedErrors
from mae_ast_fairseq.nn.masked import MaskedPredictor, Predictions
from mae_ast_fairseq.tasks.base import AudioTask
from mae_ast_fairseq.tasks.launch import (
    MIN_WARMUP,
    is_first_process,
    read_checked,
    read_weights,
    schedule_warning,
)
from mae_ast_fairseq.tasks.progress import run_folder
from mae_ast_fairseq.tasks.reconstructions import FOLDER, Reconstructions, show_in_tensorboard
from mae_ast_fairseq.tasks.resume import first_subset
from mae_ast_fairseq.tasks.validation import TokenHealth
from mae_ast_fairseq.training_error import without_traceback

logger = get_logger(__name__)

RETAIN_SPANS = "retain_spans"
"""A released mask type that is accepted on loading, and not for pretraining."""

NUM_SWAPPED, NUM_SWAPPED_CLIPS = 2, 8
"""The clips of so many batches, and at most so many of each, are decoded again for `content_gain`."""


@dataclass
class MaeAstPretrainingConfig(PretrainingTaskFields, FairseqDataclass):
    """Fields of the `mae_ast_pretraining` task."""


@register_task("mae_ast_pretraining", dataclass=MaeAstPretrainingConfig)
class MaeAstPretrainingTask(AudioTask):
    """Pretrains MAE-AST and SSAST on the clips of `{split}.tsv` in `task.data`."""

    cfg: MaeAstPretrainingConfig

    @without_traceback
    def __init__(self, cfg: MaeAstPretrainingConfig, from_checkpoint: bool = False):
        super().__init__(cfg, from_checkpoint)
        if cfg.mask_type != RETAIN_SPANS:
            require_choice("task.mask_type", cfg.mask_type, STRATEGIES)
        check_pretraining_task(cfg)
        if cfg.pad_audio and cfg.mask_type in STRATEGIES and STRATEGIES[cfg.mask_type].shared:
            raise ConfigError(
                f"task.pad_audio: true was given with task.mask_type={cfg.mask_type}, which needs clips of one length; "
                "set task.pad_audio=false or task.mask_type=random_mask"
            )
        self._masking: Optional[Masking] = None
        self._reconstructions: Optional[Reconstructions] = None
        self._levels_said: set[int] = set()

    def _prepare_run(self) -> None:
        super()._prepare_run()
        if self.cfg.log_reconstructions:
            require("plot", "task.log_reconstructions")

    @without_traceback
    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model, and take from it the token grid and the masking that datasets need."""
        model = super().build_model(cfg, from_checkpoint)
        if self.cfg.mask_type != RETAIN_SPANS:  # whose probability is another thing
            check_ratio(cfg.random_mask_prob)
        learns_to_reconstruct = self._run_setting("criterion.reconstruction_weight") != 0
        # Asked here: processes wrap their models.
        self._has_gain = isinstance(model, MaskedAutoencoder) and learns_to_reconstruct
        self._health = TokenHealth(num_batches=0, num_shown=0, has_gain=self._has_gain)
        self._masking = Masking(self.cfg.mask_type, cfg.random_mask_prob, cfg.mask_length)
        return model

    def _check_launch(self) -> None:
        super()._check_launch()
        warning = schedule_warning(*self._schedule())
        if warning and is_first_process():
            logger.warning(warning)

    def _schedule(self) -> tuple[Optional[int], Optional[int]]:
        """Return the updates of the warm-up and of the run; not every schedule has them."""
        return self._run_setting("lr_scheduler.warmup_updates"), self._run_setting("optimization.max_update")

    @without_traceback
    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Read `{split}.tsv` of every folder; every split but `dataset.train_subset` is for validation."""
        cfg = task_cfg or self.cfg
        if cfg.mask_type == RETAIN_SPANS:
            raise ConfigError(
                f"task.mask_type: {RETAIN_SPANS} is known only for loading released checkpoints; "
                "to pretrain with masked chunks set task.mask_type=chunk_mask"
            )
        assert self._masking is not None, "build_model precedes load_dataset"
        folders = self._folders(cfg)
        self.datasets[split] = MaskedAudioDataset(
            join([read_checked(folder / f"{split}.tsv") for folder in folders]),
            masking=self._masking._replace(type=cfg.mask_type),
            pad_audio=cfg.pad_audio,
            weights=read_weights(cfg.data_weights, len(folders)),
            **self._clip_settings(cfg, split),
        )

    # --- validation

    @property
    def maximize(self) -> dict[str, bool]:
        """Of the figures of tokens, whether more is better: of all."""
        return dict.fromkeys(self._health.names, True)

    @property
    def undefined(self) -> dict[str, str]:
        """Say when a figure is NaN."""
        return {"content_gain": "no batch holds two clips; raise dataset.max_tokens_valid or dataset.batch_size_valid"}

    @without_traceback
    def get_batch_iterator(self, dataset: MaskedAudioDataset, *args: Any, **kwargs: Any) -> Any:
        """Batch a dataset; one for validation begins figures of its own."""
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        if not dataset.training:
            shard, num_shards = iterator.shard_id, iterator.num_shards
            own_batches = range(shard, len(iterator.frozen_batches), num_shards)
            self._health = TokenHealth(len(own_batches), self._num_shown(iterator), has_gain=self._has_gain)
        return iterator

    def keep_validated(self, sample: dict[str, Any], model: nn.Module, predictions: Predictions) -> None:
        """Keep what tells whether the encoder has collapsed."""
        self._health.add(predictions.encoded, self._swapped_errors(model, predictions))

    def _swapped_errors(self, model: Any, predictions: Predictions) -> Optional[SwappedErrors]:
        """Measure what it costs that clips swap what the encoder gave; None where that is not to be had or needed."""
        is_enough = self._health.has_all or self._health.num_swapped == NUM_SWAPPED
        if not self._has_gain or is_enough or len(predictions.target) < 2:
            return None
        return model.swapped_errors(predictions.of_first(NUM_SWAPPED_CLIPS))

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log what the criterion says, and the figures of tokens when the last batch of a validation has come.

        fairseq reads what was logged after every batch, in every process; so these are not logged before.
        """
        super().reduce_metrics(logging_outputs, criterion)
        if not criterion.training and self._health.is_complete:
            for name in self._health.names:
                metrics.log_derived(name, lambda _, name=name: self._health.figures()[name])

    def post_validate(self, model: nn.Module, stats: dict[str, Any], agg: Any) -> None:
        """Draw reconstructions where that is asked for, and warn, once in a run, where the encoder has collapsed."""
        super().post_validate(model, stats, agg)
        self._warn_of_collapse(stats["num_updates"])
        if self.cfg.log_reconstructions and self._has_validated_first and is_first_process():
            self._draw_reconstructions(cast(MaskedPredictor, model), stats["num_updates"])

    def _warn_of_collapse(self, num_updates: int) -> None:
        """Look for signs of a collapse, of which all processes must be asked; warn once it had the time to learn."""
        figures = self._health.figures()
        gain = figures.get("content_gain")
        if gain is not None and math.isnan(gain) and math.isfinite(figures["token_spread"]):
            self._say_once(
                logging.INFO,
                "content_gain is not measured: no batch of the validation holds two clips; expected two or more; raise "
                "dataset.max_tokens_valid or dataset.batch_size_valid",
            )
            gain = None
        warmup_updates, max_update = self._schedule()
        fault = diagnose(figures["token_spread"], figures["effective_rank"], gain, self._health.max_rank)
        if fault and num_updates >= (warmup_updates or MIN_WARMUP * (max_update or 0)):
            self._say_once(logging.WARNING, fault)

    def _draw_reconstructions(self, model: MaskedPredictor, num_updates: int) -> None:
        subset = first_subset(self._run_setting, "valid")
        if self._reconstructions is None:
            folder = run_folder(self.cfg._get_root()) or Path(self._run_setting("checkpoint.save_dir"))
            self._reconstructions = Reconstructions(
                self.datasets[subset], self.cfg.log_reconstructions, folder / FOLDER
            )
        pictures = self._reconstructions.draw(model, num_updates)
        if tensorboard := self._run_setting("common.tensorboard_logdir"):
            show_in_tensorboard(pictures, tensorboard, subset, num_updates)

    def _say_once(self, level: int, message: str) -> None:
        if level not in self._levels_said and is_first_process():
            logger.log(level, message)
        self._levels_said.add(level)
