"""The classifier pools and scores the encoder's features; padding and the batch do not matter."""

import pytest
import torch

from mae_ast_fairseq import fbank
from mae_ast_fairseq.config import ClassifierFields
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.build import MODELS
from mae_ast_fairseq.nn.encoder import mean_pool
from tests.tiny import FRAME, LABELS, NUM_BANDS, PADDING_VALUE, PATCH, TINY, alone, padded_batch, tiny_classifier

LENGTHS = (100, 64, 47)  # frames
OVERLAP = {**PATCH, "ast_kernel_stride_chan": 10, "ast_kernel_stride_time": 10}


@pytest.mark.parametrize("grid", [PATCH, FRAME, OVERLAP], ids=["patch", "frame", "overlapping"])
@pytest.mark.parametrize(("positions", "max_token_length"), [("sinusoidal", 256), ("learned", 264), ("learned", 24)])
def test_logits_of_a_clip_do_not_depend_on_its_batch(grid: dict, positions: str, max_token_length: int) -> None:
    model = tiny_classifier(**grid, positions=positions, max_token_length=max_token_length)
    batch = padded_batch(LENGTHS)
    together = model(**batch)
    assert together.shape == (3, len(LABELS))
    for row in range(3):
        torch.testing.assert_close(together[row], model(**alone(batch, row))[0], atol=1e-5, rtol=1e-5)


def test_logits_are_the_heads_of_the_mean_feature() -> None:
    model, batch = tiny_classifier(), padded_batch((64, 64))
    features = model.extract_features(**batch).features
    expected = features.mean(dim=1) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(**batch), expected)


def test_a_waveform_gives_the_logits_of_its_log_mel_frames() -> None:
    waveform = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    model = tiny_classifier()
    torch.testing.assert_close(model(waveform), model(fbank.log_mel(waveform)))


def test_pooling_leaves_padding_out() -> None:
    features = torch.randn(2, 5, 3)
    padding_mask = torch.tensor([[False] * 5, [False, False, True, True, True]])
    features[padding_mask] = PADDING_VALUE
    expected = torch.stack([features[0].mean(0), features[1, :2].mean(0)])
    torch.testing.assert_close(mean_pool(features, padding_mask), expected)
    torch.testing.assert_close(mean_pool(features[:1]), expected[:1])


def test_half_precision_is_summed_in_float32() -> None:
    features = torch.full((1, 1000, 1), 1.0078125, dtype=torch.bfloat16)
    for mask in (None, torch.zeros(1, 1000, dtype=torch.bool)):
        pooled = mean_pool(features, mask)
        assert pooled.dtype is torch.float32
        assert pooled.item() == 1.0078125


@pytest.mark.parametrize(
    ("multi_label", "expected"), [(False, [[0.25, 0.75]]), (True, [[0.5, 0.75]])], ids=["single", "multi"]
)
def test_probabilities_are_of_one_class_among_all_or_of_each(multi_label: bool, expected: list) -> None:
    logits = torch.tensor([[1.0, 3.0]]).log()
    probabilities = tiny_classifier(multi_label=multi_label).probabilities(logits.double())
    torch.testing.assert_close(probabilities, torch.tensor(expected))


def test_dropout_of_the_pooled_features_acts_while_training() -> None:
    model, batch = tiny_classifier(head_dropout=0.5), padded_batch((64, 64))
    assert model(**batch).equal(model(**batch))
    model.train()
    assert not model(**batch).equal(model(**batch))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": []}, "model.labels: there are none"),
        ({"positions": "rotary"}, "model.positions: 'rotary' is unknown; expected one of learned, none, sinusoidal"),
        ({"head_dropout": 1.0}, "model.head_dropout: 1.0 was given"),
    ],
)
def test_a_wrong_field_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        MODELS["mae_ast_classifier"].build(ClassifierFields(**{**TINY, "labels": LABELS, **changes}), NUM_BANDS)
    assert message in str(error.value)
