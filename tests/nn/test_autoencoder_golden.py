"""The model gives what the authors' model gave with the same weights (see /work/shared/golden/README.md)."""

import pytest
import torch
from torch import Tensor

from mae_ast_fairseq.config.pretraining import MaeAstFields
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder
from mae_ast_fairseq.nn.build import build_autoencoder
from mae_ast_fairseq.nn.losses import info_nce, reconstruction_error
from mae_ast_fairseq.nn.masked import Predictions
from tests.tiny import golden_checkpoint, golden_values

UNUSED = ("layer_norm.", "encoder_mask_emb", "enc_sine_pos_embed.", "dec_sine_pos_embed.")
TOLERANCE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture(scope="module", params=["patch", "frame"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def values(golden, kind: str) -> dict[str, Tensor]:
    return golden_values(golden, kind)


@pytest.fixture
def model(golden, kind: str) -> MaskedAutoencoder:
    checkpoint = golden_checkpoint(golden, kind)
    known = MaeAstFields.__dataclass_fields__
    fields = MaeAstFields(**{name: value for name, value in checkpoint["cfg"]["model"].items() if name in known})
    model = build_autoencoder(MaskedAutoencoder, fields, 128)
    model.load_state_dict({name: value for name, value in checkpoint["model"].items() if not name.startswith(UNUSED)})
    return model.eval()


def predict(model: MaskedAutoencoder, values: dict[str, Tensor], mode: str) -> Predictions:
    visible, masked = (values[f"{mode}_{part}"].sort(dim=-1).values for part in ("visible", "masked"))
    return model.train(mode == "train")(values["pretrain_fbank"], None, visible, masked)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(
    ("ours", "recorded"),
    [("reconstruction", "recon"), ("classification", "class"), ("target", "target")],
)
def test_predictions_and_targets(model, values, mode: str, ours: str, recorded: str) -> None:
    prediction = getattr(predict(model, values, mode), ours)
    torch.testing.assert_close(prediction, values[f"{mode}_{recorded}"], **TOLERANCE)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_losses_and_gradient(model, values, mode: str) -> None:
    predictions = predict(model, values, mode)
    error = reconstruction_error(predictions.reconstruction, predictions.target).mean()
    nce = info_nce(predictions.classification, predictions.target).loss.mean()
    loss = 10 * error + nce
    loss.backward()
    for name, value in {"mse": error, "info_nce": nce, "loss": loss}.items():
        torch.testing.assert_close(value.double(), values[f"{mode}_{name}"], **TOLERANCE)
    gradient_norm = model.encoder.layers[0].fc1.weight.grad.norm().double()
    expected = values[f"{mode}_grad_norm_encoder_layers_0_fc1_weight"]
    torch.testing.assert_close(gradient_norm, expected, atol=0, rtol=1e-4)


def test_features_of_a_padded_batch(model, values) -> None:
    features, padding_mask = model.extract_features(values["extract_fbank"], values["extract_padding_mask"])
    assert padding_mask.equal(values["extract_token_padding_mask"])
    torch.testing.assert_close(features[~padding_mask], values["extract_x"][~padding_mask], **TOLERANCE)


@pytest.mark.parametrize("output_layer", [1, 2, 3])
def test_features_of_each_layer(model, values, output_layer: int) -> None:
    features, padding_mask = model.extract_features(
        values["extract_fbank"], values["extract_padding_mask"], output_layer=output_layer
    )
    recorded = values[f"extract_hidden_{output_layer - 1}"]
    torch.testing.assert_close(features[~padding_mask], recorded[~padding_mask], **TOLERANCE)


def test_features_of_a_single_clip(model, values) -> None:
    features, padding_mask = model.extract_features(values["single_fbank"])
    assert padding_mask is None
    torch.testing.assert_close(features, values["single_x"], **TOLERANCE)


def test_features_of_a_waveform(model, values) -> None:
    num_samples = 400 + (values["single_fbank"].shape[1] - 1) * 160  # of the frames that were recorded
    features, _ = model.extract_features(values["single_wav"][None, :num_samples])
    # The recorded filterbank is torchaudio's, from which ours is about 1e-4 away.
    torch.testing.assert_close(features, values["single_x"], atol=2e-4, rtol=0)
