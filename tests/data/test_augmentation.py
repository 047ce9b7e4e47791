"""Augmentation: what it leaves as it is, what it changes, and how its draws are distributed."""

import numpy as np
import pytest
import torch

from mae_ast_fairseq.data.augmentation import mask_frequencies_and_times, mix, roll, smooth

LENGTHS = torch.tensor([40, 25, 10])


@pytest.fixture
def frames():
    """[3, 40, 16], 0 at padding."""
    source = torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(0)) - 5
    return source * (torch.arange(40) < LENGTHS[:, None])[..., None]


def draws_of(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((count, 4)))


def test_widths_of_zero_change_nothing(frames):
    assert torch.equal(mask_frequencies_and_times(frames, LENGTHS, draws_of(3), 0, 0), frames)


def test_a_mask_is_one_band_and_one_stretch_of_the_clips_mean(frames):
    draws = torch.tensor([[0.99, 0.5, 0.99, 0.5]] * 3)
    masked = mask_frequencies_and_times(frames, LENGTHS, draws, frequency_mask=4, time_mask=6)
    for row, (num_frames, first, width) in enumerate([(40, 17, 6), (25, 10, 6), (10, 3, 5)]):
        expected = frames[row].clone()
        mean = frames[row, :num_frames].mean()
        expected[first : first + width] = mean
        expected[:num_frames, 6:10] = mean
        torch.testing.assert_close(masked[row], expected)


def test_masks_touch_no_padding_and_leave_half_of_a_short_clip(frames):
    for seed in range(50):
        masked = mask_frequencies_and_times(frames, LENGTHS, draws_of(3, seed), 0, time_mask=100)
        for row, num_frames in enumerate(LENGTHS.tolist()):
            assert not masked[row, num_frames:].any()
            assert (masked[row] != frames[row]).any(1).sum() <= num_frames // 2


def test_a_clips_mask_does_not_depend_on_its_batch(frames):
    draws = draws_of(3)
    together = mask_frequencies_and_times(frames, LENGTHS, draws, 8, 12)
    alone = mask_frequencies_and_times(frames[1:2, :25], LENGTHS[1:2], draws[1:2], 8, 12)
    torch.testing.assert_close(together[1, :25], alone[0])


def test_widths_and_positions_are_uniform():
    count = 20_000
    source = torch.arange(10 * 8.0).view(1, 10, 8).expand(count, -1, -1) ** 2
    lengths = torch.full((count,), 10)
    changed = mask_frequencies_and_times(source, lengths, draws_of(count), 3, 0) != source
    is_masked = changed.any(1)  # [count, 8]
    widths = is_masked.sum(1)
    shares = torch.bincount(widths, minlength=4) / count
    assert (shares - 0.25).abs().max() < 4 * (0.25 * 0.75 / count) ** 0.5
    for width in (1, 2, 3):
        starts = is_masked[widths == width].int().argmax(1)
        places = 8 - width + 1
        shares = torch.bincount(starts, minlength=places) / len(starts)
        assert len(shares) == places
        assert (shares - 1 / places).abs().max() < 4.5 * (1 / places / len(starts)) ** 0.5


def test_the_largest_draw_stays_inside(frames):
    draws = torch.full((3, 4), float(np.nextafter(1.0, 0.0)), dtype=torch.float64)
    masked = mask_frequencies_and_times(frames, LENGTHS, draws, 16, 20)
    assert torch.equal(masked[0, 20:], frames[0, :40].mean().expand(20, 16))


@pytest.mark.parametrize("partner_length", [5, 8, 20])
def test_mixing_adds_shares_at_the_clips_own_length(partner_length):
    draws = np.random.default_rng(0)
    one, other = draws.standard_normal(8).astype(np.float32), draws.standard_normal(partner_length).astype(np.float32)
    before = one.copy()
    mixed = mix(one, other, fraction=0.7, position=0.5)
    start = 6 if partner_length == 20 else 0
    fitted = np.pad(other[start : start + 8], (0, max(0, 8 - partner_length)))
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed, 0.7 * one + 0.3 * fitted, atol=1e-6)
    assert np.array_equal(one, before)


def test_a_share_of_one_leaves_the_clip():
    one, other = np.arange(5, dtype=np.float32), np.ones(9, dtype=np.float32)
    assert np.array_equal(mix(one, other, 1.0, 0.3), one)


def test_rolls_are_even_over_both_directions():
    clip = np.arange(7, dtype=np.float32)
    first = [roll(clip, 2, draw)[0] for draw in np.linspace(0, 1, 5_000, endpoint=False)]
    assert np.unique(first, return_counts=True)[0].tolist() == [0, 1, 2, 5, 6]
    assert np.unique(first, return_counts=True)[1].tolist() == [1_000] * 5
    assert sorted(roll(clip, 3, 0.0)) == clip.tolist()


def test_smoothing_keeps_the_sum_of_single_labels_and_the_middle_of_many():
    targets = np.array([[0, 1, 0, 0], [0.3, 0, 0.7, 0]], dtype=np.float32)
    np.testing.assert_allclose(smooth(targets, 0.2, False), [[0.05, 0.85, 0.05, 0.05], [0.29, 0.05, 0.61, 0.05]])
    np.testing.assert_allclose(smooth(np.array([[0.0, 1.0]]), 0.2, True), [[0.1, 0.9]])
    assert np.array_equal(smooth(targets, 0.0, False), targets)
