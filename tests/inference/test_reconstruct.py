"""`reconstruct` scores what the criterion scores, and puts predictions at masked tokens only."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mae_ast_fairseq.data.masking import STRATEGIES, Mask, Masking, Strategy, num_visible
from mae_ast_fairseq.errors import AudioError, ConfigError
from mae_ast_fairseq.inference.reconstruct import Reconstruction, reconstruct
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder
from mae_ast_fairseq.nn.losses import info_nce, reconstruction_error
from mae_ast_fairseq.nn.normalization import NORMALIZATIONS
from tests.tiny import FRAME, PATCH, golden_values, load_autoencoder, log_mel_like, tiny_autoencoder

NUM_FRAMES = 107  # whole tokens of neither grid
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(params=[PATCH, FRAME], ids=["patch", "frame"])
def grid(request: pytest.FixtureRequest) -> dict[str, int]:
    return request.param


@pytest.fixture
def model(grid) -> MaskedAutoencoder:
    return tiny_autoencoder(**grid, normalization="dataset")


@pytest.fixture
def frames() -> Tensor:
    return log_mel_like(NUM_FRAMES, 128)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mask_of(model: MaskedAutoencoder, mask_type: str = "random_mask", ratio: float = 0.75, seed: int = 0) -> Mask:
    columns = model.grid.num_columns(NUM_FRAMES)
    return Masking(mask_type, ratio).draw(model.grid.rows, columns, rng(seed))


def visible_tokens(model: MaskedAutoencoder, result: Reconstruction) -> np.ndarray:
    """Return the tokens all of whose values are marked visible."""
    patches = model.grid.patchify(result.visible[None])[0]  # [L, P]
    assert (patches.all(dim=1) == patches.any(dim=1)).all()
    return np.flatnonzero(patches.all(dim=1))


@pytest.mark.parametrize("mask_type", sorted(STRATEGIES))
def test_scores_are_the_criterions_on_the_same_mask(model, frames, mask_type: str) -> None:
    visible, masked = (torch.from_numpy(tokens)[None] for tokens in mask_of(model, mask_type))
    predictions = model(frames[None], None, visible, masked)
    nce = info_nce(predictions.classification, predictions.target)
    result = reconstruct(model, frames, Masking(mask_type, 0.75), rng())
    assert result.mse == reconstruction_error(predictions.reconstruction, predictions.target).mean().item()
    assert result.info_nce == nce.loss.mean().item()
    assert result.accuracy == pytest.approx(nce.correct.sum().item() / masked.shape[1])
    assert result.chance == 1 / masked.shape[1]
    assert result.baseline == pytest.approx(predictions.target.square().mean().item())


@pytest.mark.parametrize("kind", ["patch", "frame"])
def test_predictions_stand_where_the_released_model_has_them(golden, kind: str) -> None:
    values, model = golden_values(golden, kind), load_autoencoder(golden / f"released_{kind}_random.pt")
    mask = Mask(*(np.sort(values[f"eval_{part}"][1].numpy()) for part in ("visible", "masked")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STRATEGIES, "random_mask", Strategy(lambda *_: mask))
        result = reconstruct(model, values["pretrain_fbank"][1], Masking("random_mask", 0.75), rng())
    normalised = model.patches(result.reconstructed[None])[0]
    torch.testing.assert_close(normalised[mask.masked], values["eval_recon"][1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("normalization", sorted(NORMALIZATIONS))
def test_predictions_come_back_as_log_mel_values(grid, frames, normalization: str) -> None:
    model = tiny_autoencoder(**grid, normalization=normalization)
    result = reconstruct(model, frames, Masking("random_mask", 0.75), rng())
    mean, std = (frames.mean(), frames.std(correction=0)) if normalization == "utterance" else (-6.0, 3.0)
    error = ((result.reconstructed - result.original) * 0.5 / std)[~result.visible]
    assert error.square().mean().item() == pytest.approx(result.mse, rel=1e-4)
    normalised = (result.original - mean) * 0.5 / std
    assert normalised[~result.visible].square().mean().item() == pytest.approx(result.baseline, rel=1e-4)


def test_what_was_visible_is_the_original_to_the_bit(model, frames) -> None:
    result = reconstruct(model, frames, Masking("chunk_mask", 0.75), rng())
    assert result.original.equal(frames[: len(result.original)])
    assert result.reconstructed[result.visible].equal(result.original[result.visible])
    assert (result.reconstructed != result.original)[~result.visible].float().mean() > 0.99


def test_a_trailing_part_of_a_token_is_dropped(model, frames) -> None:
    result = reconstruct(model, frames, Masking("random_mask", 0.75), rng())
    times = model.grid.kernel[1]
    assert len(result.original) == NUM_FRAMES // times * times
    assert result.original.shape == result.visible.shape == result.reconstructed.shape


@pytest.mark.parametrize("mask_type", sorted(STRATEGIES))
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.95])
def test_ratio_and_strategy_are_respected(model, frames, mask_type: str, ratio: float) -> None:
    result = reconstruct(model, frames, Masking(mask_type, ratio), rng(1))
    seen = visible_tokens(model, result)
    assert seen.tolist() == mask_of(model, mask_type, ratio, seed=1).visible.tolist()
    assert len(seen) == num_visible(model.grid.num_tokens(NUM_FRAMES), ratio)


def test_the_length_of_spans_is_respected(frames) -> None:
    model = tiny_autoencoder(**FRAME, normalization="dataset")
    one, many = (reconstruct(model, frames, Masking("chunk_mask", 0.5, n), rng()) for n in (1, 26))
    changes = [int((result.visible[1:, 0] != result.visible[:-1, 0]).sum()) for result in (one, many)]
    assert changes[0] > 15
    assert changes[1] <= 8


def test_the_same_draws_give_the_same_bits(model, frames) -> None:
    first, again, other = (reconstruct(model, frames, Masking("random_mask", 0.75), rng(seed)) for seed in (0, 0, 1))
    assert first.reconstructed.equal(again.reconstructed)
    assert first[3:] == again[3:]
    assert not first.visible.equal(other.visible)


def test_training_mode_changes_nothing_and_is_restored(grid, frames) -> None:
    model = tiny_autoencoder(**grid, normalization="batch", dropout=0.5, dropout_input=0.5, encoder_layerdrop=0.9)
    expected = reconstruct(model, frames, Masking("random_mask", 0.75), rng())
    buffers = [buffer.clone() for buffer in model.buffers()]
    result = reconstruct(model.train(), frames, Masking("random_mask", 0.75), rng())
    assert model.training
    assert result.reconstructed.equal(expected.reconstructed)
    assert all(buffer.equal(before) for buffer, before in zip(model.buffers(), buffers, strict=True))


def test_nothing_is_kept_for_a_gradient(model, frames) -> None:
    assert not reconstruct(model, frames, Masking("random_mask", 0.75), rng()).reconstructed.requires_grad


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_leaves_the_original_in_float32(model, frames, precision: torch.dtype) -> None:
    expected = reconstruct(model, frames, Masking("random_mask", 0.75), rng())
    result = reconstruct(model.to(precision), frames, Masking("random_mask", 0.75), rng())
    assert result.original.equal(expected.original)
    assert result.baseline == expected.baseline
    assert result.mse == pytest.approx(expected.mse, rel=0.05)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, float("nan")])
def test_a_ratio_outside_0_to_1_is_refused(model, frames, ratio: float) -> None:
    with pytest.raises(ConfigError, match=f"found {ratio}, expected a fraction of masked tokens"):
        reconstruct(model, frames, Masking("random_mask", ratio), rng())


def test_an_unknown_strategy_is_refused(model, frames) -> None:
    with pytest.raises(ConfigError, match="mask_type: 'retain_spans' is unknown; expected one of chunk_mask, "):
        reconstruct(model, frames, Masking("retain_spans", 0.75), rng())


@pytest.mark.parametrize(("grid", "num_frames"), [(PATCH, 15), (FRAME, 3)], indirect=["grid"])
def test_a_clip_of_fewer_than_two_tokens_is_refused(model, frames, num_frames: int) -> None:
    with pytest.raises(AudioError, match=f"the clip has {num_frames} frames of 10 ms, [01] tokens"):
        reconstruct(model, frames[:num_frames], Masking("random_mask", 0.75), rng())


@pytest.mark.parametrize(("grid", "num_frames"), [(PATCH, 16), (FRAME, 4)], indirect=["grid"])
def test_the_shortest_clip_is_masked_and_seen(model, frames, num_frames: int) -> None:
    result = reconstruct(model, frames[:num_frames], Masking("random_mask", 0.5), rng())
    assert result.visible.float().mean() == 0.5
