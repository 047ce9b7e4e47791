"""The weights that the package brings: small, whole, with a card, and as good as the file they were made of."""

import json

import pytest
import torch

import mae_ast_fairseq
from mae_ast_fairseq.checkpoints.names import BUNDLED, checkpoint_path
from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.cli import main
from mae_ast_fairseq.errors import CheckpointError
from tests.tiny import log_mel_like

MAX_BYTES = 6_000_000


@pytest.mark.parametrize("name", BUNDLED)
def test_each_is_small_and_has_a_card(name: str) -> None:
    assert BUNDLED[name].stat().st_size <= MAX_BYTES
    card = BUNDLED[name].with_suffix(".md").read_text()
    for word in ("licence", "updates", "accuracy"):
        assert word in card.lower()


@pytest.mark.parametrize("name", BUNDLED)
def test_each_is_the_whole_model_in_bfloat16_with_exact_statistics(name: str) -> None:
    checkpoint = read_checkpoint(name)
    kinds = {key: tensor.dtype for key, tensor in checkpoint.state.items() if tensor.is_floating_point()}
    assert {dtype for key, dtype in kinds.items() if not key.startswith("batch_norm.")} == {torch.bfloat16}
    assert kinds["batch_norm.running_mean"] == torch.float32
    model = build_model(checkpoint)  # heads and decoder too
    assert model.final_proj_reconstruction is not None
    assert checkpoint.num_updates is not None


@pytest.mark.parametrize("name", BUNDLED)
def test_tokens_of_a_clip_are_not_alike(name: str) -> None:
    encoder = mae_ast_fairseq.load_pretrained(name).encoder
    with torch.no_grad():
        features, _ = encoder.extract_features(log_mel_like(2, 128, 128))
    deviations = features - features.mean(dim=1, keepdim=True)
    assert float(deviations.square().mean().sqrt() / features.square().mean().sqrt()) > 0.2


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkpoint_path("tiny") == BUNDLED["tiny"]
    (tmp_path / "tiny").write_text("nothing")
    with pytest.raises(CheckpointError, match=r"^tiny: "):
        read_checkpoint("tiny")


def test_other_names_are_paths(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="huge: there is no such file"):
        read_checkpoint(tmp_path / "huge")


def test_features_of_a_file_by_one_command(corpus, tmp_path, capsys) -> None:
    files = [corpus / "00.wav", corpus / "01.wav"]
    argv = ["extract", "tiny", *map(str, files), "--out", str(tmp_path / "features"), "--readout", "mean+max", "--json"]
    assert main(argv) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["num_clips"] == 2
    assert summary["width"] == 2 * read_checkpoint("tiny").model.encoder_embed_dim
