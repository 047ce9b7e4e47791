"""The registered fairseq criterions."""

import fairseq  # noqa: F401 (first, since its import registers the modules of this room)

from mae_ast_fairseq.criterions import classification, pretraining  # noqa: F401
