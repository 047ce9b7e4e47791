"""MAE-AST, the Masked Autoencoding Audio Spectrogram Transformer, as a fairseq plugin."""

__version__ = "0.1.0"
