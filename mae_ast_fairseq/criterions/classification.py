"""The fairseq criterion `mae_ast_classification`: cross entropy with one label a clip, binary with many."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor, nn
from torch.nn import functional as F

from mae_ast_fairseq.config.classification import ClassificationCriterionFields
from mae_ast_fairseq.config.pretraining import require_choice
from mae_ast_fairseq.criterions.base import AudioCriterion, Measured
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.training_error import without_traceback


@dataclass
class ClassificationCriterionConfig(ClassificationCriterionFields, FairseqDataclass):
    """Fields of the `mae_ast_classification` criterion."""


LABEL_THRESHOLD = 0.25
"""A target above it is a label of the clip, or of one that takes part in a mixture; what is smoothed lies below."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy [B] in nats between logits [B, K] and fractions of labels [B, K]."""
    return -(targets * F.log_softmax(logits, dim=-1)).sum(dim=-1)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over classes [B], in nats, of each class's binary cross entropy."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=-1)


class Loss(NamedTuple):
    """A loss, and the probabilities that it trains."""

    per_clip: Callable[[Tensor, Tensor], Tensor]
    """logits [B, K] and targets [B, K] -> [B]"""
    probabilities: Callable[[Tensor], Tensor]
    """logits [B, K] -> [B, K]"""


LOSSES = {
    "cross_entropy": Loss(cross_entropy, lambda logits: logits.softmax(dim=-1)),
    "binary_cross_entropy": Loss(binary_cross_entropy, torch.sigmoid),
}
"""The choices of `criterion.loss`."""


@register_criterion("mae_ast_classification", dataclass=ClassificationCriterionConfig)
class ClassificationCriterion(AudioCriterion):
    """The loss of a batch of labelled clips, whose labels may be fractions, as mixup and label smoothing make them."""

    maximize: ClassVar = {"loss": False, "top1": True}

    @without_traceback
    def __init__(self, task: Any, loss: str):
        super().__init__(task)
        require_choice("criterion.loss", loss, LOSSES)
        if task.cfg.multi_label and loss == "cross_entropy":
            raise ConfigError(
                "criterion.loss: cross_entropy was given with task.multi_label=true, where a clip may have any number "
                "of labels; set criterion.loss=binary_cross_entropy"
            )
        self.loss = LOSSES[loss]

    def measure(self, model: nn.Module, sample: dict[str, Any]) -> Measured:
        """Sum the loss over the clips, whose probabilities [B, K] float32 have no gradient."""
        logits = model(**sample["net_input"]).float()  # [B, K]
        targets = sample["target"].plain
        loss = self.loss.per_clip(logits, targets).sum()
        hits = targets.gather(1, logits.argmax(dim=1, keepdim=True)) > LABEL_THRESHOLD
        logging_output = {
            **self.batch_sums(sample),
            "loss": loss.detach(),
            "num_hits": hits.sum(),
            "sample_size": sample["nsentences"],
        }
        return Measured(loss, sample["nsentences"], logging_output, self.loss.probabilities(logits.detach()))

    @classmethod
    def log_means(cls, totals: dict[str, Any]) -> None:
        """Log the means over clips; what is measured over a whole validation set is the task's to log."""
        num_clips = totals["sample_size"]
        metrics.log_scalar("loss", totals["loss"] / num_clips, num_clips, round=4)
        metrics.log_scalar("top1", totals["num_hits"] / num_clips, num_clips, round=4)
