"""The registered classifier: frozen for its first updates, and the same for a clip whatever it is batched with."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.models import MODEL_REGISTRY

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.models.mae_ast_classifier import MaeAstClassifierConfig, MaeAstClassifierModel
from tests.finetuning import TINY
from tests.tiny import FRAME, NUM_BANDS, PATCH, alone, enlarge_weights, padded_batch

LABELS = ["a", "b", "c", "d", "e"]
READ_OUT = [
    {},
    {"readout_layers": "1,2"},
    {"readout": "bands+max", "readout_layers": "all"},
    {"readout": "mean+std", "readout_layers": "all"},
]


def build(**changes):
    cfg = MaeAstClassifierConfig(**{**PATCH, **TINY, "labels": LABELS, "max_token_length": 64, **changes})
    torch.manual_seed(0)
    model = MaeAstClassifierModel.build_model(cfg, SimpleNamespace(cfg=SimpleNamespace(feature_dim=NUM_BANDS)))
    enlarge_weights(model)
    model.batch_norm.set_statistics(-6.0, 3.0)
    return model


def test_is_registered_under_its_name():
    assert MODEL_REGISTRY["mae_ast_classifier"] is MaeAstClassifierModel


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("read_out", READ_OUT, ids=str)
def test_a_clips_logits_do_not_depend_on_its_batch(positions, read_out):
    model = build(positions=positions, encoder_layers=3, **read_out).eval()
    batch = padded_batch([170, 90, 40, 32])  # the first has more columns than positions are learned
    logits = model(**batch)
    assert logits.shape == (4, len(LABELS))
    for row in range(4):
        torch.testing.assert_close(model(**alone(batch, row))[0], logits[row], atol=1e-5, rtol=0)


def test_patches_may_overlap():
    model = build(
        ast_kernel_stride_chan=10, ast_kernel_stride_time=10, positions="learned", max_token_length=120
    ).eval()
    assert model.extract_features(**padded_batch([46])).features.shape[1] == 12 * 4


def gradients(model, num_updates):
    model.train()
    model.set_num_updates(num_updates)
    model(**padded_batch([60, 40])).square().sum().backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("read_out", READ_OUT, ids=str)
def test_a_frozen_encoder_gets_no_gradient_until_its_update(read_out):
    model = build(freeze_finetune_updates=3, **read_out)
    assert gradients(model, 2) == {"head.weight", "head.bias"}
    assert gradients(model, 3) == {name for name, _ in model.named_parameters()}


def test_a_frozen_encoder_is_in_evaluation_mode_and_the_head_is_not():
    dropping = {"dropout": 0.5, "attention_dropout": 0.5, "encoder_layerdrop": 0.5}
    model = build(freeze_finetune_updates=3, head_dropout=0.5, **dropping).train()
    batch = padded_batch([60, 40])
    model.set_num_updates(0)
    expected = build().eval().extract_features(**batch).features
    assert torch.equal(model.extract_features(**batch).features, expected)
    assert model.training and model.encoder.training
    assert not torch.equal(model(**batch), model(**batch))
    model.set_num_updates(3)
    assert not torch.equal(model.extract_features(**batch).features, expected)


def test_a_frozen_encoder_is_in_evaluation_mode_where_several_layers_are_read_out():
    dropping = {"dropout": 0.5, "attention_dropout": 0.5, "encoder_layerdrop": 0.5}
    read_out = {"readout": "bands+max", "readout_layers": "all"}
    model = build(freeze_finetune_updates=3, **read_out, **dropping).train()
    batch = padded_batch([60, 40])
    model.set_num_updates(0)
    expected = build(**read_out).eval()
    assert torch.equal(model(**batch), expected(**batch))
    states = zip(model.hidden_states(**batch).layers, expected.hidden_states(**batch).layers, strict=True)
    assert all(torch.equal(layer, other) for layer, other in states)
    assert model.training and model.encoder.training
    model.set_num_updates(3)
    assert not torch.equal(model(**batch), expected(**batch))


def test_readout_and_layers_are_as_configured():
    model = build(readout="mean+max", readout_layers="2,1").eval()
    batch = padded_batch([60, 60])
    layers = [model.extract_features(**batch, output_layer=number).features for number in (2, 1)]
    clip = torch.cat([value for layer in layers for value in (layer.mean(dim=1), layer.amax(dim=1))], dim=-1)
    torch.testing.assert_close(model(**batch), model.head(clip), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_decay": 0.0}, r"model\.layer_decay: 0.0 was given"),
        ({"layer_decay": 1.5}, r"model\.layer_decay: 1.5 was given"),
        ({"head_lr_scale": 0.0}, r"model\.head_lr_scale: 0.0 was given"),
        ({"freeze_finetune_updates": -1}, r"model\.freeze_finetune_updates: -1 was given"),
        ({"labels": []}, r"model\.labels: there are none"),
        ({"positions": "fixed"}, r"model\.positions: 'fixed' is unknown"),
        ({"readout": "max"}, r"model\.readout: 'max' is unknown"),
        ({"readout": "bands", **FRAME}, r"model\.readout: 'bands' needs tokens of several bands"),
        ({"readout_layers": "3"}, r"model\.readout_layers: 3 was given; the model has layers 1 to 2"),
    ],
)
def test_a_wrong_field_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**changes)
