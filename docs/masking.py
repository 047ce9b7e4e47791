"""Draws docs/masking.png, every masking strategy at three ratios, by the code that training masks with.

python docs/masking.py
"""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae_ast_fairseq.corpus.synthetic import synthesize
from mae_ast_fairseq.data.masking import STRATEGIES, Mask, Masking
from mae_ast_fairseq.evaluation.plots import MASKED_COLOUR, SECONDS_PER_FRAME, save_figure
from mae_ast_fairseq.nn.fbank import SAMPLE_RATE, log_mel
from mae_ast_fairseq.nn.tokens import TokenGrid
from mae_ast_fairseq.rng import Stream, generator

FILE = Path(__file__).with_suffix(".png")
SEED = 1337
SECONDS = 4.015  # 400 frames: 200 tokens of either grid
BATCH = ("harmonic_voice", "chirp")
RATIOS = (0.5, 0.75, 0.85)
GRIDS = {
    "patches": TokenGrid(feature_dim=128, kernel=(16, 16), stride=(16, 16)),
    "frames": TokenGrid(feature_dim=128, kernel=(128, 2), stride=(128, 2)),
}
CLIP_SIZE = 4.0, 0.75  # inches


def clips() -> list[np.ndarray]:
    """Return the log-Mel frames [T, F] of a batch of two clips."""
    waveforms = [
        synthesize(label, round(SECONDS * SAMPLE_RATE), generator(SEED, Stream.CROP, index=index))
        for index, label in enumerate(BATCH)
    ]
    return [log_mel(torch.from_numpy(waveform)).numpy() for waveform in waveforms]


def masks(masking: Masking, grid: TokenGrid, num_frames: int) -> list[Mask]:
    """Return the masks of the batch in the first epoch of training."""
    indices = [0 if masking.shared else index for index in range(len(BATCH))]
    return [
        masking.draw(grid.rows, grid.num_columns(num_frames), generator(SEED, Stream.MASK, epoch=1, index=index))
        for index in indices
    ]


def is_masked(mask: Mask, grid: TokenGrid) -> np.ndarray:
    """Return where the values of masked tokens lie, [T, F] bool."""
    num_tokens = len(mask.visible) + len(mask.masked)
    patches = torch.zeros(1, num_tokens, grid.patch_size, dtype=torch.bool)
    patches[:, mask.masked] = True
    return grid.unpatchify(patches)[0].numpy()


def draw() -> Any:
    """Return the figure: a strategy a row, a ratio a column, in each the two clips of a batch."""
    from matplotlib.figure import Figure

    batch = clips()
    cases = list(product(GRIDS, STRATEGIES))
    width, height = CLIP_SIZE
    figure = Figure(figsize=(width * len(RATIOS), len(cases) * (len(BATCH) * height + 0.4) + 0.4), layout="constrained")
    panels = figure.subplots(len(cases) * len(BATCH), len(RATIOS), sharex=True)
    for (row, (tokens, name)), (column, ratio) in product(enumerate(cases), enumerate(RATIOS)):
        drawn = masks(Masking(name, ratio), GRIDS[tokens], len(batch[0]))
        axes = panels[row * len(BATCH) : (row + 1) * len(BATCH), column]
        num_visible, num_tokens = len(drawn[0].visible), len(drawn[0].visible) + len(drawn[0].masked)
        axes[0].set_title(f"{name}, {tokens}, {ratio:.0%}: {num_visible} of {num_tokens} visible", fontsize="small")
        for ax, frames, mask in zip(axes, batch, drawn, strict=True):
            _draw_clip(ax, frames, is_masked(mask, GRIDS[tokens]))
    figure.supxlabel("time (s)", fontsize="small")
    return figure


def _draw_clip(ax: Any, frames: np.ndarray, masked: np.ndarray) -> None:
    """Draw a clip's spectrogram with its masked tokens in grey."""
    from matplotlib import colormaps

    low, high = np.percentile(frames, (1, 99.9))
    shown = np.ma.array(frames[: len(masked)], mask=masked)
    extent = (0, len(shown) * SECONDS_PER_FRAME, 0, shown.shape[1])
    colours = colormaps["magma"].with_extremes(bad=MASKED_COLOUR)
    ax.imshow(
        shown.T,
        origin="lower",
        aspect="auto",
        extent=extent,
        interpolation="nearest",
        cmap=colours,
        vmin=low,
        vmax=high,
    )
    ax.set_yticks([])


if __name__ == "__main__":
    save_figure(FILE, draw)
