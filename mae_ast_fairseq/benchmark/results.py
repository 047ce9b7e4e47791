"""From measurements to the rows of the JSON: medians, shares, and ratios to the baseline within the same rounds."""

from collections.abc import Sequence
from typing import Any

from mae_ast_fairseq.benchmark.cases import Case
from mae_ast_fairseq.benchmark.timing import Product, Rounds, spread

TIMES = ("forward", "backward", "forward_backward", "optimizer", "update", "inference")
COMPARED = ("forward_backward", "update", "inference")

Row = dict[str, Any]


def add_times(rows: Sequence[Row], cases: Sequence[Case], timed: Sequence[Rounds], baseline: str) -> None:
    """Add `time`, `throughput` and `times_faster` to the rows; the last is the median over rounds of their ratio."""
    places = {case: place for place, case in enumerate(cases)}
    for row, case, rounds in zip(rows, cases, timed, strict=True):
        if rounds.error:
            row["time"] = {"error": rounds.error}
            continue
        row["time"] = {name: spread(rounds.of(name))._asdict() for name in TIMES}
        row["throughput"] = _throughput(row)
        place = places.get(case.of_recipe(baseline))
        if place is not None and timed[place].error is None:
            row["times_faster"] = {name: _ratio(timed[place], rounds, name) for name in COMPARED}
            base = rows[place]["operations"]["step_flops"]
            row["times_fewer_operations"] = base / row["operations"]["step_flops"]


def _ratio(base: Rounds, own: Rounds, name: str) -> dict[str, float]:
    return spread([theirs / ours for theirs, ours in zip(base.of(name), own.of(name), strict=True)])._asdict()


def _throughput(row: Row) -> dict[str, float]:
    seconds = {"training": row["time"]["update"]["median"], "inference": row["time"]["inference"]["median"]}
    num_tokens, audio_seconds = row["batch_size"] * row["num_tokens"], row["batch_size"] * row["seconds"]
    return {
        f"{part}_{what}_per_second": amount / taken
        for part, taken in seconds.items()
        for what, amount in (("tokens", num_tokens), ("audio_seconds", audio_seconds))
    }


def add_rates(rows: Sequence[Row], products: Sequence[tuple[str, Product, Rounds]]) -> list[dict[str, Any]]:
    """Add to the rows which share of the best matrix product's rate they reach; return the rates measured."""
    rates = [
        {
            "precision": precision,
            **product._asdict(),
            "flops_per_second": spread(rounds.of("flops_per_second"))._asdict(),
        }
        for precision, product, rounds in products
        if rounds.error is None
    ]
    best: dict[str, float] = {}
    for rate in rates:
        best[rate["precision"]] = max(best.get(rate["precision"], 0.0), rate["flops_per_second"]["median"])
    for rate in rates:
        rate["is_best"] = rate["flops_per_second"]["median"] == best[rate["precision"]]
    for row in rows:
        if "error" not in row["time"] and row["precision"] in best:
            work = {"forward_backward": "step_flops", "inference": "inference_flops"}
            row["share_of_rate"] = {
                part: row["operations"][flops] / row["time"][part]["median"] / best[row["precision"]]
                for part, flops in work.items()
            }
    return rates


def add_memory_ratios(rows: Sequence[Row], cases: Sequence[Case], baseline: str) -> None:
    """Add `times_less_memory` to the rows: above weights, gradients and optimiser state."""
    places = {case: place for place, case in enumerate(cases)}
    for row, case in zip(rows, cases, strict=True):
        place = places.get(case.of_recipe(baseline))
        if place is None or "error" in row["memory"] or "error" in rows[place]["memory"]:
            continue
        row["times_less_memory"] = rows[place]["memory"]["step_bytes"] / max(1, row["memory"]["step_bytes"])


def scaling(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Compare the time per clip of each length with the shortest one's, as if time grew in proportion to length."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    same = ("recipe", "precision", "batch_size", "mask_ratio", "dropout", "attention_dropout")
    for row in rows:
        if "time" in row and "error" not in row["time"]:
            groups.setdefault(tuple(row[name] for name in same), []).append(row)
    found = []
    for values, group in groups.items():
        first = min(group, key=lambda row: row["seconds"])
        for row in sorted(group, key=lambda row: row["seconds"])[1:]:
            times = row["time"]["forward_backward"]["median"], first["time"]["forward_backward"]["median"]
            found.append(
                {
                    **dict(zip(same, values, strict=True)),
                    "from_seconds": first["seconds"],
                    "to_seconds": row["seconds"],
                    "times_longer": times[0] / times[1],
                    "against_proportionality": times[0] / times[1] / (row["seconds"] / first["seconds"]),
                }
            )
    return found
