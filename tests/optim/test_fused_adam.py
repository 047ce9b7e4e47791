"""The fused optimiser follows Adam's formula and fairseq's own, and scales the rate of groups."""

import pytest
import torch
from fairseq.optim.adam import Adam
from torch import Tensor, nn

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.optim.fused_adam import FusedAdam, FusedAdamConfig, parse_betas
from mae_ast_fairseq.training_error import TrainingError
from tests.training import SMALL, train

LR, BETAS, EPS, DECAY = 0.01, (0.9, 0.98), 1e-6, 0.1


def optimizer(params: list) -> FusedAdam:
    return FusedAdam(FusedAdamConfig(adam_betas=str(BETAS), adam_eps=EPS, weight_decay=DECAY, lr=[LR]), params)


def gradients(num_updates: int, size: int = 7) -> Tensor:
    return torch.randn(num_updates, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def run(step, weight: nn.Parameter, updates: Tensor) -> Tensor:
    for gradient in updates:
        weight.grad = gradient.to(weight.dtype)
        step()
    return weight.detach()


def test_updates_follow_the_formula_of_adam_with_decoupled_weight_decay() -> None:
    weight = torch.linspace(-1, 1, 7, dtype=torch.float64)
    ours = run(optimizer([parameter := nn.Parameter(weight.clone())]).step, parameter, gradients(20))
    first = second = torch.zeros_like(weight)
    for update, gradient in enumerate(gradients(20), start=1):
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        mean, square = first / (1 - BETAS[0] ** update), second / (1 - BETAS[1] ** update)
        weight = weight * (1 - LR * DECAY) - LR * mean / (square.sqrt() + EPS)
    torch.testing.assert_close(ours, weight, atol=1e-12, rtol=1e-12)


def test_updates_are_those_of_fairseqs_adam_but_for_epsilon() -> None:
    ours, theirs = nn.Parameter(torch.ones(7)), nn.Parameter(torch.ones(7))
    adam = Adam([theirs], lr=LR, betas=BETAS, eps=EPS, weight_decay=DECAY)
    torch.testing.assert_close(
        run(optimizer([ours]).step, ours, gradients(50)), run(adam.step, theirs, gradients(50)), atol=1e-5, rtol=1e-5
    )


def test_a_group_has_the_learning_rate_times_its_scale() -> None:
    scaled = optimizer(
        [{"params": [nn.Parameter(torch.ones(1))], "lr_scale": 0.5}, {"params": [nn.Parameter(torch.ones(1))]}]
    )
    scaled.set_lr(0.2)
    assert [group["lr"] for group in scaled.param_groups] == [0.1, 0.2]
    assert scaled.get_lr() == 0.2


@pytest.mark.parametrize("text", ["(0.9,0.98)", "[0.9, 0.98]", (0.9, 0.98)])
def test_betas_are_read(text) -> None:
    assert parse_betas(text) == BETAS


@pytest.mark.parametrize("text", ["(0.9,1.0)", "(0.9,)", "0.9", "exit()", "(0.9,'a')"])
def test_wrong_betas_are_named(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_betas(text)
    assert f"optimizer.adam_betas: {text!r} was given; expected two numbers" in str(error.value)


@pytest.mark.parametrize("bf16", ["true", "false"])
def test_it_trains_and_resumes(corpus, tmp_path, bf16: str) -> None:
    settings = (
        f"task.data={corpus}", *SMALL, f"common.bf16={bf16}", "checkpoint.no_save=false",
        f"checkpoint.save_dir={tmp_path}",
    )  # fmt: skip
    train("mae_ast_tiny", *settings, "optimization.max_update=3")
    run = train("mae_ast_tiny", *settings, "optimization.max_update=5")
    assert [update["num_updates"] for update in run.updates] == [4, 5]
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["last_optimizer_state"]["state"]
    assert {float(entry["step"]) for entry in state.values()} == {5.0}


def test_under_the_training_command_that_is_one_line_without_a_traceback():
    with pytest.raises(TrainingError, match=r"optimizer\.adam_betas: 'nope' was given"):
        FusedAdam(FusedAdamConfig(adam_betas="nope", lr=[LR]), [torch.nn.Parameter(torch.zeros(1))])


def test_a_checkpoints_settings_give_way_to_those_of_the_config():
    def build(**settings) -> FusedAdam:
        groups = [{"params": [nn.Parameter(torch.ones(1))], "lr_scale": scale} for scale in (1.0, 0.5)]
        return FusedAdam(FusedAdamConfig(lr=[LR], **settings), groups)

    former = build(adam_betas="(0.9,0.98)", adam_eps=1e-6, weight_decay=0.1)
    now = build(adam_betas="(0.5,0.6)", adam_eps=0.1, weight_decay=0.7)
    now.load_state_dict(former.state_dict())
    for group, scale in zip(now.param_groups, (1.0, 0.5), strict=True):
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.6), 0.1, 0.7)
        assert group["lr_scale"] == scale
    now.load_state_dict(former.state_dict(), {"weight_decay": 0.3})
    assert [group["weight_decay"] for group in now.param_groups] == [0.3, 0.3]
