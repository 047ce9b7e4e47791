import copy

import pytest
import torch
from fairseq import utils
from fairseq.logging import metrics
from torch.utils._python_dispatch import TorchDispatchMode

from mae_ast_fairseq.criterions.pretraining import MaeAstCriterion
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.losses import info_nce, reconstruction_error
from tests.training import SMALL, build


@pytest.fixture(scope="module")
def parts(corpus):
    """A task with its training data, model and criterion, on padded batches."""
    task, model, criterion = build(
        "mae_ast_tiny", f"task.data={corpus}", "task.pad_audio=true", "common.bf16=false", *SMALL
    )
    task.load_dataset("train")
    task.begin_epoch(1, model)
    return task, model, criterion


def batch_of(task, indices):
    dataset = task.dataset("train")
    return dataset.collater([dataset[index] for index in indices])


def gradients(model, criterion, batches):
    """The gradient of the update over some batches, as the trainer forms it: summed, then by sample_size."""
    model = copy.deepcopy(model)
    total = 0
    for batch in batches:
        loss, sample_size, _ = criterion(model, batch)
        loss.backward()
        total += sample_size
    return {name: parameter.grad / total for name, parameter in model.named_parameters()}


def test_the_loss_is_the_weighted_sum_over_masked_tokens(parts):
    task, model, criterion = parts
    batch = batch_of(task, range(5))
    loss, sample_size, logged = criterion(model, batch)
    predictions = model(**batch["net_input"])
    error = reconstruction_error(*predictions[:3:2], predictions.padding_mask).sum()
    nce = info_nce(*predictions[1:4])
    assert sample_size == batch["ntokens"] == int((~predictions.padding_mask).sum())
    assert float(loss.detach()) == pytest.approx(float(10 * error + nce.loss.sum()), rel=1e-6)
    assert float(logged["loss_recon"]) == pytest.approx(float(error), rel=1e-6)
    assert float(logged["loss_info_nce"]) == pytest.approx(float(nce.loss.sum()), rel=1e-6)
    assert int(logged["num_retrieved"]) == int(nce.correct.sum())


def test_two_half_batches_give_the_gradient_of_the_whole_one(parts):
    task, model, criterion = parts
    whole = gradients(model, criterion, [batch_of(task, range(8))])
    halves = gradients(model, criterion, [batch_of(task, range(4)), batch_of(task, range(4, 8))])
    for name, gradient in whole.items():
        torch.testing.assert_close(halves[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("weights", "idle_head"),
    [((0.0, 1.0), "final_proj_reconstruction"), ((10.0, 0.0), "final_proj_classification")],
)
def test_a_loss_of_weight_zero_is_logged_and_teaches_nothing(parts, weights, idle_head):
    task, model, _ = parts
    model = copy.deepcopy(model)
    batch = batch_of(task, range(4))
    loss, _, logged = MaeAstCriterion(task, *weights)(model, batch)
    loss.backward()
    has_gradient = {name: parameter.grad is not None for name, parameter in model.named_parameters()}
    assert not any(has for name, has in has_gradient.items() if name.startswith(idle_head))
    assert all(has for name, has in has_gradient.items() if not name.startswith(idle_head))
    assert float(logged["loss_recon"]) > 0
    assert float(logged["loss_info_nce"]) > 0


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 1.0), (10.0, -0.5), (float("nan"), 1.0)])
def test_wrong_weights_are_an_error_that_names_the_field(weights):
    with pytest.raises(ConfigError, match=r"criterion\.(reconstruction|classification)_weight"):
        MaeAstCriterion(None, *weights)


def test_metrics_are_means_over_masked_tokens_in_natural_units():
    logged = [
        {"loss": 30.0, "loss_recon": 2.0, "loss_info_nce": 10.0, "num_retrieved": 3, "num_batches": 1,
         "num_frames": 80, "num_padded_frames": 8, "num_bad_files": 1, "nsentences": 1, "sample_size": 10},
        {"loss": 90.0, "loss_recon": 6.0, "loss_info_nce": 30.0, "num_retrieved": 5, "num_batches": 1,
         "num_frames": 120, "num_padded_frames": 0, "num_bad_files": 0, "nsentences": 3, "sample_size": 30},
    ]  # fmt: skip
    with metrics.aggregate(new_root=True) as aggregate:
        MaeAstCriterion.reduce_metrics(logged)
    assert aggregate.get_smoothed_values() == {
        "loss": 3.0, "loss_recon": 0.2, "loss_info_nce": 1.0, "info_nce_accuracy": 0.2, "info_nce_chance": 0.1,
        "masked_tokens": 20, "padding_share": 0.04, "bad_files": 1,
    }  # fmt: skip


def test_fillers_alone_log_nothing():
    with metrics.aggregate(new_root=True) as aggregate:
        MaeAstCriterion.reduce_metrics([{}])
    assert aggregate.get_smoothed_values() == {}


def test_chance_is_the_share_that_guessing_retrieves(parts):
    task, model, criterion = parts
    batch = batch_of(task, range(6))
    num_masked = (~batch["net_input"]["masked_padding_mask"]).sum(dim=1)
    expected = (1 / num_masked).repeat_interleave(num_masked).mean()  # each token guesses among its utterance's
    with metrics.aggregate(new_root=True) as aggregate:
        MaeAstCriterion.reduce_metrics([criterion(model, batch)[2]])
    assert aggregate.get_smoothed_values()["info_nce_chance"] == pytest.approx(float(expected), abs=1e-4)


class CountOperations(TorchDispatchMode):
    """Keeps the name of every operation that torch dispatches."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(str(operation))
        return operation(*args, **(kwargs or {}))


def operations_of_a_step(parts, batch_size):
    task, model, criterion = parts
    batch = batch_of(task, list(range(batch_size)))
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.Adam(model.parameters())
    with CountOperations() as counted:
        loss, _, _ = criterion(model, batch)
        loss.backward()
        optimizer.step()
    return counted.names


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_dispatches_as_many_operations_whatever_the_batch(parts, precision):
    task, model, criterion = parts
    parts = (task, copy.deepcopy(model).to(getattr(torch, precision)), criterion)
    few, many = operations_of_a_step(parts, 4), operations_of_a_step(parts, 32)
    assert len(few) == len(many) > 100


def test_a_step_never_waits_for_a_value_of_the_device(parts):
    task, model, criterion = parts
    batch = batch_of(task, range(8))
    with CountOperations() as counted:
        loss, _, _ = criterion(copy.deepcopy(model).train(), batch)
        loss.backward()
    waiting = ("_local_scalar_dense", "nonzero", "index.Tensor_bool", "masked_select", "equal.default")
    assert not [name for name in counted.names if any(word in name for word in waiting)]


def test_targets_under_bf16_equal_those_of_float32_to_the_bit(parts):
    task, model, _ = parts
    batch = batch_of(task, range(6))
    cast = utils.apply_to_sample(lambda t: t.to(torch.bfloat16) if t.dtype is torch.float32 else t, batch)
    expected = model(**batch["net_input"]).target
    target = copy.deepcopy(model).to(torch.bfloat16)(**cast["net_input"]).target
    assert torch.equal(target, expected)


def test_losses_under_bf16_are_float32_and_near_those_of_float32(parts):
    task, model, criterion = parts
    batch = batch_of(task, range(6))
    expected, _, _ = criterion(model, batch)
    loss, _, logged = criterion(copy.deepcopy(model).to(torch.bfloat16), batch)
    assert loss.dtype is logged["loss_info_nce"].dtype is torch.float32
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=0.02)


def test_what_is_logged_has_the_same_types_with_and_without_padding(parts):
    # fairseq adds up numbers and tensors of the processes in separate messages, of which each has to hold the same
    task, model, criterion = parts
    logged = [criterion(model, batch_of(task, indices))[2] for indices in (range(4), [3])]
    types = [{name: torch.is_tensor(value) for name, value in output.items()} for output in logged]
    assert types[0] == types[1]
