"""A value of another type, a field that does not exist, and a model beyond all memory are one line that names them."""

import os
import re

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mae_ast_fairseq.errors import ConfigError, UserError
from mae_ast_fairseq.training_error import TrainingError
from tests.training import SMALL, SMALL_ENCODER, build

HUGE = 10**400


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.encoder_layers=abc", "model.encoder_layers: 'abc' was given; expected a whole number"),
        (f"model.dropout={HUGE}", r"model.dropout: 10{99}\.\.\. was given; expected a number"),
        (f"task.max_bad_fraction={HUGE}", r"task.max_bad_fraction: 10{99}\.\.\. was given; expected a number"),
        (f"task.feature_dim={HUGE}", "task.feature_dim: 10{39} was given; expected 1 to 10,000"),
        ("task.pad_audio=7.5", "task.pad_audio: 7.5 was given; expected true or false"),
        ("task.max_sample_size=[1]", r"task.max_sample_size: \[1\] was given; expected a whole number or null"),
        (f"criterion.reconstruction_weight={HUGE}", "criterion.reconstruction_weight: 10{99}... was given"),
        ("criterion.classification_weight=x", "criterion.classification_weight: 'x' was given; expected a number"),
        ("+model.encoder_layer=3", "model.encoder_layer: there is no such field; .* mean model.encoder_layers?"),
        ("+task.zzz=3", "task.zzz: there is no such field; expected one of mae_ast_pretraining"),
    ],
)
def test_a_field_that_does_not_fit_is_named(override: str, message: str, corpus) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build("mae_ast_patch", f"task.data={corpus}", *SMALL, override)
    assert isinstance(caught.value, (TrainingError, ConfigError))
    assert len(str(caught.value)) < 300


def test_numbers_written_as_text_are_numbers(corpus) -> None:
    task, _, _ = build("mae_ast_patch", f"task.data={corpus}", *SMALL, "model.random_mask_prob='0.5'")
    assert task._masking.ratio == 0.5


def test_other_plugins_keep_their_own_errors() -> None:
    from fairseq import tasks
    from fairseq.tasks.audio_pretraining import AudioPretrainingConfig

    with pytest.raises(OmegaConfBaseException):
        tasks.merge_with_parent(AudioPretrainingConfig(), OmegaConf.create({"sample_rate": "abc"}))


@pytest.mark.parametrize("field", ["encoder_embed_dim", "encoder_ffn_embed_dim", "max_token_length"])
def test_a_model_beyond_all_memory_is_not_built(field: str, corpus, monkeypatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: 1 << 20 if name == "SC_PHYS_PAGES" else 1)
    recipe = "ssast_patch" if field == "max_token_length" else "mae_ast_patch"
    overrides = [*SMALL, "model.use_post_enc_proj=true"] if recipe == "mae_ast_patch" else SMALL_ENCODER
    with pytest.raises(UserError, match=re.escape("expected one that fits into the 0.0 GiB of this machine")):
        build(recipe, f"task.data={corpus}", *overrides, f"model.{field}=1000000")
