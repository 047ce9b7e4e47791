"""The registered fairseq models: thin shells over `mae_ast_fairseq.nn`."""

import fairseq  # noqa: F401 (first, since its import registers the modules of this room)

from mae_ast_fairseq.models import mae_ast, mae_ast_classifier, ssast  # noqa: F401
