"""A classifier of clips: what is read out of the encoder's hidden states, and one linear layer (paper section 3.3)."""

from typing import Optional

from torch import Tensor, nn

from mae_ast_fairseq.nn.encoder import EncoderParts, SpectrogramEncoder
from mae_ast_fairseq.nn.readout import LAST, Layers, layer_numbers, read_out_layers, readout_width


class AudioClassifier(SpectrogramEncoder):
    """Scores the classes of a clip; with learned positions and random weights to begin with, this is AST.

    Args:
        parts: the encoder's; patches may overlap.
        num_classes: K.
        multi_label: a clip may belong to many classes.
        head_dropout: dropout of what is read out.
        readout: a key of READOUTS; the paper's is the mean.
        readout_layers: the layers that are read out, one after another; the paper's is LAST.
    """

    def __init__(
        self,
        parts: EncoderParts,
        *,
        num_classes: int,
        multi_label: bool = False,
        head_dropout: float = 0.0,
        readout: str = "mean",
        readout_layers: Layers = LAST,
    ):
        super().__init__(parts)
        self.multi_label = multi_label
        self.readout = readout
        self.readout_layers = readout_layers
        self.head_dropout = nn.Dropout(head_dropout)
        num_read = len(layer_numbers("model.readout_layers", readout_layers, self.num_layers))
        width = readout_width(readout, self.grid.rows, self.width) * num_read
        self.head = nn.Linear(width, num_classes)

    def forward(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Return the logits [B, K] of waveforms [B, S] at 16 kHz or log-Mel frames [B, T, F], not normalised.

        `padding_mask` [B, S] or [B, T] bool, True = padding at a clip's end, which has no part in the result.
        """
        layers, mask = self.layer_features(source, padding_mask, self.readout_layers)
        clip = read_out_layers(self.readout, layers, mask, self.grid.rows)
        return self.head(self.head_dropout(clip.to(self.head.weight.dtype)))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits [B, K] into float32 probabilities: of each class by itself, or of one class among all."""
        logits = logits.float()
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)
