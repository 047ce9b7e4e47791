"""Fields are documented and used, and a wrong one is named together with what is expected of it."""

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.tasks import FairseqTask

import mae_ast_fairseq
from mae_ast_fairseq.config import classification, pretraining
from mae_ast_fairseq.config.classification import (
    ClassificationCriterionFields,
    ClassificationTaskFields,
    FinetuningFields,
)
from mae_ast_fairseq.config.pretraining import (
    ClassifierFields,
    MaeAstFields,
    PretrainingCriterionFields,
    PretrainingTaskFields,
    SsastFields,
    check_encoder,
    check_mae_ast,
    check_pretraining_criterion,
    check_pretraining_task,
    require_choice,
    require_multiple,
)
from mae_ast_fairseq.data.augmentation import Augmentation
from mae_ast_fairseq.errors import ConfigError

PACKAGE = Path(mae_ast_fairseq.__file__).parent
CONFIG_NAMES = {"fields", "cfg", "model_cfg"}
FIELD_CLASSES = [
    value
    for value in {**vars(pretraining), **vars(classification)}.values()
    if isinstance(value, type) and dataclasses.is_dataclass(value)
]
READ_BY_FAIRSEQ = ("rebuild_batches", "persistent_workers")


def fields_of(*classes: type) -> list[pytest.param]:
    return [
        pytest.param(field, id=f"{cls.__name__}.{field.name}") for cls in classes for field in dataclasses.fields(cls)
    ]


def read_names(path: Path) -> Iterator[str]:
    """Yield the names that a file reads from an object called `fields`, `cfg` or `model_cfg`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", None)
            if name in CONFIG_NAMES:
                yield node.attr


@pytest.fixture(scope="module")
def names_read() -> set[str]:
    names = {name for path in PACKAGE.rglob("*.py") for name in read_names(path)}
    return names | set(Augmentation._fields)  # which the task hands on by name


@pytest.mark.parametrize("field", fields_of(*FIELD_CLASSES))
def test_every_field_has_a_help_text_of_its_own(field: dataclasses.Field) -> None:
    fields = [each for cls in FIELD_CLASSES for each in dataclasses.fields(cls)]
    assert len(field.metadata["help"].split()) >= 3
    assert {each.name for each in fields if each.metadata["help"] == field.metadata["help"]} == {field.name}


@pytest.mark.parametrize(
    "field", fields_of(MaeAstFields, SsastFields, FinetuningFields, PretrainingTaskFields, ClassificationTaskFields)
)
def test_every_field_is_read(field: dataclasses.Field, names_read: set[str]) -> None:
    if field.name in READ_BY_FAIRSEQ:
        names_read = {name for name in READ_BY_FAIRSEQ if name in inspect.getsource(FairseqTask)}
    assert field.name in names_read


@pytest.mark.parametrize(
    ("fields", "criterion"),
    [(PretrainingCriterionFields, "mae_ast"), (ClassificationCriterionFields, "mae_ast_classification")],
)
def test_every_criterion_field_is_an_argument(fields: type, criterion: str) -> None:
    names = {field.name for field in dataclasses.fields(fields)}
    assert names <= inspect.signature(CRITERION_REGISTRY[criterion]).parameters.keys()


def test_defaults_are_valid() -> None:
    assert check_mae_ast(MaeAstFields()) is None
    assert check_encoder(SsastFields, SsastFields()) is None
    assert check_encoder(ClassifierFields, ClassifierFields()) is None
    assert check_pretraining_task(PretrainingTaskFields()) is None
    assert check_pretraining_criterion(PretrainingCriterionFields()) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_layers": 0}, "model.encoder_layers: 0 was given; expected 1 to 1,000"),
        ({"decoder_layers": -1}, "model.decoder_layers: -1 was given; expected 1 to 1,000"),
        ({"encoder_embed_dim": 0}, "model.encoder_embed_dim: 0 was given; expected 1 to 1,000,000"),
        ({"decoder_embed_dim": 0}, "model.decoder_embed_dim: 0 was given; expected 1 to 1,000,000"),
        ({"mask_length": 0}, "model.mask_length: 0 was given; expected 1 to 1,000,000"),
        ({"max_token_length": -1}, "model.max_token_length: -1 was given; expected 1 to 1,000,000"),
        ({"encoder_ffn_embed_dim": 0}, "model.encoder_ffn_embed_dim: 0 was given; expected 1 to 1,000,000"),
        ({"decoder_ffn_embed_dim": -1}, "model.decoder_ffn_embed_dim: -1 was given; expected 0 to 1,000,000"),
        ({"ast_kernel_size_time": 2**31}, "model.ast_kernel_size_time: 2147483648 was given; expected 1 to 1,000,000"),
        ({"decoder_layers": 2**31}, "model.decoder_layers: 2147483648 was given; expected 1 to 1,000"),
        ({"max_token_length": 2**63}, "model.max_token_length: 9223372036854775808 was given; expected 1 to 1,000,000"),
        ({"dropout": 1.0}, "model.dropout: 1.0 was given; expected at least 0 and less than 1"),
        ({"attention_dropout": -0.1}, "model.attention_dropout: -0.1 was given; expected at least 0"),
        ({"activation_dropout": 2.0}, "model.activation_dropout: 2.0 was given; expected at least 0"),
        ({"dropout_input": 1.5}, "model.dropout_input: 1.5 was given; expected at least 0"),
        ({"encoder_layerdrop": 1.0}, "model.encoder_layerdrop: 1.0 was given; expected at least 0"),
        ({"decoder_layerdrop": float("nan")}, "model.decoder_layerdrop: nan was given; expected at least 0"),
        ({"encoder_attention_heads": 7}, "model.encoder_attention_heads=7; choose a multiple"),
        ({"encoder_attention_heads": 0}, "model.encoder_attention_heads: 0 was given; expected 1 to 1,000,000"),
        ({"decoder_attention_heads": 5}, "model.decoder_attention_heads=5; choose a multiple"),
        (
            {"encoder_embed_dim": 9, "encoder_attention_heads": 3},
            "model.encoder_embed_dim: 9 was given; expected an even number",
        ),
        (
            {"decoder_embed_dim": 9, "decoder_attention_heads": 3, "use_post_enc_proj": True},
            "model.decoder_embed_dim: 9 was given; expected an even number",
        ),
        (
            {"decoder_embed_dim": 384},
            "model.decoder_embed_dim: 384 differs from model.encoder_embed_dim=768; set model.use_post_enc_proj",
        ),
    ],
)
def test_a_wrong_model_field_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_mae_ast(MaeAstFields(**changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": 8000}, "task.sample_rate: 8000 was given; expected 16000"),
        ({"feature_dim": 0}, "task.feature_dim: 0 was given; expected 1 to 10,000"),
        ({"max_sample_size": 0}, "task.max_sample_size: 0 was given; expected 1 to"),
        ({"min_sample_size": -5}, "task.min_sample_size: -5 was given; expected 1 to"),
        ({"max_keep_size": 0}, "task.max_keep_size: 0 was given; expected 1 to"),
        ({"max_bad_fraction": 1.5}, "task.max_bad_fraction: 1.5 was given; expected 0 to 1"),
    ],
)
def test_a_wrong_task_field_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_pretraining_task(PretrainingTaskFields(**changes))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((-1.0, 1.0), "criterion.reconstruction_weight: -1.0 was given; expected 0 or more"),
        ((10.0, float("nan")), "criterion.classification_weight: nan was given; expected 0 or more"),
        ((0.0, 0.0), "set at least one above 0"),
    ],
)
def test_a_wrong_criterion_field_is_named(weights: tuple, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_pretraining_criterion(PretrainingCriterionFields(*weights))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("check", "good", "bad", "message"),
    [
        (require_choice, ("a", ["b", "a"]), ("c", ["b", "a"]), "x.y: 'c' is unknown; expected one of a, b"),
        (require_multiple, (12, "n", 4), (13, "n", 4), "x.y: 13 cannot be divided by n=4; choose a multiple"),
    ],
)
def test_a_check_lets_through_what_is_good(check, good: tuple, bad: tuple, message: str) -> None:
    assert check("x.y", *good) is None
    with pytest.raises(ConfigError) as error:
        check("x.y", *bad)
    assert message in str(error.value)
