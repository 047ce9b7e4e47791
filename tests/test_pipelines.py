"""Scripts written for fairseq's models work with ours: they need the checkpoint's path, and no data folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
import torch.nn.functional as F
from fairseq import checkpoint_utils

import mae_ast_fairseq
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.inference.encoder import load_pretrained
from tests.tiny import golden_checkpoint, golden_values
from tests.training import SMALL, train

TOLERANCE = {"atol": 1e-5, "rtol": 0}
RECIPES = {
    "mae_ast": ("mae_ast_patch", (*SMALL, "task.feature_dim=128")),
    "ssast": (
        "ssast_frame",
        tuple(setting for setting in SMALL if "decoder" not in setting),
    ),
}


class HubertFeatureReader:
    """What HuBERT's `dump_hubert_feature.py` does with a checkpoint, from its known contract."""

    def __init__(self, path: str, layer: int, max_chunk: int = 1_600_000):
        models, _, self.task = checkpoint_utils.load_model_ensemble_and_task([path])
        self.model = models[0].eval()
        self.layer = layer
        self.max_chunk = max_chunk

    def read_audio(self, path: str, num_samples: int) -> np.ndarray:
        samples, rate = sf.read(path)
        assert rate == self.task.cfg.sample_rate
        assert samples.ndim == 1 and len(samples) == num_samples
        return samples

    def get_feats(self, path: str, num_samples: int) -> torch.Tensor:
        x = self.read_audio(path, num_samples)
        with torch.no_grad():
            x = torch.from_numpy(x).float()
            if self.task.cfg.normalize:
                x = F.layer_norm(x, x.shape)
            x = x.view(1, -1)
            chunks = []
            for start in range(0, x.size(1), self.max_chunk):
                chunk, _ = self.model.extract_features(
                    source=x[:, start : start + self.max_chunk], padding_mask=None, mask=False, output_layer=self.layer
                )
                chunks.append(chunk)
        return torch.cat(chunks, 1).squeeze(0)


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint after two updates, whose data folder is gone."""
    folder = tmp_path_factory.mktemp(request.param)
    recipe, settings = RECIPES[request.param]
    shutil.copytree(corpus, folder / "data")
    for split in ("train", "valid"):
        manifest = folder / "data" / f"{split}.tsv"
        manifest.write_text("\n".join([str(folder / "data"), *manifest.read_text().splitlines()[1:]]))
    train(
        recipe,
        *settings,
        f"task.data={folder / 'data'}",
        f"checkpoint.save_dir={folder}",
        "checkpoint.no_save=false",
        "optimization.max_update=2",
    )
    shutil.rmtree(folder / "data")
    return str(folder / "checkpoint_last.pt")


@pytest.fixture(params=["patch", "frame"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def wave(tmp_path: Path) -> tuple[str, int]:
    """A file at 16 kHz and its number of samples."""
    samples = np.random.default_rng(0).normal(0, 0.1, 40_000)
    sf.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    return str(tmp_path / "a.wav"), len(samples)


def test_a_trained_checkpoint_loads_strictly_without_its_data(trained: str) -> None:
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([trained], strict=True)
    state = torch.load(trained, weights_only=True)["model"]
    loaded = models[0].state_dict()
    assert loaded.keys() == state.keys()
    assert all(value.equal(state[name]) for name, value in loaded.items())
    assert task.cfg.sample_rate == 16_000
    assert task.cfg.normalize is False
    assert cfg.model._name in RECIPES


def test_a_trained_checkpoint_serves_what_the_pipeline_gives(trained: str, wave) -> None:
    path, num_samples = wave
    reader, model = HubertFeatureReader(trained, layer=2), load_pretrained(trained)
    expected = model.encode([load_audio(path)]).hidden_states[1][0]
    torch.testing.assert_close(reader.get_feats(path, num_samples), expected, **TOLERANCE)


def test_hubert_feature_dump_in_chunks(trained: str, wave) -> None:
    path, num_samples = wave
    reader, model = HubertFeatureReader(trained, layer=1, max_chunk=16_000), load_pretrained(trained)
    waveform = load_audio(path)
    parts = [waveform[start : start + 16_000] for start in range(0, num_samples, 16_000)]
    expected = torch.cat([model.encode([part]).hidden_states[0][0] for part in parts])
    torch.testing.assert_close(reader.get_feats(path, num_samples), expected, **TOLERANCE)


def test_hubert_feature_dump_of_a_released_file(golden, kind: str, tmp_path: Path) -> None:
    values = golden_values(golden, kind)
    num_samples = (values["single_fbank"].shape[1] - 1) * 160 + 400
    samples = values["single_wav"].flatten()[:num_samples].numpy()
    sf.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    reader = HubertFeatureReader(str(golden / f"released_{kind}_random.pt"), layer=3)
    # Layers count from 1 here; a post-LayerNorm encoder's last layer is its output.
    found = reader.get_feats(str(tmp_path / "a.wav"), num_samples)
    torch.testing.assert_close(found, values["single_x"][0], **TOLERANCE)


def test_a_released_file_keeps_the_contract_of_hubert(golden, kind: str) -> None:
    path = str(golden / f"released_{kind}_random.pt")
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([path], strict=True)
    model, values = models[0].eval(), golden_values(golden, kind)
    assert (task.cfg.sample_rate, task.cfg.normalize) == (16_000, False)
    assert task.max_positions() is None
    assert model.max_positions() is None
    source, mask = values["extract_fbank"], values["extract_padding_mask"]
    keep = ~values["extract_token_padding_mask"]
    for number in range(3):
        features, token_mask = model.extract_features(source, mask, mask=False, output_layer=number + 1)
        assert token_mask.equal(~keep)
        torch.testing.assert_close(features[keep], values[f"extract_hidden_{number}"][keep], **TOLERANCE)
    tokens, _ = model.extract_features(source=source, padding_mask=mask, ret_conv=True)
    assert tokens.shape == features.shape
    # As a downstream task of fairseq does.
    model.remove_pretraining_modules()
    released = golden_checkpoint(golden, kind)["model"]
    assert {name for name, _ in model.named_parameters()} == {
        name for name in released if name.startswith(("encoder.", "post_extract_proj."))
    }
    features, _ = model.extract_features(source, mask)
    torch.testing.assert_close(features[keep], values["extract_x"][keep], **TOLERANCE)


def test_a_fresh_process_needs_the_package_as_user_dir_alone(golden, tmp_path: Path) -> None:
    package = Path(mae_ast_fairseq.__file__).parent
    code = f"""
from argparse import Namespace
from fairseq import checkpoint_utils
from fairseq.utils import import_user_module
import_user_module(Namespace(user_dir={str(package)!r}))
models, _, _ = checkpoint_utils.load_model_ensemble_and_task(["{golden}/released_frame_random.pt"])
print(type(models[0]).__name__)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "MaeAstModel\n"
