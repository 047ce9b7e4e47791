"""The features of clips are those of each clip alone, in the order of their manifest."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.data.concat import join
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.inference.chunks import plan_chunks
from mae_ast_fairseq.inference.features import clip_features
from mae_ast_fairseq.inference.loading import BrokenFiles
from mae_ast_fairseq.nn.readout import possible_readouts, read_out, readout_width
from tests.tiny import FRAME, PATCH, tiny_autoencoder


@pytest.mark.parametrize("grid", [PATCH, FRAME], ids=["patch", "frame"])
@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_clip_features_are_those_of_one_clip_at_a_time(corpus, grid, layer_norm_first: bool) -> None:
    model = tiny_autoencoder(**grid, layer_norm_first=layer_norm_first)
    manifest, readouts = read_manifest(corpus / "valid.tsv"), possible_readouts(model.grid.rows)
    found = clip_features(model, manifest, readouts)
    assert list(found) == readouts
    for row in range(8):
        waveform = torch.from_numpy(load_audio(manifest.path(row), expect_rate=None))[None]
        for number in range(1, 4):
            states = model.extract_features(waveform, output_layer=number).features
            for name, values in found.items():
                expected = read_out(name, states, None, model.grid.rows).detach().numpy()
                np.testing.assert_allclose(values[row, number - 1], expected[0], rtol=1e-5, atol=1e-5)
    for name, values in found.items():
        assert values.dtype == np.float32
        assert values.shape == (8, 3, readout_width(name, model.grid.rows, 48))


def test_a_readout_does_not_depend_on_what_else_is_read_out(corpus) -> None:
    model, manifest = tiny_autoencoder(), read_manifest(corpus / "valid.tsv")
    together = clip_features(model, manifest, ["bands+max", "mean", "mean+std"])
    assert list(together) == ["bands+max", "mean", "mean+std"]
    for name, values in together.items():
        (found,) = clip_features(model, manifest, [name]).values()
        assert np.array_equal(found, values)


def test_clip_features_of_a_start_and_of_several_manifests(corpus) -> None:
    model, manifest = tiny_autoencoder(**FRAME), read_manifest(corpus / "valid.tsv")
    short = clip_features(model, manifest, ["mean"], max_seconds=0.25)["mean"]
    waveform = torch.from_numpy(load_audio(manifest.path(3), num_samples=4_000, expect_rate=None))[None]
    expected = model.hidden_states(waveform).layers[-1].mean(dim=1)[0].detach()
    np.testing.assert_allclose(short[3, -1], expected, rtol=0, atol=1e-5)
    twice = clip_features(model, join([manifest, manifest]), ["mean"], max_seconds=0.25)["mean"]
    np.testing.assert_allclose(twice, np.concatenate([short, short]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [PATCH, FRAME], ids=["patch", "frame"])
def test_clip_features_of_a_long_clip_are_merged_from_its_chunks(corpus, monkeypatch, grid) -> None:
    def cut(num_samples, grid, chunk_seconds=0.4):
        return plan_chunks(num_samples, grid, chunk_seconds)

    monkeypatch.setattr("mae_ast_fairseq.inference.features.plan_chunks", cut)
    model, manifest = tiny_autoencoder(**grid), read_manifest(corpus / "valid.tsv")
    readouts = possible_readouts(model.grid.rows)
    found = clip_features(model, manifest, readouts)
    waveform = load_audio(manifest.path(0), expect_rate=None)
    chunks = cut(np.array([len(waveform)]), model.grid)
    assert len(chunks.clips) > 1
    parts = [
        model.hidden_states(torch.from_numpy(waveform[start : start + length])[None]).layers[1]
        for start, length in zip(chunks.starts, chunks.num_samples, strict=True)
    ]
    whole = torch.cat(parts, dim=1)
    for name in readouts:
        expected = read_out(name, whole, None, model.grid.rows)[0].detach()
        np.testing.assert_allclose(found[name][0, 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", ["last", 2, (3, 1)])
def test_clip_features_of_some_layers(corpus, layers) -> None:
    model, manifest = tiny_autoencoder(layer_norm_first=True), read_manifest(corpus / "valid.tsv")
    found = clip_features(model, manifest, ["mean"], layers=layers)["mean"]
    waveform = torch.from_numpy(load_audio(manifest.path(0), expect_rate=None))[None]
    states = model.layer_features(waveform, None, layers)[0]
    expected = torch.cat([state.mean(dim=1) for state in states]).detach()
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)


def test_a_bad_clip_stops_clip_features_with_its_line(corpus, tmp_path: Path) -> None:
    lines = (corpus / "valid.tsv").read_text().splitlines()
    (tmp_path / "a.tsv").write_text("\n".join([str(corpus), lines[1], "gone.wav\t16000"]))
    with pytest.raises(AudioError, match=r"a\.tsv:3: .*gone\.wav: there is no such file"):
        clip_features(tiny_autoencoder(), read_manifest(tmp_path / "a.tsv"), ["mean"])
    (tmp_path / "a.tsv").write_text("\n".join([str(corpus), lines[1], "short.wav\t2799"]))
    with pytest.raises(AudioError, match=r"a\.tsv:3: .*0\.175 s of it give 0 tokens .* at least 1 \(0\.175 s\)"):
        clip_features(tiny_autoencoder(), read_manifest(tmp_path / "a.tsv"), ["mean"])


def test_a_row_of_no_rate_of_audio_is_broken_and_not_computed(corpus, tmp_path: Path) -> None:
    lines = (corpus / "valid.tsv").read_text().splitlines()
    (tmp_path / "a.tsv").write_text("\n".join([str(corpus), f"{lines[1]}", "slow.wav\t99999999999999\t1", lines[2]]))
    manifest = read_manifest(tmp_path / "a.tsv")
    broken = BrokenFiles("extract", manifest)
    assert len(clip_features(tiny_autoencoder(), manifest, ["mean"], broken=broken)["mean"]) == 2
    assert "a.tsv:3" in broken.reasons[1]
    assert "1 Hz" in broken.reasons[1]


def test_features_that_are_not_finite_are_refused(corpus) -> None:
    model = tiny_autoencoder(**FRAME)
    torch.nn.init.constant_(model.encoder.layers[1].fc2.bias, math.inf)
    with pytest.raises(ConfigError, match="not finite in this precision"):
        clip_features(model, read_manifest(corpus / "valid.tsv"), ["mean"])


@pytest.mark.parametrize(
    ("name", "message"), [("bands", "readout: 'bands' needs tokens of several bands"), ("max", "readout: 'max' is unk")]
)
def test_readouts_that_the_model_does_not_have_are_refused(corpus, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        clip_features(tiny_autoencoder(**FRAME), read_manifest(corpus / "valid.tsv"), ["mean", name])
