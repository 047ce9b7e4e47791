"""The registered fairseq tasks."""

import fairseq  # noqa: F401 (first, since its import registers the modules of this room)

from mae_ast_fairseq.tasks import classification, field_types, pretraining  # noqa: F401

field_types.install()
