"""What a run shows and keeps: a few lines for a person, log.jsonl, config.yaml and the full log."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mae_ast_fairseq.figures import read_figures
from tests.processes import run_two, start_train
from tests.training import EXAMPLES, SMALL

RUN = (
    *SMALL, "common.bf16=false", "common.log_interval=1", "dataset.max_tokens=100000", "dataset.num_workers=0",
    "task.max_bad_fraction=0.2", "lr_scheduler.warmup_updates=2",
)  # fmt: skip

NOISE = "'_name'|MaeAstModel|can_reuse|total_num_itrs|Warning|version_base|tensorboardX"


def run(command, *arguments, cwd):
    done = subprocess.run([*command, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def updates(path, kind="train_inner"):
    return [line["num_updates"] for line in read_figures(path) if line["kind"] == kind]


@pytest.mark.slow
def test_a_run_shows_a_person_a_few_lines_and_keeps_the_rest(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    command = sys.executable, "-m", "mae_ast_fairseq.cli", "train", "tiny"
    length = "optimization.max_update=8", "dataset.validate_interval_updates=4"
    done = run(command, f"task.data={corpus}", "hydra.run.dir=run", *RUN, *length, cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert done.stdout == ""
    assert all(re.match(r"\d\d:\d\d:\d\d \w", line) for line in lines)
    assert not re.search(NOISE, done.stderr)
    assert len(lines) <= 20  # an update now and then, two validations, how it begins and ends
    shown = re.search(r"update 1 of 8, epoch 1: loss [\d.]+, accuracy [\d.]+ \(chance [\d.]+\)\n", done.stderr)
    assert shown is not None
    validations = [line for line in lines if ", valid: loss " in line]
    assert [re.search(r"update (\d+), valid", line)[1] for line in validations] == ["4", "8"]
    assert all("token_spread 0." in line for line in validations)
    assert "saved checkpoint_best.pt, checkpoint_last.pt" in validations[1]

    folder = tmp_path / "run"
    assert "can_reuse_epoch_itr" in (folder / "train.log").read_text()
    settings = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    assert settings["checkpoint"]["save_dir"] == f"{folder}/checkpoints"
    assert settings["task"]["sample_rate"] == 16000  # of the dataclass, and in no recipe
    assert updates(folder / "log.jsonl") == list(range(1, 9))


@pytest.mark.slow
def test_a_format_of_fairseqs_stays_on_stdout_and_log_jsonl_has_its_figures(corpus, tmp_path):
    command = Path(sys.executable).with_name("fairseq-hydra-train"), "--config-dir", EXAMPLES, "--config-name"
    arguments = f"task.data={corpus}", f"hydra.run.dir={tmp_path}", *RUN, "optimization.max_update=8"
    done = run(map(str, command), "mae_ast_tiny", *arguments, "common.log_format=json", cwd=EXAMPLES.parent)
    printed = re.findall(r"^\[[^]]*\]\[(\w+)\]\[INFO\] - (\{.*\})$", done.stdout, re.MULTILINE)
    assert len(printed) == len(done.stdout.splitlines())
    kept = read_figures(tmp_path / "log.jsonl")
    assert [kind for kind, _ in printed] == [line["kind"] for line in kept]
    for (kind, text), line in zip(printed, kept, strict=True):
        figures = {name.removeprefix(f"{kind}_"): value for name, value in json.loads(text).items()}
        figures.pop("update", None)
        assert int(float(figures.pop("num_updates"))) == line["num_updates"]
        assert set(line) == {*figures, "kind", "num_updates", "wall", *(["subset"] if kind == "valid" else [])}
        for name in set(figures) - {"wall"}:
            assert line[name] == pytest.approx(float(figures[name]), rel=1e-5), (kind, name)


@pytest.mark.slow
def test_a_run_that_was_killed_has_each_update_once_when_it_has_gone_on(corpus, tmp_path):
    arguments = "tiny", f"task.data={corpus}", "hydra.run.dir=run", *RUN, "checkpoint.save_interval_updates=4"
    process = start_train({}, *arguments, "optimization.max_update=5000", cwd=tmp_path)
    for line in process.stdout:
        if "update 12, valid" in line:
            break
    process.kill()
    process.communicate()
    path = tmp_path / "run" / "log.jsonl"
    assert updates(path) == list(range(1, len(updates(path)) + 1))
    path.write_bytes(path.read_bytes()[:-9])
    last = len(updates(path)) + 5
    process = start_train({}, *arguments, f"optimization.max_update={last}", cwd=tmp_path)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output[-2000:]
    assert re.search(r"weights to train, [1-9]\d* updates are done", output)
    assert updates(path) == list(range(1, last + 1))
    assert len(updates(path, "valid")) == len(set(updates(path, "valid")))
    walls = [line["wall"] for line in read_figures(path)]
    assert walls == sorted(walls)


@pytest.mark.slow
def test_of_two_processes_the_first_alone_shows_and_keeps(corpus, tmp_path):
    codes, (first, second) = run_two(
        "mae_ast_tiny", corpus, tmp_path, *RUN, "common.cpu=true", "common.log_format=null",
        "optimization.max_update=4", "optimization.update_freq=[2]",
    )  # fmt: skip
    assert codes == [0, 0], first[-2000:] + second[-2000:]
    assert "update 1 of 4, epoch 1: loss " in first
    assert ", valid: loss " in first
    assert not re.search(r"update \d|weights to train", second)
    assert updates(tmp_path / "0" / "log.jsonl") == [1, 2, 3, 4]
    assert not {"log.jsonl", "config.yaml"} & {path.name for path in (tmp_path / "1").iterdir()}
