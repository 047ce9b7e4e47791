"""The filterbank against recorded Kaldi values, a plain float64 computation and itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from mae_ast_fairseq.errors import AudioError
from mae_ast_fairseq.nn.fbank import (
    FRAME_LENGTH,
    SAMPLE_RATE,
    _bank_parts,
    _window,
    log_mel,
    mel_banks,
    num_frames,
)

FLOOR = np.log(np.finfo(np.float32).eps)
CLIPS = ["speech_a", "speech_b", "one_frame", "silence", "noise"]


def synthetic_sound(num_samples: int = 6_400, offset: float = 0.05) -> NDArray[np.float32]:
    """Make a rising tone in soft noise on a constant offset, [S]."""
    seconds = np.arange(num_samples) / SAMPLE_RATE
    tone = 0.3 * np.sin(2 * np.pi * (200 + 4_000 * seconds) * seconds)
    noise = 0.02 * np.random.default_rng(0).standard_normal(num_samples)
    return (tone + noise + offset).astype(np.float32)


def kaldi_by_the_book(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the filterbank frame by frame and band by band in float64, as Kaldi documents it."""
    samples = waveform.astype(np.float64)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    mel = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)
    lowest, highest = 1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8_000 / 700)
    step = (highest - lowest) / 129
    rows = []
    for start in range(0, len(samples) - 399, 160):
        frame = samples[start : start + 400]
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.append(frame[0], frame[:-1])
        power = np.abs(np.fft.rfft(frame * window, 512)) ** 2
        heights = [1 - np.abs(mel - (lowest + (band + 1) * step)) / step for band in range(128)]
        energies = [np.sum(power[:256] * np.maximum(height, 0)[:256]) for height in heights]
        rows.append(np.log(np.maximum(energies, np.finfo(np.float32).eps)))
    return np.array(rows)


@pytest.mark.parametrize("clip", CLIPS)
def test_agrees_with_recorded_values(golden: Path, clip: str) -> None:
    values = np.load(golden / "fbank.npz")
    recorded = values[f"{clip}_kaldi"]
    frames = log_mel(torch.from_numpy(values[f"{clip}_wav"])).numpy()
    error = np.abs(frames - recorded)
    assert frames.shape == recorded.shape
    # The recording itself is up to 2.2e-4 away from a float64 computation, where single bins nearly cancel.
    assert error.max() < 5e-4
    assert np.quantile(error, 0.999) < 1e-4


def test_silence_is_exactly_the_floor() -> None:
    frames = log_mel(torch.zeros(3_200)).numpy()
    np.testing.assert_array_equal(frames, np.full((18, 128), np.float32(FLOOR)))


def test_agrees_with_a_plain_float64_computation() -> None:
    sound = synthetic_sound()
    frames = log_mel(torch.from_numpy(sound)).numpy()
    error = np.abs(frames - kaldi_by_the_book(sound))
    assert error.max() < 2e-3  # the faintest band has e^-18 of the power of the tone: float32 ends there
    assert np.quantile(error, 0.99) < 1e-4


def test_ignores_a_constant_offset() -> None:
    centered, shifted = synthetic_sound(offset=0.0), synthetic_sound(offset=0.25)
    frames = [log_mel(torch.from_numpy(sound)) for sound in (centered, shifted)]
    torch.testing.assert_close(frames[0], frames[1], rtol=0, atol=5e-3)


def test_a_tone_peaks_in_the_band_centered_on_it() -> None:
    seconds = torch.arange(SAMPLE_RATE, dtype=torch.float64) / SAMPLE_RATE
    mel = 1127 * np.log(1 + np.array([20.0, 1_000.0, 8_000.0]) / 700)
    band = round((mel[1] - mel[0]) / (mel[2] - mel[0]) * 129) - 1
    loudest = log_mel(torch.sin(2 * torch.pi * 1_000 * seconds)).argmax(dim=-1)
    torch.testing.assert_close(loudest, torch.full((98,), band))


def test_a_batch_gives_what_its_clips_give_alone() -> None:
    sounds = torch.stack([torch.from_numpy(synthetic_sound(offset=x)) for x in (0.0, 0.1, -0.2, 0.3)])
    frames = log_mel(sounds.unflatten(0, (2, 2)))
    alone = torch.stack([log_mel(sound) for sound in sounds]).unflatten(0, (2, 2))
    torch.testing.assert_close(frames, alone, rtol=0, atol=1e-6)


def test_gives_the_same_bits_on_one_thread_and_on_two() -> None:
    sound = torch.from_numpy(synthetic_sound(160_000))
    num_threads = torch.get_num_threads()
    try:
        frames = []
        for count in (1, 2):
            torch.set_num_threads(count)
            frames.append(log_mel(sound))
    finally:
        torch.set_num_threads(num_threads)
    assert torch.equal(frames[0], frames[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_computes_in_float32_whatever_the_input(dtype: torch.dtype) -> None:
    sound = torch.from_numpy(synthetic_sound()).to(dtype)
    torch.testing.assert_close(log_mel(sound), log_mel(sound.float()), rtol=0, atol=0)


def test_computes_in_float32_under_autocast() -> None:
    sound = torch.from_numpy(synthetic_sound())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        frames = log_mel(sound)
    assert torch.equal(frames, log_mel(sound))


@pytest.mark.parametrize("num_mel_bins", [1, 5, 40, 80, 128, 1_000])
def test_groups_of_filters_hold_every_weight_once(num_mel_bins: int) -> None:
    groups = _bank_parts(num_mel_bins, torch.device("cpu"))
    padded = [F.pad(banks, (0, 0, bins.start, 257 - bins.stop)) for bins, banks in groups]
    assert torch.equal(torch.cat(padded, dim=1), mel_banks(num_mel_bins))


def test_leaves_its_input_as_it_was() -> None:
    sound = torch.from_numpy(synthetic_sound())
    before = sound.clone()
    log_mel(sound)
    assert torch.equal(sound, before)


def test_first_use_in_inference_mode_does_not_spoil_training() -> None:
    cpu = torch.device("cpu")
    _bank_parts.cache_clear()
    _window.cache_clear()
    with torch.inference_mode():
        log_mel(torch.zeros(FRAME_LENGTH))
    cached = [_window(cpu), *(banks for _, banks in _bank_parts(128, cpu))]
    assert [tensor.is_inference() for tensor in cached] == [False] * 5


@pytest.mark.parametrize("num_samples", [400, 559, 560, 719, 720, 16_000])
def test_num_frames_is_what_log_mel_gives(num_samples: int) -> None:
    assert log_mel(torch.zeros(num_samples)).shape == (num_frames(num_samples), 128)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_num_frames_takes_arrays(kind) -> None:
    lengths = [0, 1, 239, 240, 399, 400, 559, 560, 160_000]
    expected = [0, 0, 0, 0, 0, 1, 1, 2, 998]
    assert num_frames(kind(lengths)).tolist() == expected
    assert [num_frames(length) for length in lengths] == expected


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (torch.zeros(2, 399), r"found 399 samples, expected at least 400 .*pad it"),
        (torch.zeros(400, dtype=torch.int16), r"found torch.int16, .*divide 16-bit samples by 32768"),
        (torch.tensor(0.0), r"found 0 samples"),
    ],
)
def test_refuses_what_is_not_a_clip(waveform: torch.Tensor, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        log_mel(waveform)
