"""The fairseq model `ssast`."""

from dataclasses import dataclass
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model

from mae_ast_fairseq.config.pretraining import SsastFields
from mae_ast_fairseq.nn.build import build_ssast
from mae_ast_fairseq.nn.ssast import Ssast


@dataclass
class SsastConfig(SsastFields, FairseqDataclass):
    """Fields of the `ssast` model."""


@register_model("ssast", dataclass=SsastConfig)
class SsastModel(Ssast, BaseFairseqModel):
    """SSAST as fairseq builds, trains and loads it."""

    @classmethod
    def build_model(cls, cfg: SsastConfig, task: Any = None) -> "SsastModel":
        """Build the model of `cfg`; `task.cfg.feature_dim` gives the number of Mel bands."""
        return build_ssast(cls, cfg, task.cfg.feature_dim)
