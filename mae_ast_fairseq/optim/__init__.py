"""Optimisers registered with fairseq."""

import fairseq  # noqa: F401 (first, since its import registers the modules of this room)

from mae_ast_fairseq.optim import fused_adam, layerwise  # noqa: F401
