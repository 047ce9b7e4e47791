"""One training step as fairseq takes it, in the parts that are timed: forward, backward, optimiser; and inference."""

from collections.abc import Sequence
from typing import Any, Optional

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mae_ast_fairseq.benchmark.cases import ModelKey, build_model
from mae_ast_fairseq.benchmark.recipes import Recipe
from mae_ast_fairseq.config.pretraining import PretrainingCriterionFields
from mae_ast_fairseq.criterions.pretraining import MaeAstCriterion
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.optim.fused_adam import parse_betas

LEARNING_RATE = 1e-8
"""So small that noise for input trains nothing: the time of an update does not depend on it."""


class BenchmarkModel:
    """A model with its criterion and optimiser.

    The optimiser is fairseq's Adam (decoupled weight decay) in torch's fused form; below float32 it keeps weights of
    float32 beside the model's, as fairseq does. With `weights_of`, weights and optimiser are those of another trainee
    of the same recipe and precision. Raises ConfigError where the recipe's criterion cannot be built.
    """

    masters: list[Tensor]
    """the float32 weights that the optimiser sees"""
    optimizer: torch.optim.Optimizer

    def __init__(
        self, recipe: Recipe, key: ModelKey, device: torch.device, weights_of: Optional["BenchmarkModel"] = None
    ):
        self.model = build_model(recipe, key, device)
        if weights_of is not None:
            for own, other in zip(self.model.modules(), weights_of.model.modules(), strict=True):
                own._parameters.update(other._parameters)
        self.criterion = build_criterion(recipe)
        self.parameters: list[Tensor] = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.is_float32 = all(parameter.dtype is torch.float32 for parameter in self.parameters)
        if weights_of is not None:
            self.masters = weights_of.masters
            self.optimizer = weights_of.optimizer
        else:
            self.masters = self.parameters if self.is_float32 else [p.detach().float().clone() for p in self.parameters]
            self.optimizer = _adam(recipe, self.masters, device)
        self.clip_norm = float(recipe.config.optimization.get("clip_norm", 0.0))

    def forward(self, sample: dict[str, Any]) -> Tensor:
        """Return the summed loss of a batch."""
        return self.criterion(self.model, sample)[0]

    def update(self, sample: dict[str, Any]) -> None:
        """Take the mean of the gradients, clip them, and let the optimiser step."""
        gradients = self._gradients()
        torch._foreach_mul_(gradients, 1 / sample["ntokens"])
        if self.clip_norm > 0:
            nn.utils.clip_grad_norm_(self.masters, self.clip_norm)
        self.optimizer.step()
        if not self.is_float32:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.masters)

    def _gradients(self) -> list[Tensor]:
        """Return the float32 gradients, after those of the model were copied to them where it has others."""
        if not self.is_float32:
            for master in self.masters:
                if master.grad is None:
                    master.grad = torch.empty_like(master)
            torch._foreach_copy_(gradients_of(self.masters), gradients_of(self.parameters))
        return gradients_of(self.masters)

    def infer(self, sample: dict[str, Any]) -> Tensor:
        """Return the features of the clips of a batch, nothing masked."""
        self.model.eval()
        try:
            with torch.no_grad():
                return self.model.extract_features(sample["net_input"]["source"])[0]  # type: ignore[operator]
        finally:
            self.model.train()

    def forget_gradients(self) -> None:
        """Drop the model's gradients, as fairseq does before a step."""
        self.model.zero_grad(set_to_none=True)

    def allocate_all(self) -> None:
        """Allocate gradients and optimiser state, as they are from the first update on."""
        for tensor in [*self.parameters, *self.masters]:
            tensor.grad = torch.zeros_like(tensor)
        self.optimizer.step()

    @property
    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters)

    @property
    def static_bytes(self) -> int:
        """Bytes of weights, gradients and optimiser state."""
        weights = sum(parameter.nbytes for parameter in self.parameters)
        masters = 0 if self.is_float32 else 4 * self.num_parameters
        return 2 * (weights + masters) + 2 * 4 * self.num_parameters

    @property
    def pending_bytes(self) -> int:
        """Those of them that a step has yet to allocate."""
        present = [*self.parameters, *(() if self.is_float32 else self.masters)]
        tensors = [*present, *gradients_of(present)]
        for state in self.optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
        return max(0, self.static_bytes - sum(tensor.nbytes for tensor in tensors))


def build_criterion(recipe: Recipe) -> MaeAstCriterion:
    """Return the recipe's criterion; raises ConfigError."""
    fields = OmegaConf.to_container(recipe.config.criterion, resolve=True)
    assert isinstance(fields, dict)
    if fields.pop("_name", None) != "mae_ast":
        raise ConfigError(f"{recipe.name}: criterion._name: expected mae_ast, the one of pretraining")
    known = vars(PretrainingCriterionFields())
    return MaeAstCriterion(None, **{name: float(fields.get(name, default)) for name, default in known.items()})


def gradients_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of the tensors that have one."""
    return [tensor.grad for tensor in tensors if tensor.grad is not None]


def _adam(recipe: Recipe, parameters: Sequence[Tensor], device: torch.device) -> torch.optim.Optimizer:
    section = recipe.config.optimizer
    return torch.optim.AdamW(
        list(parameters),
        lr=torch.tensor(LEARNING_RATE, device=device) if device.type == "cuda" else LEARNING_RATE,
        betas=parse_betas(section.get("adam_betas", (0.9, 0.98))),
        eps=float(section.get("adam_eps", 1e-6)),
        weight_decay=float(section.get("weight_decay", 0.0)),
        fused=True,
    )
