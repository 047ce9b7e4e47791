import numpy as np
import pytest
import torch

from mae_ast_fairseq.data.collate import crop_start, crop_to_shortest, waveforms_to_frames
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.tokens import TokenGrid

GRID = TokenGrid(feature_dim=128, kernel=(16, 16), stride=(16, 16))


@pytest.fixture
def waveforms():
    draws = np.random.default_rng(0)
    return [draws.standard_normal(n).astype(np.float32) * 0.1 for n in (16_000, 9_000, 5_500)]


def test_crop_starts_are_even_and_stay_inside():
    starts = [crop_start(10, 4, position) for position in np.linspace(0, 1, 7_000, endpoint=False)]
    assert np.array_equal(np.bincount(starts), np.full(7, 1_000))


def test_crop_to_shortest_cuts_a_slice_at_each_clips_position(waveforms):
    cropped = crop_to_shortest(waveforms, [0.0, 0.5, 0.9])
    assert [len(waveform) for waveform in cropped] == [5_500] * 3
    assert np.array_equal(cropped[0], waveforms[0][:5_500])
    assert np.array_equal(cropped[1], waveforms[1][1_750:7_250])
    assert np.array_equal(cropped[2], waveforms[2])


def test_frames_of_a_padded_clip_equal_those_of_the_clip_alone(waveforms):
    frames = waveforms_to_frames(waveforms, GRID)
    for row, waveform in enumerate(waveforms):
        alone = fbank.log_mel(torch.from_numpy(waveform))
        torch.testing.assert_close(frames.source[row, : len(alone)], alone, atol=1e-5, rtol=0)
        assert frames.num_tokens[row] == GRID.num_tokens(len(alone))


def test_padding_starts_where_a_clips_whole_frames_end(waveforms):
    frames = waveforms_to_frames(waveforms, GRID)
    for row, waveform in enumerate(waveforms):
        num_frames = fbank.num_frames(len(waveform))
        expected = torch.arange(frames.source.shape[1]) >= num_frames
        assert torch.equal(frames.padding_mask[row], expected)
        assert not frames.source[row, num_frames:].any()


def test_clips_of_one_length_have_no_padding_mask(waveforms):
    assert waveforms_to_frames([waveforms[0], -waveforms[0]], GRID).padding_mask is None
