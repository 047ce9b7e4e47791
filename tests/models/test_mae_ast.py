"""The registered model loads what was released, strictly, and saves what released files have."""

import copy
from types import SimpleNamespace

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.models import MODEL_REGISTRY
from torch import Tensor

from mae_ast_fairseq.models.mae_ast import MaeAstConfig, MaeAstModel
from mae_ast_fairseq.nn.normalization import NORMALIZATIONS
from tests.tiny import NUM_BANDS, golden_checkpoint, golden_values, padded_batch, tiny_fields

UNUSED = [
    "encoder_mask_emb",
    "layer_norm.weight",
    "layer_norm.bias",
    "enc_sine_pos_embed.pe",
    "dec_sine_pos_embed.pe",
]
LAYER_KEYS = [
    f"{part}.{parameter}"
    for part in (
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.q_proj",
        "self_attn.out_proj",
        "self_attn_layer_norm",
        "fc1",
        "fc2",
        "final_layer_norm",
    )
    for parameter in ("weight", "bias")
]


def build(**changes: object) -> MaeAstModel:
    cfg = MaeAstConfig(**vars(tiny_fields(**changes)))
    return MaeAstModel.build_model(cfg, SimpleNamespace(cfg=SimpleNamespace(feature_dim=NUM_BANDS)))


@pytest.fixture(params=["patch", "frame"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def released(golden, kind: str) -> dict[str, Tensor]:
    return golden_checkpoint(golden, kind)["model"]


@pytest.fixture
def loaded(golden, kind: str) -> MaeAstModel:
    path = golden / f"released_{kind}_random.pt"
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    return models[0].eval()


def test_is_registered_under_the_released_name() -> None:
    assert MODEL_REGISTRY["mae_ast"] is MaeAstModel


def test_state_dict_has_the_released_keys_and_shapes(released) -> None:
    shapes = {name: value.shape for name, value in build().state_dict().items()}
    assert shapes == {name: value.shape for name, value in released.items() if name not in UNUSED}


def test_state_dict_has_the_names_that_other_tools_know() -> None:
    stacks = {"encoder": 3, "decoder": 2}
    expected = {
        "decoder_mask_emb",
        *(f"batch_norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")),
        *(f"{name}.layer_norm.{parameter}" for name in stacks for parameter in ("weight", "bias")),
        *(
            f"{name}.{parameter}"
            for name in (
                "post_extract_proj",
                "post_enc_proj",
                "final_proj_reconstruction",
                "final_proj_classification",
            )
            for parameter in ("weight", "bias")
        ),
        *(
            f"{name}.layers.{number}.{key}"
            for name, count in stacks.items()
            for number in range(count)
            for key in LAYER_KEYS
        ),
    }
    assert set(build(use_post_enc_proj=True).state_dict()) == expected


def test_released_tensors_without_use_are_left_out_on_loading() -> None:
    model = build()
    own = {name: torch.full_like(value, 2) for name, value in model.state_dict().items()}
    extra = {name: torch.ones(3) for name in UNUSED}
    model.load_state_dict({**own, **extra}, strict=True)
    assert all(value.equal(own[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["encoder.layer_norm.weight", "decoder_mask_emb", "fc.weight"])
def test_other_keys_are_still_checked(name: str) -> None:
    model = build()
    wrong = copy.copy(model.state_dict())
    wrong.pop(name, None) if name in wrong else wrong.update({name: torch.ones(1)})
    with pytest.raises(RuntimeError, match=name):
        model.load_state_dict(wrong, strict=True)


def test_fairseq_loads_every_tensor_of_a_released_file(loaded, released) -> None:
    state = loaded.state_dict()
    assert set(state) == set(released) - set(UNUSED)
    assert all(value.equal(released[name]) for name, value in state.items())


def test_fairseq_loads_what_gives_the_released_features(golden, kind: str, loaded) -> None:
    values = golden_values(golden, kind)
    features, padding_mask = loaded.extract_features(values["extract_fbank"], values["extract_padding_mask"])
    expected = values["extract_x"][~padding_mask]
    torch.testing.assert_close(features[~padding_mask], expected, atol=1e-5, rtol=0)


def test_a_file_without_normalization_means_batch(golden, kind: str, loaded) -> None:
    assert "normalization" not in golden_checkpoint(golden, kind)["cfg"]["model"]
    frames = padded_batch((96,))["source"]
    by_batch = NORMALIZATIONS["batch"]().train()(frames)
    torch.testing.assert_close(loaded.train().batch_norm(frames), by_batch, atol=1e-6, rtol=1e-6)
    assert MaeAstConfig().normalization == "batch"
