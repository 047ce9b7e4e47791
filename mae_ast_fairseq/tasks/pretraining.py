"""The fairseq task `mae_ast_pretraining`: manifests in, masked log-Mel tokens to the model."""

import logging
from dataclasses import dataclass, field
from typing import Any, Optional, cast

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II, MISSING
from torch import Tensor, nn
from tqdm import tqdm

from mae_ast_fairseq import fbank
from mae_ast_fairseq.config import PretrainingTaskFields, check_pretraining_task, require_choice
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.dataset import MaskedAudioDataset
from mae_ast_fairseq.data.joined import join
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.data.statistics import (
    FILE_NAME,
    Statistics,
    as_tensor,
    measure,
    read_statistics,
    sample_rows,
)
from mae_ast_fairseq.draws import Stream, generator
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.masking import STRATEGIES
from mae_ast_fairseq.nn.normalization import InputNormalization
from mae_ast_fairseq.tasks.launch import (
    check_checkpoint,
    check_folders,
    data_folders,
    plain_errors,
    read_weights,
)

logger = logging.getLogger(__name__)

NUM_STATISTICS_CLIPS = 1_000
FAIRSEQ_LAST_CHECKPOINT = "checkpoint_last.pt"
"""The default of `checkpoint.restore_file`, which need not exist."""

RETAIN_SPANS = "retain_spans"
"""A released mask type that is accepted on loading, and not for pretraining."""


@dataclass
class MaeAstPretrainingConfig(PretrainingTaskFields, FairseqDataclass):
    """Fields of the `mae_ast_pretraining` task."""

    data: str = field(
        default=MISSING, metadata={"help": "folder of {split}.tsv; several, separated by `:`, are trained on together"}
    )
    seed: int = II("common.seed")
    # Known here so that a misspelt one is an error; fairseq itself would say nothing and start from scratch.
    restore_file: str = II("checkpoint.restore_file")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")


@register_task("mae_ast_pretraining", dataclass=MaeAstPretrainingConfig)
class MaeAstPretrainingTask(FairseqTask):
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
        model = super().build_model(cfg, from_checkpoint)
        self.grid = model.grid
        self.model_cfg = cfg
        return model

    @plain_errors
    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the criterion; raises ConfigError where a file or folder that the config names is not there.

        That is looked at here since fairseq builds a criterion before it reads data, and none on loading a model.
        """
        check_folders(data_folders(self.cfg.data))
        if self.cfg.restore_file != FAIRSEQ_LAST_CHECKPOINT:
            check_checkpoint("checkpoint.restore_file", self.cfg.restore_file)
        check_checkpoint("checkpoint.finetune_from_model", self.cfg.finetune_from_model)
        return super().build_criterion(cfg, from_checkpoint)

    @plain_errors
    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Read `{split}.tsv` of every folder; every split but those named `train...` is for validation."""
        cfg = task_cfg or self.cfg
        if cfg.mask_type == RETAIN_SPANS:
            raise ConfigError(
                f"task.mask_type: {RETAIN_SPANS} is known only for loading released checkpoints; "
                "to pretrain with masked chunks set task.mask_type=chunk_mask"
            )
        assert self.model_cfg is not None, "build_model precedes load_dataset"
        folders = data_folders(cfg.data)
        self.datasets[split] = MaskedAudioDataset(
            join([read_manifest(folder / f"{split}.tsv") for folder in folders]),
            grid=self.grid,
            mask_type=cfg.mask_type,
            mask_ratio=self.model_cfg.random_mask_prob,
            mask_length=self.model_cfg.mask_length,
            seed=cfg.seed,
            training=split.startswith("train"),
            max_sample_size=cfg.max_sample_size,
            min_sample_size=cfg.min_sample_size,
            max_keep_size=cfg.max_keep_size,
            random_crop=cfg.random_crop,
            pad_audio=cfg.pad_audio,
            weights=read_weights(cfg.data_weights, len(folders)),
        )

    def has_sharded_data(self, split: str) -> bool:
        """Return False: several folders are trained on together, and not an epoch each."""
        return False

    @plain_errors
    def get_batch_iterator(self, dataset: MaskedAudioDataset, max_tokens: Optional[int] = None, **kwargs: Any) -> Any:
        """Batch a dataset; raises ConfigError where its longest crop does not fit into `max_tokens`."""
        longest = int(dataset.sizes.max())
        if max_tokens is not None and max_tokens < longest:
            raise ConfigError(
                f"dataset.max_tokens: {max_tokens} samples is less than the longest crop of "
                f"{dataset.manifest.name}, {longest} samples; raise it or lower task.max_sample_size"
            )
        return super().get_batch_iterator(dataset, max_tokens=max_tokens, **kwargs)

    def max_positions(self) -> None:
        """Return None: positions are computed for any length."""
        return None

    @plain_errors
    def train_step(self, sample: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Do one step, after a look at how many files proved broken."""
        self._check_bad_files(sample)
        return super().train_step(sample, *args, **kwargs)

    @plain_errors
    def valid_step(self, sample: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Validate on one batch, after a look at how many files proved broken."""
        self._check_bad_files(sample)
        return super().valid_step(sample, *args, **kwargs)

    def _check_bad_files(self, sample: dict[str, Any]) -> None:
        if sample["num_bad_files"] == 0:
            return
        for dataset in self.datasets.values():
            bad_rows = dataset.bad_rows
            share = len(bad_rows) / len(dataset.manifest)
            if share > self.cfg.max_bad_fraction:
                raise AudioError(
                    f"{dataset.manifest.name}: {len(bad_rows)} of {len(dataset.manifest)} files ({share:.1%}) are "
                    f"broken, the first of them {dataset.manifest.path(bad_rows[0])}; expected at most "
                    f"task.max_bad_fraction={self.cfg.max_bad_fraction}; mend or remove them (each was logged with "
                    "its reason), or raise the field"
                )

    # --- statistics of the data

    @plain_errors
    def begin_epoch(self, epoch: int, model: nn.Module) -> None:
        """Fill the model's input statistics before the first update, unless a checkpoint has brought them."""
        normalization = cast(InputNormalization, model.batch_norm)
        if normalization.is_set:
            return
        values = torch.zeros(2, dtype=torch.float64, device=normalization.running_mean.device)
        is_distributed = torch.distributed.is_initialized()
        if not is_distributed or torch.distributed.get_rank() == 0:
            values = as_tensor(self._statistics(), values.device)
        if is_distributed:
            torch.distributed.broadcast(values, src=0)
        statistics = Statistics(*values.tolist())
        logger.info("log-Mel mean %.4f, standard deviation %.4f", statistics.mean, statistics.deviation)
        normalization.set_statistics(*statistics)

    def _statistics(self) -> Statistics:
        paths = [folder / FILE_NAME for folder in data_folders(self.cfg.data)]
        if all(path.is_file() for path in paths):
            logger.info("taking the data's mean and deviation from %s", ", ".join(map(str, paths)))
            return read_statistics(paths[0])
        dataset = next(dataset for dataset in self.datasets.values() if dataset.training)
        rows = sample_rows(len(dataset), NUM_STATISTICS_CLIPS, generator(self.cfg.seed, Stream.STATISTICS))
        logger.info("measuring the data's mean and deviation over %d clips", len(rows))
        # In this thread alone: MKL hangs in loader workers that are forked while another thread leaves it.
        clips = (_log_mel(dataset, row) for row in dataset.rows[rows].tolist())
        frames = tqdm(clips, total=len(rows), desc="statistics", unit="clip", leave=False)
        return measure(clip for clip in frames if clip is not None)


def _log_mel(dataset: MaskedAudioDataset, row: int) -> Optional[Tensor]:
    """Return the [T, F] log-Mel frames of a clip's start; None where its file is broken (training will say so)."""
    try:
        waveform = load_audio(
            dataset.manifest.path(row),
            num_samples=dataset.max_sample_size,
            expect_samples=int(dataset.manifest.num_samples[row]),
            expect_rate=int(dataset.manifest.sample_rates[row]),
        )
        return fbank.log_mel(torch.from_numpy(waveform), num_mel_bins=dataset.grid.feature_dim)
    except AudioError:
        return None
