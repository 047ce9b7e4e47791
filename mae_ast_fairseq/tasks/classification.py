"""The fairseq task `mae_ast_classification`: manifests and labels in, a self-contained classifier out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, cast

from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.optim import FairseqOptimizer
from fairseq.tasks import register_task
from omegaconf import open_dict
from torch import Tensor, nn

from mae_ast_fairseq.checkpoints.names import checkpoint_path
from mae_ast_fairseq.checkpoints.read import Checkpoint, read_checkpoint
from mae_ast_fairseq.checkpoints.transfer import ARCHITECTURE, encoder_state, taken_fields
from mae_ast_fairseq.config.classification import ClassificationTaskFields, check_classification_task
from mae_ast_fairseq.config.continuing import network
from mae_ast_fairseq.config.pretraining import ClassifierFields
from mae_ast_fairseq.data.augmentation import Augmentation
from mae_ast_fairseq.data.concat import join
from mae_ast_fairseq.data.labels import Vocabulary, find_vocabulary, join_labels, read_labels
from mae_ast_fairseq.datasets.classification import LabelledAudioDataset
from mae_ast_fairseq.errors import ConfigError, get_logger, listed
from mae_ast_fairseq.evaluation.metrics import METRICS
from mae_ast_fairseq.optim.layerwise import (
    HEAD,
    check_optimizer,
    drop_frozen_gradients,
    mark_parameters,
)
from mae_ast_fairseq.tasks.base import AudioTask
from mae_ast_fairseq.tasks.best import is_on_command_line
from mae_ast_fairseq.tasks.field_types import settle_model_types
from mae_ast_fairseq.tasks.launch import check_checkpoint, read_checked
from mae_ast_fairseq.tasks.resume import Stored
from mae_ast_fairseq.tasks.validation import ValidationScores
from mae_ast_fairseq.training_error import without_traceback

logger = get_logger(__name__)

KIND = "mae_ast_classifier"


@dataclass
class MaeAstClassificationConfig(ClassificationTaskFields, FairseqDataclass):
    """Fields of the `mae_ast_classification` task."""


@register_task("mae_ast_classification", dataclass=MaeAstClassificationConfig)
class MaeAstClassificationTask(AudioTask):
    """Fine-tunes a classifier on the clips of `{split}.tsv` and their labels in `{split}.lbl`.

    Before the model is built, its config is completed in place: by the names of the classes, and by the architecture of
    the checkpoint that it starts from or continues. So a saved checkpoint needs neither that file nor the data.
    """

    cfg: Any
    vocabulary: Vocabulary

    @without_traceback
    def __init__(self, cfg: MaeAstClassificationConfig, from_checkpoint: bool = False):
        super().__init__(cfg, from_checkpoint)
        check_classification_task(cfg)
        self._augmentation = Augmentation(**{name: cfg[name] for name in Augmentation._fields})

    # --- the model

    @without_traceback
    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model: a checkpoint's as its config says, a new one with the weights of `model.pretrained`."""
        checkpoint = None
        if from_checkpoint or self._from_checkpoint:
            self.vocabulary = Vocabulary(tuple(cfg.labels))
        else:
            checkpoint = self._complete(cfg)
        model = super().build_model(cfg, from_checkpoint)
        self._model_cfg = cfg
        if checkpoint is not None:
            head = {name: value for name, value in model.state_dict().items() if name.startswith(HEAD)}
            model.load_state_dict({**encoder_state(checkpoint, cfg), **head})
        mark_parameters(model, cfg)
        return model

    def _complete(self, cfg: Any) -> Optional[Checkpoint]:
        """Write into the model's config what data and checkpoint say; return the checkpoint to take weights from."""
        settle_model_types(cfg)
        self._check_launch()
        self.vocabulary = find_vocabulary(self._folders(), self._train_subset)
        labels = list(self.vocabulary.names)
        if cfg.labels and list(cfg.labels) != labels:
            raise ConfigError(
                f"model.labels: {listed(cfg.labels)} was given; expected the labels of task.data, {listed(labels)}; "
                "leave the field out: the task fills it in"
            )
        checkpoint, taken, path = None, {}, None
        if self.continued is not None:
            path = self.continued.path
            taken = self._continued_fields(self.continued, labels, cfg.pretrained)
        elif cfg.pretrained is not None:
            path = checkpoint_path(cfg.pretrained)
            check_checkpoint("model.pretrained", str(path))
            checkpoint = read_checkpoint(path)
            taken = taken_fields(checkpoint, cfg, self.cfg.feature_dim)
        changed = {name: value for name, value in taken.items() if cfg[name] != value}
        for name in network(ClassifierFields(**taken)).keys() & changed.keys():
            if is_on_command_line(f"model.{name}"):
                raise ConfigError(
                    f"model.{name}: {cfg[name]} was given on the command line; expected {changed[name]}, which {path} "
                    "sets; leave the field out"
                )
        if changed:
            shown = ", ".join(f"model.{name}={value} (not {cfg[name]})" for name, value in changed.items())
            logger.info("%s sets %s", path, shown)
        with open_dict(cfg):
            cfg.update({**taken, "labels": labels, "multi_label": self.cfg.multi_label})
        return checkpoint

    def _check_launch(self) -> None:
        if path := self._run_setting("checkpoint.finetune_from_model"):
            raise ConfigError(
                f"checkpoint.finetune_from_model: {path} was given; expected null with task.{self.cfg._name}; "
                f"set model.pretrained={path}, which takes the encoder of any of our checkpoints"
            )
        super()._check_launch()

    def _continued_fields(self, stored: Stored, labels: Sequence[str], pretrained: Optional[str]) -> dict[str, Any]:
        """Return the fields of a run's model that its pretrained checkpoint had set; all others must be given alike."""
        if stored.kind != KIND:
            raise ConfigError(
                f"{stored.field}: {stored.path} is a checkpoint of {stored.kind}; expected one of {KIND} to continue; "
                f"to start from its encoder set model.pretrained={stored.path} and {stored.way_out}"
            )
        fields = cast(ClassifierFields, stored.model)
        check_same_labels(stored.path, fields.labels, labels)
        if pretrained is None and stored.cfg["model"].get("pretrained") is None:
            return {}
        return {name: getattr(fields, name) for name in (*ARCHITECTURE, "positions")}

    # --- data

    @without_traceback
    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Read `{split}.tsv` and `{split}.lbl` of every folder; all but `dataset.train_subset` are for validation."""
        cfg = task_cfg or self.cfg
        folders = self._folders(cfg)
        manifests = [read_checked(folder / f"{split}.tsv") for folder in folders]
        labels = [
            read_labels(folder / f"{split}.lbl", self.vocabulary, len(manifest), cfg.multi_label)
            for folder, manifest in zip(folders, manifests, strict=True)
        ]
        self.datasets[split] = LabelledAudioDataset(
            join(manifests),
            join_labels(labels),
            multi_label=cfg.multi_label,
            fixed_size=cfg.fixed_size,
            augmentation=self._augmentation,
            balanced=cfg.balanced,
            **self._clip_settings(cfg, split),
        )

    # --- steps

    @without_traceback
    def step(self, optimizer: FairseqOptimizer, update_num: int) -> None:
        """Update the weights, the frozen ones left out."""
        check_optimizer(optimizer, self._model_cfg)
        if update_num < self._model_cfg.freeze_finetune_updates:
            drop_frozen_gradients(optimizer)
        optimizer.step()

    # --- validation

    @property
    def maximize(self) -> dict[str, bool]:
        """Of all METRICS, whether more is better."""
        return {name: metric.maximize for name, metric in METRICS.items()}

    @property
    def undefined(self) -> dict[str, str]:
        """Say when a metric is NaN."""
        return {name: metric.undefined for name, metric in METRICS.items()}

    @without_traceback
    def get_batch_iterator(self, dataset: LabelledAudioDataset, *args: Any, **kwargs: Any) -> Any:
        """Batch a dataset, which begins scores of its own."""
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        self._scores = ValidationScores(self.cfg.multi_label, self._num_shown(iterator))
        return iterator

    def keep_validated(self, sample: dict[str, Any], model: nn.Module, probabilities: Tensor) -> None:
        """Keep a batch's probabilities [B, K] for the metrics over the whole set."""
        self._scores.add(sample["id"], probabilities, sample["target"].plain)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log what the criterion says, and the metrics of a validation when its last batch has come.

        fairseq reads what was logged after every batch, in every process; so these are not logged before.
        """
        super().reduce_metrics(logging_outputs, criterion)
        if not criterion.training and self._scores.has_all:
            for name in METRICS:
                metrics.log_derived(name, lambda _, name=name: self._scores.figures()[name])


def check_same_labels(path: Path, known: Sequence[str], labels: Sequence[str]) -> None:
    """Raise ConfigError unless the data's labels are those of the checkpoint's head, in its order."""
    if list(known) == list(labels):
        return
    added, gone = (
        [name for name in one if name not in set(other)] for one, other in ((labels, known), (known, labels))
    )
    parts = [f"{listed(names)} {what}" for names, what in ((added, "not in its head"), (gone, "missing")) if names]
    raise ConfigError(
        f"task.data: its {len(labels)} labels are not the {len(known)} of {path}, which is continued "
        f"({'; '.join(parts) or 'the order differs'}); expected the same ones in the same order; correct labels.txt, "
        f"or train a new head by model.pretrained={path} in a new hydra.run.dir"
    )
