"""The losses are torch's, and what is logged are means over clips."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.logging import metrics
from torch.nn import functional as F

from mae_ast_fairseq.criterions.classification import ClassificationCriterion, binary_cross_entropy, cross_entropy
from mae_ast_fairseq.data.float32 import Float32Tensor
from mae_ast_fairseq.errors import UserError

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
TARGETS = torch.tensor([[1.0, 0.0, 0.0], [0.3, 0.0, 0.7]])


def criterion(loss="cross_entropy", multi_label=False):
    return ClassificationCriterion(SimpleNamespace(cfg=SimpleNamespace(multi_label=multi_label)), loss)


def sample(targets=TARGETS, padded=True):
    padding_mask = torch.zeros(2, 10, dtype=torch.bool)
    padding_mask[1, 6:] = True
    return {
        "id": torch.tensor([4, 2]),
        "nsentences": 2,
        "ntokens": 8,
        "num_bad_files": 0,
        "net_input": {"source": torch.zeros(2, 10, 128), "padding_mask": padding_mask if padded else None},
        "target": Float32Tensor.of(targets),
    }


def model(source, padding_mask):
    return LOGITS.to(torch.bfloat16)


def test_cross_entropy_takes_shares_of_labels():
    torch.testing.assert_close(cross_entropy(LOGITS, TARGETS), F.cross_entropy(LOGITS, TARGETS, reduction="none"))
    assert cross_entropy(LOGITS, TARGETS).shape == (2,)


def test_binary_cross_entropy_is_the_mean_over_classes():
    probabilities = LOGITS.sigmoid()
    expected = -(TARGETS * probabilities.log() + (1 - TARGETS) * (1 - probabilities).log()).mean(dim=1)
    torch.testing.assert_close(binary_cross_entropy(LOGITS, TARGETS), expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_the_loss_is_a_float32_sum_over_clips_under_bf16(loss):
    value, sample_size, _ = criterion(loss)(model, sample())
    function = {"cross_entropy": cross_entropy, "binary_cross_entropy": binary_cross_entropy}[loss]
    assert value.dtype is torch.float32 and sample_size == 2
    torch.testing.assert_close(value, function(LOGITS, TARGETS).sum())


@pytest.mark.parametrize(
    ("loss", "expected"), [("cross_entropy", LOGITS.softmax(dim=1)), ("binary_cross_entropy", LOGITS.sigmoid())]
)
def test_probabilities_are_those_that_the_loss_trains(loss, expected):
    probabilities = criterion(loss).measure(model, sample()).output
    torch.testing.assert_close(probabilities, expected)


def test_what_is_logged_are_means_over_clips():
    outputs = [criterion()(model, sample(targets))[2] for targets in (TARGETS, TARGETS.flip(0))]
    with metrics.aggregate(new_root=True) as aggregate:
        ClassificationCriterion.reduce_metrics(outputs)
    values = aggregate.get_smoothed_values()
    total = sum(cross_entropy(LOGITS, targets).sum() for targets in (TARGETS, TARGETS.flip(0)))
    assert values["loss"] == pytest.approx(float(total) / 4, abs=1e-4)
    assert values["top1"] == 0.5  # best classes 0 and 1; labels {0} and {0, 2}, then the other way round
    assert values["padding_share"] == 0.2


def test_fillers_alone_log_nothing():
    with metrics.aggregate(new_root=True) as aggregate:
        ClassificationCriterion.reduce_metrics([{}])
    assert aggregate.get_smoothed_values() == {}


def test_what_is_logged_has_the_same_types_with_and_without_padding():
    # fairseq adds up numbers and tensors of the processes in separate messages, of which each has to hold the same
    logged = [criterion()(model, sample(padded=padded))[2] for padded in (True, False)]
    types = [{name: torch.is_tensor(value) for name, value in output.items()} for output in logged]
    assert types[0] == types[1]


@pytest.mark.parametrize(
    ("loss", "multi_label", "message"),
    [
        ("cross_entropy", True, r"criterion\.loss: cross_entropy was given with task\.multi_label=true"),
        ("hinge", False, r"criterion\.loss: 'hinge' is unknown; expected one of binary_cross_entropy, cross_entropy"),
    ],
)
def test_a_wrong_loss_is_named(loss, multi_label, message):
    with pytest.raises(UserError, match=message):
        criterion(loss, multi_label)
