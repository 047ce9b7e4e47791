"""The results as text: one aligned table a part."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mae_ast_fairseq.benchmark.limits import GIBIBYTE
from mae_ast_fairseq.benchmark.results import COMPARED

MEBIBYTE = 2**20
Row = dict[str, Any]
Cells = list[str]

_IDENTITY: dict[str, Callable[[Row], str]] = {
    "recipe": lambda row: row["recipe"],
    "precision": lambda row: row["precision"],
    "clip s": lambda row: f"{row['seconds']:g}",
    "batch": lambda row: str(row["batch_size"]),
    "masked": lambda row: f"{row['mask_ratio']:.0%}",
    "dropout": lambda row: f"{row['dropout']:g}",
    "att. dropout": lambda row: f"{row['attention_dropout']:g}",
}
"""What a row is, by the names of its columns."""

_ALWAYS = ("recipe", "precision")
_INDENT = _COLUMN_GAP = "  "
_NUM_LEFT_ALIGNED = 2


def as_text(result: dict[str, Any]) -> str:
    """Return all tables of a result, the machine first."""
    rows, baseline = result["rows"], result["settings"]["baseline"]
    blocks = [_machine(result["machine"]) + f"\nall rows: {_constant(rows)}".rstrip(": ")]
    if any("time" in row for row in rows):
        blocks += [_training(rows, baseline, result["settings"]["rounds"]), _throughput(rows), _operations(rows)]
        blocks.append(_rates(result["matrix_products"]))
    else:
        blocks.append(_operations(rows))
    if any("memory" in row for row in rows):
        blocks.append(_memory(rows, baseline))
    blocks += [make(result[part]) for part, make in _PARTS.items() if result.get(part)]
    blocks += [_profile(row) for row in rows if "profile" in row]
    return "\n\n".join(blocks)


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a titled table, its first two columns aligned on the left and the others on the right.

    A row with fewer cells than the header ends in a remark, which takes what is left of the line.
    """
    lines = [list(header), *map(list, rows)]
    full = [line for line in lines if len(line) == len(header)]
    widths = [max(len(line[place]) for line in full) for place in range(len(header))]
    for line in lines[1:]:
        cells = line if line in full else line[:-1]
        widths[: len(cells)] = [max(width, len(cell)) for width, cell in zip(widths, cells, strict=False)]

    def text(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if place < _NUM_LEFT_ALIGNED else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        if len(line) < len(header):
            cells[-1] = line[-1]
        return _INDENT + _COLUMN_GAP.join(cells).rstrip()

    return "\n".join([title, *map(text, lines)])


def _varying(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the columns that tell rows apart, and those that are always shown."""
    return tuple(name for name, cell in _IDENTITY.items() if name in _ALWAYS or len(set(map(cell, rows))) > 1)


def _constant(rows: Sequence[Row]) -> str:
    """Say what all rows share."""
    shown = _varying(rows)
    return ", ".join(f"{name} {cell(rows[0])}" for name, cell in _IDENTITY.items() if name not in shown)


def _identity(row: Row, columns: Sequence[str]) -> Cells:
    return [_IDENTITY[name](row) for name in columns]


def _by_row(title: str, header: Sequence[str], rows: Sequence[Row], part: str, cells: Callable[[Row], Cells]) -> str:
    """Return the table of a part: the cells of each row that has it, or the reason where it failed."""
    columns = _varying(rows)
    lines = [
        _identity(row, columns) + ([row[part]["error"]] if "error" in row[part] else cells(row))
        for row in rows
        if part in row
    ]
    return table(title, (*columns, *header), lines)


def _spread(found: dict[str, float], scale: float = 1, digits: int = 0) -> str:
    median, low, high = (f"{found[name] * scale:.{digits}f}" for name in ("median", "q1", "q3"))
    return f"{median} ({low}-{high})"


def _times(found: float | None) -> str:
    return "" if found is None else f"{found:.2f}x"


def _machine(machine: dict[str, Any]) -> str:
    commit = f", commit {machine['commit']}" if machine["commit"] else ""
    return (
        f"{machine['processor']}, {machine['num_cores']} cores, {machine['num_threads']} threads, device "
        f"{machine['device']}, {machine['system']}\npython {machine['python']}, torch {machine['torch']}, "
        f"{machine['fairseq']}, mae_ast_fairseq {machine['mae_ast_fairseq']}{commit}"
    )


def _milliseconds(found: dict[str, float], *, with_quartiles: bool = True) -> str:
    digits = 0 if found["median"] >= 1 else 1 if found["median"] >= 0.01 else 2
    return _spread(found, 1e3, digits) if with_quartiles else f"{found['median'] * 1e3:.{digits}f}"


def _training(rows: Sequence[Row], baseline: str, num_rounds: int) -> str:
    parts = ("forward", "backward", "forward_backward", "optimizer", "update", "inference")

    def cells(row: Row) -> Cells:
        faster = row.get("times_faster", {})
        ratios = [faster.get(name, {}).get("median") for name in ("forward_backward", "update", "inference")]
        times = [_milliseconds(row["time"][part], with_quartiles=part in COMPARED) for part in parts]
        return [*times, *map(_times, ratios)]

    title = (
        f"time per batch in ms: median (quartiles) of {num_rounds} rounds run in turns; "
        f"x: times as fast as {baseline}, median of the rounds' ratios"
    )
    header = ("forward", "backward", "fwd+bwd", "clip+Adam", "update", "inference")
    return _by_row(title, (*header, "x fwd+bwd", "x update", "x infer."), rows, "time", cells)


def _throughput(rows: Sequence[Row]) -> str:
    names = [f"{part}_{what}_per_second" for part in ("training", "inference") for what in ("tokens", "audio_seconds")]

    def cells(row: Row) -> Cells:
        return [f"{row['throughput'][name]:.0f}" for name in names]

    header = ("train tokens/s", "train audio s/s", "infer. tokens/s", "infer. audio s/s")
    return _by_row("throughput (training: whole updates)", header, rows, "time", cells)


def _operations(rows: Sequence[Row]) -> str:
    def cells(row: Row) -> Cells:
        counted, share = row["operations"], row.get("share_of_rate", {})
        return [
            f"{row['num_parameters'] / 1e6:.1f}",
            *(str(row[name]) for name in ("num_tokens", "num_visible")),
            *(f"{counted[name] / 1e9:.1f}" for name in ("forward_flops", "backward_flops", "inference_flops")),
            str(counted["dispatched"]),
            _times(row.get("times_fewer_operations")),
            *(f"{share[name]:.0%}" if name in share else "" for name in ("forward_backward", "inference")),
        ]

    header = ("M weights", "tokens", "visible", "fwd GFLOP", "bwd GFLOP", "infer. GFLOP", "dispatched", "x fewer")
    title = "operations counted, and the share reached of the best matrix product's rate"
    return _by_row(title, (*header, "fwd+bwd rate", "infer. rate"), rows, "operations", cells)


def _rates(rates: Sequence[Row]) -> str:
    def cells(rate: Row) -> Cells:
        best = "best" if rate["is_best"] else ""
        size = f"[{rate['m']}, {rate['k']}] x [{rate['k']}, {rate['n']}]"
        return [rate["precision"], size, _spread(rate["flops_per_second"], 1e-9), best]

    title = "the machine's own matrix products, timed in the same rounds"
    return table(title, ("precision", "size", "GFLOP/s", ""), map(cells, rates))


def _memory(rows: Sequence[Row], baseline: str) -> str:
    def cells(row: Row) -> Cells:
        found = row["memory"]
        sizes = (found["step_bytes"], row["operations"]["kept_bytes"], found["static_bytes"])
        peak = f"{found['peak_bytes'] / GIBIBYTE:.2f}"
        return [*(f"{size / MEBIBYTE:.0f}" for size in sizes), peak, _times(row.get("times_less_memory"))]

    title = (
        "peak memory of an update, each in a process of its own: step is what comes above weights, gradients and "
        f"optimiser state;\nkept is what forward keeps for backward, counted; x: times less in the step than {baseline}"
    )
    header = ("step MiB", "kept MiB", "weights, gradients, state MiB", "whole peak GiB", "x less")
    return _by_row(title, header, rows, "memory", cells)


def _dispatch(found: Sequence[Row]) -> str:
    sizes = list(found[0]["operations"])
    lines = (
        [row["recipe"], row["precision"], *(str(row["operations"][size]) for size in sizes), str(row["equal"]).lower()]
        for row in found
    )
    return table(
        "operations dispatched in forward and backward",
        ("recipe", "precision", *(f"batch {size}" for size in sizes), "equal"),
        lines,
    )


def _scaling(found: Sequence[Row]) -> str:
    shown = [{**row, "seconds": row["from_seconds"]} for row in found]
    columns = _varying(shown)
    lines = (
        [
            *_identity(row, columns),
            f"{row['from_seconds']:g}",
            f"{row['to_seconds']:g}",
            f"{row['times_longer']:.2f}x",
            f"{row['against_proportionality']:.2f}x",
        ]
        for row in shown
    )
    title = "forward and backward of longer clips: against the shortest, and against growing in proportion"
    return table(title, (*columns, "from s", "to s", "time", "against proportion"), lines)


def _loop_cells(row: Row) -> Cells:
    seconds = row["seconds_of_parts"]
    parts = ("total", "forward_backward", "optimizer", "wait", "other")
    return [_milliseconds(seconds[part], with_quartiles=part == "total") for part in parts]


def _loader(found: Sequence[Row]) -> str:
    def cells(row: Row) -> Cells:
        start = [row["recipe"], row["precision"], f"{row['seconds']:g}", str(row["batch_size"]), str(row["workers"])]
        if "error" in row:
            return [*start, row["error"]]
        rate = f"{row['clips_per_second_per_worker']:.1f}"
        return [*start, rate, *_loop_cells(row), f"{row['wait_share']:.1%}", f"{row['other_share']:.1%}"]

    title = "loader alone (clips per second and worker), and fairseq's loop fed by it, in ms per update"
    header = ("recipe", "precision", "clip s", "batch", "workers", "clips/s", *_LOOP)
    return table(title, (*header, "share waiting", "share other"), map(cells, found))


def _fairseq(found: Sequence[Row]) -> str:
    def cells(row: Row) -> Cells:
        start = [row["recipe"], row["precision"], f"{row['seconds']:g}", str(row["batch_size"])]
        if "error" in row:
            return [*start, row["error"]]
        return [*start, *_loop_cells(row), f"{row['other_share']:.1%}"]

    title = "fairseq's loop on a synthetic batch, with its own optimiser, in ms per update; other: all but the step"
    return table(title, ("recipe", "precision", "clip s", "batch", *_LOOP, "share other"), map(cells, found))


_LOOP = ("update", "fwd+bwd", "clip+Adam", "wait", "other")
_PARTS: dict[str, Callable[[Sequence[Row]], str]] = {
    "dispatch": _dispatch,
    "scaling": _scaling,
    "loader": _loader,
    "fairseq": _fairseq,
}


def _profile(row: Row) -> str:
    title = "heaviest operators of one update: " + ", ".join(_identity(row, _ALWAYS)) + f", {_constant([row])}"
    if "error" in row["profile"]:
        return f"{title}\n  {row['profile']['error']}"
    lines = (
        [found["operator"], "", str(found["calls"]), f"{found['seconds'] * 1e3:.1f}", f"{found['share']:.1%}"]
        for found in row["profile"]
    )
    return table(title, ("operator", "", "calls", "own ms", "share"), lines)
