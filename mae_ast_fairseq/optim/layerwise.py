"""The optimiser and the schedule of fine-tuning: Adam with a learning rate for each layer, and SSAST's steps."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II
from torch import nn

from mae_ast_fairseq.config.classification import FinetuningFields
from mae_ast_fairseq.config.pretraining import POSITIVE, check_ranges, option
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.optim.fused_adam import FusedAdam, FusedAdamConfig
from mae_ast_fairseq.training_error import without_traceback

HEAD = "head."
"""What the names of the parameters of a classifier's head begin with."""

FROZEN = "frozen"
"""`param_group` of parameters that are left as they are for the first updates."""

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


def learning_rate_scale(name: str, fields: FinetuningFields) -> float:
    """Return the factor of the learning rate of a parameter (layer-wise decay, as in BEiT and MAE).

    The head has `head_lr_scale`, the last encoder layer `layer_decay`, each layer below it the same fraction of the one
    above, and what comes before the first layer (projection, positions, the input's LayerNorm) once more.
    """
    if name.startswith(HEAD):
        return fields.head_lr_scale
    if layer := _LAYER.match(name):
        return fields.layer_decay ** (fields.encoder_layers - int(layer[1]))
    if fields.layer_norm_first and name.startswith("encoder.layer_norm."):
        return 1.0  # it stands at the encoder's end, where the head is
    return fields.layer_decay ** (fields.encoder_layers + 1)


def mark_parameters(model: nn.Module, fields: FinetuningFields) -> None:
    """Write on each parameter the factor of its learning rate, and whether it may be frozen: all but the head's.

    fairseq's attributes: its half precision optimisers hand them on to the float32 copies that they train.
    """
    for name, parameter in model.named_parameters():
        scale = learning_rate_scale(name, fields)
        parameter.optim_overrides = {"optimizer": {"lr_scale": scale}}  # type: ignore[attr-defined]
        parameter.param_group = HEAD if name.startswith(HEAD) else FROZEN  # type: ignore[attr-defined]


def drop_frozen_gradients(optimizer: FairseqOptimizer) -> None:
    """Leave out of the next step what is frozen: with a gradient of zero, weight decay would still change it."""
    for parameter in optimizer.params:
        if getattr(parameter, "param_group", None) == FROZEN:
            parameter.grad = None


def check_optimizer(optimizer: FairseqOptimizer, fields: FinetuningFields) -> None:
    """Raise ConfigError where the model's fields ask of the optimiser what it cannot do."""
    scales = {"model.layer_decay": fields.layer_decay, "model.head_lr_scale": fields.head_lr_scale}
    if "lr_scale" not in optimizer.param_groups[0]:
        for name, scale in scales.items():
            if scale != 1:
                raise ConfigError(
                    f"{name}: {scale} was given with an optimizer of one learning rate for all; "
                    "set optimizer._name=layerwise_adam"
                )
    if fields.freeze_finetune_updates > 0 and not all(hasattr(each, "param_group") for each in optimizer.params):
        raise ConfigError(
            f"common.fp16_no_flatten_grads: false was given with model.freeze_finetune_updates="
            f"{fields.freeze_finetune_updates}, which needs to tell encoder and head apart; set it to true"
        )


@dataclass
class LayerwiseAdamConfig(FusedAdamConfig):
    """Fields of the `layerwise_adam` optimiser: those of `fused_adam`."""


@register_optimizer("layerwise_adam", dataclass=LayerwiseAdamConfig)
class LayerwiseAdam(FusedAdam):
    """The fused Adam that gives each parameter the schedule's learning rate times the factor that is written on it."""

    @without_traceback
    def __init__(self, cfg: LayerwiseAdamConfig, params: Iterable[Any]):
        groups = defaultdict(list)
        for parameter in params:
            overrides = getattr(parameter, "optim_overrides", None)
            if overrides is None:
                raise ConfigError(
                    "common.fp16_no_flatten_grads: false was given with optimizer._name=layerwise_adam, which needs to "
                    "tell the layers apart; set common.fp16_no_flatten_grads=true"
                )
            groups[overrides["optimizer"]["lr_scale"]].append(parameter)
        super().__init__(cfg, [{"params": group, "lr_scale": scale} for scale, group in groups.items()])


@dataclass
class StepDecayConfig(FairseqDataclass):
    """Fields of the `step_decay` schedule."""

    warmup_updates: int = option(0, "updates in which the learning rate rises to its peak")
    decay_start: int = option(10, "epochs at the peak before the first step down")
    decay_interval: int = option(5, "epochs between two steps down", POSITIVE)
    decay_factor: float = option(0.5, "learning rate after a step, as a fraction of before", POSITIVE)
    lr: list[float] = field(default=II("optimization.lr"), metadata={"help": "the peak; optimization.lr"})


def num_decays(epoch: int, start: int, interval: int) -> int:
    """Count the steps down before an epoch (counted from 1): after `start` epochs, and then every `interval`."""
    return 0 if epoch <= start else (epoch - 1 - start) // interval + 1


@register_lr_scheduler("step_decay", dataclass=StepDecayConfig)
class StepDecaySchedule(FairseqLRScheduler):
    """The schedule of AST and SSAST: a linear warm-up in updates, and steps down in epochs."""

    @without_traceback
    def __init__(self, cfg: StepDecayConfig, optimizer: FairseqOptimizer):
        super().__init__(cfg, optimizer)
        check_ranges("lr_scheduler", StepDecayConfig, cfg)
        self.peak = cfg.lr[0] if isinstance(cfg.lr, Collection) else cfg.lr
        self.epoch = 1

    def step_begin_epoch(self, epoch: int) -> float:
        """Take note of the epoch that begins."""
        self.epoch = epoch
        return self.optimizer.get_lr()

    def step_update(self, num_updates: int) -> float:
        """Set the learning rate of the next update, after `num_updates` of them."""
        warmup_factor = min(1.0, (num_updates + 1) / self.cfg.warmup_updates) if self.cfg.warmup_updates > 0 else 1.0
        decays = num_decays(self.epoch, self.cfg.decay_start, self.cfg.decay_interval)
        self.optimizer.set_lr(self.peak * warmup_factor * self.cfg.decay_factor**decays)
        return self.optimizer.get_lr()
