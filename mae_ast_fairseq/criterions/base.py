"""What the criterions share: what they hand to fairseq and to a task's validation, and the figures of any batch."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from fairseq.criterions import FairseqCriterion
from fairseq.logging import metrics
from torch import Tensor, nn


class Measured(NamedTuple):
    """What a batch gives: the three values that fairseq asks for, and what a task looks at in validation."""

    loss: Tensor
    """sum over what is counted by sample_size"""
    sample_size: int
    logging_output: dict[str, Any]
    """sums to log"""
    output: Any
    """the model's predictions, or each clip's probabilities"""


class AudioCriterion(FairseqCriterion):
    """A loss over batches of either dataset; a derived class measures, and logs what is its own."""

    maximize: ClassVar[Mapping[str, bool]]
    """of the means that it logs and that can choose the best checkpoint, whether more is better"""

    def measure(self, model: nn.Module, sample: dict[str, Any]) -> Measured:
        """Return what a batch gives."""
        raise NotImplementedError

    def forward(
        self, model: nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the summed loss, the sample size, and sums to log."""
        return self.measure(model, sample)[:3]

    @staticmethod
    def batch_sums(sample: dict[str, Any]) -> dict[str, Any]:
        """Return what is logged of any batch."""
        source, padding_mask = sample["net_input"]["source"], sample["net_input"]["padding_mask"]
        return {
            "num_frames": source.shape[0] * source.shape[1],
            # A tensor in any case: processes add numbers and tensors up in separate messages, which must agree.
            "num_padded_frames": source.new_zeros(()) if padding_mask is None else padding_mask.sum(),
            "num_bad_files": sample["num_bad_files"],
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
        }

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Log the figures of all processes' batches; none where every process held a filler batch."""
        names = {name for output in logging_outputs for name in output}
        totals = {name: sum(output.get(name, 0) for output in logging_outputs) for name in names}
        if totals.get("sample_size") and totals.get("num_frames"):
            cls.log_means(totals)
            padding_share = totals["num_padded_frames"] / totals["num_frames"]
            metrics.log_scalar("padding_share", padding_share, totals["num_frames"], round=4)
            metrics.log_scalar_sum("bad_files", totals["num_bad_files"], round=0)

    @classmethod
    def log_means(cls, totals: dict[str, Any]) -> None:
        """Log what is the criterion's own, of the sums over all processes."""
        raise NotImplementedError

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Tell fairseq that processes may add their logging outputs up."""
        return True
