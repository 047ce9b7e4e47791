"""Pictures of spectrograms and of confusions: arrays in, a PNG out. Needs matplotlib, which only pictures need."""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.extras import require
from mae_ast_fairseq.files import atomic_write, prepare_folder
from mae_ast_fairseq.nn.fbank import FRAME_SHIFT, HIGH_FREQUENCY, LOW_FREQUENCY, SAMPLE_RATE

SECONDS_PER_FRAME = FRAME_SHIFT / SAMPLE_RATE
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind
STYLES = ("-", "--", "-.")  # dotted is what others are compared with
TICKS = (100, 500, 1_000, 2_000, 4_000, 8_000)  # Hz
MASKED_COLOUR = "0.8"  # a grey that no colour map below has
SHOWN_PERCENTILES = (1, 99.9)  # of the original's values, so that digital silence does not eat the colours
PANEL_HEIGHT, MIN_WIDTH, MAX_WIDTH = 1.9, 8.0, 16.0  # inches
INCHES_PER_SECOND = 1.6
DOTS_PER_INCH = 110
MAX_COUNTED_CLASSES = 20  # of a confusion matrix with counts in its cells
MAX_NAMED_CLASSES = 120  # beyond, names would be specks
MAX_NAME = 24  # characters of a class' name
COUNTED_INCHES, OTHER_INCHES = 0.5, 0.17  # of a class with counts in its cells, and without


def band_of_hertz(hertz: float, num_mel_bins: int) -> float:
    """Return where a frequency lies on an axis of Mel bands, on which band i reaches from i to i + 1."""
    low, high, mel = (1127 * math.log(1 + value / 700) for value in (LOW_FREQUENCY, HIGH_FREQUENCY, hertz))
    # The triangles' centres divide the range evenly, and both of its ends lie outside the bands.
    return (mel - low) / (high - low) * (num_mel_bins + 1) - 0.5


def save_reconstruction(
    path: Path, *, original: np.ndarray, visible: np.ndarray, reconstructed: np.ndarray, title: str
) -> None:
    """Draw what a model saw of a clip and what it made of it, one panel under the other, as by `save_figure`.

    Args:
        path: the PNG.
        original: [T, F] log-Mel frames.
        visible: [T, F] bool, True where the model saw a value.
        reconstructed: [T, F] log-Mel frames.
        title: above the panels, taken literally.
    """
    save_figure(path, lambda: _reconstruction_figure(original, visible, reconstructed, title))


def check_confusion(path: Path, multi_label: bool) -> None:
    """Raise ConfigError unless `--confusion` names a file to write for single labels, and matplotlib is there."""
    require("plot", "--confusion")
    if multi_label:
        raise ConfigError("--confusion: with many labels there is no confusion matrix; expected single labels")
    if path.is_dir():
        raise ConfigError(f"--confusion {path}: this is a folder; expected a file to write, such as a.png")
    prepare_folder("--confusion", path.parent)


def save_confusion(path: Path, *, counts: np.ndarray, names: Sequence[str], title: str) -> None:
    """Draw a confusion matrix, the fraction of each class' clips that was taken for each class, as by `save_figure`.

    Args:
        path: the PNG.
        counts: [K, K] int, clips of the row's class that were taken for the column's.
        names: [K] the classes' names, taken literally.
        title: above the matrix, taken literally.
    """
    save_figure(path, lambda: _confusion_figure(counts, names, title))


def save_figure(path: Path, draw: Callable[[], Any]) -> None:
    """Write the figure that `draw` makes as a PNG, which appears whole or not at all, whatever a matplotlibrc says.

    Raises ConfigError where matplotlib is not installed.
    """
    with _own_settings():
        figure = draw()
        with atomic_write(path) as stream:
            figure.savefig(stream, format="png", dpi=DOTS_PER_INCH)


def figure_as_svg(draw: Callable[[], Any], salt: str) -> str:
    """Return the figure that `draw` makes as an <svg> to stand in a page, whose text and background it takes over.

    `salt` tells its ids from those of other figures in the page. Raises ConfigError where matplotlib is not installed.
    """
    ink = "#010203"  # which nothing else has
    coloured = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    settings = {"axes.facecolor": "none", "figure.facecolor": "none", "svg.fonttype": "none", "svg.hashsalt": salt}
    with _own_settings({**settings, **dict.fromkeys(coloured, ink)}):
        stream = StringIO()
        draw().savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = stream.getvalue()
    # Groups have ids that nothing refers to, alike in all figures.
    return re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :]).replace(ink, "currentColor")


@contextmanager
def _own_settings(settings: Any = ()) -> Iterator[None]:
    require("plot", "a picture")
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()  # one picture for everyone
        matplotlib.rcParams.update(settings)
        warnings.simplefilter("ignore")  # characters of names that the font does not have
        yield


def _confusion_figure(counts: np.ndarray, names: Sequence[str], title: str) -> Any:
    from matplotlib.figure import Figure

    num_classes = len(counts)
    is_counted = num_classes <= MAX_COUNTED_CLASSES
    num_clips = counts.sum(1, keepdims=True)
    fractions = counts / np.maximum(num_clips, 1)
    size = float(np.clip((COUNTED_INCHES if is_counted else OTHER_INCHES) * num_classes, 4, MAX_WIDTH))
    figure = Figure(figsize=(size + 2.2, size + 1.2), layout="constrained")
    figure.suptitle(title, fontsize="large", parse_math=False, wrap=True)
    ax = figure.subplots()
    shown = np.ma.array(fractions, mask=np.broadcast_to(num_clips == 0, counts.shape))
    image = ax.imshow(shown, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    ax.set_facecolor(MASKED_COLOUR)  # classes without a clip
    figure.colorbar(image, ax=ax, label="fraction of the class' clips", shrink=0.7)
    if num_classes <= MAX_NAMED_CLASSES:
        labels = [name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…" for name in names]
        font = "medium" if is_counted else "x-small"
        ax.set_xticks(range(num_classes), labels, rotation=90 if max(map(len, labels)) > 3 else 0, fontsize=font)
        ax.set_yticks(range(num_classes), labels, fontsize=font)
        for label in (*ax.get_xticklabels(), *ax.get_yticklabels()):
            label.set_parse_math(False)
    if is_counted:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if fractions[row, column] > 0.5 else "black"
                ax.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize="small")
    ax.set_xlabel("taken for")
    ax.set_ylabel("is")
    return figure


def _reconstruction_figure(original: np.ndarray, visible: np.ndarray, reconstructed: np.ndarray, title: str) -> Any:
    from matplotlib.figure import Figure  # not pyplot: no window system, no state

    width = float(np.clip(INCHES_PER_SECOND * len(original) * SECONDS_PER_FRAME, MIN_WIDTH, MAX_WIDTH))
    figure = Figure(figsize=(width, 4 * PANEL_HEIGHT + 0.8), layout="constrained")
    figure.suptitle(title, fontsize="large", parse_math=False)
    axes = figure.subplots(4, 1, sharex=True, sharey=True)
    error = np.abs(reconstructed - original)
    low, high = np.percentile(original, SHOWN_PERCENTILES)
    panels = {
        "1. The log-Mel spectrogram": original,
        f"2. What the model saw of it: {visible.mean():.0%} (grey: masked)": np.ma.array(original, mask=~visible),
        "3. What the model filled in (inside the white lines: what it saw)": reconstructed,
    }
    for ax, (label, values) in zip(axes, panels.items(), strict=False):
        image = _draw(ax, label, values, "magma", low, high)
    time = (np.arange(len(original)) + 0.5) * SECONDS_PER_FRAME
    bands = np.arange(original.shape[1]) + 0.5
    axes[2].contour(time, bands, visible.T, levels=[0.5], colors="white", linewidths=1)
    figure.colorbar(image, ax=axes[:3], label="log-Mel energy (natural log)", aspect=40)
    # The same scale with and without training: it depends on the original alone.
    label = "4. How far off it is where it filled in: |3. - 1.| (grey: what it saw)"
    image = _draw(axes[3], label, np.ma.array(error, mask=visible), "viridis", 0, (high - low) / 2)
    figure.colorbar(image, ax=axes[3], label="error (same unit)", aspect=13, extend="max")
    axes[3].set_xlabel("time (s)")
    return figure


def _draw(ax: Any, label: str, values: np.ndarray, colours: str, low: float, high: float) -> Any:
    """Draw [T, F] values over seconds and Mel bands, the latter labelled with their Hz."""
    from matplotlib import colormaps

    num_frames, num_mel_bins = values.shape
    image = ax.imshow(
        values.T,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap=colormaps[colours].with_extremes(bad=MASKED_COLOUR),
        vmin=low,
        vmax=high if high > low else low + 1,
        extent=(0, num_frames * SECONDS_PER_FRAME, 0, num_mel_bins),
    )
    ax.set_title(label, loc="left", fontsize="medium")
    ax.set_yticks([min(band_of_hertz(hertz, num_mel_bins), num_mel_bins) for hertz in TICKS], [str(t) for t in TICKS])
    ax.set_ylabel("Hz (Mel scale)")
    return image
