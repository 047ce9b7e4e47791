"""The fairseq model `mae_ast`."""

from dataclasses import dataclass
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model

from mae_ast_fairseq.config.pretraining import MaeAstFields
from mae_ast_fairseq.nn.autoencoder import MaskedAutoencoder
from mae_ast_fairseq.nn.build import build_autoencoder

UNUSED_RELEASED_PREFIXES = ("layer_norm.", "encoder_mask_emb", "enc_sine_pos_embed.", "dec_sine_pos_embed.")
"""Tensors that released checkpoints carry and no forward pass reads; positions are computed."""


@dataclass
class MaeAstConfig(MaeAstFields, FairseqDataclass):
    """Fields of the `mae_ast` model."""


@register_model("mae_ast", dataclass=MaeAstConfig)
class MaeAstModel(MaskedAutoencoder, BaseFairseqModel):
    """MAE-AST as fairseq builds, trains and loads it."""

    @classmethod
    def build_model(cls, cfg: MaeAstConfig, task: Any = None) -> "MaeAstModel":
        """Build the model of `cfg`; `task.cfg.feature_dim` gives the number of Mel bands."""
        return build_autoencoder(cls, cfg, task.cfg.feature_dim)

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Leave out, in place, the tensors of released files that the model has no use for."""
        for key in [key for key in state_dict if key.startswith(UNUSED_RELEASED_PREFIXES)]:
            del state_dict[key]
