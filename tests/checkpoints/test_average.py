"""The mean of checkpoints is that of their weights, and a checkpoint as they are."""

import pytest
import torch
from fairseq import checkpoint_utils

from mae_ast_fairseq.checkpoints.average import average_checkpoints
from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.errors import CheckpointError
from tests.finetuning import finetune, pretrained, write_tones
from tests.tiny import padded_batch


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    finetune(
        write_tones(folder / "tones"), "checkpoint.no_save=false", f"checkpoint.save_dir={folder}",
        "checkpoint.no_epoch_checkpoints=false", "optimization.max_update=15", "optimization.lr=[0.003]",
    )  # fmt: skip
    return sorted(folder.glob("checkpoint[0-9].pt"))


def test_the_weights_are_the_mean(checkpoints, tmp_path):
    assert len(checkpoints) == 3
    average_checkpoints(checkpoints, tmp_path / "mean.pt")
    states = [read_checkpoint(path).state for path in checkpoints]
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])
    for name, value in read_checkpoint(tmp_path / "mean.pt").state.items():
        expected = torch.stack([state[name].double() for state in states]).mean(dim=0)
        torch.testing.assert_close(value.double(), expected, atol=1e-7, rtol=1e-6)


def test_fairseq_loads_the_mean(checkpoints, tmp_path):
    average_checkpoints(checkpoints, tmp_path / "mean.pt")
    models, cfg, _ = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "mean.pt")])
    plain = build_model(read_checkpoint(tmp_path / "mean.pt"))
    batch = padded_batch([60, 40])
    assert torch.equal(models[0].eval()(**batch), plain(**batch))
    assert list(cfg.model.labels) == ["low", "middle", "high"]


def test_what_a_released_file_has_besides_the_model_is_kept(golden, tmp_path):
    file = golden / "released_patch_random.pt"
    average_checkpoints([file, file], tmp_path / "mean.pt")
    expected, found = (torch.load(path, weights_only=True)["model"] for path in (file, tmp_path / "mean.pt"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_another_dropout_is_no_other_model(tmp_path):
    files = [pretrained(tmp_path / "a.pt"), pretrained(tmp_path / "b.pt", dropout=0.3)]
    average_checkpoints(files, tmp_path / "mean.pt")
    with pytest.raises(CheckpointError, match=r"c\.pt: .*activation_fn is 'relu', not 'gelu'"):
        average_checkpoints([files[0], pretrained(tmp_path / "c.pt", activation_fn="relu")], tmp_path / "mean.pt")


def test_checkpoints_of_different_models_have_no_mean(checkpoints, tmp_path):
    other = pretrained(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: its model is another than that of .*checkpoint1\.pt"):
        average_checkpoints([checkpoints[0], other], tmp_path / "mean.pt")
    assert not (tmp_path / "mean.pt").exists()
