"""Log-Mel frames, tokens, losses and the torch modules of MAE-AST; nothing here knows fairseq or a config."""
