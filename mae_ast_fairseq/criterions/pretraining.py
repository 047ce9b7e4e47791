"""The fairseq criterion `mae_ast`: InfoNCE and reconstruction error over the masked tokens (paper section 2.3)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import nn

from mae_ast_fairseq.config.pretraining import PretrainingCriterionFields, check_pretraining_criterion
from mae_ast_fairseq.criterions.base import AudioCriterion, Measured
from mae_ast_fairseq.nn.losses import info_nce, reconstruction_error


@dataclass
class MaeAstCriterionConfig(PretrainingCriterionFields, FairseqDataclass):
    """Fields of the `mae_ast` criterion."""


@register_criterion("mae_ast", dataclass=MaeAstCriterionConfig)
class MaeAstCriterion(AudioCriterion):
    """Σ over masked tokens of classification_weight · InfoNCE + reconstruction_weight · squared error."""

    maximize: ClassVar = {"loss": False, "loss_recon": False, "loss_info_nce": False, "info_nce_accuracy": True}

    def __init__(self, task: Any, reconstruction_weight: float, classification_weight: float):
        super().__init__(task)
        check_pretraining_criterion(PretrainingCriterionFields(reconstruction_weight, classification_weight))
        self.reconstruction_weight = reconstruction_weight
        self.classification_weight = classification_weight

    def measure(self, model: nn.Module, sample: dict[str, Any]) -> Measured:
        """Sum the losses over the masked tokens; one of weight 0 is still measured and logged, without a gradient."""
        predictions = model(**sample["net_input"])
        padding_mask = predictions.padding_mask
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.reconstruction_weight > 0):
            error = reconstruction_error(predictions.reconstruction, predictions.target, padding_mask)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.classification_weight > 0):
            nce = info_nce(predictions.classification, predictions.target, padding_mask)
        error_sum, nce_sum = error.sum(), nce.loss.sum()
        loss = self.reconstruction_weight * error_sum + self.classification_weight * nce_sum

        logging_output = {
            **self.batch_sums(sample),
            "loss": loss.detach(),
            "loss_recon": error_sum.detach(),
            "loss_info_nce": nce_sum.detach(),
            "num_retrieved": nce.correct.sum(),
            "num_batches": 1,
            "sample_size": sample["ntokens"],
        }
        return Measured(loss, sample["ntokens"], logging_output, predictions)

    @classmethod
    def log_means(cls, totals: dict[str, Any]) -> None:
        """Log the means over masked tokens, in natural units (MSE as it is, InfoNCE in nats)."""
        num_masked = totals["sample_size"]
        for name in ("loss", "loss_recon", "loss_info_nce"):
            metrics.log_scalar(name, totals[name] / num_masked, num_masked, round=4)
        metrics.log_scalar("info_nce_accuracy", totals["num_retrieved"] / num_masked, num_masked, round=4)
        # A guess hits with probability 1 / M in an utterance of M masked tokens: once an utterance.
        metrics.log_scalar("info_nce_chance", totals["nsentences"] / num_masked, num_masked, round=4)
        metrics.log_scalar("masked_tokens", num_masked / totals["num_batches"], 1, round=0)
