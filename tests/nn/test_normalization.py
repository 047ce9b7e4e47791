"""Normalisation by dataset, batch or utterance leaves padding out and its buffers in float32."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mae_ast_fairseq.nn.normalization import NORMALIZATIONS, InputNormalization, UnsetStatisticsError
from tests.tiny import padded_batch

LENGTHS = (30, 17, 9)
MODES = sorted(NORMALIZATIONS)


def normalization(statistics: str, mean: float = -5.3, std: float = 3.1) -> InputNormalization:
    module = NORMALIZATIONS[statistics]()
    module.set_statistics(mean, std)
    return module


def torch_batch_norm() -> nn.BatchNorm2d:
    """Return what the authors' model has: BatchNorm of one channel without weights."""
    return nn.BatchNorm2d(num_features=1, affine=False)


@pytest.fixture
def batches() -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [shift + 3 * torch.randn(3, 20, 128, generator=draws) for shift in (-6.0, -4.0, -7.5)]


def test_batch_mode_equals_torch_batch_norm_in_training_and_evaluation(batches) -> None:
    ours, theirs = NORMALIZATIONS["batch"]().train(), torch_batch_norm().train()
    for frames in batches:
        torch.testing.assert_close(ours(frames), 0.5 * theirs(frames[:, None])[:, 0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), atol=1e-6, rtol=1e-6)
    ours.eval(), theirs.eval()
    frames = batches[0]
    torch.testing.assert_close(ours(frames), 0.5 * theirs(frames[:, None])[:, 0], atol=1e-6, rtol=1e-6)
    assert int(ours.num_batches_tracked) == len(batches)


def test_batch_statistics_are_those_of_the_valid_frames() -> None:
    batch = padded_batch(LENGTHS)
    valid = batch["source"][~batch["padding_mask"]]  # [frames, F]
    ours, theirs = NORMALIZATIONS["batch"]().train(), torch_batch_norm().train()
    normalised = ours(**{"frames": batch["source"], "padding_mask": batch["padding_mask"]})
    expected = 0.5 * theirs(valid[None, None])[0, 0]
    torch.testing.assert_close(normalised[~batch["padding_mask"]], expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(dict(ours.state_dict()), dict(theirs.state_dict()), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_utterance_mode_gives_each_clip_mean_0_and_deviation_one_half(training: bool) -> None:
    batch = padded_batch(LENGTHS)
    normalised = normalization("utterance").train(training)(batch["source"], batch["padding_mask"])
    for row, length in enumerate(LENGTHS):
        clip = batch["source"][row, :length].double()
        expected = 0.5 * (clip - clip.mean()) / (clip.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(normalised[row, :length], expected.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_dataset_mode_uses_the_values_that_were_set_and_leaves_them(training: bool, batches) -> None:
    module = normalization("dataset", mean=-5.3, std=3.1).train(training)
    before = copy.deepcopy(module.state_dict())
    expected = 0.5 * (batches[0] + 5.3) / (3.1**2 + 1e-5) ** 0.5
    torch.testing.assert_close(module(batches[0]), expected, atol=1e-6, rtol=1e-6)
    assert all(before[name].equal(value) for name, value in module.state_dict().items())


def test_dataset_mode_refuses_to_run_before_its_values_are_set(batches) -> None:
    module = NORMALIZATIONS["dataset"]()
    assert not module.is_set
    with pytest.raises(UnsetStatisticsError, match=r"model\.normalization: dataset .* never set"):
        module(batches[0])


def test_a_checkpoint_sets_the_values(batches) -> None:
    module = NORMALIZATIONS["dataset"]()
    module.load_state_dict(normalization("dataset").state_dict())
    assert module.is_set
    assert module(batches[0]).equal(normalization("dataset")(batches[0]))


def test_a_checkpoint_from_before_the_first_update_does_not() -> None:
    module = normalization("dataset")
    module.load_state_dict(NORMALIZATIONS["dataset"]().state_dict())
    assert not module.is_set


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("training", [True, False])
def test_content_of_padding_never_matters(mode: str, training: bool) -> None:
    batch = padded_batch(LENGTHS)
    source, padding_mask = batch["source"], batch["padding_mask"]
    results = []
    for padding_value in (0.0, 1e6):
        module = normalization(mode).train(training)
        frames = source.masked_fill(padding_mask[..., None], padding_value)
        results.append((module(frames, padding_mask)[~padding_mask], *module.state_dict().values()))
    assert all(first.equal(second) for first, second in zip(*results, strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_buffers_keep_their_type_and_bits_under_casts(mode: str, cast: str) -> None:
    module = nn.Sequential(normalization(mode, mean=-4.2677393, std=4.5689974))
    before = copy.deepcopy(module.state_dict())
    getattr(module, cast)()
    after = module.state_dict()
    assert after["0.running_mean"].dtype is after["0.running_var"].dtype is torch.float32
    assert all(before[name].equal(value) for name, value in after.items())


def test_buffers_move_to_another_device() -> None:
    module = normalization("dataset").to("meta", torch.float16)
    assert {buffer.device.type for buffer in module.buffers()} == {"meta"}
    assert module.running_mean.dtype is torch.float32


@pytest.mark.parametrize("mode", MODES)
def test_input_is_not_changed(mode: str, batches) -> None:
    before = batches[0].clone()
    normalization(mode).train()(batches[0])
    assert batches[0].equal(before)


@pytest.mark.parametrize("mode", MODES)
def test_inverse_gives_back_what_was_normalised(mode: str, batches) -> None:
    module, frames = normalization(mode).eval(), batches[0]
    restored = module.inverse(module(frames)[:, :13], frames)
    torch.testing.assert_close(restored, frames[:, :13], atol=1e-5, rtol=1e-5)
