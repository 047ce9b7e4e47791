"""The tables and pictures of docs/features, from results and the logs of the runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tables import last_of, mean_percent
from tabulate import tabulate

from mae_ast_fairseq.figures import FILE_NAME, read_figures

Result = dict[str, Any]

BEST = "best"
ROWS = (  # of the table of probes: what it is called, the model's name, the readout
    ("log-Mel, mean", "log-Mel", "mean"),
    ("log-Mel, best readout", "log-Mel", BEST),
    ("**frames**: random weights, mean", "random frame", "mean"),
    ("pretrained, mean", "frame", "mean"),
    ("random weights, best readout", "random frame", BEST),
    ("pretrained, best readout", "frame", BEST),
    ("**patches**: random weights, mean", "random patch", "mean"),
    ("pretrained, mean", "patch", "mean"),
    ("random weights, best readout", "random patch", BEST),
    ("pretrained, best readout", "patch", BEST),
)
VARIANTS = ("frame-2000", "frame-lr-0.001", "frame-chunk", "frame-reconstruction")
SIDE_BY_SIDE = ("patch-500-recordings-bf16", "patch-failing-recordings-bf16")
FIGURES = {"token_spread": "spread", "effective_rank": "rank", "content_gain": "gain"}


def write(out: Path, results: Sequence[Result], docs: Path) -> None:
    """Write tables.md into OUT, the results and the pictures beside the page."""
    probes = [result for result in results if result["stage"] == "probe"]
    shots = [result for result in results if result["stage"] == "few-shot"]
    sets = list(dict.fromkeys(result["set"] for result in probes))
    runs = {path.parent.name: validations(path) for path in sorted(out.glob(f"runs/*/{FILE_NAME}"))}
    tables = [
        probe_table(probes, sets, ROWS),
        probe_table(probes, sets, [(name, name, BEST) for name in VARIANTS]),
        few_shot_table(shots),
        last_layer_table([result for result in results if result["stage"] == "last-layer"], sets),
        health_table(runs),
    ]
    (out / "tables.md").write_text("\n\n".join(tables) + "\n")
    print((out / "tables.md").read_text())
    lines = [json.dumps(result) for result in results]
    (docs / "results.jsonl").write_text("".join(f"{line}\n" for line in lines))
    draw_curves(docs / "curves.png", probes, sets)
    draw_health(docs / "collapse.png", {name: runs[name] for name in SIDE_BY_SIDE if name in runs})


def probe_table(probes: Sequence[Result], sets: Sequence[str], rows: Sequence[tuple[str, str, str]]) -> str:
    """Write accuracies by set, mean and deviation over seeds."""
    table = [
        [name, *(mean_percent(last_of(probes, model, set=one, readout=readout)) for one in sets)]
        for name, model, readout in rows
    ]
    return tabulate(table, headers=["", *sets], tablefmt="github", disable_numparse=True)


def few_shot_table(shots: Sequence[Result]) -> str:
    """Write the mean over speakers of each method and number of takes, with the deviation over seeds."""
    numbers = sorted({result["shots"] for result in shots}, key=lambda number: number or 1000)
    table = []
    for method in dict.fromkeys(result["method"] for result in shots):
        row = [method]
        for number in numbers:
            some = [result for result in shots if result["method"] == method and result["shots"] == number]
            by_seed = [[r["accuracy"] for r in some if r["seed"] == seed] for seed in sorted({r["seed"] for r in some})]
            row.append(mean_percent([float(np.mean(values)) for values in by_seed if len(values) == 6]))
        table.append(row)
    return tabulate(table, headers=["", *(str(n or "all") for n in numbers)], tablefmt="github", disable_numparse=True)


def last_layer_table(some: Sequence[Result], sets: Sequence[str]) -> str:
    """Write what the mean of the last layer alone is worth, of each model."""
    found = {(result["model"], result["set"]): result["accuracy"] for result in some}
    models = dict.fromkeys(model for model, _ in found)
    table = [
        [model, *(mean_percent([found[model, name]]) for name in sets if (model, name) in found)] for model in models
    ]
    return tabulate(table, headers=["", *sets], tablefmt="github", disable_numparse=True)


def validations(log: Path) -> list[dict[str, float]]:
    """Return what a run logged of its validations."""
    return [figures for figures in read_figures(log) if figures["kind"] == "valid"]


def health_table(runs: dict[str, list[dict[str, float]]]) -> str:
    """Write the last validation of each run."""
    names = ("num_updates", "loss_recon", "info_nce_accuracy", *FIGURES)
    table = [[run, *(found[-1].get(name, float("nan")) for name in names)] for run, found in runs.items() if found]
    headers = ["run", "updates", "error", "InfoNCE accuracy", *FIGURES]
    return tabulate(table, headers=headers, tablefmt="github", floatfmt=("", ".0f", ".3f", ".3f", ".2f", ".1f", ".2f"))


def draw_curves(path: Path, probes: Sequence[Result], sets: Sequence[str]) -> None:
    """Draw accuracy at the best readout over updates, a panel a set, beside log-Mel and random weights."""
    figure = Figure(figsize=(3.1 * max(1, len(sets)), 3.4), layout="constrained")
    for place, (name, ax) in enumerate(zip(sets, np.ravel(figure.subplots(1, max(1, len(sets)))), strict=False)):
        some = [result for result in probes if result["set"] == name and result["readout"] == BEST]
        for run, colour in (("frame", "C0"), ("patch", "C1")):
            points: dict[int, list[float]] = {}
            for result in some:
                model, _, updates = result["model"].partition("@")
                if model == run:
                    points.setdefault(int(updates), []).append(100 * result["accuracy"])
            random = last_of(some, f"random {run}")
            points[0] = [100 * value for value in random] or [np.nan]
            updates = sorted(points)
            ax.plot(updates, [np.mean(points[n]) for n in updates], marker="o", markersize=3, color=colour, label=run)
            ax.axhline(np.mean(points[0]), color=colour, linewidth=1, linestyle=":")
        ax.axhline(100 * np.mean(last_of(some, "log-Mel")), color="0.4", linestyle="--", linewidth=1, label="log-Mel")
        ax.set_title(name, fontsize=9)
        ax.set_xlabel("updates (0: random weights)", fontsize=8)
        ax.grid(alpha=0.3)
        if place == 0:
            ax.set_ylabel("accuracy (%)")
            ax.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def draw_health(path: Path, runs: dict[str, list[dict[str, float]]]) -> None:
    """Draw error and figures of a healthy and a collapsed run over updates."""
    figure = Figure(figsize=(12, 3), layout="constrained")
    names = {"loss_recon": "squared error (both fall)", **FIGURES}
    for (name, title), ax in zip(names.items(), figure.subplots(1, len(names)), strict=True):
        for run, found in runs.items():
            points = [(one["num_updates"], one[name]) for one in found if name in one]
            ax.plot(*zip(*points, strict=True), marker="o", markersize=3, label=run)
        ax.set_title(title if name == "loss_recon" else name, fontsize=10)
        ax.set_xlabel("updates")
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
        ax.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    raise SystemExit("run examples/experiments/features.py OUT --only report")
