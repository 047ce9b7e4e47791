"""Checkpoints of ours and released ones are read strictly, without fairseq, and nothing in them is executed."""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from torch import Tensor, nn

from mae_ast_fairseq.checkpoints.read import (
    LEFT_OUT_TYPES,
    TASK_TYPES,
    build_model,
    build_untrained,
    read_checkpoint,
)
from mae_ast_fairseq.config.classification import FinetuningFields
from mae_ast_fairseq.config.pretraining import EncoderFields, MaeAstFields, SsastFields
from mae_ast_fairseq.errors import CheckpointError
from mae_ast_fairseq.nn.build import MODELS
from tests.test_layers import HIDE_FAIRSEQ, run
from tests.tiny import (
    LABELS,
    TINY,
    enlarge_weights,
    golden_values,
    load_autoencoder,
    log_mel_like,
    tiny_autoencoder,
    tiny_fields,
)


def save_tiny_checkpoint(path: Path, mask_type: str = "random_mask", **changes: Any) -> Path:
    """Save `tiny_autoencoder(**changes)` in the layout of fairseq and return the path."""
    fields = tiny_fields(**{"normalization": "dataset", **changes})
    return _save(path, "mae_ast", fields, tiny_autoencoder(**vars(fields)), {"mask_type": mask_type})


def save_checkpoint(path: Path, kind: str, feature_dim: int = 128) -> Path:
    """Save a tiny model of any kind in the layout of fairseq, with the fields of training, and return the path."""
    fields = MODELS[kind].fields(**FIELDS[kind])
    model = MODELS[kind].build(fields, feature_dim)
    enlarge_weights(model)
    model.batch_norm.set_statistics(-6.0, 3.0)
    return _save(path, kind, LEARNT_BY[kind](**vars(fields)), model, {"feature_dim": feature_dim})


FIELDS = {
    "mae_ast": {**TINY, "decoder_layers": 1, "decoder_embed_dim": 48},
    "ssast": TINY,
    "mae_ast_classifier": {**TINY, "labels": LABELS, "positions": "learned"},
}
LEARNT_BY = {"mae_ast": MaeAstFields, "ssast": SsastFields, "mae_ast_classifier": FinetuningFields}


def _save(path: Path, kind: str, fields: EncoderFields, model: nn.Module, task: dict[str, Any]) -> Path:
    content = {
        "cfg": {
            "model": {"_name": kind, **vars(fields)},
            "task": {"_name": "a task", "feature_dim": 128, "data": "/data", "seed": 1, **task},
        },
        "model": model.state_dict(),
        "optimizer_history": [{"num_updates": 1}, {"num_updates": 1234}],
    }
    torch.save(content, path)
    return path


@pytest.fixture(params=["patch", "frame"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """What a checkpoint of the tiny model holds, to be spoilt."""
    return torch.load(save_tiny_checkpoint(tmp_path / "good.pt"), weights_only=True)


@pytest.fixture
def message(tmp_path: Path) -> Callable[[Any], str]:
    """A function that saves something and returns the message with which it is refused, without the path."""

    def refusal(content: Any) -> str:
        path = tmp_path / "spoilt.pt"
        torch.save(content, path)
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        text = str(caught.value)
        assert text.startswith(f"{path}: ")
        assert "\n" not in text
        return text.removeprefix(f"{path}: ")

    return refusal


# --- what is read


def test_features_equal_the_released_models(golden, kind: str) -> None:
    values = golden_values(golden, kind)
    model = load_autoencoder(golden / f"released_{kind}_random.pt")
    features, padding_mask = model.extract_features(values["extract_fbank"], values["extract_padding_mask"])
    torch.testing.assert_close(features[~padding_mask], values["extract_x"][~padding_mask], atol=1e-5, rtol=0)


def test_fields_of_a_released_file(golden, kind: str) -> None:
    checkpoint = read_checkpoint(golden / f"released_{kind}_random.pt")
    assert (checkpoint.feature_dim, checkpoint.mask_type, checkpoint.num_updates) == (128, "random_mask", 123)
    assert checkpoint.model.encoder_embed_dim == 48
    assert checkpoint.model.normalization == "batch"  # the file does not have the field
    assert not any("pos_embed" in key or key.startswith(("layer_norm", "encoder_mask")) for key in checkpoint.state)


def test_a_model_of_ours_comes_back_to_the_bit(tmp_path: Path) -> None:
    model, loaded = tiny_autoencoder(normalization="dataset"), load_autoencoder(save_tiny_checkpoint(tmp_path / "a.pt"))
    frames = log_mel_like(1, 64, 128)
    assert not loaded.training
    assert loaded.extract_features(frames).features.equal(model.extract_features(frames).features)


def test_every_field_of_the_model_is_read(tmp_path: Path) -> None:
    fields = tiny_fields(layer_norm_first=True, decoder_ffn_embed_dim=32, normalization="utterance", mask_length=7)
    assert read_checkpoint(save_tiny_checkpoint(tmp_path / "a.pt", **vars(fields))).model == fields


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_comes_back(tmp_path: Path, kind: str) -> None:
    path = save_checkpoint(tmp_path / "a.pt", kind)
    checkpoint = read_checkpoint(path)
    model = build_model(checkpoint)
    assert (checkpoint.kind, type(model), model.training) == (kind, MODELS[kind].module, False)
    assert checkpoint.model == MODELS[kind].fields(**FIELDS[kind])
    saved = torch.load(path, weights_only=True)["model"]
    assert list(checkpoint.state) == list(saved)
    assert all(value.equal(saved[key]) for key, value in model.state_dict().items())
    untrained = build_untrained(checkpoint, seed=3)
    assert type(untrained) is type(model)
    assert not untrained.post_extract_proj.weight.equal(model.post_extract_proj.weight)
    assert float(untrained.batch_norm.running_mean) == -6


def test_a_whole_number_will_do_for_a_fraction(content, tmp_path: Path) -> None:
    content["cfg"]["model"]["dropout"] = 0
    torch.save(content, tmp_path / "a.pt")
    dropout = read_checkpoint(tmp_path / "a.pt").model.dropout
    assert (dropout, type(dropout)) == (0.0, float)


def test_weights_of_half_precision_are_read_as_float32(content, tmp_path: Path) -> None:
    rounded = {key: value.half() if value.is_floating_point() else value for key, value in content["model"].items()}
    torch.save({**content, "model": rounded}, tmp_path / "a.pt")
    weight = load_autoencoder(tmp_path / "a.pt").post_extract_proj.weight
    assert weight.dtype is torch.float32
    assert weight.equal(rounded["post_extract_proj.weight"].float())


def test_reading_draws_no_random_numbers(tmp_path: Path) -> None:
    path = save_tiny_checkpoint(tmp_path / "a.pt")
    before = torch.get_rng_state()
    build_untrained(read_checkpoint(path), seed=3)
    load_autoencoder(path)
    assert torch.get_rng_state().equal(before)


def test_an_untrained_model_has_other_weights_by_seed_and_the_same_statistics(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save_tiny_checkpoint(tmp_path / "a.pt"))
    states = [build_untrained(checkpoint, seed).state_dict() for seed in (1, 1, 2)]
    same = [
        [key for key, value in state.items() if value.equal(states[0][key])] for state in [checkpoint.state, states[2]]
    ]
    assert all(value.equal(states[1][key]) for key, value in states[0].items())
    assert "batch_norm.running_mean" in same[0]
    assert "encoder.layers.0.fc1.weight" not in same[0] + same[1]
    assert "decoder_mask_emb" not in same[0] + same[1]
    torch.testing.assert_close(states[0]["encoder.layers.0.fc1.weight"].std().item(), 0.02, atol=0.002, rtol=0)


def test_loading_needs_no_fairseq(tmp_path: Path) -> None:
    path = save_tiny_checkpoint(tmp_path / "a.pt")
    result = run(
        f"{HIDE_FAIRSEQ}\nfrom mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint\n"
        f"print(build_model(read_checkpoint({str(path)!r})).grid.kernel, 'fairseq' in sys.modules)"
    )
    assert (result.stdout, result.stderr) == ("(16, 16) False\n", "")


# --- what is refused: the config


@pytest.mark.parametrize("value", [[1, 2], torch.ones(2), {3: 4}])
def test_other_content_is_named(message, value: Any) -> None:
    assert message(value).startswith(f"content is {type(value).__name__}; expected a mapping")


@pytest.mark.parametrize("key", ["cfg", "cfg.model", "cfg.task", "model"])
def test_a_missing_part_is_named(content, message, key: str) -> None:
    *parents, name = key.split(".")
    part = content
    for parent in parents:
        part = part[parent]
    del part[name]
    assert message(content).startswith(f"{key} is missing")


@pytest.mark.parametrize("key", ["cfg", "cfg.model", "cfg.task", "model"])
def test_a_part_of_another_kind_is_named(content, message, key: str) -> None:
    part, _, name = key.rpartition(".")
    (content[part] if part else content)[name] = [1]
    assert message(content).startswith(f"{key} is list; expected a mapping")


@pytest.mark.parametrize("name", ["hubert", None, ["mae_ast"]])
def test_another_kind_of_model_is_named(content, message, name: Any) -> None:
    content["cfg"]["model"]["_name"] = name
    assert message(content).startswith(f"cfg.model._name is {name!r}; expected mae_ast, ssast")


@pytest.mark.parametrize(
    ("part", "field", "value", "shown"),
    [
        ("model", "encoder_layers", "3", "'3'; expected int"),
        ("model", "encoder_layers", True, "True; expected int"),
        ("model", "encoder_layers", 3.0, "3.0; expected int"),
        ("model", "layer_norm_first", 1, "1; expected bool"),
        ("model", "activation_fn", None, "None; expected str"),
        ("model", "dropout", [0.1], "[0.1]; expected float"),
        ("model", "feature_grad_mult", "__import__('os')", "\"__import__('os')\"; expected float"),
        ("model", "enc_conv_pos", True, "True; expected False, the only one that is built"),
        ("task", "feature_type", "mfcc", "'mfcc'; expected 'fbank', the only one that is built"),
        ("task", "max_sample_size", 0.5, "0.5; expected Optional[int]"),
        ("task", "data", {"a": torch.ones(1)}, "dict; expected plain values"),
        ("task", "seed", {"a": torch.ones(1)}, "dict; expected int"),
        ("task", "from_a_fork", {"a": torch.ones(1)}, "dict; expected plain values"),
        ("task", "feature_dim", "128", "'128'; expected int"),
        ("task", "mask_type", 3, "3; expected str"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(content, message, part: str, field: str, value: Any, shown: str) -> None:
    content["cfg"][part][field] = value
    assert message(content).startswith(f"cfg.{part}.{field} is {shown}")


@pytest.mark.parametrize("labels", [None, "dog", ["dog", 1], [["dog"]]])
def test_labels_are_a_list_of_text(tmp_path: Path, message, labels: Any) -> None:
    content = torch.load(save_checkpoint(tmp_path / "a.pt", "mae_ast_classifier"), weights_only=True)
    content["cfg"]["model"]["labels"] = labels
    assert "; expected list[str]; " in message(content)


def test_labels_and_head_must_agree(tmp_path: Path, message) -> None:
    content = torch.load(save_checkpoint(tmp_path / "a.pt", "mae_ast_classifier"), weights_only=True)
    content["cfg"]["model"]["labels"] = LABELS[:-1]
    assert "model.head.bias ([5] instead of [4])" in message(content)


@pytest.mark.parametrize(
    ("part", "field"),
    [("model", "encoder_layers"), ("model", "activation_fn"), ("task", "mask_type"), ("task", "data"), ("task", "x")],
)
def test_an_interpolation_is_not_resolved(content, message, part: str, field: str) -> None:
    content["cfg"][part][field] = "${oc.env:HOME}"
    text = message(content)
    assert text.startswith(f"cfg.{part}.{field} is '${{oc.env:HOME}}'")
    assert "interpolations are not resolved" in text


def test_an_unknown_field_of_the_model_is_refused_unless_it_is_ignored(content, message, tmp_path: Path) -> None:
    content["cfg"]["model"].update(surprise="${x}", window=3)
    text = message(content)
    assert "(surprise, window)" in text
    assert "--ignore-unknown NAME" in text
    with pytest.raises(CheckpointError, match=r"\(window\)"):
        read_checkpoint(tmp_path / "spoilt.pt", ignore_unknown=["surprise"])
    checkpoint = read_checkpoint(tmp_path / "spoilt.pt", ignore_unknown=["surprise", "window", "encoder_layers"])
    assert checkpoint.model.encoder_layers == 3  # which is known
    assert build_model(checkpoint).grid.rows == 8


def test_what_other_models_of_fairseq_have_for_training_alone_is_accepted(content, tmp_path: Path) -> None:
    content["cfg"]["model"].update(mask_channel_prob=0.5, fp16=False)
    torch.save(content, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").model.encoder_layers == 3


def test_an_unknown_field_of_the_task_is_a_warning(content, tmp_path: Path, caplog) -> None:
    content["cfg"]["task"]["surprise"] = "x"
    torch.save(content, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").mask_type == "random_mask"
    assert "unknown here and not read: surprise" in caplog.text


def test_fields_of_another_kind_of_model_are_unknown(content, message) -> None:
    content["cfg"]["model"]["labels"] = ["dog"]
    assert "unknown here (labels)" in message(content)


@pytest.mark.parametrize("registry", [MODEL_DATACLASS_REGISTRY, TASK_DATACLASS_REGISTRY])
def test_every_field_that_training_saves_is_known(registry) -> None:
    known = {"mae_ast_pretraining": TASK_TYPES, "mae_ast_classification": TASK_TYPES}
    for kind, fields in MODELS.items():
        known[kind] = {**LEFT_OUT_TYPES.get(kind, {}), **fields.fields.__dataclass_fields__, "_name": str}
    configs = {name: config for name, config in registry.items() if config.__module__.startswith("mae_ast_fairseq")}
    assert configs
    for name, config in configs.items():
        assert [field for field in config.__dataclass_fields__ if field not in known[name]] == []


def test_fields_that_contradict_each_other_are_named(content, message) -> None:
    content["cfg"]["model"]["encoder_attention_heads"] = 5
    assert message(content).startswith("model.encoder_embed_dim: 48 cannot be divided by")


@pytest.mark.parametrize("value", [10**14, 2**62])
def test_a_model_beyond_all_memory_is_refused(content, message, value: int) -> None:
    content["cfg"]["model"].update(encoder_ffn_embed_dim=value)
    assert "model.encoder_ffn_embed_dim" in message(content) and "expected 1 to 1,000,000" in message(content)


@pytest.mark.parametrize("field", ["encoder_layers", "decoder_layers", "max_token_length"])
def test_a_number_that_would_be_built_for_hours_is_refused(content, message, field: str) -> None:
    content["cfg"]["model"][field] = 10**9
    assert f"model.{field}: 1000000000 was given; expected 1 to 1,000" in message(content)


@pytest.mark.parametrize("field", ["mask_length", "dropout"])
def test_a_number_beyond_64_bits_is_refused(content, message, field: str) -> None:
    content["cfg"]["model"][field] = 10**400
    assert message(content).startswith(f"cfg.model.{field} is 1000")


# --- what is refused: the weights

WEIGHT = "encoder.layers.1.fc1.weight"


def spoilt(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    result = copy.copy(content)
    result["model"] = {**content["model"], key: value}
    return result


def test_missing_weights_are_named(content, message) -> None:
    del content["model"][WEIGHT]
    assert message(content).startswith(f"a tensor missing: model.{WEIGHT};")


def test_unexpected_weights_are_named(content, message) -> None:
    text = message(spoilt(content, "extra\nweight", torch.ones(2)))
    assert text.startswith(r"a tensor unexpected: 'model.extra\nweight';")


def test_misshapen_weights_are_named_with_both_shapes(content, message) -> None:
    text = message(spoilt(content, WEIGHT, torch.ones(3, 48)))
    assert text.startswith(f"a tensor misshapen: model.{WEIGHT} ([3, 48] instead of [96, 48]);")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.bool])
def test_other_kinds_of_number_are_no_weights(content, message, dtype: torch.dtype) -> None:
    text = message(spoilt(content, WEIGHT, content["model"][WEIGHT].to(dtype)))
    assert f"model.{WEIGHT} ([96, 48] {str(dtype).removeprefix('torch.')} instead of [96, 48])" in text


def test_weights_without_values_are_refused(content, message) -> None:
    text = message(spoilt(content, WEIGHT, torch.empty(96, 48, device="meta")))
    assert text.startswith(f"a tensor NaN, infinite or without values: model.{WEIGHT};")


def test_whole_numbers_are_no_weights(content, message) -> None:
    text = message(spoilt(content, WEIGHT, content["model"][WEIGHT].long()))
    assert f"model.{WEIGHT} ([96, 48] int64 instead of [96, 48])" in text


def test_what_is_no_tensor_is_named(content, message) -> None:
    assert message(spoilt(content, WEIGHT, [1.0])).startswith(
        f"a tensor misshapen: model.{WEIGHT} (list instead of [96, 48])"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", [WEIGHT, "batch_norm.running_mean"])
def test_weights_that_are_not_finite_are_named(content, message, key: str, value: float) -> None:
    content["model"][key].view(-1)[0] = value
    assert message(content).startswith(f"a tensor NaN, infinite or without values: model.{key};")


def test_of_many_bad_keys_some_are_named_and_all_counted(content, message) -> None:
    state = content["model"]
    content["model"] = {key: value for key, value in state.items() if not key.startswith("decoder.layers.1.")}
    text = message(content)
    assert text.startswith("16 tensors missing: model.decoder.layers.1.fc1.bias, ")
    assert " and 13 more;" in text


# --- what training saves


def num_bytes(values: Iterable[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in values)


def test_training_saves_weights_and_no_position_tables() -> None:
    fields = MaeAstFields(max_token_length=48_000)
    with torch.device("meta"):
        model = MODELS["mae_ast"].build(fields, 128)
    assert len(model.encoder.layers) == 12
    tables = {name for name, value in model.named_buffers() if 48_000 in value.shape}
    assert len(tables) == 2
    assert not tables & model.state_dict().keys()
    weights = num_bytes(model.parameters())
    # Adam's two moments, of the size of the weights each, come on top of both sides.
    assert num_bytes(model.state_dict().values()) <= 1.0001 * weights
