"""The fairseq model `mae_ast_classifier`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model

from mae_ast_fairseq.config.classification import FinetuningFields
from mae_ast_fairseq.config.pretraining import check_ranges
from mae_ast_fairseq.nn.build import build_classifier
from mae_ast_fairseq.nn.classifier import AudioClassifier
from mae_ast_fairseq.nn.encoder import Features, HiddenStates


@dataclass
class MaeAstClassifierConfig(FinetuningFields, FairseqDataclass):
    """Fields of the `mae_ast_classifier` model."""


@register_model("mae_ast_classifier", dataclass=MaeAstClassifierConfig)
class MaeAstClassifierModel(AudioClassifier, BaseFairseqModel):
    """The classifier as fairseq builds, trains and loads it.

    For its first `freeze_finetune_updates` updates the encoder is without gradient and in evaluation mode.
    """

    freeze_finetune_updates = 0

    @classmethod
    def build_model(cls, cfg: MaeAstClassifierConfig, task: Any = None) -> "MaeAstClassifierModel":
        """Build the model of `cfg`; `task.cfg.feature_dim` gives the number of Mel bands."""
        check_ranges("model", FinetuningFields, cfg)
        model = build_classifier(cls, cfg, task.cfg.feature_dim)
        model.freeze_finetune_updates = cfg.freeze_finetune_updates
        return model

    @property
    def is_frozen(self) -> bool:
        """Whether the encoder is left as it is in the update that the model is in."""
        return self.num_updates is not None and self.num_updates < self.freeze_finetune_updates

    def extract_features(self, *args: Any, **kwargs: Any) -> Features:
        """Encode clips as `SpectrogramEncoder.extract_features` does, frozen or not."""
        with self._frozen():
            return super().extract_features(*args, **kwargs)

    def hidden_states(self, *args: Any, **kwargs: Any) -> HiddenStates:
        """Encode clips as `SpectrogramEncoder.hidden_states` does, frozen or not."""
        with self._frozen():
            return super().hidden_states(*args, **kwargs)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        if not (self.training and self.is_frozen):
            yield
            return
        self.eval()  # dropout, layer drop and BatchNorm each look at it
        try:
            with torch.no_grad():
                yield
        finally:
            self.train()
