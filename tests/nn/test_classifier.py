"""The classifier reads the encoder's features out and scores them; padding and the batch do not matter."""

import pytest
import torch
from torch import Tensor

from mae_ast_fairseq.config.pretraining import ClassifierFields
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn import fbank
from mae_ast_fairseq.nn.build import MODELS
from mae_ast_fairseq.nn.classifier import AudioClassifier
from mae_ast_fairseq.nn.readout import READOUTS, possible_readouts
from tests.tiny import FRAME, LABELS, NUM_BANDS, PATCH, TINY, alone, padded_batch, tiny_classifier

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


@pytest.mark.parametrize(
    ("grid", "readout"),
    [
        *((PATCH, readout) for readout in READOUTS),
        *((FRAME, readout) for readout in possible_readouts(1)),
        (OVERLAP, "bands+max"),
    ],
)
def test_logits_of_any_readout_do_not_depend_on_the_batch(grid: dict, readout: str) -> None:
    model = tiny_classifier(**grid, readout=readout, readout_layers="all")
    batch = padded_batch(LENGTHS)
    together = model(**batch)
    for row in range(3):
        torch.testing.assert_close(together[row], model(**alone(batch, row))[0], atol=1e-4, rtol=1e-5)


def test_logits_are_the_heads_of_the_mean_feature() -> None:
    model, batch = tiny_classifier(), padded_batch((64, 64))
    features = model.extract_features(**batch).features
    expected = features.mean(dim=1) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(**batch), expected)


def by_hand(model: AudioClassifier, batch: dict, layers: list[int | None], row: int) -> Tensor:
    """Return the logits [K] of a clip from the mean and maximum over the time columns of the layers, in a loop."""
    found = []
    for layer in layers:
        features, padding_mask = model.extract_features(**batch, output_layer=layer)
        tokens = features[row] if padding_mask is None else features[row][~padding_mask[row]]
        columns = torch.stack([column.flatten() for column in tokens.split(model.grid.rows)])
        found += [columns.mean(dim=0), columns.max(dim=0).values]
    return model.head.weight @ torch.cat(found) + model.head.bias


@pytest.mark.parametrize("layer_norm_first", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, (64, 64)])
@pytest.mark.parametrize(
    ("readout_layers", "layers"), [("last", [None]), ("all", [1, 2, 3]), ("3,1", [3, 1]), ("2", [2]), (2, [2])]
)
def test_logits_are_the_heads_of_what_is_read_out(readout_layers, layers, lengths, layer_norm_first: bool) -> None:
    changes = {"readout": "bands+max", "readout_layers": readout_layers, "layer_norm_first": layer_norm_first}
    model, batch = tiny_classifier(**changes), padded_batch(lengths)
    assert model.head.in_features == len(layers) * 2 * 8 * 48
    logits = model(**batch)
    for row in range(len(lengths)):
        torch.testing.assert_close(logits[row], by_hand(model, batch, layers, row), atol=1e-4, rtol=1e-5)


def test_layer_drop_acts_alike_where_several_layers_are_read_out() -> None:
    model = tiny_classifier(readout="bands+max", readout_layers="all", encoder_layerdrop=0.5)
    batch = padded_batch((64, 64))
    whole = model(**batch)
    model.train()
    num_changed = 0
    for num_updates in range(6):
        model.set_num_updates(num_updates)
        logits = model(**batch)
        torch.testing.assert_close(logits[1], by_hand(model, batch, [1, 2, 3], 1), atol=1e-4, rtol=1e-5)
        num_changed += not torch.allclose(logits, whole)
    assert num_changed > 0


def test_a_waveform_gives_the_logits_of_its_log_mel_frames() -> None:
    waveform = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(0))
    model = tiny_classifier()
    torch.testing.assert_close(model(waveform), model(fbank.log_mel(waveform)))


@pytest.mark.parametrize(
    ("multi_label", "expected"), [(False, [[0.25, 0.75]]), (True, [[0.5, 0.75]])], ids=["single", "multi"]
)
def test_probabilities_are_of_one_class_among_all_or_of_each(multi_label: bool, expected: list) -> None:
    logits = torch.tensor([[1.0, 3.0]]).log()
    probabilities = tiny_classifier(multi_label=multi_label).probabilities(logits.double())
    torch.testing.assert_close(probabilities, torch.tensor(expected))


def test_dropout_of_what_is_read_out_acts_while_training() -> None:
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
        ({"readout": "max"}, "model.readout: 'max' is unknown; expected one of mean, mean+max, mean+std, bands, "),
        ({"readout": "bands", **FRAME}, "model.readout: 'bands' needs tokens of several bands, and the model's span"),
        ({"readout": "bands+max", **FRAME}, "model.readout: 'bands+max' needs tokens of several bands"),
        ({"readout_layers": "0"}, "model.readout_layers: 0 was given; the model has layers 1 to 3"),
        ({"readout_layers": "2,9"}, "model.readout_layers: 2,9 was given; the model has layers 1 to 3"),
        ({"readout_layers": "foo"}, "model.readout_layers: foo was given; the model has layers 1 to 3"),
    ],
)
def test_a_wrong_field_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        MODELS["mae_ast_classifier"].build(ClassifierFields(**{**TINY, "labels": LABELS, **changes}), NUM_BANDS)
    assert message in str(error.value)
