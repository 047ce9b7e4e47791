"""The transformer equals torch's own and a plain softmax, wherever and however it is computed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_ast_fairseq.nn import transformer
from mae_ast_fairseq.nn.transformer import (
    SelfAttention,
    TransformerLayer,
    TransformerStack,
    _attend_by_products,
    attend,
    gather_tokens,
    scatter_tokens,
)
from tests.nn import reference
from tests.tiny import enlarge_weights

B, L, C, HEADS = 2, 13, 48, 4
PADDING_MASK = torch.arange(L) >= torch.tensor([[L], [L - 4]])  # [B, L]
AT = torch.tensor([[0, 3, 4, 12], [1, 2, 7, 8]])  # [B, N]
ARGUMENTS = {
    "width": C,
    "ffn_width": 96,
    "heads": HEADS,
    "activation": "gelu",
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(B, L, C, dtype=torch.float64)


def layer(layer_norm_first: bool, **changes: object) -> TransformerLayer:
    module = TransformerLayer(layer_norm_first=layer_norm_first, **{**ARGUMENTS, **changes})
    enlarge_weights(module)
    return module.double()


def stack(layer_norm_first: bool, *, dropout: float = 0.0, checkpoint: bool = False) -> TransformerStack:
    module = TransformerStack(
        3, **{**ARGUMENTS, "dropout": dropout}, layer_norm_first=layer_norm_first, checkpoint_activations=checkpoint
    )
    enlarge_weights(module)
    return module.double()


def torch_layer(ours: TransformerLayer) -> nn.TransformerEncoderLayer:
    """Build torch's layer with the weights of ours."""
    theirs = nn.TransformerEncoderLayer(
        C,
        HEADS,
        dim_feedforward=96,
        dropout=0.0,
        activation=ours.activation,
        batch_first=True,
        norm_first=ours.layer_norm_first,
        dtype=torch.float64,
    )
    attention, parts = ours.self_attn, (ours.self_attn.q_proj, ours.self_attn.k_proj, ours.self_attn.v_proj)
    theirs.self_attn.in_proj_weight.data = torch.cat([part.weight.data for part in parts])
    theirs.self_attn.in_proj_bias.data = torch.cat([part.bias.data for part in parts])
    for copied, original in {
        theirs.self_attn.out_proj: attention.out_proj,
        theirs.linear1: ours.fc1,
        theirs.linear2: ours.fc2,
        theirs.norm1: ours.self_attn_layer_norm,
        theirs.norm2: ours.final_layer_norm,
    }.items():
        copied.load_state_dict(original.state_dict())
    return theirs


def gradients(module: nn.Module, output: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    """Return the gradient of Σ output * cotangent for each parameter."""
    values = torch.autograd.grad((output * cotangent).sum(), list(module.parameters()))
    return dict(zip([name for name, _ in module.named_parameters()], values, strict=True))


@pytest.mark.parametrize("padding_mask", [None, PADDING_MASK], ids=["whole", "padded"])
def test_attention_is_the_softmax_of_scaled_inner_products(tokens, padding_mask) -> None:
    module = SelfAttention(width=C, heads=HEADS, dropout=0.0).double()
    enlarge_weights(module)
    keep = None if padding_mask is None else ~padding_mask
    attended = module(tokens, None if keep is None else keep[:, None, None, :])
    for b in range(B):
        expected = reference.attention(module, tokens[b], None if keep is None else keep[b])
        torch.testing.assert_close(attended[b], expected)


@pytest.mark.parametrize("layer_norm_first", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("padding_mask", [None, PADDING_MASK], ids=["whole", "padded"])
def test_layer_equals_torchs(tokens, layer_norm_first: bool, activation: str, padding_mask) -> None:
    ours = layer(layer_norm_first, activation=activation)
    theirs = torch_layer(ours)
    keep = None if padding_mask is None else ~padding_mask[:, None, None, :]
    output = theirs(tokens, src_key_padding_mask=padding_mask)
    torch.testing.assert_close(ours(tokens, keep), output)


@pytest.mark.parametrize("layer_norm_first", [False, True])
@pytest.mark.parametrize("padding_mask", [None, PADDING_MASK], ids=["whole", "padded"])
def test_some_tokens_alone_are_as_among_all(tokens, layer_norm_first: bool, padding_mask) -> None:
    module = stack(layer_norm_first)
    cotangent = torch.randn(B, AT.shape[1], C, dtype=torch.float64)
    among_all = gather_tokens(module(tokens, padding_mask), AT)
    by_themselves = module(tokens, padding_mask, at=AT)
    torch.testing.assert_close(by_themselves, among_all)
    torch.testing.assert_close(gradients(module, by_themselves, cotangent), gradients(module, among_all, cotangent))


def test_gather_picks_the_tokens_at_the_indices(tokens) -> None:
    picked = gather_tokens(tokens, AT)
    assert picked.equal(torch.stack([tokens[b, AT[b]] for b in range(B)]))


@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_stack_equals_its_layers_one_by_one_with_its_layer_norm_first_or_last(tokens, layer_norm_first: bool) -> None:
    module = stack(layer_norm_first)
    expected = tokens if layer_norm_first else module.layer_norm(tokens)
    for each in module.layers:
        expected = each(expected, None)
    expected = module.layer_norm(expected) if layer_norm_first else expected
    assert module(tokens).equal(expected)


@pytest.mark.parametrize("layer_norm_first", [False, True])
@pytest.mark.parametrize("at", [None, AT], ids=["all", "at"])
def test_checkpointing_changes_neither_output_nor_gradients(tokens, layer_norm_first: bool, at: Tensor | None) -> None:
    plain = stack(layer_norm_first, dropout=0.3)
    checkpointed = copy.deepcopy(plain)
    checkpointed.checkpoint_activations = True
    results = []
    for module in (plain, checkpointed):
        torch.manual_seed(1)  # alike dropout, also in the recomputation
        output = module(tokens, PADDING_MASK, at=at)
        results.append((output, gradients(module, output, torch.ones_like(output).cumsum(dim=-1))))
    torch.testing.assert_close(*results, atol=0, rtol=0)


def test_checkpointing_recomputes_each_layer(tokens) -> None:
    module = stack(False, checkpoint=True)
    calls = []
    for number, each in enumerate(module.layers):
        each.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    module(tokens).sum().backward()
    assert calls[:3] == [0, 1, 2]
    assert sorted(calls) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("at", [None, AT], ids=["all", "at"])
@pytest.mark.parametrize(
    "kept", [[True, True, True], [False, True, True], [True, False, True], [True, True, False], [False] * 3]
)
@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_layers_that_are_not_kept_are_left_out(tokens, layer_norm_first: bool, kept, at, monkeypatch) -> None:
    module = stack(layer_norm_first)
    shorter = copy.deepcopy(module)
    shorter.layers = nn.ModuleList(each for each, is_kept in zip(shorter.layers, kept, strict=True) if is_kept)
    expected = shorter(tokens)
    expected = expected if at is None else gather_tokens(expected, at)
    monkeypatch.setattr(module, "_kept_layers", lambda: kept)
    torch.testing.assert_close(module(tokens, at=at), expected)


@pytest.mark.parametrize("layer_norm_first", [False, True])
@pytest.mark.parametrize("output_layer", [1, 2, 3])
def test_output_layer_gives_what_that_layer_computes(tokens, layer_norm_first: bool, output_layer: int) -> None:
    module, outputs = stack(layer_norm_first), []
    for each in module.layers:
        each.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    final = module(tokens, PADDING_MASK)
    assert module(tokens, PADDING_MASK, output_layer=output_layer).equal(outputs[output_layer - 1])
    assert final.equal(module.layer_norm(outputs[2]) if layer_norm_first else outputs[2])


@pytest.mark.parametrize("layer_norm_first", [False, True])
def test_dropout_acts_at_the_stacks_input(tokens, layer_norm_first: bool) -> None:
    module = stack(layer_norm_first)
    module.dropout.p = 0.4
    inputs = []
    module.layers[0].register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    module(tokens)
    module.eval()(tokens)
    assert abs(float((inputs[0] == 0).double().mean()) - 0.4) < 0.06  # 4 deviations of B·L·C draws
    kept = inputs[0] != 0
    torch.testing.assert_close(inputs[0][kept], inputs[1][kept] / 0.6)


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_acts_while_training_only(tokens, name: str) -> None:
    module = layer(False, **{name: 0.5})
    without = copy.deepcopy(module).eval()(tokens, None)
    assert not module(tokens, None).equal(module(tokens, None))
    assert module.eval()(tokens, None).equal(without)
    torch.testing.assert_close(without, torch_layer(module)(tokens))


# --- the two ways to attend


def heads(num_queries: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return query [B, H, N, D], key and value [B, H, L, D]."""
    shapes = [(B, HEADS, num, C // HEADS) for num in (num_queries, L, L)]
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)  # type: ignore[return-value]


@pytest.mark.parametrize("keep", [None, ~PADDING_MASK[:, None, None, :]], ids=["whole", "padded"])
@pytest.mark.parametrize("num_queries", [L, 4])
def test_attention_by_products_equals_fused_attention_with_its_gradients(num_queries: int, keep) -> None:
    inputs = heads(num_queries, torch.float64)
    results = []
    for way in (_attend_by_products(*inputs, keep, 0.0), F.scaled_dot_product_attention(*inputs, attn_mask=keep)):
        weighted = way.flatten() @ torch.linspace(-1, 1, way.numel(), dtype=way.dtype)
        results.append((way, *torch.autograd.grad(weighted, inputs)))
    torch.testing.assert_close(*results, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "num_tokens", "dropout", "by_products"),
    [
        (torch.float32, 8, 0.0, False),
        (torch.float32, 8, 0.1, False),
        (torch.bfloat16, 8, 0.0, True),
        (torch.bfloat16, 600, 0.0, False),
        (torch.bfloat16, 600, 0.1, True),
    ],
)
def test_short_or_dropped_out_bfloat16_attention_is_by_products(monkeypatch, dtype, num_tokens, dropout, by_products):
    ways = []
    monkeypatch.setattr(transformer, "_attend_by_products", lambda *_: ways.append(True))
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *_, **__: ways.append(False))
    attend(*[torch.zeros(1, 1, num_tokens, 4, dtype=dtype)] * 3, None, dropout)
    assert ways == [by_products]


def test_bfloat16_attention_is_that_of_float32_within_its_precision() -> None:
    inputs = heads(L, torch.bfloat16)
    keep = ~PADDING_MASK[:, None, None, :]
    expected = attend(*[tensor.float() for tensor in inputs], keep)
    torch.testing.assert_close(attend(*inputs, keep).float(), expected, atol=0.02, rtol=0.02)


def test_dropout_by_products_keeps_the_mean() -> None:
    query, key = torch.zeros(2, 1, 1, 1_000, 4)
    value = torch.ones(1, 1, 1_000, 4)
    dropped = _attend_by_products(query, key, value, None, 0.5)
    assert 0.02 < dropped[0, 0, :, 0].std() < 0.045  # sqrt(1 / 1000)
    assert abs(dropped[0, 0, :, 0].mean() - 1) < 0.005


@pytest.mark.parametrize("padding_mask", [None, torch.tensor([[False] * 4, [False, False, True, True]])])
def test_scattered_tokens_stand_at_their_places_and_the_filler_elsewhere(padding_mask) -> None:
    tokens, filler = torch.randn(2, 4, 3), torch.randn(3)
    indices = AT if padding_mask is None else AT.masked_fill(padding_mask, 0)
    full = scatter_tokens(filler, tokens, L, indices, padding_mask)
    expected = filler.expand(2, L, 3).clone()
    for row in range(2):
        for place in range(4):
            if padding_mask is None or not padding_mask[row, place]:
                expected[row, indices[row, place]] = tokens[row, place]
    assert full.equal(expected)
