"""Draws time and memory against clip length and mask ratio: one PNG of four panels."""

from collections import Counter
from pathlib import Path
from typing import Any

from mae_ast_fairseq.evaluation.plots import COLOURS, STYLES, save_figure

Row = dict[str, Any]

FIGURE_SIZE = (11.0, 7.5)  # inches

SAME = ("recipe", "precision", "batch_size", "dropout", "attention_dropout")
"""What is the same along a line."""

AXES = {"seconds": "clip length (s)", "mask_ratio": "masked tokens"}
VALUES = {
    "time": "forward and backward (s per clip)",
    "memory": "peak memory above weights,\ngradients and state (GiB)",
}


def save(path: Path, result: dict[str, Any]) -> None:
    """Draw the rows of a result as a PNG, which appears whole or not at all."""
    save_figure(path, lambda: _figure(result))


def lines(rows: list[Row], axis: str, value: str) -> dict[tuple[Any, ...], tuple[float, list[tuple[float, float]]]]:
    """Return the line of each kind of row: where it lies on the other axis, and its points (place, value) in order.

    Of several values on the other axis the one with the most points is drawn, the first where they are alike.
    """
    (other,) = AXES.keys() - {axis}
    kinds: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if value in row and "error" not in row[value]:
            kinds.setdefault(tuple(row[name] for name in SAME), []).append(row)
    found = {}
    for kind, alike in kinds.items():
        ((fixed, _),) = Counter(row[other] for row in alike).most_common(1)
        found[kind] = fixed, sorted((row[axis], _value(row, value)) for row in alike if row[other] == fixed)
    return found


def _value(row: Row, value: str) -> float:
    if value == "time":
        return row["time"]["forward_backward"]["median"] / row["batch_size"]
    return row["memory"]["step_bytes"] / 2**30


def _figure(result: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure  # not pyplot: no window system, no state
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    machine = ", ".join(f"{name} {result['machine'][name]}" for name in ("processor", "num_threads", "device", "torch"))
    figure.suptitle(machine, fontsize="medium", parse_math=False)
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    handles: dict[str, Any] = {}
    for panels, value in zip(axes, VALUES, strict=True):
        for ax, axis in zip(panels, AXES, strict=True):
            handles |= _draw(ax, result["rows"], axis, value)
    axes[1, 1].xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _draw(ax: Any, rows: list[Row], axis: str, value: str) -> dict[str, Any]:
    """Draw a panel; return its lines by what they are called: what differs between lines."""
    kinds = list(dict.fromkeys(tuple(row[name] for name in SAME) for row in rows))
    differing = [place for place in range(len(SAME)) if len({kind[place] for kind in kinds}) > 1] or [0]
    handles = {}
    drawn = lines(rows, axis, value)
    for kind, (_, points) in drawn.items():
        cycle, number = divmod(kinds.index(kind), len(COLOURS))
        style = {"color": COLOURS[number], "linestyle": STYLES[cycle % len(STYLES)], "marker": "o", "markersize": 4}
        (handle,) = ax.plot(*zip(*points, strict=True), **style)
        handles[", ".join(f"{SAME[place]} {kind[place]}" for place in differing)] = handle
    (other,) = AXES.keys() - {axis}
    places = ", ".join(f"{fixed:g}" for fixed in sorted({fixed for fixed, _ in drawn.values()}))
    ax.set_title(f"{AXES[other]}: {places}", fontsize="medium")
    ax.set(xlabel=AXES[axis], ylabel=VALUES[value])
    ax.label_outer()
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return handles
