"""The fairseq criterion `mae_ast`: InfoNCE and reconstruction error over the masked tokens (paper section 2.3)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor, nn

from mae_ast_fairseq.config.pretraining import PretrainingCriterionFields, check_pretraining_criterion
from mae_ast_fairseq.nn.losses import info_nce, reconstruction_error
from mae_ast_fairseq.nn.masked import Predictions


@dataclass
class MaeAstCriterionConfig(PretrainingCriterionFields, FairseqDataclass):
    """Fields of the `mae_ast` criterion."""


class Measured(NamedTuple):
    """What a batch gives."""

    loss: Tensor
    """sum over its masked tokens"""
    sample_size: int
    """masked tokens"""
    logging_output: dict[str, Any]
    """sums to log"""
    predictions: Predictions


@register_criterion("mae_ast", dataclass=MaeAstCriterionConfig)
class MaeAstCriterion(FairseqCriterion):
    """Σ over masked tokens of classification_weight · InfoNCE + reconstruction_weight · squared error."""

    def __init__(self, task: Any, reconstruction_weight: float, classification_weight: float):
        super().__init__(task)
        check_pretraining_criterion(PretrainingCriterionFields(reconstruction_weight, classification_weight))
        self.reconstruction_weight = reconstruction_weight
        self.classification_weight = classification_weight

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the summed loss, the number of masked tokens, and sums to log."""
        return self.measure(model, sample)[:3]

    def measure(self, model: nn.Module, sample: dict[str, Any]) -> Measured:
        """Return what fairseq asks of a criterion, and the model's predictions.

        A loss of weight 0 is still measured and logged, without a gradient.
        """
        predictions = model(**sample["net_input"])
        padding_mask = predictions.padding_mask
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.reconstruction_weight > 0):
            error = reconstruction_error(predictions.reconstruction, predictions.target, padding_mask)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.classification_weight > 0):
            nce = info_nce(predictions.classification, predictions.target, padding_mask)
        error_sum, nce_sum = error.sum(), nce.loss.sum()
        loss = self.reconstruction_weight * error_sum + self.classification_weight * nce_sum

        num_masked, source = sample["ntokens"], sample["net_input"]["source"]
        frames_mask = sample["net_input"]["padding_mask"]
        # A tensor in any case: processes add numbers and tensors up in separate messages, which must agree.
        num_padded = loss.new_zeros(()) if frames_mask is None else frames_mask.sum()
        logging_output = {
            "loss": loss.detach(),
            "loss_recon": error_sum.detach(),
            "loss_info_nce": nce_sum.detach(),
            "num_retrieved": nce.correct.sum(),
            "num_batches": 1,
            "num_frames": source.shape[0] * source.shape[1],
            "num_padded_frames": num_padded,
            "num_bad_files": sample["num_bad_files"],
            "ntokens": num_masked,
            "nsentences": sample["nsentences"],
            "sample_size": num_masked,
        }
        return Measured(loss, num_masked, logging_output, predictions)

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the means over masked tokens, in natural units (MSE as it is, InfoNCE in nats)."""

        def total(name: str) -> Any:
            return sum(output.get(name, 0) for output in logging_outputs)

        num_masked = total("sample_size")
        num_frames = total("num_frames")
        if num_masked == 0 or num_frames == 0:
            return  # every process held a filler batch
        for name in ("loss", "loss_recon", "loss_info_nce"):
            metrics.log_scalar(name, total(name) / num_masked, num_masked, round=4)
        metrics.log_scalar("info_nce_accuracy", total("num_retrieved") / num_masked, num_masked, round=4)
        # A guess hits with probability 1 / M in an utterance of M masked tokens: once an utterance.
        metrics.log_scalar("info_nce_chance", total("nsentences") / num_masked, num_masked, round=4)
        metrics.log_scalar("masked_tokens", num_masked / total("num_batches"), 1, round=0)
        metrics.log_scalar("padding_share", total("num_padded_frames") / num_frames, num_frames, round=4)
        metrics.log_scalar_sum("bad_files", total("num_bad_files"), round=0)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Tell fairseq that processes may add their logging outputs up."""
        return True
