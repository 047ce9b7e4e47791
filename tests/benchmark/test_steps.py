import pytest
import torch
from fairseq.optim.adam import Adam

from mae_ast_fairseq.benchmark import steps
from mae_ast_fairseq.benchmark.cases import make_sample
from mae_ast_fairseq.benchmark.steps import BenchmarkModel, build_criterion
from mae_ast_fairseq.errors import ConfigError
from tests.benchmark.small import CPU, small_case, small_recipes


def trainee(precision: str, *settings: str) -> BenchmarkModel:
    case = small_case(precision=precision)
    return BenchmarkModel(small_recipes(case.recipe, settings=settings)[case.recipe], case.model_key, CPU)


def test_the_update_is_fairseq_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "LEARNING_RATE", 1e-3)
    case = small_case()
    sample = make_sample(small_recipes(case.recipe)[case.recipe], case, CPU)
    # torch adds eps after the correction of the second moment, fairseq before it: a small one, which hides that.
    ours, theirs = (trainee("float32", "optimizer.adam_eps=1e-15") for _ in range(2))
    adam = Adam(theirs.parameters, lr=1e-3, betas=(0.9, 0.98), eps=1e-15, weight_decay=0.01)
    for _ in range(3):
        for one in (ours, theirs):
            one.forget_gradients()
            one.forward(sample).backward()
        ours.update(sample)
        for parameter in theirs.parameters:
            parameter.grad /= sample["ntokens"]
        torch.nn.utils.clip_grad_norm_(theirs.parameters, 10.0)
        adam.step()
    fairseq_s = dict(theirs.model.named_parameters())
    for name, own in ours.model.named_parameters():
        if "k_proj.bias" not in name:  # whose gradient is nothing but rounding: softmax does not see it
            assert torch.allclose(own, fairseq_s[name], rtol=0, atol=1e-5)


def test_below_float32_the_weights_follow_the_masters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "LEARNING_RATE", 1e-2)
    one = trainee("bfloat16")
    before = [parameter.clone() for parameter in one.parameters]
    case = small_case(precision="bfloat16")
    sample = make_sample(small_recipes(case.recipe)[case.recipe], case, CPU)
    one.forward(sample).backward()
    one.update(sample)
    assert all(torch.equal(p, m.bfloat16()) for p, m in zip(one.parameters, one.masters, strict=True))
    assert any(not torch.equal(p, b) for p, b in zip(one.parameters, before, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_weights_can_be_another_s_and_dropouts_one_s_own(precision: str) -> None:
    first = trainee(precision)
    case = small_case(precision=precision, attention_dropout=0.3)
    recipe = small_recipes(case.recipe)[case.recipe]
    second = BenchmarkModel(recipe, case.model_key, CPU, weights_of=first)
    second.allocate_all()
    assert all(one is other for one, other in zip(first.parameters, second.parameters, strict=True))
    assert first.pending_bytes == 0
    attentions = (one.model.encoder.layers[0].self_attn.dropout for one in (first, second))
    assert list(attentions) == [0.0, 0.3]


@pytest.mark.parametrize(("precision", "bytes_per_weight"), [("float32", 16), ("bfloat16", 20)])
def test_bytes_of_weights_gradients_and_state(precision: str, bytes_per_weight: int) -> None:
    one = trainee(precision)
    assert one.static_bytes == bytes_per_weight * one.num_parameters
    weights = 4 if precision == "float32" else 2 + 4
    assert one.pending_bytes == one.static_bytes - weights * one.num_parameters
    one.allocate_all()
    assert one.pending_bytes == 0


def test_inference_sees_every_token_and_leaves_the_model_in_training() -> None:
    one = trainee("bfloat16")
    case = small_case(precision="bfloat16")
    features = one.infer(make_sample(small_recipes(case.recipe)[case.recipe], case, CPU))
    assert features.shape == (2, 48, 48)
    assert features.dtype is torch.bfloat16
    assert one.model.training


def test_another_criterion_is_refused() -> None:
    recipe = small_recipes("mae_ast_patch", settings=("criterion.reconstruction_weight=3",))["mae_ast_patch"]
    assert build_criterion(recipe).reconstruction_weight == 3.0
    recipe.config.criterion._name = "hubert"
    with pytest.raises(ConfigError, match=r"criterion\._name: expected mae_ast"):
        build_criterion(recipe)
