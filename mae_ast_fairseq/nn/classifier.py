"""A classifier of clips: the encoder's last hidden states, mean-pooled, and one linear layer (paper section 3.3)."""

from typing import Any, Optional

from torch import Tensor, nn

from mae_ast_fairseq.nn.encoder import SpectrogramEncoder, mean_pool


class AudioClassifier(SpectrogramEncoder):
    """Scores the classes of a clip; with learned positions and random weights to begin with, this is AST.

    Args:
        num_classes: K.
        multi_label: a clip may belong to many classes.
        head_dropout: dropout of the pooled features.
        encoder_arguments: the keywords of SpectrogramEncoder; patches may overlap.
    """

    def __init__(
        self, *, num_classes: int, multi_label: bool = False, head_dropout: float = 0.0, **encoder_arguments: Any
    ):
        super().__init__(**encoder_arguments)
        self.multi_label = multi_label
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(self.width, num_classes)

    def forward(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Return the logits [B, K] of waveforms [B, S] at 16 kHz or log-Mel frames [B, T, F], not normalised.

        `padding_mask` [B, S] or [B, T] bool, True = padding at a clip's end, which has no part in the result.
        """
        pooled = mean_pool(*self.extract_features(source, padding_mask))
        return self.head(self.head_dropout(pooled.to(self.head.weight.dtype)))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits [B, K] into float32 probabilities: of each class by itself, or of one class among all."""
        logits = logits.float()
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)
