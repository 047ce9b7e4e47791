"""Audio of another scale, and channels that cancel, are warned of once, and nothing else is."""

import threading

import numpy as np
import pytest
import soundfile as sf
import torch

from mae_ast_fairseq import levels
from mae_ast_fairseq.data.audio import load_audio
from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.inference.encoder import load_pretrained

RATE = 16_000


@pytest.fixture(autouse=True)
def warnings(monkeypatch, caplog) -> list[str]:
    """A process that has warned of nothing yet; what it says."""
    monkeypatch.setattr(levels, "_warned_of_scale", threading.Lock())
    monkeypatch.setattr(levels, "_warned_of_cancelling", set())
    caplog.set_level("WARNING", levels.__name__)
    return caplog.messages


def noise(peak: float) -> np.ndarray:
    values = np.random.default_rng(0).standard_normal(RATE)
    return peak * values / np.abs(values).max()


def write(path, *channels: np.ndarray):
    sf.write(path, np.stack(channels, axis=1), RATE, subtype="FLOAT")
    return path


def test_a_file_of_another_scale_is_named_once_with_its_peak(tmp_path, caplog) -> None:
    for name in ("a.wav", "b.wav"):
        load_audio(write(tmp_path / name, noise(30_123)))
    (message,) = caplog.messages
    expected = f"{tmp_path / 'a.wav'}: samples reach 30123: a scale of 16 bits; divide by 32768"
    assert message.startswith(expected)


def test_peaks_of_float_files_a_little_above_1_are_no_reason(tmp_path, caplog) -> None:
    load_audio(write(tmp_path / "a.wav", noise(1.2)))
    model = load_pretrained("tiny")
    model(torch.from_numpy(noise(1.49)).float())
    assert caplog.messages == []


@pytest.mark.parametrize("way", ["forward", "encode", "extract_features"])
def test_waveforms_of_another_scale_are_warned_of_once(way: str, caplog) -> None:
    model = load_pretrained("tiny")
    waveform = torch.from_numpy(noise(8_000)).float()[None]
    call = model.encoder.extract_features if way == "extract_features" else getattr(model, way)
    for _ in range(2):
        call(waveform)
    (message,) = caplog.messages
    assert message.startswith("source: samples reach 8000: a scale of 16 bits; divide by 32768")


def test_padding_is_not_looked_at_and_training_neither(caplog) -> None:
    encoder = load_pretrained("tiny").encoder
    waveform = torch.from_numpy(noise(0.5)).float()[None].repeat(2, 1)
    waveform[1, 8_000:] = 1e4
    is_padding = torch.zeros(2, RATE, dtype=torch.bool)
    is_padding[1, 8_000:] = True
    encoder.extract_features(waveform, is_padding)
    encoder.train()
    encoder.extract_features(waveform)
    assert caplog.messages == []


def test_integers_are_one_line() -> None:
    model = load_pretrained("tiny")
    integers = torch.zeros(1, RATE, dtype=torch.int16)
    for call in (model, model.encode, model.encoder.extract_features):
        with pytest.raises(AudioError, match=r"int16.*expected floating point.*divide 16-bit samples by 32768"):
            call(integers)


@pytest.mark.parametrize(("rest", "mean"), [(0, "silence"), (0.01, "-6")])
def test_a_file_whose_channels_cancel_is_named_once(tmp_path, caplog, rest: float, mean: str) -> None:
    path = write(tmp_path / "a.wav", noise(0.5), (rest - 1) * noise(0.5))
    for _ in range(2):
        load_audio(path)
    (message,) = caplog.messages
    assert message.startswith(f"{path}: its channels cancel: -")
    assert f" dBFS each, {mean}" in message


def test_other_channels_do_not_cancel(tmp_path, caplog) -> None:
    load_audio(write(tmp_path / "a.wav", noise(0.5), noise(0.4)))
    load_audio(write(tmp_path / "b.wav", noise(0.5), 0 * noise(0.5)))
    load_audio(write(tmp_path / "c.wav", 0 * noise(0.5), 0 * noise(0.5)))
    assert caplog.messages == []


def test_only_the_first_files_whose_channels_cancel_are_named(caplog) -> None:
    wave = noise(0.5).astype(np.float32)
    for number in range(40):
        levels.warn_of_cancelling(f"{number}.wav", np.stack([wave, -wave], axis=1), 0 * wave)
    assert len(caplog.messages) == levels.MAX_SHOWN + 1
    assert caplog.messages[-1].endswith("further such files are not reported")


def test_the_files_of_real_tools_are_named(cases, caplog) -> None:
    for name in ("reference_plain.wav", "wav_float_scaled_int16.wav", "wav_antiphase_stereo.wav"):
        load_audio(cases / name)
    scaled, cancelling = caplog.messages
    assert scaled.startswith(f"{cases / 'wav_float_scaled_int16.wav'}: samples reach 23331: a scale of 16 bits")
    assert f"{cases / 'wav_antiphase_stereo.wav'}: its channels cancel: -18.1 dBFS each, silence" in cancelling
