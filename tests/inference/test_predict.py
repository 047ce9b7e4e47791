"""Predictions are the model's own, window by window, whatever else is predicted beside them."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from mae_ast_fairseq.config.pretraining import ClassifierFields
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.inference.predict import Clip, Prediction, classify, cut_windows, predict
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


def whole(corpus: Path) -> list[Clip]:
    return [Clip(str(path)) for path in sorted(corpus.glob("*.wav"))]


def run(model: AudioClassifier, clips: list[Clip], window: float = 10, hop: float = 10) -> list:
    return list(predict(model, clips, window_samples=int(window * SECOND), hop_samples=int(hop * SECOND)))


def alone(model: AudioClassifier, waveform: np.ndarray) -> Tensor:
    with torch.no_grad():
        return model.probabilities(model(torch.from_numpy(waveform)[None]))[0]


# --- windows


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [
        (1, [(0, 1)]),
        (10, [(0, 10)]),
        (11, [(0, 10), (1, 11)]),
        (14, [(0, 10), (4, 14)]),
        (18, [(0, 10), (4, 14), (8, 18)]),
        (20, [(0, 10), (4, 14), (8, 18), (10, 20)]),
    ],
)
def test_windows_are_a_hop_apart_and_the_last_ends_with_the_file(num_samples: int, expected) -> None:
    assert cut_windows(num_samples, 10, 4) == expected


def test_every_sample_is_in_a_window() -> None:
    for num_samples in range(1, 100):
        windows = cut_windows(num_samples, 16, 7)
        assert set().union(*(range(*window) for window in windows)) == set(range(num_samples))


# --- predictions


def test_batched_files_are_predicted_as_each_alone(corpus: Path, model: AudioClassifier) -> None:
    for clip, predictions in zip(whole(corpus), run(model, whole(corpus)), strict=True):
        waveform = load_audio(clip.path, expect_rate=None)
        ((window, probabilities),) = predictions
        assert window == (0, len(waveform))
        np.testing.assert_allclose(probabilities, alone(model, waveform), **TOLERANCE)


def test_the_order_of_files_does_not_matter(corpus: Path, model: AudioClassifier, monkeypatch) -> None:
    forth = run(model, whole(corpus))
    monkeypatch.setattr("mae_ast_fairseq.inference.predict.FILES_AT_A_TIME", 5)
    monkeypatch.setattr("mae_ast_fairseq.inference.predict.BATCH_SAMPLES", 30_000)
    back = run(model, whole(corpus)[::-1])[::-1]
    for one, other in zip(forth, back, strict=True):
        np.testing.assert_allclose(one[0].probabilities, other[0].probabilities, **TOLERANCE)


def test_probabilities_are_by_softmax_or_of_each_label_by_itself(corpus: Path) -> None:
    clips = whole(corpus)[:3]
    single, multi = (run(tiny_classifier(multi_label), clips) for multi_label in (False, True))
    for one, many in zip(single, multi, strict=True):
        p, q = one[0].probabilities.astype(np.float64), many[0].probabilities.astype(np.float64)
        assert p.sum() == pytest.approx(1, abs=1e-6)
        odds = q / (1 - q)  # e to the logits, of which softmax gives the shares
        np.testing.assert_allclose(odds / odds.sum(), p, rtol=1e-3)


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_windows_are_predicted_as_files_of_their_own(tmp_path: Path, model: AudioClassifier, rate: int) -> None:
    waveform = 0.1 * np.random.default_rng(0).standard_normal(int(2.6 * rate))
    sf.write(tmp_path / "long.wav", waveform, rate, subtype="FLOAT")
    (predictions,) = run(model, [Clip(str(tmp_path / "long.wav"))], window=1, hop=0.5)
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
    bad = [Clip(str(tmp_path / name)) for name in ("no.wav", "noise.wav", "nan.wav", "short.wav")]
    results = run(tiny_classifier(), [bad[0], good, *bad[1:], good])
    assert [isinstance(result, AudioError) for result in results] == [True, False, True, True, True, False]
    np.testing.assert_allclose(results[1][0].probabilities, results[5][0].probabilities, **TOLERANCE)
    messages = [str(results[place]) for place in (0, 2, 3, 4)]
    for clip, message in zip(bad, messages, strict=True):
        assert message.startswith(f"{clip.path}: ")
        assert "\n" not in message
    assert "there is no such file" in messages[0]
    assert "cannot be decoded" in messages[1]
    assert "NaN" in messages[2]
    assert "its 0.062 s give 0 tokens of the model; expected at least 2" in messages[3]


def test_a_window_that_cannot_be_decoded_takes_its_file_alone(tmp_path: Path) -> None:
    waveform = np.zeros(3 * SECOND)
    sf.write(tmp_path / "good.wav", waveform, SECOND, subtype="FLOAT")
    waveform[-5] = np.inf
    sf.write(tmp_path / "bad.wav", waveform, SECOND, subtype="FLOAT")
    good, bad = run(tiny_classifier(), [Clip(str(tmp_path / f"{name}.wav")) for name in ("good", "bad")], 1, 1)
    assert len(good) == 3
    assert isinstance(bad, AudioError)


def test_a_file_that_is_not_as_its_manifest_says(corpus: Path) -> None:
    path = str(whole(corpus)[0].path)
    info = sf.info(path)
    good, bad = run(
        tiny_classifier(), [Clip(path, info.frames, info.samplerate), Clip(path, info.frames + 1, info.samplerate)]
    )
    assert isinstance(good[0], Prediction)
    assert f"it has {info.frames} samples; expected {info.frames + 1}, as the manifest says" in str(bad)
