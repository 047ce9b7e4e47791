"""Pictures of reconstructions, as a command and a training run draw them: of which clips, and what they say."""

from pathlib import Path

import numpy as np

from mae_ast_fairseq.errors import printable
from mae_ast_fairseq.evaluation import plots
from mae_ast_fairseq.inference.reconstruct import Reconstruction
from mae_ast_fairseq.rng import Stream, generator

MAX_SECONDS = 10.0
"""Longer clips are cut to their start, unless a person wants more of them."""

MAX_STEM = 50
"""Characters of a file's name in its picture's: 255 bytes hold them in any script."""


def choose_clips(num_samples: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Draw up to `count` clips, by rising length, each from one of as many equal parts of all audio, alike for a seed.

    Args:
        num_samples: [N] of each clip, at least one.
        count: how many.
        seed: of the draw.

    Returns:
        For each, its place in `num_samples`, and then the places of those a little longer, up to the next one drawn:
        where its file is broken, they may stand in for it.
    """
    order = np.argsort(num_samples, kind="stable")
    count = min(count, len(order))
    audio = num_samples[order].cumsum()
    steps = np.arange(count)
    shifts = generator(seed, Stream.ORDER).random(count)
    places = np.searchsorted(audio, (steps + shifts) / count * audio[-1])
    # A clip longer than a part would be drawn again: take its neighbour then.
    places = np.minimum(np.maximum.accumulate(places - steps) + steps, len(order) - count + steps)
    return np.split(order, places)[1:]


def picture_name(number: int, path: str) -> str:
    """Return what the name of a clip's picture begins with: a number, and the name of its file."""
    return f"{number:02}_{Path(path).stem[:MAX_STEM]}"


def describe_training(num_updates: int) -> str:
    """Say of a picture's title how long its model was trained."""
    return f"model trained for {num_updates:,} updates"


def save_picture(picture: Path, path: str, result: Reconstruction, weights: str) -> None:
    """Draw what became of the clip of a file; `weights` says whose work it is. Raises as `plots.save_figure`."""
    title = (
        f"{printable(Path(path).name)}: {weights}\n"
        f"MSE {result.mse:.4f} (always guessing the mean: {result.baseline:.4f})   ·   "
        f"InfoNCE accuracy {result.accuracy:.1%} (chance {result.chance:.1%})"
    )
    plots.save_reconstruction(
        picture,
        original=result.original.numpy(),
        visible=result.visible.numpy(),
        reconstructed=result.reconstructed.numpy(),
        title=title,
    )
