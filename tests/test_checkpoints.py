"""Checkpoints of ours and released ones are read strictly, without fairseq, and nothing in them is executed."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mae_ast_fairseq.checkpoints import build_untrained, load_autoencoder, read_checkpoint
from mae_ast_fairseq.config import MaeAstFields
from mae_ast_fairseq.errors import CheckpointError
from tests.test_layers import HIDE_FAIRSEQ, run
from tests.tiny import golden_values, log_mel_like, tiny_autoencoder, tiny_fields

TOLERANCE = {"atol": 1e-5, "rtol": 0}


def save_tiny_checkpoint(path: Path, mask_type: str = "random_mask", **changes: Any) -> Path:
    """Save `tiny_autoencoder(**changes)` in the layout of fairseq and return the path."""
    fields = tiny_fields(**{"normalization": "dataset", **changes})
    content = {
        "cfg": {
            "model": {"_name": "mae_ast", **vars(fields)},
            "task": {"_name": "mae_ast_pretraining", "feature_dim": 128, "mask_type": mask_type},
        },
        "model": tiny_autoencoder(**vars(fields)).state_dict(),
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
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
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
    torch.testing.assert_close(features[~padding_mask], values["extract_x"][~padding_mask], **TOLERANCE)


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
        f"{HIDE_FAIRSEQ}\nfrom mae_ast_fairseq.checkpoints import load_autoencoder\n"
        f"print(load_autoencoder({str(path)!r}).grid.kernel, 'fairseq' in sys.modules)"
    )
    assert (result.stdout, result.stderr) == ("(16, 16) False\n", "")


# --- what is refused: the file


class Malicious:
    """Unpickled by the usual loader, it makes a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_is_named_and_not_executed(content, tmp_path: Path, new_format: bool) -> None:
    path, folder = tmp_path / "evil.pt", tmp_path / "executed"
    torch.save({**content, "args": Malicious(folder)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(CheckpointError, match=r"evil\.pt: its pickle holds code or objects \(posix\.mkdir\)"):
        read_checkpoint(path)
    assert not folder.exists()
    torch.load(path, weights_only=False)
    assert folder.exists()  # or else there was nothing to be refused


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "no.pt", "there is no such file"), (tmp_path, "this is a folder")):
        with pytest.raises(CheckpointError, match=f"^{path}: {found}"):
            load_autoencoder(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_file_is_called_so(content, message, tmp_path: Path, share: float, new_format: bool) -> None:
    torch.save(content, tmp_path / "whole.pt", _use_new_zipfile_serialization=new_format)
    whole = (tmp_path / "whole.pt").read_bytes()
    num_bytes = int(share * len(whole))
    assert message(whole[:num_bytes]).startswith(f"the file is truncated, at {num_bytes} bytes")


@pytest.mark.parametrize("text", [b"hello world" * 100, b"/data\na.wav\t16000\n", b"\x93NUMPY\x01\x00"])
def test_another_file_is_not_a_checkpoint(message, text: bytes) -> None:
    assert message(text).startswith("this is not a checkpoint")


# --- what is refused: the config


@pytest.mark.parametrize("value", [[1, 2], torch.ones(2), {3: 4}])
def test_other_content_is_named(message, value: Any) -> None:
    assert message(value).startswith(f"it holds {type(value).__name__}; expected a mapping")


@pytest.mark.parametrize("key", ["cfg", "cfg.model", "cfg.task", "cfg.model._name", "model"])
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
    (content[part] if part else content)[name] = None
    assert message(content).startswith(f"{key} is NoneType; expected a mapping")


def test_another_kind_of_model_is_named(content, message) -> None:
    content["cfg"]["model"]["_name"] = "hubert"
    text = message(content)
    assert text.startswith("cfg.model._name is 'hubert': a checkpoint of another kind of model; expected mae_ast")


@pytest.mark.parametrize(
    ("part", "field", "value", "shown"),
    [
        ("model", "encoder_layers", "3", "'3'; expected int"),
        ("model", "encoder_layers", True, "True; expected int"),
        ("model", "encoder_layers", 3.0, "3.0; expected int"),
        ("model", "layer_norm_first", 1, "1; expected bool"),
        ("model", "activation_fn", None, "None; expected str"),
        ("model", "dropout", [0.1], "list; expected float"),
        ("task", "feature_dim", "128", "'128'; expected int"),
        ("task", "mask_type", 3, "3; expected str"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(content, message, part: str, field: str, value: Any, shown: str) -> None:
    content["cfg"][part][field] = value
    assert message(content).startswith(f"cfg.{part}.{field} is {shown}")


@pytest.mark.parametrize(
    ("part", "field"), [("model", "encoder_layers"), ("model", "activation_fn"), ("task", "mask_type")]
)
def test_an_interpolation_is_not_resolved(content, message, part: str, field: str) -> None:
    content["cfg"][part][field] = "${oc.env:HOME}"
    text = message(content)
    assert text.startswith(f"cfg.{part}.{field} is '${{oc.env:HOME}}'")
    assert "interpolations are not resolved" in text


def test_unknown_fields_are_dropped(content, tmp_path: Path) -> None:
    content["cfg"]["model"].update(feature_grad_mult="__import__('os')", other="${task.data}")
    torch.save(content, tmp_path / "a.pt")
    assert set(vars(read_checkpoint(tmp_path / "a.pt").model)) == set(MaeAstFields.__dataclass_fields__)


def test_fields_that_contradict_each_other_are_named(content, message) -> None:
    content["cfg"]["model"]["encoder_attention_heads"] = 5
    assert message(content).startswith("model.encoder_embed_dim: 48 cannot be divided by")


def test_a_model_beyond_all_memory_is_refused(content, message) -> None:
    content["cfg"]["model"].update(encoder_ffn_embed_dim=10**14)
    assert message(content).startswith("cfg.model describes a model that cannot be built")


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
    assert message(spoilt(content, "extra.weight", torch.ones(2))).startswith(
        "a tensor unexpected: model.extra.weight;"
    )


def test_misshapen_weights_are_named_with_both_shapes(content, message) -> None:
    text = message(spoilt(content, WEIGHT, torch.ones(3, 48)))
    assert text.startswith(f"a tensor misshapen: model.{WEIGHT} ([3, 48] instead of [96, 48]);")


def test_whole_numbers_are_no_weights(content, message) -> None:
    text = message(spoilt(content, WEIGHT, content["model"][WEIGHT].long()))
    assert f"model.{WEIGHT} ([96, 48] int64 instead of [96, 48])" in text


def test_what_is_no_tensor_is_named(content, message) -> None:
    assert message(spoilt(content, WEIGHT, [1.0])).startswith(f"a tensor not plain tensors: model.{WEIGHT} (list)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", [WEIGHT, "batch_norm.running_mean"])
def test_weights_that_are_not_finite_are_named(content, message, key: str, value: float) -> None:
    content["model"][key].view(-1)[0] = value
    assert message(content).startswith(f"a tensor NaN or infinite: model.{key};")


def test_of_many_bad_keys_some_are_named_and_all_counted(content, message) -> None:
    state = content["model"]
    content["model"] = {key: value for key, value in state.items() if not key.startswith("decoder.layers.1.")}
    text = message(content)
    assert text.startswith("16 tensors missing: model.decoder.layers.1.fc1.bias, ")
    assert " and 13 more;" in text
