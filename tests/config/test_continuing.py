"""Every field is in the list of what a run that goes on may change, and the list decides when networks are the same."""

from collections import Counter

import pytest

from mae_ast_fairseq.config import continuing
from mae_ast_fairseq.config.classification import ClassificationCriterionFields
from mae_ast_fairseq.config.continuing import network
from mae_ast_fairseq.config.pretraining import ClassifierFields, MaeAstFields, SsastFields
from tests.config.test_pretraining import FIELD_CLASSES

ROLES = (continuing.NETWORK, continuing.DATA, continuing.OPTIMIZER, continuing.BATCHES, continuing.FREE)


def test_every_field_of_every_config_has_one_role():
    assert ClassificationCriterionFields in FIELD_CLASSES
    names = {name for cls in FIELD_CLASSES for name in cls.__dataclass_fields__}
    listed = Counter(name for role in ROLES for name in role)
    assert listed.keys() == names
    assert set(listed.values()) == {1}


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.3, "encoder_layerdrop": 0.2, "head_init_scale": 0.01, "random_mask_prob": 0.5},
        {"decoder_attention_heads": 12, "decoder_ffn_embed_dim": 3072},  # those of the encoder
        {"max_token_length": 4096},  # sin/cos positions are computed
    ],
)
def test_networks_that_compute_the_same_are_the_same(changes):
    assert network(MaeAstFields(**changes)) == network(MaeAstFields())


@pytest.mark.parametrize(
    ("kind", "common"), [(SsastFields, {}), (ClassifierFields, {"positions": "learned"})]
)  # fmt: skip
def test_learned_positions_are_part_of_the_network(kind, common):
    assert network(kind(**common, max_token_length=4096)) != network(kind(**common))
