"""Torch modules of MAE-AST; nothing here knows fairseq or a config."""
