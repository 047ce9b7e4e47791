"""Draws time and memory against clip length and mask ratio: one PNG of four panels."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from mae_ast_fairseq.benchmark.limits import GIBIBYTE
from mae_ast_fairseq.files import atomic_write

Row = dict[str, Any]

FIGURE_SIZE = (11.0, 7.5)  # inches
DOTS_PER_INCH = 110
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind
STYLES = ("-", "--", ":", "-.")

_SAME = ("recipe", "precision", "batch_size", "dropout", "attention_dropout")
OTHER = {"seconds": "mask_ratio", "mask_ratio": "seconds"}
_FIXED = {"seconds": "{:.0%} masked", "mask_ratio": "clips of {:g} s"}
_TIME, _MEMORY = "forward and backward (s per clip)", "peak memory above weights,\ngradients and state (GiB)"


def save(path: Path, result: dict[str, Any]) -> None:
    """Draw the rows of a result as a PNG, which appears whole or not at all."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        warnings.simplefilter("ignore")  # characters of names that the font does not have
        figure = _figure(result)
        with atomic_write(path) as stream:
            figure.savefig(stream, format="png", dpi=DOTS_PER_INCH)


class Line(NamedTuple):
    """Points (place, value) along one axis, in order of places, and where they lie on the other axis."""

    fixed: float
    points: list[tuple[float, float]]


def lines(rows: list[Row], axis: str, value: str) -> dict[tuple[Any, ...], Line]:
    """Return the line of each kind of row along an axis, `seconds` or `mask_ratio`; `value` is `time` or `memory`.

    Of several values on the other axis the one with the most points is drawn, the first where they are alike.
    """
    groups: dict[tuple[Any, ...], dict[float, Line]] = {}
    for row in rows:
        number, fixed = _value(row, value), row[OTHER[axis]]
        if number is not None:
            kind = groups.setdefault(tuple(row[name] for name in _SAME), {})
            kind.setdefault(fixed, Line(fixed, [])).points.append((row[axis], number))
    longest = {key: max(kind.values(), key=lambda line: len(line.points)) for key, kind in groups.items()}
    return {key: Line(line.fixed, sorted(line.points)) for key, line in longest.items()}


def _value(row: Row, value: str) -> float | None:
    found = row.get(value)
    if found is None or "error" in found:
        return None
    if value == "time":
        return found["forward_backward"]["median"] / row["batch_size"]
    return found["step_bytes"] / GIBIBYTE


def _figure(result: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure  # not pyplot: no window system, no state

    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    machine = result["machine"]
    figure.suptitle(
        f"{machine['processor']}, {machine['num_threads']} threads, {machine['device']}, torch {machine['torch']}",
        fontsize="medium",
        parse_math=False,
    )
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    rows = result["rows"]
    for ax, value, label in ((axes[0], "time", _TIME), (axes[1], "memory", _MEMORY)):
        ax[0].set_ylabel(label)
        for panel, axis, scale in ((ax[0], "seconds", 1), (ax[1], "mask_ratio", 100)):
            _draw(panel, rows, axis, value, scale)
    axes[1, 0].set_xlabel("clip length (s)")
    axes[1, 1].set_xlabel("masked tokens (%)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if not handles:
        handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, max(1, len(labels))), frameon=False)
    return figure


def _draw(ax: Any, rows: list[Row], axis: str, value: str, scale: float) -> None:
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    kinds = list(dict.fromkeys(tuple(row[name] for name in _SAME[1:]) for row in rows))
    drawn = lines(rows, axis, value)
    for key, line in drawn.items():
        ax.plot(
            [place * scale for place, _ in line.points],
            [number for _, number in line.points],
            color=COLOURS[recipes.index(key[0]) % len(COLOURS)],
            linestyle=STYLES[kinds.index(key[1:]) % len(STYLES)],
            marker="o",
            markersize=4,
            label=_label(key, kinds),
        )
    ax.set_title(
        ", ".join(map(_FIXED[axis].format, sorted({line.fixed for line in drawn.values()}))), fontsize="medium"
    )
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def _label(key: tuple[Any, ...], kinds: list[tuple[Any, ...]]) -> str:
    """Name a line by its recipe and what differs between lines."""
    forms = ("{}", "batch {}", "dropout {:g}", "attention dropout {:g}")
    differing = [place for place in range(len(forms)) if len({kind[place] for kind in kinds}) > 1]
    return ", ".join([Path(key[0]).stem, *(forms[place].format(key[1 + place]) for place in differing)])
