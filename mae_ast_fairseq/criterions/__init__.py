"""The registered fairseq criterions."""

import fairseq  # noqa: F401 (first, since its import registers the modules of this room)
