"""Updates whose gradient is not finite: skipped, counted, and past a limit the end of the run."""

from typing import Any

import torch
from torch import Tensor

from mae_ast_fairseq.data.concat import ConcatManifest
from mae_ast_fairseq.data.manifest import Manifest
from mae_ast_fairseq.errors import AudioError, get_logger, listed

logger = get_logger(__name__)

NUM_SHOWN = 8


class SkippedUpdates:
    """Counts the updates of a run that are skipped, and names their clips.

    Args:
        limit: of them; one more ends the run.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.count = 0
        self.is_skipping = False
        """whether the running update is one, or where none is running, the last"""
        self._rows: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Take the rows [B] of a batch's clips; an update may be made of several batches."""
        if not self._rows:
            self.is_skipping = False
        self._rows.append(rows)

    def end(self) -> bool:
        """End an update, and return whether it is skipped."""
        self._rows = []
        return self.is_skipping

    def skip(self, manifest: Manifest | ConcatManifest, optimizer: Any) -> None:
        """Let no weight change in this update, and say of which clips it was; raises AudioError past the limit."""
        self.is_skipping = True
        self.count += 1
        rows = torch.cat(self._rows).tolist()
        clips = listed([manifest.path(row) for row in rows], NUM_SHOWN)
        message = f"the gradient is NaN or infinite; this process's clips: {clips}"
        if self.count > self.limit:
            raise AudioError(
                f"{message}; {self.count} updates were skipped for that; expected at most "
                f"task.max_skipped_updates={self.limit}; look at the clips with `mae-ast check`, or lower "
                "optimization.lr"
            )
        logger.warning("update skipped: %s", message)
        if hasattr(optimizer, "_multiply_factor"):  # that of bfloat16 would make the next gradient NaN too
            optimizer._multiply_factor = 1.0
