"""Files of every version open for good, and those of a later one are refused."""

import json

import pytest
import torch
from fairseq import checkpoint_utils

from mae_ast_fairseq import load_pretrained
from mae_ast_fairseq.checkpoints.read import read_checkpoint
from mae_ast_fairseq.checkpoints.version import FORMAT, KEY
from mae_ast_fairseq.errors import CheckpointError
from tests.checkpoints.released.make import FEATURES, FOLDER, features, first_feature

RECORDED = json.loads(FEATURES.read_text())
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".pt", ".safetensors"))
LAYOUTS = ("classifier.pt", "released.pt", "s3prl.pt", "safetensors.safetensors", "training.pt")


def test_there_is_a_file_of_each_layout_of_each_version():
    assert [f"{version}_{layout}" for version in range(FORMAT + 1) for layout in LAYOUTS] == FILES
    assert RECORDED.keys() == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_and_gives_the_recorded_features(name):
    assert features(FOLDER / name) == pytest.approx(RECORDED[name], abs=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_loaded_by_the_plain_encoder(name):
    assert first_feature(load_pretrained(FOLDER / name).encoder) == pytest.approx(RECORDED[name], abs=1e-5)


@pytest.mark.parametrize("name", [name for name in FILES if "s3prl" not in name and "safetensors" not in name])
def test_a_file_is_loaded_by_fairseq(name):
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(FOLDER / name)])
    assert first_feature(models[0]) == pytest.approx(RECORDED[name], abs=1e-5)


def newer(path, folder):
    """Copy a checkpoint as a later version would write it."""
    content = torch.load(path, weights_only=True)
    content["task_state"][KEY]["format"] = FORMAT + 1
    torch.save(content, folder / "newer.pt")
    return folder / "newer.pt"


@pytest.mark.parametrize("layout", ["training.pt", "released.pt", "s3prl.pt"])
def test_what_a_later_version_wrote_is_refused(tmp_path, layout):
    path = newer(FOLDER / f"{FORMAT}_{layout}", tmp_path)
    with pytest.raises(CheckpointError, match=rf"newer\.pt: its format is {FORMAT + 1}.* update the package"):
        read_checkpoint(path)
    if layout == "training.pt":
        with pytest.raises(CheckpointError, match="update the package"):
            checkpoint_utils.load_model_ensemble_and_task([str(path)])
