"""What is taken from a checkpoint."""

import pytest
import torch

from mae_ast_fairseq.checkpoints.read import build_model, read_checkpoint
from mae_ast_fairseq.checkpoints.transfer import encoder_state, taken_fields
from mae_ast_fairseq.config.pretraining import ClassifierFields
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.nn.build import MODELS
from tests.finetuning import pretrained
from tests.tiny import NUM_BANDS, PATCH, padded_batch

OVERLAP = {**PATCH, "ast_kernel_stride_chan": 8, "ast_kernel_stride_time": 8}


def classifier_from(checkpoint, **recipe):
    taken = taken_fields(checkpoint, ClassifierFields(**recipe), NUM_BANDS)
    fields = ClassifierFields(**{**recipe, **taken, "labels": ["a", "b", "c"]})
    model = MODELS["mae_ast_classifier"].build(fields, NUM_BANDS)
    missing = model.load_state_dict(encoder_state(checkpoint, fields), strict=False).missing_keys
    assert missing == ["head.weight", "head.bias"]
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mae_ast", {}),
        ("mae_ast", {"enc_sine_pos": False}),
        ("mae_ast", {"layer_norm_first": True, "encoder_layers": 3, "normalization": "batch"}),
        ("ssast", {}),
        ("mae_ast_classifier", {"labels": ["x", "y"], "positions": "learned"}),
    ],
)
def test_the_classifiers_features_are_those_of_the_pretrained_model(tmp_path, kind, changes):
    checkpoint = read_checkpoint(pretrained(tmp_path / "a.pt", kind, **changes))
    batch = padded_batch([90, 60])
    features, mask = classifier_from(checkpoint).extract_features(**batch)
    expected, _ = build_model(checkpoint).extract_features(**batch)
    assert torch.equal(features[~mask], expected[~mask])


def test_dropouts_are_the_recipes(tmp_path):
    checkpoint = read_checkpoint(pretrained(tmp_path / "a.pt", dropout=0.3, encoder_layerdrop=0.2))
    taken = taken_fields(checkpoint, ClassifierFields(), NUM_BANDS)
    assert not {name for name in taken if "drop" in name}


def test_overlapping_patches_after_ssast_get_interpolated_positions(tmp_path):
    checkpoint = read_checkpoint(pretrained(tmp_path / "a.pt", "ssast"))  # 64 positions: 8 rows of 16 bands, 8 columns
    taken = taken_fields(checkpoint, ClassifierFields(**OVERLAP), NUM_BANDS)
    assert taken["ast_kernel_stride_time"] == 8
    assert taken["max_token_length"] == 15 * 15  # from the first band and frame to the last, at half the distance
    ramp = torch.arange(8.0)[:, None, None] * 10 + torch.arange(8.0)[None, :, None]  # [columns, rows, 1]
    checkpoint.state["positions.table"] = ramp.expand(8, 8, 48).flatten(0, 1)
    table = encoder_state(checkpoint, ClassifierFields(**{**OVERLAP, **taken}))["positions.table"].view(15, 15, 48)
    assert table[7, 7].tolist() == pytest.approx([38.5] * 48)  # the middle of the spectrogram stays its middle
    assert (table[1:, :, 0] > table[:-1, :, 0]).all() and (table[:, 1:, 0] >= table[:, :-1, 0]).all()


def test_without_overlap_learned_positions_are_taken_as_they_are(tmp_path):
    checkpoint = read_checkpoint(pretrained(tmp_path / "a.pt", "ssast"))
    taken = taken_fields(checkpoint, ClassifierFields(**PATCH), NUM_BANDS)
    state = encoder_state(checkpoint, ClassifierFields(**taken))
    assert torch.equal(state["positions.table"], checkpoint.state["positions.table"])


def test_overlap_after_mae_ast_is_refused(tmp_path):
    checkpoint = read_checkpoint(pretrained(tmp_path / "a.pt"))
    with pytest.raises(ConfigError, match=r"ast_kernel_stride_chan.*8 and 8 make patches overlap, but .*a\.pt.*SSAST"):
        taken_fields(checkpoint, ClassifierFields(**OVERLAP), NUM_BANDS)


def test_another_number_of_bands_is_refused(tmp_path):
    checkpoint = read_checkpoint(pretrained(tmp_path / "a.pt"))
    with pytest.raises(ConfigError, match=r"task\.feature_dim: 80 was given; expected 128"):
        taken_fields(checkpoint, ClassifierFields(), 80)
