"""The experiments' tables, beside what was published, and curves of their runs."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cell, Result, cells_of
from downstream import CORPORA
from matplotlib.figure import Figure
from tabulate import tabulate

NOT_RUN, PUBLISHED_HERE, NOT_LEARNT = "not run", "as published", "-"
BASELINES = Path(__file__).resolve().parents[2] / "docs" / "features" / "results.jsonl"
"""what features.py measured of the same probe sets, of log-Mel and of random weights too"""
COLUMNS = [corpus.short for corpus in CORPORA.values()]
PUBLISHED = {  # fine-tuned, in percent, by the rows of ssast, in the order of COLUMNS
    "SSAST patch, 12 layers": (28.6, 88.8, 98.0, 96.0, 64.3, 59.6),
    "SSAST frame, 12 layers": (None, 85.9, 98.1, 96.7, 80.8, 60.5),
    "MAE-AST patch, 6 layers": (28.3, 88.6, 97.4, 95.0, 37.6, 58.7),
    "MAE-AST frame, 6 layers": (25.9, 88.0, 97.8, 96.6, 58.6, 60.2),
    "MAE-AST patch, 12 layers": (30.6, 90.0, 97.9, 95.8, None, 59.8),
    "MAE-AST frame, 12 layers": (23.0, 88.9, 98.0, 97.3, 63.3, 62.1),
}
ROWS: dict[str, Callable[[Cell], str]] = {
    "ssast": lambda cell: f"{cell.model} {cell.tokens}, {cell.layers} layers",
    "masking": lambda cell: f"{cell.tokens}, {cell.mask_type.removesuffix('_mask')}, {cell.ratio:.0%}",
    "pretext": lambda cell: f"{cell.model}, {cell.pretext}",
}
NUM_COLOURS = 6
"""of curves; those of the rows that follow are the same, dashed"""
FIGURES = {"loss_recon": "error", "info_nce_accuracy": "InfoNCE accuracy", "effective_rank": "effective rank"}
HEADS = {"loss_recon": "classification", "info_nce_accuracy": "reconstruction"}
"""figures of a head, and the pretext task by which it is not trained"""

Rows = Mapping[str, Sequence[Result]]
"""results of a row's cells, one a seed"""


def as_markdown(names: Sequence[str], scale: str, results: Mapping[Cell, Result], benchmark: Mapping[str, Any]) -> str:
    """Write tables of a scale, with what `mae-ast benchmark` said of its models, and behind them what was published."""
    return "\n\n".join([*(_one(name, scale, results, benchmark) for name in names), _published()])


def _one(table: str, scale: str, results: Mapping[Cell, Result], benchmark: Mapping[str, Any]) -> str:
    """Write a table of a scale: what models are worth, and for SSAST's what they cost."""
    cells = cells_of(table, scale)
    num_seeds = len({cell.seed for cell in cells})
    rows = rows_of(table, cells, results)
    parts = [f"## {table}, {scale} scale"]
    if scale == "paper":
        parts += ["Fine-tuned, in percent", _fine_tuned(rows, num_seeds)]
    for readout, title in {"mean": "mean of the tokens, as in the paper", "best": "best readout"}.items():
        parts += [f"Probes, {title}: accuracy in percent", _probed(rows, num_seeds, readout, scale == "cpu")]
    if scale == "cpu":
        parts += ["Fine-tuned on digits: accuracy in percent", _fine_tuned(rows, num_seeds)]
    parts += ["At the end of pretraining, on validation clips", _figures(rows, num_seeds)]
    if table == "ssast" and benchmark:
        parts += ["A training step, of one run of `mae-ast benchmark`", _costs(benchmark)]
    return "\n\n".join(parts)


def _published() -> str:
    lines = [[row, *map(_percent, values)] for row, values in PUBLISHED.items()]
    return "## As published, in percent\n\n" + _table(lines, ["", *COLUMNS])


def rows_of(table: str, cells: Sequence[Cell], results: Mapping[Cell, Result]) -> Rows:
    """Return the results of each row of a table; of one that was not run there are none."""
    rows: dict[str, list[Result]] = {}
    for cell in cells:
        rows.setdefault(ROWS[table](cell), []).extend([results[cell]] if cell in results else [])
    return rows


def _probed(rows: Rows, num_seeds: int, readout: str, with_random: bool) -> str:
    """Write the accuracy of a readout's probes on each set, beside log-Mel and random weights."""
    sets = _names(rows, "probes")
    lines = [
        [row, _seeds(some, num_seeds), *(mean_percent(_values(some, "probes", name, readout)) for name in sets)]
        for row, some in rows.items()
    ]
    return _table([*lines, *(_baselines(sets, readout, with_random) if sets else [])], ["", "seeds", *sets])


def _baselines(sets: Sequence[str], readout: str, with_random: bool) -> list[list[str]]:
    """Return the rows of what needs no training: log-Mel, and the networks of MAE-AST's tiny recipes."""
    probes = [one for one in _kept_features() if one["stage"] == "probe"]
    models = {"log-Mel": "log-Mel"}
    if with_random:
        models |= {f"random {tokens}": f"random weights, {tokens}, 4 layers" for tokens in ("patch", "frame")}
    return [
        [title, "", *(mean_percent(last_of(probes, model, set=name, readout=readout)) for name in sets)]
        for model, title in models.items()
    ]


@cache
def _kept_features() -> list[Result]:
    return [json.loads(line) for line in BASELINES.read_text(encoding="utf-8").splitlines()]


def last_of(probes: Sequence[Result], model: str, **wanted: Any) -> list[float]:
    """Return the accuracies of a model, of its last checkpoint where there are many."""
    some = [result for result in probes if all(result[name] == value for name, value in wanted.items())]
    if model.startswith("random"):
        return [result["accuracy"] for result in some if result["model"].startswith(f"{model} ")]
    names = {result["model"] for result in some if result["model"].split("@")[0] == model}
    name = max(names, key=lambda name: int(name.partition("@")[2] or 0), default=None)
    return [result["accuracy"] for result in some if result["model"] == name]


def _fine_tuned(rows: Rows, num_seeds: int) -> str:
    """Write what fine-tuning gave on each corpus, above what was published of the same model."""
    names = _names(rows, "fine_tuned")
    lines = []
    for row, some in rows.items():
        values = [mean_percent(_values(some, "fine_tuned", name)) for name in names]
        lines.append([row, _seeds(some, num_seeds), *values])
        if row in PUBLISHED and set(names) & set(CORPORA):
            by_corpus = dict(zip(CORPORA, PUBLISHED[row], strict=True))
            lines.append([PUBLISHED_HERE, "", *(_percent(by_corpus.get(name)) for name in names)])
    return _table(lines, ["", "seeds", *(CORPORA[name].short if name in CORPORA else name for name in names)])


def _names(rows: Rows, kind: str) -> list[str]:
    """Return what was measured of any row, of the probes or the fine-tunings."""
    return list(dict.fromkeys(name for some in rows.values() for result in some for name in result.get(kind, ())))


def _values(some: Sequence[Result], kind: str, name: str, readout: str | None = None) -> list[float]:
    found = [result[kind][name] for result in some if name in result.get(kind, {})]
    return [value[readout] for value in found] if readout else found


def _seeds(some: Sequence[Result], num_seeds: int) -> str:
    return f"{len(some)} of {num_seeds}" if some else NOT_RUN


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def mean_percent(values: Sequence[float]) -> str:
    """Write a mean in percent, with the deviation of several."""
    text = f"{100 * np.mean(values):.1f}" if values else ""
    return text if len(values) < 2 else f"{text} ± {100 * np.std(values, ddof=1):.1f}"


def _figures(rows: Rows, num_seeds: int) -> str:
    """Write the figures of the last validation, but for those of a head that is not trained."""
    lines = []
    for row, some in rows.items():
        line = [row, _seeds(some, num_seeds)]
        for name in FIGURES:
            values = [result["curve"][-1][name] for result in some if result["curve"] and name in result["curve"][-1]]
            line.append(NOT_LEARNT if some and not _is_learnt(name, some) else _mean(values))
        lines.append(line)
    return _table(lines, ["", "seeds", *FIGURES.values()])


def _is_learnt(name: str, some: Sequence[Result]) -> bool:
    return all(result["pretext"] != HEADS.get(name) for result in some)


def _mean(values: Sequence[float]) -> str:
    text = f"{np.mean(values):.3g}" if values else ""
    return text if len(values) < 2 else f"{text} ± {np.std(values, ddof=1):.2g}"


def _costs(benchmark: Mapping[str, Any]) -> str:
    """Write what a step of each recipe costs, and how many times less than SSAST's at the same depth."""
    lines = [
        [
            *(depth, row["recipe"], f"{row['time']['update']['median']:.3f}"),
            *(f"{row['times_faster']['update']['median']:.2f}", f"{row['memory']['peak_bytes'] / 2**20:,.0f}"),
            f"{row['times_less_memory']:.2f}",
        ]
        for depth, measured in benchmark.items()
        for row in measured["rows"]
    ]
    return _table(lines, ["layers", "recipe", "seconds", "times faster", "peak MiB", "times less memory"])


def _table(lines: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    return tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)


def draw_curves(path: Path, rows: Rows) -> None:
    """Draw figures of validations over updates, the mean over a row's seeds, a panel each."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    for (name, title), ax in zip(FIGURES.items(), figure.subplots(1, len(FIGURES)), strict=True):
        for number, (row, some) in enumerate(rows.items()):
            if not some or not _is_learnt(name, some):
                continue
            points: dict[int, list[float]] = {}
            for one in (one for result in some for one in result["curve"] if name in one):
                points.setdefault(one["num_updates"], []).append(one[name])
            style = {"color": f"C{number % NUM_COLOURS}", "linestyle": ("-", "--")[number // NUM_COLOURS], "label": row}
            ax.plot(sorted(points), [np.mean(points[n]) for n in sorted(points)], marker="o", markersize=3, **style)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("updates")
        ax.set_ylim(0, 1.05 * ax.get_ylim()[1])
        ax.grid(alpha=0.3)
    figure.legend(*figure.axes[-1].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=100)
