"""Runs the parts of a benchmark one after the other and gathers what JSON, table and picture show."""

import gc
import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Optional

import torch
from omegaconf import DictConfig

from mae_ast_fairseq.benchmark import machine, operations
from mae_ast_fairseq.benchmark.cases import Case
from mae_ast_fairseq.benchmark.loader import NUM_WARM_UP_BATCHES, clips_per_second, synthetic_manifest
from mae_ast_fairseq.benchmark.memory import limited_memory, or_error
from mae_ast_fairseq.benchmark.profiling import heaviest_operators, peak_memory
from mae_ast_fairseq.benchmark.timing import Row, add_rates, add_ratio, add_times, round_robin, spread, time_product
from mae_ast_fairseq.benchmark.training import BenchmarkModel, fairseq_config, make_sample
from mae_ast_fairseq.inference.encoder import PRECISIONS

SQUARES = (2048, 4096)  # sides of the matrix products measured beside those of the models' own sizes
DISPATCH_BATCH_SIZES = (4, 32)
NUM_LOADER_BATCHES = 40


@dataclass
class Benchmark:
    """What to measure, and how, and the models and batches for it, each made once."""

    recipes: dict[str, DictConfig]
    settings: Sequence[str]
    cases: Sequence[Case]
    baseline: str
    parts: set[str]
    """of time, memory, dispatch, loader, fairseq"""
    device: torch.device
    num_rounds: int
    num_warm_up: int
    num_updates: int
    """updates of fairseq's loop"""
    num_workers: int
    manifest: Optional[Path]
    with_profile: bool
    _folder: Path = field(init=False)
    _models: dict[tuple[Any, ...], BenchmarkModel] = field(init=False, default_factory=dict)
    _samples: dict[Case, dict[str, Any]] = field(init=False, default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Measure everything that is planned; stderr is told what comes next."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # where fairseq's trainer goes
        settings = {
            "baseline": self.baseline,
            "set": list(self.settings),
            "rounds": self.num_rounds,
            "warm_up_rounds": self.num_warm_up,
            "parts": sorted(self.parts),
        }
        with tempfile.TemporaryDirectory() as folder, limited_memory():
            self._folder = Path(folder)
            _say("counting operations")
            described = {case: or_error(partial(self._describe, case)) for case in self.cases}
            rows = {case: row for case, row in described.items() if "error" not in row}
            unfit = [{**case._asdict(), "operations": row} for case, row in described.items() if "error" in row]
            self.cases = list(rows)
            add_ratio(rows, self.baseline, "times_fewer_operations", "operations", "step_flops")
            result = {"machine": machine.describe(self.device), "settings": settings, "rows": [*rows.values(), *unfit]}
            if not rows:
                return result
            if "time" in self.parts:
                _say(f"timing {len(rows)} rows in turns, {self.num_warm_up} + {self.num_rounds} rounds")
                result["matrix_products"] = self._time(rows)
            if self.with_profile:
                self._measure(rows, "profile", heaviest_operators)
            if "memory" in self.parts:
                self._measure(rows, "memory", peak_memory)
                add_ratio(rows, self.baseline, "times_less_memory", "memory", "step_bytes")
            first: dict[Any, Case] = {}
            for case in self.cases:
                first.setdefault((case.recipe, case.precision), case)
            measures = {"dispatch": self._dispatch, "loader": self._loader, "fairseq": self._fairseq}
            for part, measure in measures.items():
                if part in self.parts:
                    result[part] = [self._alone(case, part, measure) for case in first.values()]
        return result

    def _config(self, case: Case, manifest: Path, num_workers: int = 0) -> DictConfig:
        recipe, device, folder = self.recipes[case.recipe], self.device, self._folder
        return fairseq_config(recipe, case, device, manifest=manifest, save_dir=folder, num_workers=num_workers)

    def _of(self, case: Case) -> tuple[BenchmarkModel, dict[str, Any]]:
        """Return the model and the batch of a case."""
        if case not in self._samples or case.model_key not in self._models:
            cfg = self._config(case, synthetic_manifest(self._folder, case, case.batch_size))
            if case.model_key not in self._models:
                self._models[case.model_key] = BenchmarkModel(cfg)
            self._samples[case] = make_sample(cfg)
        return self._models[case.model_key], self._samples[case]

    def _describe(self, case: Case) -> Row:
        """Return what a row is, with the recipe's own values where the case leaves them to it, and its operations."""
        fields = self.recipes[case.recipe].model
        model, sample = self._of(case)
        num_visible, num_masked = (sample["net_input"][name].shape[1] for name in ("visible", "masked"))
        return {
            **case._asdict(),
            "mask_ratio": fields.random_mask_prob if case.mask_ratio is None else case.mask_ratio,
            "dropout": fields.dropout if case.dropout is None else case.dropout,
            "attention_dropout": fields.attention_dropout if case.attention_dropout is None else case.attention_dropout,
            "num_tokens": num_visible + num_masked,
            "num_visible": num_visible,
            "num_masked": num_masked,
            "num_parameters": sum(parameter.numel() for parameter in model.model.parameters()),
            "operations": operations.count(model, sample),
        }

    def _time(self, rows: dict[Case, Row]) -> list[Row]:
        """Time the rows and the matrix products in the same rounds; return what was found of the products."""
        products = list(itertools.product(dict.fromkeys(case.precision for case in self.cases), self._products(rows)))
        runs: dict[Any, Callable[[], dict[str, float]]] = {
            (precision, size): partial(time_product, size, PRECISIONS[precision], self.device)
            for precision, size in products
        }
        runs |= {case: lambda case=case: BenchmarkModel.time(*self._of(case)) for case in self.cases}
        rounds = round_robin(runs, num_rounds=self.num_rounds, num_warm_up=self.num_warm_up)
        add_times(rows, rounds, self.baseline)
        rates = []
        for precision, size in products:
            found = rounds[precision, size]
            if isinstance(found, list):
                rate = spread([one["flops_per_second"] for one in found])
                rates.append({"precision": precision, **dict(zip("mkn", size, strict=True)), "flops_per_second": rate})
        add_rates(rows.values(), rates)
        return rates

    def _products(self, rows: dict[Case, Row]) -> list[tuple[int, int, int]]:
        """Return the matrix products to measure: large squares, and the first feed-forward layer of the rows."""
        sizes = [(side, side, side) for side in SQUARES]
        for case, row in rows.items():
            fields = self.recipes[case.recipe].model
            for num_tokens in (row["num_visible"], row["num_tokens"]):
                sizes.append((case.batch_size * num_tokens, fields.encoder_embed_dim, fields.encoder_ffn_embed_dim))
        return list(dict.fromkeys(sizes))

    def _measure(self, rows: dict[Case, Row], part: str, measure: Callable[..., Any]) -> None:
        """Add to each row as `part` what `measure` finds of its model and batch."""
        _say(f"measuring {part}")
        for case, row in rows.items():
            row[part] = or_error(lambda case=case: measure(*self._of(case)))

    def _alone(self, case: Case, part: str, measure: Callable[[Case], Row]) -> Row:
        """Measure a case while no other model is there."""
        _say(f"measuring {part} of {case.recipe}, {case.precision}")
        self._models.clear()
        self._samples.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        row = {name: getattr(case, name) for name in ("recipe", "precision", "seconds", "batch_size")}
        return {**row, **or_error(partial(measure, case))}

    def _dispatch(self, case: Case) -> Row:
        """Count dispatched operations for a small and a large batch."""
        batches = {size: self._of(case._replace(batch_size=size)) for size in DISPATCH_BATCH_SIZES}
        counts = {size: operations.count(*batch)["dispatched"] for size, batch in batches.items()}
        return {"operations": counts, "equal": len(set(counts.values())) == 1}

    def _fairseq(self, case: Case) -> Row:
        """Run fairseq's loop on one batch, which is there at once each time."""
        model, sample = self._of(case)
        return model.run_loop(itertools.repeat(sample), self.num_updates)

    def _loader(self, case: Case) -> Row:
        """Run the loader alone, then fairseq's loop fed by it."""
        num_clips = (NUM_WARM_UP_BATCHES + NUM_LOADER_BATCHES + self.num_updates) * case.batch_size
        manifest = self.manifest or synthetic_manifest(self._folder, case, num_clips)
        model = BenchmarkModel(self._config(case, manifest, self.num_workers))
        pace = clips_per_second(model.batches(), NUM_LOADER_BATCHES) / self.num_workers
        found = model.run_loop(model.batches(), self.num_updates)
        return {"workers": self.num_workers, "clips_per_second_per_worker": pace, **found}


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
