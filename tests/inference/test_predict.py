"""Predictions are the model's own, window by window, whatever else is predicted beside them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from mae_ast_fairseq.config.pretraining import ClassifierFields
from mae_ast_fairseq.data.audio import ClipList, load_audio
from mae_ast_fairseq.data.manifest import read_manifest
from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.inference.loading import FileList
from mae_ast_fairseq.inference.predict import Prediction, classify, predict
from mae_ast_fairseq.nn.build import MODELS
from mae_ast_fairseq.nn.classifier import AudioClassifier
from tests.tiny import FRAME, PATCH, enlarge_weights

TOLERANCE = {"atol": 1e-5, "rtol": 0}
SECOND = 16_000


def tiny_classifier(multi_label: bool = False, **changes: object) -> AudioClassifier:
    """Return a classifier of 4 labels with weights in which a mistake shows, always the same."""
    fields = ClassifierFields(
        **{
            **PATCH,
            "encoder_layers": 2,
            "encoder_embed_dim": 48,
            "encoder_ffn_embed_dim": 96,
            "encoder_attention_heads": 4,
            "max_token_length": 256,
            "labels": ["bell", "dog", "rain", "siren"],
            "multi_label": multi_label,
            **changes,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS["mae_ast_classifier"].build(fields, 128)
        enlarge_weights(model)
    assert isinstance(model, AudioClassifier)
    model.batch_norm.set_statistics(-6.0, 3.0)
    return model.eval()


@pytest.fixture(params=[PATCH, FRAME], ids=["patch", "frame"])
def model(request: pytest.FixtureRequest) -> AudioClassifier:
    return tiny_classifier(**request.param)


def whole(corpus: Path) -> list[str]:
    return [str(path) for path in sorted(corpus.glob("*.wav"))]


def run(model: AudioClassifier, files: list[str] | ClipList, window: float = 10, hop: float = 10) -> list:
    clips = FileList(files) if isinstance(files, list) else files
    return list(predict(model, clips, window_samples=int(window * SECOND), hop_samples=int(hop * SECOND)))


def alone(model: AudioClassifier, waveform: np.ndarray) -> Tensor:
    with torch.no_grad():
        return model.probabilities(model(torch.from_numpy(waveform)[None]))[0]


def test_batched_files_are_predicted_as_each_alone(corpus: Path, model: AudioClassifier) -> None:
    for path, predictions in zip(whole(corpus), run(model, whole(corpus)), strict=True):
        waveform = load_audio(path, expect_rate=None)
        ((window, probabilities),) = predictions
        assert window == (0, len(waveform))
        np.testing.assert_allclose(probabilities, alone(model, waveform), **TOLERANCE)


def test_the_order_of_files_does_not_matter(corpus: Path, model: AudioClassifier, monkeypatch) -> None:
    forth = run(model, whole(corpus))
    monkeypatch.setattr("mae_ast_fairseq.inference.features.tokens_of", lambda seconds, grid: 100)
    back = run(model, whole(corpus)[::-1])[::-1]
    for one, other in zip(forth, back, strict=True):
        np.testing.assert_allclose(one[0].probabilities, other[0].probabilities, **TOLERANCE)


def test_probabilities_are_by_softmax_or_of_each_label_by_itself(corpus: Path) -> None:
    clips = whole(corpus)[:3]
    single, multi = (run(tiny_classifier(multi_label), clips) for multi_label in (False, True))
    for one, many in zip(single, multi, strict=True):
        p, q = one[0].probabilities.astype(np.float64), many[0].probabilities.astype(np.float64)
        assert p.sum() == pytest.approx(1, abs=1e-6)
        odds = q / (1 - q)  # e to the logits, of which softmax gives the fractions
        np.testing.assert_allclose(odds / odds.sum(), p, rtol=1e-3)


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_windows_are_predicted_as_files_of_their_own(tmp_path: Path, model: AudioClassifier, rate: int) -> None:
    waveform = 0.1 * np.random.default_rng(0).standard_normal(int(2.6 * rate))
    sf.write(tmp_path / "long.wav", waveform, rate, subtype="FLOAT")
    (predictions,) = run(model, [str(tmp_path / "long.wav")], window=1, hop=0.5)
    whole_file = load_audio(tmp_path / "long.wav", expect_rate=None)
    starts = [0, 8_000, 16_000, 24_000, len(whole_file) - SECOND]
    assert [window for window, _ in predictions] == [(start, start + SECOND) for start in starts]
    for window, probabilities in predictions:
        np.testing.assert_allclose(probabilities, alone(model, whole_file[slice(*window)]), atol=1e-4, rtol=0)


def test_half_precision_is_near(corpus: Path) -> None:
    clips = whole(corpus)[:4]
    exact, rounded = run(tiny_classifier(), clips), run(tiny_classifier().bfloat16(), clips)
    for one, other in zip(exact, rounded, strict=True):
        assert other[0].probabilities.dtype == np.float32
        np.testing.assert_allclose(other[0].probabilities, one[0].probabilities, atol=0.1)


def test_classify_takes_lengths_that_differ_by_a_sample(model: AudioClassifier) -> None:
    waveforms = [torch.randn(4_000), torch.randn(4_001)]
    for waveform, probabilities in zip(waveforms, classify(model, waveforms), strict=True):
        np.testing.assert_allclose(probabilities, alone(model, waveform.numpy()), **TOLERANCE)


# --- bad input


def test_broken_files_give_their_error_and_the_others_go_on(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"RIFF no audio")
    sf.write(tmp_path / "nan.wav", np.full(8_000, np.nan), SECOND, subtype="FLOAT")
    sf.write(tmp_path / "short.wav", np.zeros(1_000), SECOND)
    good = whole(corpus)[0]
    bad = [str(tmp_path / name) for name in ("no.wav", "noise.wav", "nan.wav", "short.wav")]
    results = run(tiny_classifier(), [bad[0], good, *bad[1:], good])
    assert [isinstance(result, AudioError) for result in results] == [True, False, True, True, True, False]
    np.testing.assert_allclose(results[1][0].probabilities, results[5][0].probabilities, **TOLERANCE)
    messages = [str(results[place]) for place in (0, 2, 3, 4)]
    for path, message in zip(bad, messages, strict=True):
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
    assert "there is no such file" in messages[0]
    assert "cannot be decoded" in messages[1]
    assert "NaN" in messages[2]
    assert "0.062 s of it give 0 tokens of the model; expected at least 2" in messages[3]


def test_a_window_that_cannot_be_decoded_takes_its_file_alone(tmp_path: Path) -> None:
    waveform = np.zeros(3 * SECOND)
    sf.write(tmp_path / "good.wav", waveform, SECOND, subtype="FLOAT")
    waveform[-5] = np.inf
    sf.write(tmp_path / "bad.wav", waveform, SECOND, subtype="FLOAT")
    good, bad = run(tiny_classifier(), [str(tmp_path / f"{name}.wav") for name in ("good", "bad")], 1, 1)
    assert len(good) == 3
    assert isinstance(bad, AudioError)


def test_a_file_that_is_not_as_its_manifest_says(corpus: Path, tmp_path: Path) -> None:
    path = whole(corpus)[0]
    info = sf.info(path)
    rows = [f"{path}\t{count}\t{info.samplerate}\n" for count in (info.frames, info.frames + 1)]
    (tmp_path / "a.tsv").write_text("/\n" + "".join(rows))
    good, bad = run(tiny_classifier(), read_manifest(tmp_path / "a.tsv"))
    assert isinstance(good[0], Prediction)
    assert str(bad).startswith(f"{tmp_path / 'a.tsv'}:3: {path}: ")
    assert f"it has {info.frames} samples; expected {info.frames + 1}, as the manifest says" in str(bad)
