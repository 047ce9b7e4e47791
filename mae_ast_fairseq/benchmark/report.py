"""The results as text: the parts of the JSON as aligned tables, with the JSON's names and readable units."""

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

Row = dict[str, Any]

IDENTITY = ("recipe", "precision", "seconds", "batch_size", "mask_ratio", "dropout", "attention_dropout")
"""The fields that say what a row is."""

TABLES = {
    "time per batch in seconds: median (quartiles) of rounds run in turns": ("time",),
    "times as fast as the baseline: median (quartiles) of the rounds' ratios": ("times_faster",),
    "operations counted": ("num_parameters", "num_tokens", "num_visible", "times_fewer_operations", "operations"),
    "share reached of the best matrix product's rate": ("share_of_rate",),
    "peak memory of an update: step is what comes above weights, gradients and optimiser state": (
        "times_less_memory",
        "memory",
    ),
}
"""Titles of the tables of rows, and the fields they show; a row without the last one is left out."""

LISTS = {
    "matrix_products": "the machine's own matrix products, timed in the same rounds",
    "dispatch": "operations dispatched in forward and backward, by batch size",
    "loader": "the loader alone, and fairseq's loop fed by it, in seconds per update",
    "fairseq": "fairseq's loop on one batch, in seconds per update; other: all but the step and waiting",
}
"""Titles of the tables of other parts."""

FORMATS = {
    "bytes": (2**20, "{:.0f} MiB"),
    "flops": (1e9, "{:.1f} G"),
    "share": (0.01, "{:.1f}%"),
    "mask_ratio": (0.01, "{:.0f}%"),
    "times": (1, "{:.2f}x"),
}
"""Scales and formats of numbers by what their names contain."""


def as_text(result: dict[str, Any]) -> str:
    """Return all tables of a result, after the machine and the settings."""
    blocks = [", ".join(f"{name} {value}" for name, value in (result["machine"] | result["settings"]).items())]
    for title, fields in TABLES.items():
        rows = [row for row in result["rows"] if fields[-1] in row]
        blocks.append(table(title, [{name: row[name] for name in (*IDENTITY, *fields) if name in row} for row in rows]))
    blocks += [table(title, result.get(name, [])) for name, title in LISTS.items()]
    for row in result["rows"]:
        what = {name: row[name] for name in IDENTITY}
        profile = row.get("profile", [])
        operators = [profile] if "error" in profile else profile
        blocks.append(table("heaviest operators of one update", [what | operator for operator in operators]))
    return "\n\n".join(filter(None, blocks))


def table(title: str, rows: Sequence[Row]) -> str:
    """Return a titled table of what differs between rows, after what does not; nothing where there are no rows."""
    if not rows:
        return ""
    cells = [_cells(row) for row in rows]
    shared = [name for name in IDENTITY if name in cells[0] and len({row.get(name) for row in cells}) == 1]
    varying = [{name: value for name, value in row.items() if name not in shared} for row in cells]
    aligned = tabulate(varying, headers="keys", tablefmt="plain", disable_numparse=True, stralign="right")
    same = ", ".join(f"{name} {cells[0][name]}" for name in shared)
    return "\n".join(filter(None, (title, same, aligned)))


def _cells(fields: Row, path: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the text of each field, under the names that lead to it."""
    cells: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, dict) and "median" not in value:
            cells |= _cells(value, (*path, name))
        else:
            header = "\n".join((*path, str(name)))
            cells[header] = _text(header, value)
    return cells


def _text(name: str, value: Any) -> str:
    if isinstance(value, dict):
        median, low, high = (_text(name, value[part]) for part in ("median", "q1", "q3"))
        return f"{median} ({low}-{high})"
    if isinstance(value, str | bool):
        return str(value)
    scale, form = next((found for word, found in FORMATS.items() if word in name), (1, "{:.3g}"))
    return form.format(value / scale) if isinstance(value, float) or scale > 1 else str(value)
