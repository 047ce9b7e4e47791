"""The tools themselves run on our adapters, where they are installed (docs/evaluating.md says how)."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from mae_ast_fairseq.checkpoints.export import export
from mae_ast_fairseq.checkpoints.read import read_checkpoint
from mae_ast_fairseq.inference.adapters import MaeAstEncoder, MtebModel
from mae_ast_fairseq.inference.encoder import load_pretrained
from mae_ast_fairseq.nn.readout import columns
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.tiny import FRAME, PATCH

MODULE = "mae_ast_fairseq.inference.adapters"


def tone(high: bool, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A tone in noise, low or high."""
    time = np.arange(int(16_000 * seconds)) / 16_000
    frequency = rng.uniform(2_000, 3_000) if high else rng.uniform(200, 400)
    return (0.2 * np.sin(2 * np.pi * frequency * time) + 0.01 * rng.standard_normal(len(time))).astype(np.float32)


def write_xares_tar(path: Path, seed: int) -> None:
    """Write 24 clips of two classes and unlike lengths as X-ARES has them."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for number in range(24):
            audio = io.BytesIO()
            sf.write(audio, tone(number % 2 == 1, rng.uniform(0.2, 1.5), rng), 16_000, format="WAV")
            for name, content in (("wav", audio.getvalue()), ("json", json.dumps({"label": number % 2}).encode())):
                info = tarfile.TarInfo(f"{seed}_{number}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_xares_accepts_the_encoder_and_scores_a_task(tmp_path: Path) -> None:
    pytest.importorskip("xares")
    from xares.audio_encoder_checker import check_audio_encoder
    from xares.task import TaskConfig, XaresTask
    from xares.utils import attr_from_py_path

    encoder = attr_from_py_path(MODULE, endswith="Encoder")()
    assert check_audio_encoder(encoder)
    config = TaskConfig(
        name="tones",
        encoder=encoder,
        env_root=tmp_path,
        private=True,
        label_processor=lambda target: target["label"],
        output_dim=2,
        num_encoder_workers=0,
        batch_size_encode=8,
        epochs=20,
        torch_num_threads=1,
    )
    task = XaresTask(config)
    for seed, split in enumerate(("train", "valid", "test")):
        write_xares_tar(tmp_path / "tones" / f"{split}.tar", seed)
    (tmp_path / "tones" / config.xares_settings.audio_ready_filename).touch()
    task.make_encoded_tar()
    (mlp, _), (knn, _) = task.run_mlp(), task.run_knn()
    print(f"X-ARES, tones: MLP {mlp:.3f}, KNN {knn:.3f}")
    assert min(mlp, knn) > 0.9


def test_hears_validator_accepts_the_module(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    validate = pytest.importorskip("hearvalidator.validate")
    checkpoint = save_tiny_checkpoint(tmp_path / "run.pt")
    validate.ValidateModel(MODULE, str(checkpoint), device="cpu")()
    assert "Interval between timestamps is 160.0ms" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["scene", "event"])
def test_heareval_writes_the_embeddings_of_a_task(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("heareval.embeddings.runner")
    task, rng = tmp_path / "tasks" / "tones", np.random.default_rng(0)
    folder = task / "16000" / "train"
    folder.mkdir(parents=True)
    labels: dict[str, list] = {}
    for number in range(6):
        label = ["low", "high"][number % 2]
        sf.write(folder / f"{number}.wav", tone(number % 2 == 1, 1.0, rng), 16_000)
        labels[f"{number}.wav"] = [label] if kind == "scene" else [{"label": label, "start": 0.0, "end": 500.0}]
    metadata = {"embedding_type": kind, "prediction_type": "multiclass", "sample_duration": 1.0, "splits": ["train"]}
    (task / "task_metadata.json").write_text(json.dumps(metadata))
    (task / "labelvocabulary.csv").write_text("idx,label\n0,low\n1,high\n")
    (task / "train.json").write_text(json.dumps(labels))
    command = [sys.executable, "-m", "heareval.embeddings.runner", MODULE, "--model-options", '{"layers": [1, 2]}']
    folders = ["--tasks-dir", tmp_path / "tasks", "--embeddings-dir", tmp_path / "out"]
    subprocess.run([*command, *map(str, folders)], check=True)
    out = tmp_path / "out" / f"{MODULE}-layers=1-2" / "tones" / "train"
    audio, _ = sf.read(folder / "0.wav", dtype="float32")
    encoder = MaeAstEncoder("tiny", layers=(1, 2))
    clip = torch.from_numpy(audio)[None]
    expected = encoder.clips(clip)[0] if kind == "scene" else encoder.frames(clip)[0]
    np.testing.assert_allclose(np.load(out / "0.wav.embedding.npy"), expected, atol=1e-5)


def test_mteb_runs_its_mock_tasks_of_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    mteb = pytest.importorskip("mteb")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from mteb.models.models_protocols import EncoderProtocol

    model = MtebModel("tiny", layers="all", readout="mean+max")
    meta = model.mteb_model_meta
    assert isinstance(model, EncoderProtocol)
    assert (meta.name, meta.embed_dim, meta.modalities) == ("mae_ast_fairseq/tiny", 4 * 2 * 192, ["audio"])
    assert meta != MtebModel("tiny").mteb_model_meta
    assert meta.revision == MtebModel("tiny").mteb_model_meta.revision
    results = mteb.mock_run(model)
    print(results.to_markdown())
    assert results.all_passed
    assert sum(status is not None for _, status in results.items()) >= 7


@pytest.mark.parametrize(("kind", "rows"), [(PATCH, 8), (FRAME, 1)], ids=["patch", "frame"])
def test_s3prl_gives_the_features_of_what_is_exported(tmp_path: Path, kind: dict, rows: int) -> None:
    hub = pytest.importorskip("s3prl.hub")
    source = save_tiny_checkpoint(tmp_path / "run.pt", **kind)
    export(read_checkpoint(source), "s3prl", tmp_path / "s3prl.pt")
    upstream = hub.mae_ast_local(str(tmp_path / "s3prl.pt")).eval()
    audio = torch.from_numpy(tone(True, 2.0, np.random.default_rng(0)))
    with torch.no_grad():
        theirs = upstream([audio])["hidden_states"]
    encoder = load_pretrained(source)
    ours = [columns(layer, rows) for layer in encoder.encode([audio]).hidden_states]
    difference = max(float((their - our).abs().max()) for their, our in zip(theirs, ours, strict=True))
    print(f"s3prl: {len(ours)} layers, values up to {max(map(torch.max, ours)):.3g} differ by up to {difference:.2g}")
    assert difference < 1e-3
