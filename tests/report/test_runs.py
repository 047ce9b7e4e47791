import json
import math
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.evaluation.collapse import MIN_RANK_FRACTION
from mae_ast_fairseq.figures import read_figures
from mae_ast_fairseq.report.runs import find_runs, names_of, read_run
from tests.report.folders import COLLAPSED, HEALTHY, figures, write_run


def refused(function, *args) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*args)
    return str(caught.value)


def test_figures_are_those_of_the_log(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "a"))
    assert run.num_updates == 40
    assert run.subsets == ["valid"]
    assert run.points("train_inner", "loss") == [(update, 7 - update / 16) for update in range(5, 41, 5)]
    assert run.points("valid", "effective_rank", "valid") == [(20, 70.5), (40, 70.5)]
    line = read_figures(tmp_path / "a" / "log.jsonl")[-1]
    assert run.last("valid", "valid").items() <= line.items()
    assert {"loss", "token_spread", "lr"} <= set(run.last("valid", "valid"))


@pytest.mark.parametrize(
    ("sections", "last", "state"),
    [
        ({}, 40, "finished"),
        ({}, 35, "cut off"),
        ({"checkpoint": {"patience": 3}}, 35, "ended early"),
        ({"optimization": {"max_update": 0, "max_epoch": 3}}, 40, "finished"),
        ({"optimization": {"max_update": 0, "max_epoch": 4}}, 40, "cut off"),
    ],
)
def test_how_a_run_ended(tmp_path: Path, sections: dict, last: int, state: str) -> None:
    assert read_run(write_run(tmp_path / "a", last=last, **sections)).state == state


def test_a_killed_run_is_read_up_to_its_half_line(tmp_path: Path) -> None:
    log = write_run(tmp_path / "a") / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-30])
    run = read_run(tmp_path / "a")
    assert (run.num_updates, len(run.some("valid")), run.is_cut) == (40, 1, True)
    assert "half written" in run.warnings()[-1]


def test_a_run_whose_process_lives_is_running(tmp_path: Path) -> None:
    lock = write_run(tmp_path / "a", last=20) / "checkpoints" / ".lock"
    lock.parent.mkdir()
    states = []
    here = socket.gethostname()
    for owner in (f"process {os.getpid()} on {here}", f"process 4194305 on {here}", "process 1 on node7"):
        lock.write_text(f"{owner}\n")
        states.append(read_run(tmp_path / "a").state)
    assert states == ["running", "cut off", "running on node7, or killed"]


def test_without_a_config_nobody_knows_how_long_it_was_to_be(tmp_path: Path) -> None:
    (write_run(tmp_path / "a") / "config.yaml").unlink()
    run = read_run(tmp_path / "a")
    assert (run.state, run.recipe) == ("of unknown length", "unknown")


def test_the_recipe_is_hydras(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    assert read_run(folder).recipe == "mae_ast"
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "hydra.yaml").write_text("hydra: {job: {config_name: mae_ast_tiny}, run: {dir: '${x}'}}")
    assert read_run(folder).recipe == "mae_ast_tiny"
    swept = "hydra: {job: {config_name: pretext_cpu}, runtime: {choices: {recipes: ssast_tiny}}}"
    (folder / ".hydra" / "hydra.yaml").write_text(swept)
    assert read_run(folder).recipe == "ssast_tiny"


@pytest.mark.parametrize("last", [20, 40])
def test_a_collapse_is_said_in_words_with_the_bounds_of_training(tmp_path: Path, last: int) -> None:
    (line,) = read_run(write_run(tmp_path / "a", last=last, health=COLLAPSED)).warnings()
    assert line.startswith("the encoder has collapsed")
    assert "effective_rank 1.80" in line
    assert f"{MIN_RANK_FRACTION * 192:.1f}" in line


def test_no_collapse_is_said_in_the_warm_up_or_of_what_was_not_measured(tmp_path: Path) -> None:
    early = write_run(tmp_path / "a", last=20, health=COLLAPSED, lr_scheduler={"warmup_updates": 21})
    without_gain = write_run(tmp_path / "b", health={"token_spread": 0.5, "effective_rank": 30.0})  # as of SSAST
    finetuned = write_run(tmp_path / "c", health={"top1": 0.1})
    by_classification = write_run(
        tmp_path / "d", health={**HEALTHY, "content_gain": 0.0}, criterion={"reconstruction_weight": 0.0}
    )
    folders = early, without_gain, finetuned, by_classification
    assert [read_run(folder).warnings() for folder in folders] == [[], [], [], []]


def test_a_loss_that_is_not_finite_and_broken_files_are_said(tmp_path: Path) -> None:
    with (write_run(tmp_path / "a", last=20) / "log.jsonl").open("a") as log:
        log.write(json.dumps(figures("train_inner", 23, loss=None)) + "\n")
        log.write(json.dumps(figures("train", 24, bad_files=3)) + "\n")
    assert [line.partition(";")[0] for line in read_run(tmp_path / "a").warnings()] == [
        "the loss is not finite at update 23",
        "broken files were replaced by others 3 times",
    ]


def test_names_are_as_long_as_tells_them_apart(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("x/run", "y/run", "y/other", "z/y/run")]
    runs = [read_run(write_run(folder)) for folder in folders]
    assert names_of(runs) == ["x/run", f"{tmp_path.name}/y/run", "other", "z/y/run"]
    assert names_of(runs[:1]) == ["run"]


def test_all_runs_below_a_folder_are_found_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        write_run(tmp_path / "multirun" / str(number))
        (tmp_path / "multirun" / str(number) / "checkpoints").mkdir()
    (tmp_path / "multirun" / "3" / ".hydra").mkdir(parents=True)  # failed at its launch
    (tmp_path / "multirun" / "package" / "checkpoints").mkdir(parents=True)  # as our own source has it
    assert [path.name for path in find_runs(tmp_path)] == ["1", "2", "3", "10"]
    assert find_runs(tmp_path / "multirun" / "2") == [tmp_path / "multirun" / "2"]


def test_a_folder_around_runs_is_no_run_whatever_lies_in_it(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    write_run(tmp_path / "a")
    assert find_runs(tmp_path) == [tmp_path / "a"]


def test_what_is_no_run_is_refused_with_what_was_found(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    (run / "checkpoints").mkdir()
    checkpoint = run / "checkpoints" / "checkpoint_best.pt"
    checkpoint.touch()
    old = tmp_path / "old"
    old.mkdir()
    (old / ".hydra").mkdir()
    (tmp_path / "empty").mkdir()
    assert "there is no such folder" in refused(find_runs, tmp_path / "missing")
    assert "this is a file" in (said := refused(find_runs, checkpoint))
    assert said.endswith(f"give {run}")
    assert "checkpoint_best.pt" in (said := refused(find_runs, run / "checkpoints"))
    assert said.endswith(f"give {run}")
    assert "see its *.log" in refused(read_run, *find_runs(old))
    assert "nothing" in refused(find_runs, tmp_path / "empty")


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"{}", b"[1, 2]\n", b'{"num_updates": "3"}\n', b"\x80\x02}q", b"[" * 99_999]
)
def test_a_log_without_figures_is_refused(tmp_path: Path, content: bytes) -> None:
    log = write_run(tmp_path / "a") / "log.jsonl"
    log.write_bytes(content)
    assert refused(read_run, tmp_path / "a").startswith(f"{log}: no figures in its {len(content):,} bytes")


@pytest.mark.parametrize("content", [b"a: [", b"- 1\n", b"\xff\xfe\x00", b"a: ${b\n"])
def test_a_config_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    config = write_run(tmp_path / "a") / "config.yaml"
    config.write_bytes(content)
    assert refused(read_run, tmp_path / "a").startswith(f"{config}: cannot be read (")


ODD = st.one_of(
    *(st.none(), st.booleans(), st.text(max_size=5), st.integers(), st.floats(), st.just(10**400)),
    st.lists(st.integers(), max_size=2),
)


@given(
    st.lists(st.dictionaries(st.sampled_from(["kind", "subset", "epoch", "wall", "loss", "\ud800"]), ODD), max_size=4)
)
def test_any_figures_are_read_or_refused(tmp_path_factory, lines: list[dict]) -> None:
    folder = write_run(tmp_path_factory.mktemp("any") / "a")
    (folder / "log.jsonl").write_text("".join(f"{json.dumps({'num_updates': 3, **line})}\n" for line in lines))
    if not lines:
        refused(read_run, folder)
        return
    run = read_run(folder)
    run.warnings()
    values = [value for kind in ("train", "valid", run.training) for value in run.last(kind).values()]
    assert all(math.isnan(value) or abs(value) < 1e300 for value in values)
    assert (run.num_updates, run.state) == (3, "cut off")
