"""Curves of runs over updates: a panel a figure, with every run in it, as one PNG or each as SVG."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mae_ast_fairseq.evaluation.collapse import MIN_GAIN, MIN_RANK_FRACTION, MIN_SPREAD
from mae_ast_fairseq.evaluation.plots import COLOURS, STYLES, figure_as_svg, save_figure
from mae_ast_fairseq.report.runs import ABOUT, OF_SPEED, Points, Run

PANELS = {
    "loss": "what training lowers",
    "loss_recon": "squared error of the masked patches",
    "loss_info_nce": "InfoNCE among the masked tokens, nats",
    "info_nce_accuracy": "masked tokens whose own patch scores highest; dotted: guessing",
    "token_spread": "how far tokens lie from their clip's mean",
    "effective_rank": "directions in which tokens differ",
    "content_gain": "growth of the error where clips swap their encodings",
    "top1": "clips whose label scores highest",
    "lr": "learning rate",
    "gnorm": "norm of the gradient",
    "ups": "updates a second",
    "gb_free": "free memory of the GPU, GiB",
}
"""The figures that are drawn first, and what they are; after them comes what else validations measured."""

CHANCE = {"info_nce_accuracy": "info_nce_chance"}
FROM_ZERO = {"info_nce_accuracy", "token_spread", "effective_rank", "top1", "lr", "gnorm", "ups", "gb_free"}
NOT_DRAWN = {*CHANCE.values(), "masked_tokens", "padding_share", "bad_files", *ABOUT, *OF_SPEED}
MAX_POINTS = 400
"""of a line of training; beyond, neighbours are averaged, as a longer log_interval would"""
MAX_MARKED = 40
"""points of a validation that are marked"""

COLUMNS, PANEL_WIDTH, PANEL_HEIGHT = 3, 4.2, 2.7  # inches
LEGEND_HEIGHT, MAX_NAME = 0.22, 60  # inches a row, characters
SWATCH_WIDTH, LETTER_WIDTH = 0.7, 0.1  # inches
NUM_LOOKS = len(COLOURS) * len(STYLES)
"""runs that can be told apart; those that follow look as the first ones do"""


class Line(NamedTuple):
    """A line of a panel."""

    run: int
    points: Points
    is_validation: bool
    is_reference: bool = False
    """of what guessing gives, or of a validation on a further subset"""


class Panel(NamedTuple):
    """A figure of all runs that have it."""

    name: str
    note: str
    lines: list[Line]
    bounds: list[float]
    """below which an encoder is called collapsed"""


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Return what there is to draw of runs."""
    measured = {name: "" for run in runs for subset in run.subsets for name in run.last("valid", subset)}
    found = []
    for name, note in {**measured, **PANELS}.items():
        if name in NOT_DRAWN - PANELS.keys() or name.startswith("best_"):
            continue
        lines = [line for place, run in enumerate(runs) for line in _lines(place, run, name)]
        if lines:
            found.append(Panel(name, note, lines, _bounds(name, [runs[line.run] for line in lines])))
    order = list(PANELS)
    return sorted(found, key=lambda panel: order.index(panel.name) if panel.name in order else order.index("lr") - 0.5)


def _lines(place: int, run: Run, name: str) -> list[Line]:
    found = [Line(place, _thinned(run.points(run.training, name)), is_validation=False)]
    for number, subset in enumerate(run.subsets):
        found.append(Line(place, run.points("valid", name, subset), is_validation=True, is_reference=number > 0))
    if name in CHANCE:
        chance = run.points("valid", CHANCE[name]) or _thinned(run.points(run.training, CHANCE[name]))
        found.append(Line(place, chance, is_validation=False, is_reference=True))
    return [line for line in found if any(math.isfinite(value) for _, value in line.points)]


def _thinned(points: Points) -> Points:
    """Average neighbours of a line of too many points."""
    if len(points) <= MAX_POINTS:
        return points
    return [tuple(part.mean(axis=0)) for part in np.array_split(np.array(points, float), MAX_POINTS)]


def _bounds(name: str, runs: Sequence[Run]) -> list[float]:
    if name == "effective_rank":
        return sorted({MIN_RANK_FRACTION * run.setting("model.encoder_embed_dim") for run in runs} - {0})
    return {"token_spread": [MIN_SPREAD], "content_gain": [MIN_GAIN]}.get(name, [])


def look(run: int) -> dict[str, Any]:
    """Return the colour and the dashes of a run's lines."""
    cycle, place = divmod(run, len(COLOURS))
    return {"color": COLOURS[place], "linestyle": STYLES[cycle % len(STYLES)]}


def as_svg(panel: Panel) -> str:
    """Return a panel as an <svg>, which has no title and no text of a person's."""

    def draw() -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(PANEL_WIDTH, PANEL_HEIGHT), layout="constrained")
        _draw(figure.subplots(), panel)
        return figure

    return figure_as_svg(draw, salt=panel.name)


def save(path: Path, drawn: Sequence[Panel], names: Sequence[str]) -> None:
    """Draw all panels and the runs' names as a PNG, which appears whole or not at all."""
    save_figure(path, lambda: _figure(drawn, names))


def _figure(drawn: Sequence[Panel], names: Sequence[str]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = min(COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    labels = [name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}" for name in names]
    widest = SWATCH_WIDTH + LETTER_WIDTH * max(map(len, labels))
    legend_columns = max(1, min(len(labels), int(columns * PANEL_WIDTH / widest)))
    legend_rows = math.ceil(len(names) / legend_columns)
    size = (columns * PANEL_WIDTH, rows * PANEL_HEIGHT + legend_rows * LEGEND_HEIGHT)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax, panel in zip(axes, drawn, strict=False):
        _draw(ax, panel)
        ax.set_title(panel.name, fontsize="medium", parse_math=False)
    for ax in axes[len(drawn) :]:
        ax.set_axis_off()
    handles = [Line2D([], [], linewidth=2, **look(place)) for place in range(len(names))]
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw(ax: Any, panel: Panel) -> None:
    has_validation = any(line.is_validation for line in panel.lines)
    for line in panel.lines:
        style = look(line.run)
        if line.is_reference:
            style |= {"linestyle": ":", "linewidth": 1.2}
        elif line.is_validation:
            style |= {"linewidth": 1.8, "marker": "o", "markersize": 3.5 if len(line.points) <= MAX_MARKED else 0}
        else:
            style |= {"linewidth": 1, "alpha": 0.5 if has_validation else 1}
        ax.plot(*zip(*line.points, strict=True), **style)
    if panel.bounds or panel.name in FROM_ZERO:
        low, high = ax.get_ylim()
        low, high = min(0, low), max(high, *(1.5 * bound for bound in panel.bounds), 0)
        ax.set_ylim(low, high + 0.04 * (high - low))
    for bound in panel.bounds:
        ax.axhspan(ax.get_ylim()[0], bound, color="#d1242f", alpha=0.15, linewidth=0)
        ax.axhline(bound, color="#d1242f", linewidth=1, linestyle="--")
    ax.set_xlabel("updates")
    ax.locator_params(axis="x", nbins=5)
    ax.grid(alpha=0.2)
    ax.spines[["top", "right"]].set_visible(False)
