"""Runs the parts of a benchmark one after the other and gathers what JSON, table and picture show."""

import gc
import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Optional

import torch
from omegaconf import DictConfig

from mae_ast_fairseq.benchmark import machine, operations, results
from mae_ast_fairseq.benchmark.cases import Case
from mae_ast_fairseq.benchmark.loader import NUM_WARM_UP_BATCHES, Data, clips_per_second, manifest_data, synthetic_data
from mae_ast_fairseq.benchmark.memory import limited_memory, or_error
from mae_ast_fairseq.benchmark.profiling import heaviest_operators, peak_memory
from mae_ast_fairseq.benchmark.recipes import Recipe
from mae_ast_fairseq.benchmark.results import Row
from mae_ast_fairseq.benchmark.timing import Measurement, Product, round_robin, spread, time_product
from mae_ast_fairseq.benchmark.training import BenchmarkModel, fairseq_config, make_sample
from mae_ast_fairseq.inference.encoder import PRECISIONS

SQUARES = (2048, 4096)  # sides of the matrix products measured beside those of the models' own sizes
DISPATCH_BATCH_SIZES = (4, 32)
NUM_LOADER_BATCHES = 40


class Plan(NamedTuple):
    """What to measure, and how."""

    recipes: dict[str, Recipe]
    settings: Sequence[str]
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


class Bench:
    """The models and batches of a plan, each made once."""

    def __init__(self, plan: Plan, folder: Path):
        self.plan = plan
        self.folder = folder
        self._models: dict[tuple[Any, ...], BenchmarkModel] = {}
        self._samples: dict[Case, dict[str, Any]] = {}

    def build(self, case: Case, data: Data, num_workers: int = 0) -> BenchmarkModel:
        """Return a new model of a case whose loader reads some data."""
        return BenchmarkModel(self._config(case, data, num_workers))

    def of(self, case: Case) -> tuple[BenchmarkModel, dict[str, Any]]:
        """Return the model and the batch of a case."""
        data = synthetic_data(self.folder, case, case.batch_size)
        if case.model_key not in self._models:
            self._models[case.model_key] = self.build(case, data)
        model = self._models[case.model_key]
        if case not in self._samples:
            self._samples[case] = make_sample(self._config(case, data))
        return model, self._samples[case]

    def clear(self) -> None:
        """Give memory back."""
        self._models.clear()
        self._samples.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _config(self, case: Case, data: Data, num_workers: int = 0) -> DictConfig:
        recipe, device = self.plan.recipes[case.recipe], self.plan.device
        return fairseq_config(recipe, case, device, data=data, save_dir=self.folder, num_workers=num_workers)


def run_plan(plan: Plan) -> dict[str, Any]:
    """Measure everything that is planned; stderr is told what comes next."""
    if plan.device.type == "cuda":
        torch.cuda.set_device(plan.device)  # where fairseq's trainer goes
    settings = {
        "baseline": plan.baseline,
        "set": list(plan.settings),
        "rounds": plan.num_rounds,
        "warm_up_rounds": plan.num_warm_up,
        "parts": sorted(plan.parts),
    }
    with tempfile.TemporaryDirectory() as folder, limited_memory():
        bench = Bench(plan, Path(folder))
        _say("counting operations")
        rows = {case: _describe(bench, case) for case in plan.cases}
        results.add_ratio(rows, plan.baseline, "times_fewer_operations", "operations", "step_flops")
        result = {"machine": machine.describe(plan.device), "settings": settings, "rows": list(rows.values())}
        if "time" in plan.parts:
            _say(f"timing {len(rows)} rows in turns, {plan.num_warm_up} + {plan.num_rounds} rounds")
            result["matrix_products"] = _time(bench, rows)
        if plan.with_profile:
            _measure(bench, rows, "profile", heaviest_operators)
        if "memory" in plan.parts:
            _measure(bench, rows, "memory", peak_memory)
            results.add_ratio(rows, plan.baseline, "times_less_memory", "memory", "step_bytes")
        first = {(case.recipe, case.precision): case for case in reversed(plan.cases)}
        first_cases = [case for case in plan.cases if case in first.values()]
        for part, measure in {"dispatch": _dispatch, "loader": _loader, "fairseq": _fairseq}.items():
            if part in plan.parts:
                result[part] = [_alone(bench, case, part, measure) for case in first_cases]
    return result


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _describe(bench: Bench, case: Case) -> dict[str, Any]:
    """Return what a row is, with the recipe's own values where the case leaves them to it, and its operations."""
    fields = bench.plan.recipes[case.recipe].fields
    model, sample = bench.of(case)
    num_visible, num_masked = (sample["net_input"][name].shape[1] for name in ("visible", "masked"))
    return {
        "recipe": case.recipe,
        "precision": case.precision,
        "seconds": case.seconds,
        "batch_size": case.batch_size,
        "mask_ratio": fields.random_mask_prob if case.mask_ratio is None else case.mask_ratio,
        "dropout": fields.dropout if case.dropout is None else case.dropout,
        "attention_dropout": fields.attention_dropout if case.attention_dropout is None else case.attention_dropout,
        "num_tokens": num_visible + num_masked,
        "num_visible": num_visible,
        "num_masked": num_masked,
        "num_parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        "operations": operations.count(model, sample),
    }


def _time(bench: Bench, rows: dict[Case, Row]) -> list[Row]:
    """Time the rows and the matrix products in the same rounds; return what was found of the products."""
    plan = bench.plan

    def time_row(case: Case) -> Measurement:
        model, sample = bench.of(case)
        return model.time(sample)

    products = list(itertools.product(dict.fromkeys(case.precision for case in plan.cases), _products(plan, rows)))
    runs: dict[Any, Callable[[], Measurement]] = {
        (precision, product): partial(time_product, product, PRECISIONS[precision], plan.device)
        for precision, product in products
    }
    runs |= {case: partial(time_row, case) for case in plan.cases}
    rounds = round_robin(runs, num_rounds=plan.num_rounds, num_warm_up=plan.num_warm_up)
    results.add_times(rows, rounds, plan.baseline)
    rates = []
    for precision, product in products:
        found = rounds[precision, product]
        if isinstance(found, list):
            rate = spread([one["flops_per_second"] for one in found])
            rates.append({"precision": precision, **product._asdict(), "flops_per_second": rate})
    results.add_rates(rows.values(), rates)
    return rates


def _products(plan: Plan, rows: dict[Case, Row]) -> list[Product]:
    """Return the matrix products to measure: large squares, and the first feed-forward layer of the rows."""
    sizes = [Product(side, side, side) for side in SQUARES]
    for case, row in rows.items():
        fields = plan.recipes[case.recipe].fields
        for num_tokens in (row["num_visible"], row["num_tokens"]):
            num_rows = case.batch_size * num_tokens
            sizes.append(Product(num_rows, fields.encoder_embed_dim, fields.encoder_ffn_embed_dim))
    return list(dict.fromkeys(sizes))


def _measure(bench: Bench, rows: dict[Case, Row], part: str, measure: Callable[..., Any]) -> None:
    """Add to each row as `part` what `measure` finds of its model and batch."""
    _say(f"measuring {part}")
    for case, row in rows.items():
        row[part] = or_error(lambda case=case: measure(*bench.of(case)))


def _alone(bench: Bench, case: Case, part: str, measure: Callable[[Bench, Case], Row]) -> Row:
    """Measure a case while no other model is there."""
    _say(f"measuring {part} of {case.recipe}, {case.precision}")
    bench.clear()
    row = {name: getattr(case, name) for name in ("recipe", "precision", "seconds", "batch_size")}
    return {**row, **or_error(lambda: measure(bench, case))}


def _dispatch(bench: Bench, case: Case) -> Row:
    """Count dispatched operations for a small and a large batch."""
    counts = {
        size: operations.count(*bench.of(case._replace(batch_size=size)))["dispatched"] for size in DISPATCH_BATCH_SIZES
    }
    return {"operations": counts, "equal": len(set(counts.values())) == 1}


def _fairseq(bench: Bench, case: Case) -> Row:
    """Run fairseq's loop on one batch, which is there at once each time."""
    model, sample = bench.of(case)
    return model.run_loop(itertools.repeat(sample), bench.plan.num_updates)


def _loader(bench: Bench, case: Case) -> Row:
    """Run the loader alone, then fairseq's loop fed by it."""
    plan = bench.plan
    if plan.manifest is None:
        num_batches = NUM_WARM_UP_BATCHES + NUM_LOADER_BATCHES + plan.num_updates
        data = synthetic_data(bench.folder, case, num_batches * case.batch_size)
    else:
        data = manifest_data(plan.manifest)
    model = bench.build(case, data, plan.num_workers)
    pace = clips_per_second(model.batches(), NUM_LOADER_BATCHES) / plan.num_workers
    found = model.run_loop(model.batches(), plan.num_updates)
    return {"workers": plan.num_workers, "clips_per_second_per_worker": pace, **found}
