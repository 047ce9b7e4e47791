"""Training steps on torch's meta device, where a tensor left on the CPU, `.item()` and boolean indexing raise."""

from types import SimpleNamespace

import pytest
import torch
from fairseq import utils
from torch._subclasses.fake_tensor import FakeTensorMode

from mae_ast_fairseq.criterions.classification import ClassificationCriterion
from mae_ast_fairseq.criterions.pretraining import MaeAstCriterion
from mae_ast_fairseq.nn.fbank import log_mel
from tests.tiny import LABELS, padded_batch, tiny_autoencoder, tiny_batch, tiny_classifier, tiny_ssast

LENGTHS = {"equal": [96, 96, 96], "padded": [160, 96, 61]}
TRAINED = {"dropout": 0.1, "attention_dropout": 0.1, "dropout_input": 0.1, "encoder_layerdrop": 0.5}
MODELS = {
    "mae_ast": lambda: tiny_autoencoder(**TRAINED, decoder_layerdrop=0.5),
    "mae_ast in batch statistics": lambda: tiny_autoencoder(**TRAINED, normalization="batch"),
    "mae_ast with recomputed layers": lambda: tiny_autoencoder(**TRAINED, checkpoint_activations=True),
    "ssast": lambda: tiny_ssast(**TRAINED),
    "classifier": lambda: tiny_classifier(**TRAINED),
    "classifier of all layers": lambda: tiny_classifier(**TRAINED, readout="bands+max", readout_layers="all"),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def sample_for(model, lengths):
    """Return a batch as a dataset's collater makes it."""
    if hasattr(model, "head"):
        target = torch.rand(len(lengths), len(LABELS))
        own = {"net_input": padded_batch(lengths), "target": SimpleNamespace(plain=target), "ntokens": len(lengths)}
    else:
        batch = tiny_batch(model.grid, lengths)
        own = {"net_input": batch, "ntokens": batch["masked"].numel()}
    return {"id": torch.arange(len(lengths)), "num_bad_files": 0, "nsentences": len(lengths), **own}


def criterion_for(model):
    task = SimpleNamespace(cfg=SimpleNamespace(multi_label=False))
    if hasattr(model, "head"):
        return ClassificationCriterion(task, "cross_entropy")
    return MaeAstCriterion(task, 10.0, 1.0)


def to_meta(sample):
    moved = utils.apply_to_sample(lambda tensor: tensor.to("meta"), sample)
    if "target" in moved:
        moved["target"] = SimpleNamespace(plain=sample["target"].plain.to("meta"))
    return moved


def step(model, sample):
    """Take a training step and return the loss."""
    model.train()
    for module in model.modules():
        if hasattr(module, "num_updates"):
            module.num_updates = 7
    loss, _, logged = criterion_for(model)(model, sample)
    loss.backward()
    assert logged["loss"].shape == ()
    return loss


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_a_training_step_leaves_nothing_on_the_cpu_and_waits_for_nothing(kind, dtype, lengths):
    model = MODELS[kind]()
    sample = to_meta(sample_for(model, lengths))
    model = model.to("meta", dtype)
    assert step(model, sample).device.type == "meta"
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.device.type == "meta" for gradient in gradients)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_a_training_step_under_autocast_reads_no_value(kind, dtype, lengths):
    model = MODELS[kind]()
    sample = sample_for(model, lengths)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", dtype):
        assert step(model, sample).shape == ()


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["mae_ast", "ssast", "classifier of all layers"])
def test_extraction_leaves_nothing_on_the_cpu(kind, dtype, lengths):
    model = MODELS[kind]()
    batch = to_meta({"net_input": padded_batch(lengths)})["net_input"]
    states = model.to("meta", dtype).eval().hidden_states(batch["source"], batch["padding_mask"])
    assert states.features.device.type == "meta"
    assert all(layer.device.type == "meta" for layer in states.layers)


def test_frames_are_made_on_the_device_of_the_waveform():
    assert log_mel(torch.empty(2, 16_000, device="meta")).device.type == "meta"


@pytest.mark.parametrize("name", ["source", "visible", "masked_padding_mask"])
def test_a_tensor_left_on_the_cpu_is_found(name):
    model = tiny_autoencoder()
    sample = to_meta(sample_for(model, LENGTHS["padded"]))
    sample["net_input"][name] = torch.zeros_like(sample["net_input"][name], device="cpu")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        step(model.to("meta"), sample)
