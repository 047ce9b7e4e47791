"""The registered fairseq models: thin shells over `mae_ast_fairseq.nn`."""
