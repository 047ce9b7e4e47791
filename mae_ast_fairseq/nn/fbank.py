"""Log-Mel filterbank in torch, batched, equal to Kaldi's: the front end of training, inference and commands.

A forked process may hang here, as in any computation of torch's with several threads, once the thread that forked it
has done one, a spectrum or not: GNU OpenMP does not survive a fork (9 of 16 hung). `torch.set_num_threads(1)` in the
new process prevents it, which torch's loader workers do first: none of 2,100 hung, forked after or during spectra.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.nn.autocast import without_autocast

SAMPLE_RATE = 16_000  # Hz
FRAME_LENGTH = 400  # samples, 25 ms
FRAME_SHIFT = 160  # samples, 10 ms
NUM_MEL_BINS = 128
FFT_LENGTH = 512  # the next power of two, as Kaldi's round_to_power_of_two
PREEMPHASIS = 0.97
LOW_FREQUENCY, HIGH_FREQUENCY = 20.0, 8_000.0  # Hz
BLOCK_FRAMES = 512  # computed at a time on a CPU
LOG_FLOOR = torch.finfo(torch.float32).eps  # of the Mel power, before the logarithm


def num_frames(num_samples: Any) -> Any:
    """Count the whole frames in a clip (Kaldi's snip_edges); 0 when it is shorter than one window.

    num_samples: an int, or a NumPy array or tensor of integers; the result is of the same kind.
    """
    count = (num_samples - FRAME_LENGTH) // FRAME_SHIFT + 1
    return count * (count > 0)


def log_mel(waveform: Tensor, num_mel_bins: int = NUM_MEL_BINS) -> Tensor:
    """Compute log-Mel frames as Kaldi's compute-fbank-feats does, without dither and energy.

    waveform: [..., S] floating point in [-1, 1], 16 kHz, on any device; computed in float32 whatever its
        type or the autocast state.

    Returns [..., T, F] float32, T = num_frames(S), F = num_mel_bins: natural logarithms of power, without
    gradient. Raises AudioError for a clip shorter than a window or not in floating point, ConfigError for a
    number of bands below 1.
    """
    if num_mel_bins < 1:
        raise ConfigError(f"feature_dim: found {num_mel_bins}, expected a number of Mel bands, such as 128")
    _check_waveform(waveform)
    with torch.no_grad(), without_autocast(waveform):
        waveform = waveform.to(torch.float32)
        clips = waveform.reshape(-1, waveform.shape[-1])  # [..., S] -> [N, S]
        frames = clips.new_empty(len(clips), num_frames(clips.shape[1]), num_mel_bins)  # [N, T, F]
        for block, samples in _blocks(clips, frames):
            _write_log_mel(block, _power_spectrum(samples, _window(clips.device)))
        return frames.view(*waveform.shape[:-1], *frames.shape[1:])


def _blocks(clips: Tensor, frames: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut [N, T, F] frames into blocks, each with the samples of [N, S] that it needs.

    On a CPU a block's buffers stay in the cache and are used again by the next: a batch takes a quarter of the
    time that it takes at once.
    """
    num_clips, num_columns, _ = frames.shape
    length = BLOCK_FRAMES if clips.device.type == "cpu" else max(1, num_clips * num_columns)
    num_rows = max(1, length // num_columns)
    for row in range(0, num_clips, num_rows):
        for first in range(0, num_columns, length):
            block = frames[row : row + num_rows, first : first + length]
            begin, num_samples = first * FRAME_SHIFT, (block.shape[1] - 1) * FRAME_SHIFT + FRAME_LENGTH
            yield block, clips[row : row + num_rows, begin : begin + num_samples]


def _write_log_mel(block: Tensor, power: Tensor) -> None:
    """Fill a block [N, T, F] with the logarithm of its Mel power, from the power spectrum [N, T, 257]."""
    first_band = 0
    for bins, banks in _bank_parts(block.shape[-1], block.device):
        block[..., first_band : first_band + banks.shape[1]] = power[..., bins] @ banks
        first_band += banks.shape[1]
    block.clamp_(min=LOG_FLOOR).log_()


def _check_waveform(waveform: Tensor) -> None:
    """Refuse integer samples and clips shorter than one window."""
    if not waveform.is_floating_point():
        raise AudioError(
            f"waveform: found {waveform.dtype}, expected floating point in [-1, 1]; "
            "divide 16-bit samples by 32768, or read the file with dtype float32"
        )
    num_samples = waveform.shape[-1] if waveform.dim() else 0
    if num_samples < FRAME_LENGTH:
        raise AudioError(
            f"waveform: found {num_samples} samples, expected at least {FRAME_LENGTH} (25 ms at 16 kHz) on "
            "the last axis; drop the clip, pad it, or check that the axes are [..., samples]"
        )


def _power_spectrum(waveform: Tensor, window: Tensor) -> Tensor:
    """Turn each frame into its power spectrum, [..., S] -> [..., T, 257]; needs no_grad.

    Kaldi removes a frame's mean, then pre-emphasises the frame on its own, its first sample being its own
    predecessor. The window is zero at a frame's ends, so that sample never counts: pre-emphasis runs once
    over the clip, the offset comes off after it, scaled as pre-emphasis scales a constant, and only the inner
    398 samples of a frame are touched. Large buffers are reused and let go early: fresh memory costs as much as
    the arithmetic.
    """
    offsets = waveform.unfold(-1, FRAME_LENGTH, FRAME_SHIFT).mean(-1, keepdim=True)  # [..., T, 1]
    emphasised = torch.sub(waveform[..., 1:-1], waveform[..., :-2], alpha=PREEMPHASIS)  # [..., S - 2]
    frames = emphasised.unfold(-1, FRAME_LENGTH - 2, FRAME_SHIFT)  # [..., T, 398], a view
    padded = waveform.new_zeros(*frames.shape[:-1], FFT_LENGTH)
    inner = padded[..., 1 : FRAME_LENGTH - 1]
    torch.sub(frames, offsets, alpha=1 - PREEMPHASIS, out=inner).mul_(window[1:-1])
    spectrum = torch.fft.rfft(padded)  # [..., T, 257]
    del padded, inner
    return spectrum.real.square().add_(spectrum.imag.square())  # four times faster than abs() ** 2


@lru_cache(maxsize=32)
def _window(device: torch.device) -> Tensor:
    """Return Kaldi's own window, a Hann window to the power 0.85: [FRAME_LENGTH] in float32."""
    with torch.inference_mode(False):  # a cached tensor outlives the mode it was made in
        window = torch.hann_window(FRAME_LENGTH, periodic=False, dtype=torch.float64).pow(0.85)
        return window.to(device, torch.float32)


def mel_banks(num_mel_bins: int = NUM_MEL_BINS) -> Tensor:
    """Return the triangular filters on Kaldi's Mel scale, 1127 ln(1 + f / 700); [257, F] in float32.

    The triangles are even in Mel, not in Hz, and are not normalised to equal area. Computed in float32 in
    Kaldi's order: in float64 the narrow low bands come out up to 1e-4 different in the logarithm.
    """
    low, high = (1127 * math.log(1 + hertz / 700) for hertz in (LOW_FREQUENCY, HIGH_FREQUENCY))
    edges = low + torch.arange(num_mel_bins + 2, dtype=torch.float32) * ((high - low) / (num_mel_bins + 1))
    left, center, right = edges[:-2], edges[1:-1], edges[2:]  # [F] each, in Mel
    hertz = torch.arange(FFT_LENGTH // 2 + 1, dtype=torch.float32)[:, None] * (SAMPLE_RATE / FFT_LENGTH)
    mels = 1127 * torch.log(1 + hertz / 700)  # [257, 1]
    banks = torch.minimum((mels - left) / (center - left), (right - mels) / (right - center)).clamp(min=0)
    banks[-1] = 0  # Kaldi leaves the Nyquist bin out
    return banks


@lru_cache(maxsize=32)
def _bank_parts(num_mel_bins: int, device: torch.device) -> list[tuple[slice, Tensor]]:
    """Cut the filters into four groups of bands, each with the range of FFT bins that it reads.

    A filter reads few bins, so the full product is mostly with zeros: in groups it takes a third of the time.
    """
    parts = []
    with torch.inference_mode(False):
        for banks in mel_banks(num_mel_bins).split(math.ceil(num_mel_bins / 4), dim=1):  # [257, F / 4]
            used = banks.any(dim=1).nonzero().flatten().tolist() or [0]
            bins = slice(used[0], used[-1] + 1)
            parts.append((bins, banks[bins].to(device).contiguous()))
    return parts
