"""The fairseq task `mae_ast_pretraining`: manifests in, masked log-Mel tokens to the model."""

from dataclasses import dataclass
from typing import Any

from fairseq.tasks import register_task
from torch import nn

from mae_ast_fairseq.config import PretrainingTaskFields, check_pretraining_task, require_choice
from mae_ast_fairseq.data.dataset import MaskedAudioDataset
from mae_ast_fairseq.data.joined import join
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.masking import STRATEGIES, check_ratio
from mae_ast_fairseq.tasks.base import AudioTask, AudioTaskConfig
from mae_ast_fairseq.tasks.launch import data_folders, plain_errors, read_checked, read_weights

RETAIN_SPANS = "retain_spans"
"""A released mask type that is accepted on loading, and not for pretraining."""


@dataclass
class MaeAstPretrainingConfig(PretrainingTaskFields, AudioTaskConfig):
    """Fields of the `mae_ast_pretraining` task."""


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

    @plain_errors
    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model, and take from it the token grid and the mask ratio that datasets need."""
        if self.cfg.mask_type != RETAIN_SPANS:  # whose probability is another thing
            check_ratio(cfg.random_mask_prob)
        model = super().build_model(cfg, from_checkpoint)
        self.model_cfg = cfg
        return model

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
