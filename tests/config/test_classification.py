"""Wrong fields of fine-tuning, and contradictions, are named."""

import pytest

from mae_ast_fairseq.config.classification import (
    ClassificationTaskFields,
    FinetuningFields,
    check_classification_task,
)
from mae_ast_fairseq.config.pretraining import check_ranges
from mae_ast_fairseq.errors import ConfigError


def test_defaults_are_valid():
    assert check_classification_task(ClassificationTaskFields()) is None
    assert check_ranges("model", FinetuningFields, FinetuningFields()) is None


def test_fixed_and_cropped_lengths_exclude_each_other():
    with pytest.raises(ConfigError, match=r"task\.fixed_size: 5 was given with task\.max_sample_size=9; .*=null"):
        check_classification_task(ClassificationTaskFields(fixed_size=5, max_sample_size=9))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_mask", -1),
        ("time_mask", -5),
        ("mixup", 1.5),
        ("mixup", float("nan")),
        ("roll_seconds", float("inf")),
        ("label_smoothing", 1.0),
        ("fixed_size", 0),
    ],
)
def test_values_that_cannot_be_used_name_their_field(name, value):
    with pytest.raises(ConfigError, match=f"task.{name}: {value} was given; expected"):
        check_classification_task(ClassificationTaskFields(**{name: value}))


def test_asts_own_values_can_be_used():
    check_classification_task(ClassificationTaskFields(frequency_mask=48, time_mask=192, mixup=0.5))
