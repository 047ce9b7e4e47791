"""The fields of fine-tuning are documented and used, and contradictions are named."""

import dataclasses
import inspect

import pytest

from mae_ast_fairseq.config.classification import (
    ClassificationCriterionFields,
    ClassificationTaskFields,
    FinetuningFields,
    check_classification_task,
)
from mae_ast_fairseq.config.pretraining import ClassifierFields, check_ranges
from mae_ast_fairseq.criterions.classification import ClassificationCriterion
from mae_ast_fairseq.data.augmentation import Augmentation
from mae_ast_fairseq.errors import ConfigError
from tests.config.test_pretraining import PACKAGE, READ_BY_FAIRSEQ, fields_of, read_names

FIELDS = fields_of(ClassificationTaskFields, FinetuningFields, ClassificationCriterionFields)
INHERITED = {field.name for field in dataclasses.fields(ClassifierFields)}


@pytest.fixture(scope="module")
def names_read():
    return {name for path in PACKAGE.rglob("*.py") for name in read_names(path)} | set(READ_BY_FAIRSEQ)


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_has_a_help_text(field):
    assert len(field.metadata["help"].split()) >= 3


@pytest.mark.parametrize("field", fields_of(ClassificationTaskFields, FinetuningFields))
def test_every_field_is_read(field, names_read):
    assert field.name in names_read | INHERITED | set(Augmentation._fields)


@pytest.mark.parametrize("field", fields_of(ClassificationCriterionFields))
def test_every_criterion_field_is_an_argument(field):
    assert field.name in inspect.signature(ClassificationCriterion).parameters


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
