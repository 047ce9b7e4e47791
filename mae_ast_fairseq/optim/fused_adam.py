"""The fairseq optimiser `fused_adam`: Adam with decoupled weight decay in one kernel, on CPU as on CUDA.

fairseq's own `adam` makes a dozen passes over weights and moments on a CPU, and on CUDA is fused only where apex is
installed. This one differs in the first updates alone: epsilon is added after the bias correction (Kingma & Ba 2015,
algorithm 1), not before.
"""

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II

from mae_ast_fairseq.config.pretraining import option
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.training_error import without_traceback


@dataclass
class FusedAdamConfig(FairseqDataclass):
    """Fields of the `fused_adam` optimiser; those of fairseq's `adam`."""

    adam_betas: str = option("(0.9,0.98)", "decay rates of the two moments, as in (0.9,0.98)")
    adam_eps: float = option(1e-6, "added to the root of the second moment")
    weight_decay: float = option(0.0, "fraction of a weight, times lr, that an update takes")
    lr: list[float] = field(default=II("optimization.lr"), metadata={"help": "learning rate; optimization.lr"})


class _FusedAdamW(torch.optim.AdamW):
    """torch's AdamW, which tells fairseq that it may keep all weights in one tensor."""

    supports_memory_efficient_fp16 = False
    supports_flat_params = True


@register_optimizer("fused_adam", dataclass=FusedAdamConfig)
class FusedAdam(FairseqOptimizer):
    """Adam with decoupled weight decay, fused; a group of weights may have an `lr_scale` of its own."""

    @without_traceback
    def __init__(self, cfg: FusedAdamConfig, params: Iterable[Any]):
        super().__init__(cfg)
        self._optimizer = _FusedAdamW(params, fused=True, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """The arguments of torch's optimiser; those of a checkpoint give way to them."""
        return {
            "lr": float(self.cfg.lr[0]),
            "betas": parse_betas(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    def load_state_dict(
        self, state_dict: dict[str, Any], optimizer_overrides: Optional[Mapping[str, Any]] = None
    ) -> None:
        """Take over a checkpoint's moments, but not its decay rates, epsilon and weight decay: the config's hold.

        The learning rate is the schedule's to set.
        """
        settings = {name: value for name, value in self.optimizer_config.items() if name != "lr"}
        super().load_state_dict(state_dict, {**settings, **(optimizer_overrides or {})})

    def set_lr(self, lr: float) -> None:
        """Set the learning rate, times each group's `lr_scale`."""
        for group in self.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)

    def get_lr(self) -> float:
        """Return the learning rate before any group's `lr_scale`."""
        group = self.param_groups[0]
        return group["lr"] / group.get("lr_scale", 1.0)


def parse_betas(text: str) -> tuple[float, float]:
    """Return the two numbers of `optimizer.adam_betas`; raises ConfigError where they are not in [0, 1)."""
    try:
        first, second = (float(value) for value in ast.literal_eval(str(text)))
    except (ValueError, SyntaxError, TypeError):
        first = second = -1.0
    if not (0 <= first < 1 and 0 <= second < 1):
        raise ConfigError(
            f"optimizer.adam_betas: {text!r} was given; expected two numbers of at least 0 and less than 1, as in "
            "(0.9,0.98)"
        )
    return first, second
