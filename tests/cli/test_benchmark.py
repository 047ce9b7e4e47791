"""`mae-ast benchmark` from its arguments to table, JSON and picture, on models of two layers."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mae_ast_fairseq.benchmark import loader, run, timing
from mae_ast_fairseq.cli import benchmark
from mae_ast_fairseq.errors import ConfigError, UserError
from tests.benchmark.small import SMALL, SMALL_DECODER

QUICK = [
    "--rounds",
    "2",
    "--batch-size",
    "2",
    "--updates",
    "2",
    *(f"--set={setting}" for setting in (*SMALL, *SMALL_DECODER)),
]
PAIR = ["mae_ast_patch", "ssast_patch"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SQUARES", (64,))
    monkeypatch.setattr(run, "NUM_LOADER_BATCHES", 2)
    monkeypatch.setattr(loader, "NUM_FILES", 2)
    monkeypatch.setattr(timing, "MIN_PRODUCT_SECONDS", 1e-4)


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    return parser.parse_args([*arguments])


def measure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert benchmark.run(parse(*arguments, *QUICK)) == 0
    return capsys.readouterr().out


def test_json_table_and_picture_have_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, file = tmp_path / "new" / "a.png", tmp_path / "a.json"
    sizes = ["--seconds", "0.5", "1", "--baseline", "ssast_patch", "--attention-dropout", "0"]
    sizes += ["--profile", "--skip", "loader,fairseq"]
    # SSAST has no decoder: a setting of one recipe alone does no harm to the other's rows.
    text = measure(capsys, *PAIR, *sizes, "--plot", str(picture), "--out", str(file))
    result = json.loads(file.read_text())
    rows = result["rows"]
    assert [(row["recipe"], row["seconds"]) for row in rows] == [(name, s) for s in (0.5, 1.0) for name in PAIR]
    for row in rows:
        assert row["time"]["update"]["q1"] <= row["time"]["update"]["median"] <= row["time"]["update"]["q3"]
        assert row["attention_dropout"] == 0
        assert set(row["share_of_rate"]) == {"forward_backward", "inference"}
        assert 0 < len(row["profile"]) <= 15
    assert [row["times_faster"]["update"]["median"] for row in rows[1::2]] == [1.0, 1.0]
    ours, theirs = rows[2:]
    assert ours["times_fewer_operations"] == theirs["operations"]["step_flops"] / ours["operations"]["step_flops"]
    assert ours["times_less_memory"] == theirs["memory"]["step_bytes"] / ours["memory"]["step_bytes"]
    assert [found["equal"] for found in result["dispatch"]] == [True, True]
    assert result["machine"]["torch"] == torch.__version__
    assert picture.stat().st_size > 10_000
    for title in ("time per batch", "times as fast", "operations counted", "matrix products", "peak memory"):
        assert title in text
    assert text.count("heaviest operators") == 4
    assert "operations dispatched in" in text


def test_the_loops_are_in_json_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.json"
    text = measure(capsys, "mae_ast_patch", "--seconds", "0.5", "--only", "loader,fairseq", "--out", str(file))
    result = json.loads(file.read_text())
    assert result["loader"][0]["clips_per_second_per_worker"] > 0
    assert 0 < result["loader"][0]["wait_share"] < 1
    assert 0 < result["fairseq"][0]["other_share"] < 1
    assert "the loader alone" in text
    assert "fairseq's loop on one batch" in text


def test_json_and_parts(capsys: pytest.CaptureFixture[str]) -> None:
    text = measure(capsys, "mae_ast_patch", "--json", "--skip", "time,memory,loader,fairseq", "--ratio", "0.5", "0.8")
    result = json.loads(text)
    assert [row["num_visible"] for row in result["rows"]] == [248, 99]  # of 496 tokens
    assert all("time" not in row and "memory" not in row for row in result["rows"])
    assert result["settings"]["parts"] == ["dispatch"]
    assert {"loader", "fairseq", "matrix_products"}.isdisjoint(result)


def test_a_row_too_large_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    time = run.BenchmarkModel.time

    def too_large(model: run.BenchmarkModel, sample: dict[str, Any]) -> dict[str, float]:
        if sample["net_input"]["source"].shape[1] > 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return time(model, sample)

    monkeypatch.setattr(run.BenchmarkModel, "time", too_large)
    text = measure(capsys, "mae_ast_patch", "--seconds", "0.5", "10", "--only", "time")
    assert text.count("not enough memory: DefaultCPUAllocator") == 1
    assert "1.00x" in text


def test_fairseq_s_loop_too_large_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(run.BenchmarkModel, "run_loop", fails)
    text = measure(capsys, "mae_ast_patch", "--only", "fairseq", "--seconds", "0.5")
    assert text.count("not enough memory") == 1


def test_a_sweep_plans_two_lines() -> None:
    plan = benchmark._plan(parse("mae_ast_frame", "--sweep", "--ratio", "0.75"))
    assert [case.seconds for case in plan.cases] == [5, 10, 20, 40, 60, 10, 10, 10, 10, 10]
    assert [case.mask_ratio for case in plan.cases[5:]] == [0.5, 0.6, 0.7, 0.8, 0.9]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing: there is no such recipe; expected one of mae_ast_frame, mae_ast_patch"),
        (["--device", "cuda:7"], "--device cuda:7: cannot be used"),
        (["--device", "toaster"], "--device toaster: cannot be used"),
        (["--baseline", "mae_ast_tiny"], "--baseline: 'mae_ast_tiny' is unknown; expected one of mae_ast_patch, ssast"),
        (["--set", "model.encoder_layer=2"], "--set model.encoder_layer=2: cannot be used (Key 'encoder_layer' not in"),
        (
            ["--set", "encoder_layers=2"],
            "--set encoder_layers=2: expected section.field=value",
        ),
        (["--set", "task.mask_type=x"], "task.mask_type: 'x' is unknown"),
        (["--set", "task.feature_dim=0"], "task.feature_dim: "),
        (["--set", "model.encoder_embed_dim=7"], "model.encoder_embed_dim: 7 cannot be divided"),
        (["--seconds", "0.01"], "--seconds 0.01: gives 0 tokens"),
        (["--only", "time", "--skip", "time"], "nothing is left to measure"),
        (["--manifest", "/nowhere/a.tsv"], "--manifest /nowhere/a.tsv: there is no such file"),
        (["--out", "/"], "--out /: this is a folder"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        benchmark.run(parse(*arguments))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "--seconds: 0 was given; expected more than 0"),
        (["--seconds", "nan"], "--seconds: nan was given; expected more than 0"),
        (["--seconds", "long"], "--seconds: long was given; expected more than 0"),
        (["--ratio", "1"], "--ratio: 1 was given; expected a fraction"),
        (["--dropout", "1"], "--dropout: 1 was given; expected at least 0 and less than 1"),
        (["--attention-dropout", "-1"], "--attention-dropout: -1 was given; expected at least 0 and less than 1"),
        (["--batch-size", "4", "0"], "--batch-size: 0 was given; expected a whole number of at least 1"),
        (["--rounds", "0"], "--rounds: 0 was given; expected a whole number of at least 1"),
        (["--warm-up", "-1"], "--warm-up: -1 was given; expected a whole number of at least 0"),
        (["--workers", "0"], "--workers: 0 was given; expected a whole number of at least 1"),
        (["--precision", "float32", "int4"], "--precision: invalid choice: 'int4' (choose from"),
        (["--threads", "0"], "--threads: 0 was given; expected a whole number of at least 1"),
        (["--only", "speed"], "--only: 'speed' is unknown; expected some of time,memory,dispatch,loader,fairseq"),
    ],
)
def test_bad_numbers_are_refused_by_the_parser(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_nothing_is_measured_before_all_is_known_to_be_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(run.Benchmark, "run", fail)
    with pytest.raises(ConfigError):
        benchmark.run(parse("mae_ast_patch", "--device", "cuda:7"))


def test_a_size_that_does_not_fit_is_reported_in_its_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(self: run.Benchmark, case: Any) -> Any:
        if case.seconds == 1.0:
            raise MemoryError("so many bytes")
        return whole(self, case)

    whole = run.Benchmark._describe
    monkeypatch.setattr(run.Benchmark, "_describe", describe)
    text = measure(capsys, "mae_ast_patch", "--seconds", "0.5", "1", "--only", "dispatch", "--json")
    fits, unfit = json.loads(text)["rows"]
    assert fits["operations"]["dispatched"] > 0
    assert unfit["operations"] == {"error": "not enough memory: so many bytes"}
