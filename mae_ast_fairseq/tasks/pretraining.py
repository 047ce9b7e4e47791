"""The fairseq task `mae_ast_pretraining`: manifests in, masked log-Mel tokens to the model."""

import logging
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.logging import metrics
from fairseq.tasks import register_task
from omegaconf import II
from torch import nn

from mae_ast_fairseq.collapse import diagnose
from mae_ast_fairseq.config import PretrainingTaskFields, check_pretraining_task, require_choice
from mae_ast_fairseq.data.dataset import MaskedAudioDataset
from mae_ast_fairseq.data.joined import join
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.masking import STRATEGIES, check_ratio
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder, SwappedErrors
from mae_ast_fairseq.nn.masked import Predictions
from mae_ast_fairseq.tasks.base import AudioTask, AudioTaskConfig
from mae_ast_fairseq.tasks.launch import (
    data_folders,
    is_first_process,
    is_training_command,
    plain_errors,
    read_checked,
    read_weights,
    schedule_warning,
)
from mae_ast_fairseq.tasks.validation import TokenHealth

logger = logging.getLogger(__name__)

RETAIN_SPANS = "retain_spans"
"""A released mask type that is accepted on loading, and not for pretraining."""

NUM_SWAPPED = 2
"""So many batches of a validation, in each process, are decoded twice more for `content_gain`."""


@dataclass
class MaeAstPretrainingConfig(PretrainingTaskFields, AudioTaskConfig):
    """Fields of the `mae_ast_pretraining` task."""

    # Known here to warn of a warm-up that is too short or too long; not every scheduler has one.
    warmup_updates: Any = field(
        default="${oc.select:lr_scheduler.warmup_updates,null}",
        metadata={"help": "updates of the warm-up; lr_scheduler.warmup_updates"},
    )
    max_update: int = field(
        default=II("optimization.max_update"), metadata={"help": "updates of the run; optimization.max_update"}
    )


@register_task("mae_ast_pretraining", dataclass=MaeAstPretrainingConfig)
class MaeAstPretrainingTask(AudioTask):
    """Pretrains MAE-AST and SSAST on the clips of `{split}.tsv` in `task.data`."""

    cfg: MaeAstPretrainingConfig

    @plain_errors
    def __init__(self, cfg: MaeAstPretrainingConfig, from_checkpoint: bool = False):
        super().__init__(cfg)
        require_choice("task.mask_type", cfg.mask_type, [*STRATEGIES, RETAIN_SPANS])
        check_pretraining_task(cfg)
        self.model_cfg: Any = None
        self._health = TokenHealth()
        self._filler_row: Optional[int] = None
        self._has_warned = False

    @plain_errors
    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model, and take from it the token grid and the mask ratio that datasets need."""
        if self.cfg.mask_type != RETAIN_SPANS:  # whose probability is another thing
            check_ratio(cfg.random_mask_prob)
        model = super().build_model(cfg, from_checkpoint)
        self.model_cfg = cfg
        return model

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the criterion; in a training command, also look at what its config names, and at the warm-up."""
        criterion = super().build_criterion(cfg, from_checkpoint)
        warning = schedule_warning(self._setting("warmup_updates"), self._setting("max_update"))
        if warning and is_training_command() and is_first_process():
            logger.warning(warning)
        return criterion

    @plain_errors
    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Read `{split}.tsv` of every folder; every split but `dataset.train_subset` is for validation."""
        cfg = task_cfg or self.cfg
        if cfg.mask_type == RETAIN_SPANS:
            raise ConfigError(
                f"task.mask_type: {RETAIN_SPANS} is known only for loading released checkpoints; "
                "to pretrain with masked chunks set task.mask_type=chunk_mask"
            )
        assert self.model_cfg is not None, "build_model precedes load_dataset"
        self._check_paths()
        folders = data_folders(cfg.data)
        self.datasets[split] = MaskedAudioDataset(
            join([read_checked(folder / f"{split}.tsv") for folder in folders]),
            mask_type=cfg.mask_type,
            mask_ratio=self.model_cfg.random_mask_prob,
            mask_length=self.model_cfg.mask_length,
            pad_audio=cfg.pad_audio,
            weights=read_weights(cfg.data_weights, len(folders)),
            **self._clip_settings(cfg, split),
        )

    # --- validation

    @plain_errors
    def get_batch_iterator(self, dataset: MaskedAudioDataset, *args: Any, **kwargs: Any) -> Any:
        """Batch a dataset, and note the batch that fairseq gives again to a process that has run out of others."""
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        if not dataset.training and not is_first_process():
            self._filler_row = int(dataset.rows[iterator.frozen_batches[0][0]])
        return iterator

    @plain_errors
    def valid_step(self, sample: dict[str, Any], model: nn.Module, criterion: Any) -> Any:
        """Validate on one batch, and keep what tells whether the encoder has collapsed.

        As in fine-tuning, fairseq reads the figures when all batches are done, in every process, from the meters that
        are set up here; each validation of each subset begins with meters of its own.
        """
        self._check_bad_files(sample)
        model.eval()
        with torch.no_grad():
            measured = criterion.measure(model, sample)
            if TokenHealth.NAMES[0] not in metrics.get_active_aggregators()[0]:
                self._health = TokenHealth()
            is_filler = self._filler_row is not None and int(sample["id"][0]) == self._filler_row
            swapped = None if is_filler else self._swapped_errors(model, sample["net_input"], measured.predictions)
            self._health.add(measured.predictions.encoded, swapped, is_filler)
        names = (*TokenHealth.NAMES, TokenHealth.GAIN) if self._health.num_swapped else TokenHealth.NAMES
        for name in names:
            metrics.log_derived(name, lambda _, name=name: self._health.figures()[name])
        return measured[:3]

    def _swapped_errors(
        self, model: nn.Module, net_input: dict[str, Any], predictions: Predictions
    ) -> Optional[SwappedErrors]:
        """Measure what it costs that clips swap what the encoder gave; None where that is not to be had or needed."""
        source, padding_mask = net_input["source"], net_input["padding_mask"]
        if len(source) < 2 or self._health.num_swapped == NUM_SWAPPED or not isinstance(model, MaskedAutoencoder):
            return None
        return model.swapped_errors(
            predictions,
            num_tokens=self.grid.num_tokens(source.shape[1]),
            visible=net_input["visible"],
            visible_padding_mask=net_input["visible_padding_mask"],
            masked=net_input["masked"],
            token_padding_mask=model.token_padding_mask(padding_mask),
        )

    def post_validate(self, model: nn.Module, stats: dict[str, Any], agg: Any) -> None:
        """Warn, once in a run, where the encoder has collapsed."""
        spread, rank = (stats[name] for name in TokenHealth.NAMES)
        gain = stats.get(TokenHealth.GAIN)
        if stats["num_updates"] < (self._setting("warmup_updates") or 0):
            gain = None  # the decoder has hardly begun to read
        fault = diagnose(spread, rank, gain, self._health.max_rank)
        if fault and not self._has_warned and is_first_process():
            logger.warning(fault)
        self._has_warned = self._has_warned or fault is not None
