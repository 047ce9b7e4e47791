"""Exported checkpoints open where neither fairseq nor this package is, and nothing is lost on the way."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils
from safetensors import safe_open
from torch import Tensor

from mae_ast_fairseq.checkpoints.export import LAYOUTS, export
from mae_ast_fairseq.checkpoints.read import Checkpoint, build_model, read_checkpoint
from mae_ast_fairseq.errors import CheckpointError
from tests.checkpoints.test_read import save_checkpoint, save_tiny_checkpoint
from tests.tiny import FRAME, LABELS, golden_checkpoint, load_autoencoder, log_mel_like

AUTHORS = Path(__file__).parents[1] / "authors.py"  # run, never imported: it hides the package
LIKE_RELEASED = ["released", "s3prl"]


@pytest.fixture
def exported(tmp_path: Path) -> Callable[[Path, str], Path]:
    """A function that exports a file to a layout and returns the path."""

    def written(source: Path, layout: str) -> Path:
        out = tmp_path / f"{source.stem}.{layout}"
        export(read_checkpoint(source), layout, out)
        return out

    return written


def content(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_same_state(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    differing = [key for key in found if found[key].dtype != expected[key].dtype or not found[key].equal(expected[key])]
    assert differing == []


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    """Everything but the path, released parts included."""
    assert_same_state(found.state, expected.state)
    assert found[1:6] == expected[1:6]
    assert_same_state(dict(found.released.tensors), dict(expected.released.tensors))
    assert found.released[1:] == expected.released[1:]


def assert_same_elsewhere(paths: dict[Path, Path]) -> None:
    """Compare files, in one process without this package, with the checkpoints that they were made from."""
    folder, frames = next(iter(paths)).parent, log_mel_like(2, 64, 128)
    torch.save(frames, folder / "frames")
    # -I: neither the working directory nor the tests' is on the path.
    command = [sys.executable, "-I", str(AUTHORS), str(folder / "frames"), *map(str, paths)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    for path, source in paths.items():
        found = torch.load(f"{path}.features", weights_only=True)
        expected = load_autoencoder(source).extract_features(frames).features
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# --- opened elsewhere


def test_models_of_ours_give_the_same_features_in_an_independent_module(tmp_path: Path, exported) -> None:
    changes: dict[str, dict[str, Any]] = {
        "patch": {},
        "frame": {**FRAME, "layer_norm_first": True, "activation_fn": "relu", "normalization": "batch"},
        "projected": {
            "use_post_enc_proj": True,
            "decoder_embed_dim": 32,
            "decoder_attention_heads": 4,
            "decoder_ffn_embed_dim": 96,
        },
    }
    sources = [save_tiny_checkpoint(tmp_path / f"{name}.pt", **fields) for name, fields in changes.items()]
    assert_same_elsewhere({exported(source, layout): source for source in sources for layout in LIKE_RELEASED})


def test_released_models_open_elsewhere_by_way_of_safetensors(golden, exported) -> None:
    sources = [golden / f"released_{kind}_random.pt" for kind in ("patch", "frame")]
    assert_same_elsewhere({exported(exported(source, "safetensors"), "s3prl"): source for source in sources})


def test_the_module_elsewhere_is_strict(tmp_path: Path, exported) -> None:
    source = save_tiny_checkpoint(tmp_path / "ours.pt")
    out = exported(source, "s3prl")
    spoilt = content(out)
    del spoilt["model"]["layer_norm.bias"]
    torch.save(spoilt, out)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        assert_same_elsewhere({out: source})
    assert b'Missing key(s) in state_dict: "layer_norm.bias"' in caught.value.stderr


@pytest.mark.parametrize("golden_kind", [None, "frame"])
def test_fairseq_loads_the_released_layout(golden, tmp_path: Path, exported, golden_kind: str | None) -> None:
    ours = save_tiny_checkpoint(tmp_path / "ours.pt")
    source = ours if golden_kind is None else golden / f"released_{golden_kind}_random.pt"
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(exported(source, "released"))])
    frames = log_mel_like(1, 64, 128)
    expected = load_autoencoder(source).extract_features(frames).features
    assert model.eval().extract_features(frames).features.equal(expected)


# --- round trips


@pytest.mark.parametrize("kind", ["patch", "frame"])
@pytest.mark.parametrize("through", [[], ["released"], ["safetensors"], ["safetensors", "safetensors"]])
def test_a_released_file_comes_back_in_every_tensor_and_field(golden, exported, kind: str, through: list[str]) -> None:
    path, original = golden / f"released_{kind}_random.pt", golden_checkpoint(golden, kind)
    for layout in [*through, "released"]:
        path = exported(path, layout)
    assert content(path)["cfg"] == original["cfg"]
    assert_same_state(content(path)["model"], original["model"])
    assert content(path)["optimizer_history"][-1]["num_updates"] == 123


def test_released_tensors_and_tables_of_other_values_come_back(golden, tmp_path: Path, exported) -> None:
    original = golden_checkpoint(golden, "patch")
    original["model"]["enc_sine_pos_embed.pe"] = original["model"]["enc_sine_pos_embed.pe"].half()
    original["model"]["dec_sine_pos_embed.pe"][0, 5, 3] += 1e-6
    original["model"]["layer_norm.bias"][7] = 0.25
    original["cfg"]["model"].update(feature_grad_mult=0.5, mask_min_space=1)
    torch.save(original, tmp_path / "a.pt")
    back = content(exported(exported(tmp_path / "a.pt", "safetensors"), "released"))
    assert back["cfg"] == original["cfg"]
    assert_same_state(back["model"], original["model"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_are_the_same_after_export(golden, exported, layout: str) -> None:
    source = golden / "released_patch_random.pt"
    frames = log_mel_like(2, 64, 128)
    one, other = (
        load_autoencoder(path).extract_features(frames).features for path in (source, exported(source, layout))
    )
    assert one.equal(other)


@pytest.mark.parametrize("kind", ["mae_ast", "ssast", "mae_ast_classifier"])
def test_safetensors_hold_any_model_of_ours(tmp_path: Path, exported, kind: str) -> None:
    source = save_checkpoint(tmp_path / "ours.pt", kind)
    out = exported(source, "safetensors")
    assert_same(read_checkpoint(out), read_checkpoint(source))
    frames = log_mel_like(1, 64, 128)
    one, other = (build_model(read_checkpoint(path)) for path in (source, out))
    assert one.extract_features(frames).features.equal(other.extract_features(frames).features)


def test_rounded_weights_stay_rounded(tmp_path: Path, exported) -> None:
    whole = content(save_tiny_checkpoint(tmp_path / "a.pt"))
    whole["model"] = {
        key: value.bfloat16() if value.is_floating_point() and "batch_norm" not in key else value
        for key, value in whole["model"].items()
    }
    torch.save(whole, tmp_path / "a.pt")
    for layout in LAYOUTS:
        assert_same_state(read_checkpoint(exported(tmp_path / "a.pt", layout)).state, whole["model"])


def test_a_model_of_ours_in_the_released_layout_normalises_as_before(tmp_path: Path, exported) -> None:
    source = save_tiny_checkpoint(tmp_path / "ours.pt", normalization="dataset")
    back = read_checkpoint(exported(source, "released"))
    assert (read_checkpoint(source).model.normalization, back.model.normalization) == ("dataset", "batch")
    frames = log_mel_like(2, 64, 128)
    before, after = (build_model(checkpoint).batch_norm(frames) for checkpoint in (read_checkpoint(source), back))
    assert after.equal(before)
    elsewhere = torch.nn.BatchNorm2d(1, affine=False).eval()
    state = content(exported(source, "released"))["model"]
    prefix = "batch_norm."
    elsewhere.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    torch.testing.assert_close(elsewhere(frames[:, None])[:, 0] * 0.5, before, atol=1e-6, rtol=0)


# --- what is written


def test_constants_are_written_for_what_our_models_do_not_have(tmp_path: Path, exported) -> None:
    out = content(exported(save_tiny_checkpoint(tmp_path / "ours.pt", max_token_length=100), "released"))
    state, model = out["model"], out["cfg"]["model"]
    assert state["layer_norm.weight"].equal(torch.ones(128))
    assert state["layer_norm.bias"].equal(torch.zeros(128))
    assert state["encoder_mask_emb"].equal(torch.zeros(48))
    assert state["enc_sine_pos_embed.pe"].shape == state["dec_sine_pos_embed.pe"].shape == (1, 100, 48)
    constants = {"feature_grad_mult": 1.0, "mask_selection": "static", "enc_conv_pos": False, "conv_pos": 128}
    assert constants.items() <= model.items()
    assert {"feature_type": "fbank", "feature_rate": 100, "data": ""}.items() <= out["cfg"]["task"].items()


def test_the_layout_is_that_of_the_released_files(golden, tmp_path: Path, exported) -> None:
    released = golden_checkpoint(golden, "patch")
    out = content(exported(save_tiny_checkpoint(tmp_path / "ours.pt", max_token_length=2048), "released"))
    assert out.keys() == released.keys()
    for part in ("model", "task"):
        assert out["cfg"][part].keys() == released["cfg"][part].keys()
        kinds = {name: type(value) for name, value in released["cfg"][part].items()}
        assert {name: type(value) for name, value in out["cfg"][part].items()} == kinds
    shapes = {key: (value.shape, value.dtype) for key, value in released["model"].items()}
    assert {key: (value.shape, value.dtype) for key, value in out["model"].items()} == shapes
    for key in ("enc_sine_pos_embed.pe", "dec_sine_pos_embed.pe"):
        assert out["model"][key].equal(released["model"][key])


def test_s3prl_gets_what_is_released_without_what_only_fairseq_reads(tmp_path: Path, exported) -> None:
    source = save_tiny_checkpoint(tmp_path / "ours.pt")
    released, s3prl = (content(exported(source, layout)) for layout in LIKE_RELEASED)
    assert set(s3prl) == {"cfg", "model", "task_state"}
    assert s3prl["cfg"] == {name: released["cfg"][name] for name in ("model", "task")}
    assert_same_state(s3prl["model"], released["model"])


def test_recomputed_activations_are_never_asked_of_others(tmp_path: Path, exported) -> None:
    source = save_tiny_checkpoint(tmp_path / "ours.pt", checkpoint_activations=True)
    assert content(exported(source, "s3prl"))["cfg"]["model"]["checkpoint_activations"] is False


def test_metadata_of_safetensors_is_the_config_and_tables_are_left_out(golden, tmp_path: Path, exported) -> None:
    with safe_open(exported(save_checkpoint(tmp_path / "a.pt", "mae_ast_classifier"), "safetensors"), "pt") as file:
        cfg = json.loads(file.metadata()["mae_ast_fairseq"])["cfg"]
        assert (cfg["model"]["_name"], cfg["model"]["labels"]) == ("mae_ast_classifier", LABELS)
        assert cfg["task"]["feature_dim"] == 128
    with safe_open(exported(golden / "released_patch_random.pt", "safetensors"), "pt") as file:
        keys = set(file.keys())
    assert "layer_norm.weight" in keys
    assert not any("pos_embed" in key for key in keys)


def test_the_paths_of_a_training_run_are_not_exported(tmp_path: Path, exported) -> None:
    whole = content(save_checkpoint(tmp_path / "a.pt", "mae_ast_classifier"))
    whole["cfg"]["model"]["pretrained"] = whole["cfg"]["task"]["data"] = "/home/somebody/secret"
    torch.save(whole, tmp_path / "a.pt")
    assert b"somebody" not in exported(tmp_path / "a.pt", "safetensors").read_bytes()
    whole = content(save_tiny_checkpoint(tmp_path / "b.pt"))
    whole["cfg"]["task"]["data"] = "/home/somebody/secret"
    torch.save(whole, tmp_path / "b.pt")
    for layout in LAYOUTS:
        assert b"somebody" not in exported(tmp_path / "b.pt", layout).read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_twice_the_same_gives_the_same_bytes(tmp_path: Path, exported, layout: str) -> None:
    source = save_tiny_checkpoint(tmp_path / "ours.pt")
    assert exported(source, layout).read_bytes() == exported(source, layout).read_bytes()


def test_sizes_are_reported(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save_tiny_checkpoint(tmp_path / "ours.pt"))
    result = export(checkpoint, "s3prl", tmp_path / "out.pt")
    assert result.num_bytes == (tmp_path / "out.pt").stat().st_size
    assert result.num_tensors == len(checkpoint.state) + 5
    assert result.num_parameters == sum(value.numel() for value in checkpoint.state.values())


# --- what cannot be expressed


@pytest.mark.parametrize("layout", LIKE_RELEASED)
@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"normalization": "utterance"}, "normalization is 'utterance'"),
        ({"decoder_ffn_embed_dim": 32}, "decoder_ffn_embed_dim is 32"),
        ({"decoder_attention_heads": 2}, "decoder_attention_heads is 2"),
        ({"enc_sine_pos": False}, "enc_sine_pos is False"),
        ({"dec_sine_pos": False}, "dec_sine_pos is False"),
    ],
)
def test_what_the_released_layout_cannot_express_is_named(
    tmp_path: Path, exported, layout: str, changes: dict[str, Any], found: str
) -> None:
    source = save_tiny_checkpoint(tmp_path / "ours.pt", **changes)
    with pytest.raises(CheckpointError) as caught:
        exported(source, layout)
    text = str(caught.value)
    assert text.startswith(f"{source}: cfg.model.{found}, which the layouts ")
    assert layout in text
    assert [path.name for path in tmp_path.iterdir()] == ["ours.pt"]
    exported(source, "safetensors")


@pytest.mark.parametrize("layout", LIKE_RELEASED)
@pytest.mark.parametrize("kind", ["ssast", "mae_ast_classifier"])
def test_other_models_have_no_released_layout(tmp_path: Path, exported, layout: str, kind: str) -> None:
    source = save_checkpoint(tmp_path / "ours.pt", kind)
    with pytest.raises(CheckpointError, match=f"cfg.model._name is '{kind}', which the layouts .*{layout}"):
        exported(source, layout)


def test_s3prl_has_128_bands(tmp_path: Path, exported) -> None:
    source = save_checkpoint(tmp_path / "ours.pt", "mae_ast", feature_dim=64)
    with pytest.raises(CheckpointError, match=r"cfg\.task\.feature_dim is 64; expected 128"):
        exported(source, "s3prl")
    assert content(exported(source, "released"))["model"]["layer_norm.weight"].shape == (64,)
