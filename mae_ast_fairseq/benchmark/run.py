"""Runs the parts of a benchmark one after the other and gathers what JSON, table and picture show."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch

from mae_ast_fairseq.benchmark import loader, loop, machine, memory, operations, profiling, results
from mae_ast_fairseq.benchmark.cases import Case, ModelKey, make_sample, mask_ratio_of, sizes_of
from mae_ast_fairseq.benchmark.limits import HEADROOM, is_out_of_memory, reason, release_memory, require_memory
from mae_ast_fairseq.benchmark.operations import Operations
from mae_ast_fairseq.benchmark.recipes import Recipe, Setting
from mae_ast_fairseq.benchmark.steps import BenchmarkModel
from mae_ast_fairseq.benchmark.timing import (
    Measurement,
    Product,
    Rounds,
    device_clock,
    interleave,
    time_product,
    time_step,
)
from mae_ast_fairseq.inference.encoder import PRECISIONS

SQUARES = (2048, 4096)  # sides of the matrix products measured beside those of the models' own sizes
DISPATCH_BATCH_SIZES = (4, 32)
NUM_LOADER_BATCHES = 40

Say = Callable[[str], None]


class Plan(NamedTuple):
    """What to measure, and how."""

    recipes: dict[str, Recipe]
    settings: Sequence[Setting]
    cases: Sequence[Case]
    baseline: str
    parts: frozenset[str]
    """of time, memory, dispatch, loader, fairseq"""
    device: torch.device
    num_rounds: int
    num_warm_up: int
    num_updates: int
    """updates of fairseq's loop"""
    num_workers: int
    manifest: Optional[Path]
    with_profile: bool


class Trainees:
    """The models in use, each built once; those that differ in their dropouts alone share weights and optimiser."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._built: dict[ModelKey, BenchmarkModel] = {}

    def of(self, case: Case) -> BenchmarkModel:
        """Return the model of a case."""
        key = case.model_key
        if key not in self._built:
            alike = (one for built, one in self._built.items() if built[:2] == key[:2])  # recipe and precision
            recipe = self._plan.recipes[key.recipe]
            self._built[key] = BenchmarkModel(recipe, key, self._plan.device, weights_of=next(alike, None))
        return self._built[key]

    def clear(self) -> None:
        """Give their memory back."""
        self._built.clear()
        release_memory()


def run_plan(plan: Plan, say: Say, advance: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """Measure everything that is planned; `say` is told what comes next, `advance` that a row was run once."""
    trainees = Trainees(plan)
    rows = [_describe(plan, case) for case in plan.cases]
    say("counting operations")
    counted = {case: _count(plan, trainees, case) for case in plan.cases}
    for row, case in zip(rows, plan.cases, strict=True):
        row["num_parameters"] = trainees.of(case).num_parameters
        row["operations"] = {**counted[case]._asdict(), "step_flops": counted[case].step_flops}
    result: dict[str, Any] = {"machine": machine.describe(plan.device), "settings": _settings(plan), "rows": rows}
    if "time" in plan.parts:
        say(f"timing {len(rows)} rows in turns, {plan.num_warm_up} + {plan.num_rounds} rounds")
        timed, products = _time(plan, trainees, counted, advance)
        results.add_times(rows, plan.cases, timed, plan.baseline)
        result["matrix_products"] = results.add_rates(rows, products)
    if plan.with_profile:
        say("profiling")
        for row, case in zip(rows, plan.cases, strict=True):
            row["profile"] = _or_error(lambda case=case: _profile(plan, trainees, counted[case], case))
    if "dispatch" in plan.parts:
        say("counting dispatched operations")
        result["dispatch"] = [_dispatch(plan, trainees, case) for case in _first_cases(plan.cases)]
    trainees.clear()
    if "memory" in plan.parts:
        for number, (row, case) in enumerate(zip(rows, plan.cases, strict=True), start=1):
            say(f"measuring memory, row {number} of {len(rows)}")
            row["memory"] = memory.measure(case, plan.settings, plan.device, torch.get_num_threads())
        results.add_memory_ratios(rows, plan.cases, plan.baseline)
    if plan.parts & {"loader", "fairseq"}:
        _run_loops(plan, counted, result, say)
    result["scaling"] = results.scaling(rows)
    return result


def _settings(plan: Plan) -> dict[str, Any]:
    return {
        "baseline": plan.baseline,
        "set": [f"{setting.section}.{setting.field}={setting.value}" for setting in plan.settings],
        "rounds": plan.num_rounds,
        "warm_up_rounds": plan.num_warm_up,
        "parts": sorted(plan.parts),
    }


def _describe(plan: Plan, case: Case) -> dict[str, Any]:
    """Return what a row is, with the recipe's own values where the case leaves them to it."""
    recipe = plan.recipes[case.recipe]
    return {
        "recipe": case.recipe,
        "precision": case.precision,
        "seconds": case.seconds,
        "batch_size": case.batch_size,
        "mask_ratio": mask_ratio_of(recipe, case),
        "dropout": recipe.fields.dropout if case.dropout is None else case.dropout,
        "attention_dropout": (
            recipe.fields.attention_dropout if case.attention_dropout is None else case.attention_dropout
        ),
        **sizes_of(recipe, case)._asdict(),
    }


def _sample(plan: Plan, case: Case) -> dict[str, Any]:
    return make_sample(plan.recipes[case.recipe], case, plan.device)


def _count(plan: Plan, trainees: Trainees, case: Case) -> Operations:
    return operations.count(trainees.of(case), _sample(plan, case))


def _time(
    plan: Plan, trainees: Trainees, counted: dict[Case, Operations], advance: Callable[[], Any]
) -> tuple[list[Rounds], list[tuple[str, Product, Rounds]]]:
    """Time the cases and the matrix products in the same rounds."""
    clock = device_clock(plan.device)

    def row(case: Case) -> Measurement:
        trainee = trainees.of(case)
        require_memory(HEADROOM * counted[case].kept_bytes + trainee.pending_bytes, plan.device)
        return time_step(trainee, _sample(plan, case), clock)

    products = list(_products(plan))
    runs: list[Callable[[], Measurement]] = [
        lambda precision=precision, product=product: time_product(product, PRECISIONS[precision], plan.device, clock)
        for precision, product in products
    ]
    runs += [lambda case=case: row(case) for case in plan.cases]
    rounds = interleave(runs, num_rounds=plan.num_rounds, num_warm_up=plan.num_warm_up, advance=advance)
    own = [(*product, measured) for product, measured in zip(products, rounds, strict=False)]
    return rounds[len(products) :], own


def num_runs(plan: Plan) -> int:
    """Count how often `advance` is called."""
    num_rows = len(plan.cases) + len(list(_products(plan)))
    return (plan.num_rounds + plan.num_warm_up) * num_rows if "time" in plan.parts else 0


def _products(plan: Plan) -> Iterator[tuple[str, Product]]:
    """Yield the matrix products to measure: large squares, and the first feed-forward layer of each recipe."""
    precisions = list(dict.fromkeys(case.precision for case in plan.cases))
    sizes = {Product(side, side, side): None for side in SQUARES}
    for case in _first_cases(plan.cases):
        recipe = plan.recipes[case.recipe]
        counts = sizes_of(recipe, case)
        for num_tokens in (counts.num_visible, counts.num_tokens):
            width, ffn_width = recipe.fields.encoder_embed_dim, recipe.fields.encoder_ffn_embed_dim
            sizes[Product(case.batch_size * num_tokens, width, ffn_width)] = None
    for precision in precisions:
        for product in sizes:
            yield precision, product


def _first_cases(cases: Sequence[Case]) -> list[Case]:
    """Return the first case of each recipe and precision."""
    first: dict[tuple[str, str], Case] = {}
    for case in cases:
        first.setdefault((case.recipe, case.precision), case)
    return list(first.values())


def _profile(plan: Plan, trainees: Trainees, counted: Operations, case: Case) -> list[dict[str, Any]]:
    trainee = trainees.of(case)
    require_memory(HEADROOM * counted.kept_bytes + trainee.pending_bytes, plan.device)
    return profiling.heaviest_operators(trainee, _sample(plan, case), plan.device)


def _dispatch(plan: Plan, trainees: Trainees, case: Case) -> dict[str, Any]:
    counts = {size: _count(plan, trainees, case._replace(batch_size=size)).dispatched for size in DISPATCH_BATCH_SIZES}
    return {**_model(case), "operations": counts, "equal": len(set(counts.values())) == 1}


def _model(case: Case) -> dict[str, Any]:
    return {"recipe": case.recipe, "precision": case.precision}


def _run_loops(plan: Plan, counted: dict[Case, Operations], result: dict[str, Any], say: Say) -> None:
    """Run the loader alone, then fairseq's loop with and without it, on the first case of each recipe and precision."""
    for case in _first_cases(plan.cases):
        row = {**_model(case), "seconds": case.seconds, "batch_size": case.batch_size}
        if "loader" in plan.parts:
            say(f"loading for {case.recipe}, {case.precision}")
            found = _or_error(lambda case=case: _load(plan, case, counted[case]))
            result.setdefault("loader", []).append({**row, "workers": plan.num_workers, **found})
        if "fairseq" in plan.parts:
            say(f"running fairseq's loop on {case.recipe}, {case.precision}")
            found = _or_error(lambda case=case: _loop(plan, case, counted[case], None))
            result.setdefault("fairseq", []).append({**row, **found})


def _load(plan: Plan, case: Case, counted: Operations) -> dict[str, Any]:
    recipe = plan.recipes[case.recipe]
    num_batches = loader.NUM_WARM_UP_BATCHES + NUM_LOADER_BATCHES + plan.num_updates
    given = None if plan.manifest is None else loader.manifest_data(plan.manifest, plan.num_workers)
    made = loader.synthetic_data(case.seconds, num_batches * case.batch_size, plan.num_workers)
    with nullcontext(given) if given else made as data:
        rate = loader.clips_per_second(recipe, case, data, NUM_LOADER_BATCHES)
        return {"clips_per_second_per_worker": rate / plan.num_workers, **_loop(plan, case, counted, data)}


def _loop(plan: Plan, case: Case, counted: Operations, data: loader.Data | None) -> dict[str, Any]:
    release_memory()
    require_memory(HEADROOM * counted.kept_bytes + counted.static_bytes, plan.device)
    return loop.run_loop(plan.recipes[case.recipe], case, plan.device, plan.num_updates, data)


def _or_error(measure: Callable[[], Any]) -> Any:
    """Return what was measured, or {"error": reason} where memory ran out."""
    try:
        return measure()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return {"error": reason(error)}
