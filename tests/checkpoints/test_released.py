"""What released files have besides our model is set aside where it must be, and no table that can be computed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.checkpoints.released import MODEL_TYPES, Released, ReleasedModelFields
from mae_ast_fairseq.config.pretraining import MaeAstFields
from mae_ast_fairseq.errors import CheckpointError
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.tiny import golden_checkpoint


@pytest.fixture
def content(golden) -> dict[str, Any]:
    """A released file's content, to be changed."""
    return golden_checkpoint(golden, "patch")


def read(content: dict[str, Any], folder: Path):
    torch.save(content, folder / "a.pt")
    return read_checkpoint(folder / "a.pt")


def test_fields_set_aside_are_none_of_ours() -> None:
    assert not MODEL_TYPES.keys() & MaeAstFields.__dataclass_fields__.keys()


def test_our_own_files_have_nothing_to_set_aside(tmp_path: Path) -> None:
    assert read_checkpoint(save_tiny_checkpoint(tmp_path / "a.pt")).released == Released()


def test_what_our_model_does_not_have_is_kept(content, tmp_path: Path) -> None:
    released = read(content, tmp_path).released
    assert set(released.tensors) == {"encoder_mask_emb", "layer_norm.weight", "layer_norm.bias"}
    assert all(value.equal(content["model"][key]) for key, value in released.tensors.items())
    model = {name: content["cfg"]["model"][name] for name in vars(ReleasedModelFields())}
    assert released.cfg == {**content["cfg"], "model": model}


def test_a_table_of_other_values_is_kept_but_not_used(content, tmp_path: Path) -> None:
    expected = build_model(read(content, tmp_path)).positions.table.clone()
    content["model"]["enc_sine_pos_embed.pe"] += 1
    checkpoint = read(content, tmp_path)
    assert "enc_sine_pos_embed.pe" in checkpoint.released.tensors
    assert "dec_sine_pos_embed.pe" not in checkpoint.released.tensors
    assert build_model(checkpoint).positions.table.equal(expected)


def test_sections_that_are_no_plain_values_are_left_out(content, tmp_path: Path) -> None:
    content["cfg"].update(common={"tensor": torch.ones(1)}, optimizer={"lr": "${optimization.lr}"})
    cfg = read(content, tmp_path).released.cfg
    assert not {"common", "optimizer"} & cfg.keys()
    assert "criterion" in cfg


@pytest.mark.parametrize("key", ["layer_norm.weight", "encoder_mask_emb", "enc_sine_pos_embed.pe"])
def test_what_is_set_aside_is_checked_too(content, tmp_path: Path, key: str) -> None:
    whole = content["model"][key]
    for value, found in ((torch.ones(3), "misshapen"), (whole * torch.nan, "NaN"), ([1], "misshapen")):
        content["model"][key] = value
        with pytest.raises(CheckpointError, match=f"a tensor {found}.*: model.{key}"):
            read(content, tmp_path)


def test_tensors_of_like_names_are_unexpected(content, tmp_path: Path) -> None:
    content["model"]["layer_norm.other"] = torch.ones(3)
    with pytest.raises(CheckpointError, match=r"a tensor unexpected: model\.layer_norm\.other;"):
        read(content, tmp_path)
