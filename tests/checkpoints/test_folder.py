"""Folders for the Hugging Face hub: weights and config that say all, and a card that its maker completes."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from mae_ast_fairseq.checkpoints.export import export
from mae_ast_fairseq.checkpoints.folder import CARD, card, export_folder
from mae_ast_fairseq.checkpoints.names import CONFIG, WEIGHTS
from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.checkpoints.unpickling import METADATA
from mae_ast_fairseq.errors import CheckpointError
from mae_ast_fairseq.inference.encoder import load_pretrained
from tests.checkpoints.test_export import assert_same, assert_same_state, content
from tests.checkpoints.test_read import save_checkpoint, save_tiny_checkpoint
from tests.tiny import LABELS, golden_checkpoint, golden_values, log_mel_like


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for the hub of a tiny MAE-AST, alone in tmp_path."""
    out = tmp_path / "my_model"
    out.mkdir()
    export_folder(read_checkpoint(save_tiny_checkpoint(tmp_path / "ours.pt")), out)
    return out


def put(source: Path, out: Path) -> Path:
    out.mkdir(exist_ok=True)
    export_folder(read_checkpoint(source), out)
    return out


def head(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize("kind", ["mae_ast", "ssast", "mae_ast_classifier"])
def test_any_model_of_ours_comes_back(tmp_path: Path, kind: str) -> None:
    source = save_checkpoint(tmp_path / "ours.pt", kind)
    out = put(source, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == [CARD, CONFIG, WEIGHTS]
    assert_same(read_checkpoint(out), read_checkpoint(source))
    frames = log_mel_like(1, 64, 128)
    one, other = (build_model(read_checkpoint(path)) for path in (source, out))
    assert one.extract_features(frames).features.equal(other.extract_features(frames).features)


@pytest.mark.parametrize("kind", ["patch", "frame"])
def test_a_released_model_gives_the_authors_features_and_comes_back_whole(golden, tmp_path: Path, kind: str) -> None:
    out = put(golden / f"released_{kind}_random.pt", tmp_path / "out")
    values = golden_values(golden, kind)
    num_samples = (values["single_fbank"].shape[1] - 1) * 160 + 400
    features = load_pretrained(out)(values["single_wav"].flatten()[:num_samples])
    torch.testing.assert_close(features, values["single_x"][0], atol=1e-5, rtol=0)
    export(read_checkpoint(out), "released", tmp_path / "back.pt")
    original, back = golden_checkpoint(golden, kind), content(tmp_path / "back.pt")
    assert back["cfg"] == original["cfg"]
    assert_same_state(back["model"], original["model"])


def test_weights_are_tensors_alone_and_the_config_is_json_that_counts(folder: Path) -> None:
    with safe_open(folder / WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((folder / CONFIG).read_text())
    assert config["model_type"] == config[METADATA]["cfg"]["model"]["_name"] == "mae_ast"
    config[METADATA]["cfg"]["model"]["normalization"] = "utterance"
    (folder / CONFIG).write_text(json.dumps(config))
    assert read_checkpoint(folder).model.normalization == "utterance"


def test_the_paths_of_a_training_run_are_not_exported(tmp_path: Path) -> None:
    whole = content(save_checkpoint(tmp_path / "a.pt", "mae_ast_classifier"))
    whole["cfg"]["model"]["pretrained"] = whole["cfg"]["task"]["data"] = "/home/somebody/secret"
    torch.save(whole, tmp_path / "a.pt")
    assert not [path for path in put(tmp_path / "a.pt", tmp_path / "out").iterdir() if b"somebody" in path.read_bytes()]


# --- the card


def test_the_hub_reads_the_cards_head(folder: Path) -> None:
    data = ModelCard.load(folder / CARD).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("mae_ast_fairseq", "feature-extraction", "unknown")
    assert "mae-ast" in data.tags


def test_the_card_says_what_the_file_says_and_asks_for_the_rest(tmp_path: Path) -> None:
    text = card(read_checkpoint(save_tiny_checkpoint(tmp_path / "a.pt")), "my_model")
    for part in (
        "3 encoder and 2 decoder layers, width 48",
        "16 bands by 0.16 s",
        "75% of the tokens",
        "1,234 updates",
    ):
        assert part in text
    assert 'load_pretrained("USER/my_model")' in text
    assert "| training data | *to be filled in" in text


def test_a_classifiers_card_is_for_audio_classification(tmp_path: Path) -> None:
    text = card(read_checkpoint(save_checkpoint(tmp_path / "a.pt", "mae_ast_classifier")), "mine")
    assert head(text)["pipeline_tag"] == "audio-classification"
    assert f"| labels | {len(LABELS)}, " in text
    assert "mae-ast predict USER/mine" in text


def test_a_name_and_a_mask_type_cannot_forge_a_line(tmp_path: Path) -> None:
    whole = content(save_tiny_checkpoint(tmp_path / "a.pt"))
    whole["cfg"]["task"]["mask_type"] = "x\n| results | perfect |"
    torch.save(whole, tmp_path / "a.pt")
    text = card(read_checkpoint(tmp_path / "a.pt"), "a\n---\nlicense: mit")
    assert head(text)["license"] == "unknown"
    assert not [line for line in text.splitlines() if line.startswith(("| results | perfect", "license: mit"))]


def test_a_card_that_was_completed_stays_when_exported_again(folder: Path, tmp_path: Path) -> None:
    (folder / CARD).write_text("completed")
    source = save_tiny_checkpoint(tmp_path / "other.pt", encoder_layers=1)
    assert (put(source, folder) / CARD).read_text() == "completed"
    assert read_checkpoint(folder).model.encoder_layers == 1


# --- what is wrong with a folder


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"{", f"{CONFIG}: it cannot be read (Expecting"),
        (b"\xff\xfe", f"{CONFIG}: it cannot be read ("),
        (b"[" * 100_000, f"{CONFIG}: it cannot be read (maximum recursion"),
        (b"[1]", f"{CONFIG}: config is list"),
        (b"{}", f"{CONFIG}: {METADATA} is missing"),
        (b'{"mae_ast_fairseq": 3}', f"{CONFIG}: {METADATA} is int"),
        (b'{"mae_ast_fairseq": {}}', f"{WEIGHTS}: cfg is missing"),
    ],
)
def test_a_config_that_is_not_ours_is_named(folder: Path, text: bytes, found: str) -> None:
    (folder / CONFIG).write_bytes(text)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    assert found in str(caught.value)


@given(edits=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=8)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_config_is_read_sanely_or_refused(folder: Path, edits: list[tuple[int, bytes]]) -> None:
    original = (folder / CONFIG).read_bytes()
    text = original
    for place, new in edits:
        text = text[: place % len(original)] + new + text[place % len(original) + len(new) :]
    (folder / CONFIG).write_bytes(text)
    with suppress(CheckpointError):  # and nothing else
        assert read_checkpoint(folder).kind == "mae_ast"
    (folder / CONFIG).write_bytes(original)


def test_weights_without_a_config_are_named(folder: Path) -> None:
    (folder / CONFIG).unlink()
    with pytest.raises(CheckpointError, match=f"{WEIGHTS}: metadata.* is missing, and {CONFIG} beside it too"):
        read_checkpoint(folder)


def test_a_config_of_another_model_is_refused_by_its_shapes(folder: Path, tmp_path: Path) -> None:
    other = put(save_tiny_checkpoint(tmp_path / "b.pt", encoder_ffn_embed_dim=64), tmp_path / "other")
    (other / CONFIG).rename(folder / CONFIG)
    with pytest.raises(CheckpointError, match="misshapen"):
        read_checkpoint(folder)
