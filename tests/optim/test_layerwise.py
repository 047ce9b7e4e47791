"""Each layer's learning rate, as Adam's first step shows it, in every precision; and the steps of the schedule."""

import copy

import pytest
import torch
from fairseq import optim
from fairseq.optim.lr_scheduler import build_lr_scheduler
from omegaconf import OmegaConf
from torch import nn

from mae_ast_fairseq.config.classification import FinetuningFields
from mae_ast_fairseq.errors import UserError
from mae_ast_fairseq.optim.layerwise import (
    check_optimizer,
    drop_frozen_gradients,
    learning_rate_scale,
    mark_parameters,
    num_decays,
)

ADAM = {"adam_betas": "(0.9,0.999)", "adam_eps": 1e-12, "weight_decay": 0.0, "lr": [0.1]}
SCALES = {"head.weight": 2.0, "encoder.layers.1.weight": 0.5, "encoder.layers.0.weight": 0.25}


def build(name="layerwise_adam", precision="float32", weight_decay=0.0):
    model = nn.Module()
    model.head = nn.Linear(2, 2, bias=False)
    model.encoder = nn.Module()
    model.encoder.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(2))
    nn.init.ones_(model.head.weight)
    for layer in model.encoder.layers:
        nn.init.ones_(layer.weight)
    model.to(getattr(torch, precision))
    mark_parameters(model, FinetuningFields(encoder_layers=2, layer_decay=0.5, head_lr_scale=2.0))
    fairseqs_own = {"tpu": False} if name == "adam" else {}
    cfg = OmegaConf.create(
        {
            "common": {"bf16": precision == "bfloat16", "fp16_no_flatten_grads": True, "fp16_scale_window": 1},
            "optimizer": {"_name": name, **ADAM, "weight_decay": weight_decay, **fairseqs_own},
            "optimization": {"update_freq": [1]},
            "distributed_training": {"distributed_world_size": 1},
        }
    )
    parameters = list(model.parameters())
    if precision == "float32":
        return model, optim.build_optimizer(cfg.optimizer, parameters)
    return model, optim.FP16Optimizer.build_optimizer(cfg, parameters)


def step(model, optimizer, frozen=False):
    """One step down a slope of 1: Adam's first step is as long as the learning rate."""
    optimizer.zero_grad()
    optimizer.backward(
        sum(parameter.sum() for name, parameter in model.named_parameters() if name in _learning(frozen))
    )
    optimizer.clip_grad_norm(0.0)
    if frozen:
        drop_frozen_gradients(optimizer)
    optimizer.step()


def _learning(frozen):
    return ["head.weight"] if frozen else list(SCALES)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_parameters_step_is_the_schedules_learning_rate_times_its_factor(precision):
    model, optimizer = build(precision=precision)
    optimizer.set_lr(0.125)
    assert optimizer.get_lr() == 0.125
    step(model, optimizer)
    for name, parameter in model.named_parameters():
        assert parameter.float().flatten().tolist() == pytest.approx([1 - 0.125 * SCALES[name]] * 4, rel=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weight_decay_leaves_what_is_frozen_alone(precision):
    model, optimizer = build(precision=precision, weight_decay=0.5)
    step(model, optimizer, frozen=True)
    assert all(torch.equal(layer.weight, torch.ones_like(layer.weight)) for layer in model.encoder.layers)
    assert (model.head.weight < 1).all()
    step(model, optimizer)
    assert all((layer.weight < 1).all() for layer in model.encoder.layers)


def test_a_loaded_state_keeps_every_layers_learning_rate():
    model, optimizer = build()
    step(model, optimizer)
    other, loaded = build()
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in (optimizer, loaded):
        one.set_lr(0.125)
    other.load_state_dict(model.state_dict())
    step(model, optimizer)
    step(other, loaded)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("field", ["layer_decay", "head_lr_scale"])
def test_another_optimizer_with_learning_rates_by_layer_is_refused(field):
    _, adam = build("adam")
    check_optimizer(adam, FinetuningFields())
    check_optimizer(build()[1], FinetuningFields(**{field: 0.5}))
    with pytest.raises(UserError, match=rf"model\.{field}: 0\.5 was given.*optimizer\._name=layerwise_adam"):
        check_optimizer(adam, FinetuningFields(**{field: 0.5}))


def test_parameters_that_cannot_be_told_apart_are_refused():
    flat = [nn.Parameter(torch.ones(4))]
    optimizer = optim.build_optimizer(OmegaConf.create({"_name": "adam", **ADAM, "tpu": False}), flat)
    with pytest.raises(UserError, match=r"common\.fp16_no_flatten_grads: false was given"):
        optim.build_optimizer(OmegaConf.create({"_name": "layerwise_adam", **ADAM}), flat)
    with pytest.raises(UserError, match=r"common\.fp16_no_flatten_grads: false.*freeze_finetune_updates=5"):
        check_optimizer(optimizer, FinetuningFields(freeze_finetune_updates=5))


def test_steps_down_are_those_of_torchs_multi_step_schedule():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(range(10, 1000, 5)), gamma=0.5)
    for epoch in range(1, 40):
        assert optimizer.param_groups[0]["lr"] == 0.5 ** num_decays(epoch, start=10, interval=5)
        optimizer.step()
        schedule.step()


def test_the_schedule_warms_up_by_updates_and_steps_down_by_epochs():
    _, optimizer = build()
    fields = {"warmup_updates": 4, "decay_start": 1, "decay_interval": 2, "decay_factor": 0.5, "lr": [0.1]}
    schedule = build_lr_scheduler(OmegaConf.create({"_name": "step_decay", **fields}), optimizer)
    schedule.step_begin_epoch(1)
    assert [schedule.step_update(update) for update in range(6)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    rates = []
    for epoch in range(1, 7):
        schedule.step_begin_epoch(epoch)
        rates.append(schedule.step_update(100))
    assert rates == pytest.approx([0.1, 0.05, 0.05, 0.025, 0.025, 0.0125])


@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_the_learning_rate_falls_from_the_head_downwards(layer_norm_first):
    names = {
        "head.weight": 3.0,
        "encoder.layers.2.fc1.weight": 0.5,
        "encoder.layers.1.self_attn.q_proj.bias": 0.25,
        "encoder.layers.0.fc2.bias": 0.125,
        "encoder.layer_norm.weight": 1.0 if layer_norm_first else 0.0625,
        "post_extract_proj.weight": 0.0625,
        "positions.table": 0.0625,
    }
    fields = FinetuningFields(encoder_layers=3, layer_norm_first=layer_norm_first, layer_decay=0.5, head_lr_scale=3.0)
    assert {name: learning_rate_scale(name, fields) for name in names} == names
