"""`mae-ast train`: recipes from any folder, hydra's syntax, and a person's mistakes in one line."""

import os
import re
import subprocess
import sys
import traceback

import pytest
import torch
import yaml
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.cli.train import as_list
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.files import package_folder
from mae_ast_fairseq.recipes import find_recipe
from mae_ast_fairseq.tasks.distributed import SLURM, TORCHRUN
from mae_ast_fairseq.tasks.preemption import EXIT_SAVED
from mae_ast_fairseq.training_error import TrainingError
from tests.processes import start_train
from tests.training import EXAMPLES, SMALL, hydra_left_as_it_was

QUICK = (
    *SMALL, "common.bf16=false", "dataset.num_workers=0", "dataset.max_tokens=100000", "task.max_bad_fraction=0.2",
    "lr_scheduler.warmup_updates=2", "optimization.max_update=2", "common.log_format=none",
)  # fmt: skip
WIDE = "defaults: [mae_ast_tiny, _self_]\nmodel: {encoder_ffn_embed_dim: 1536}\n"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """A folder that is not the clone, and a process that no launcher has started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mae-ast"])
    for name in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(name, raising=False)
    with hydra_left_as_it_was():
        yield


def shown(capsys, *arguments: str) -> dict:
    """Return the config that `--cfg job` shows."""
    assert main(["train", *arguments, "--cfg", "job"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def refused(capsys, *arguments: str) -> str:
    """Return the one line that is said of a mistake."""
    try:
        code = main(["train", *arguments])
    except SystemExit as exited:
        code = exited.code
    lines = [line for line in capsys.readouterr().err.splitlines() if "arn" not in line and not line.startswith("  ")]
    assert code == 2
    assert len([line for line in lines if line.startswith("mae-ast train: ")]) == 1, lines
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


# --- recipes


@pytest.mark.parametrize("name", ["mae_ast_tiny", "tiny"])
def test_a_recipe_of_ours_is_found_from_any_folder_with_its_plugin(name, capsys):
    config = shown(capsys, name, "task.data=/data")
    assert (config["model"]["encoder_layers"], config["task"]["data"]) == (4, "/data")
    assert config["common"]["user_dir"] == str(package_folder())


@pytest.mark.parametrize(
    "files",
    [
        {"my/wide.yaml": WIDE},
        {"my/wide.yaml": WIDE.replace("[mae_ast_tiny", "[recipes/mae_ast_tiny")},
        {"my/wide.yaml": f"# @package _global_\n{WIDE}"},
        {"my/wide.yaml": "defaults: [_self_, recipes/wide]", "my/recipes/wide.yaml": f"# @package _global_\n{WIDE}"},
        {
            "my/wide.yaml": "hydra: {searchpath: [further]}\ndefaults: [_self_, recipes/deep]",
            "further/recipes/deep.yaml": f"# @package _global_\n{WIDE}",
        },
    ],
)
@pytest.mark.parametrize("arguments", [["my/wide.yaml"], ["my/wide"], ["wide", "--config-dir", "my"]])
def test_a_recipe_of_ones_own_is_a_path_or_a_name_in_a_folder(files, arguments, tmp_path, capsys):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert shown(capsys, *arguments) == shown(capsys, "mae_ast_tiny", "model.encoder_ffn_embed_dim=1536")


def test_a_copy_of_our_recipe_is_not_taken_for_ours(tmp_path, capsys):
    text = (EXAMPLES / "recipes" / "mae_ast_tiny.yaml").read_text()
    (tmp_path / "mae_ast_tiny.yaml").write_text(text.replace("decoder_embed_dim: 192", "encoder_layers: 7"))
    assert shown(capsys, "./mae_ast_tiny.yaml")["model"]["encoder_layers"] == 7


def test_a_folder_of_any_name_may_hold_a_recipe(tmp_path, capsys):
    folder = tmp_path / "a b, it's {x}=[1]"
    folder.mkdir()
    (folder / "wide.yaml").write_text("defaults: [_self_, recipes/mae_ast_tiny]")
    assert shown(capsys, f"{folder}/wide.yaml")["model"]["encoder_layers"] == 4


@pytest.mark.parametrize(
    ("name", "first"),
    [("mae_ast_tini", "mae_ast_tiny"), ("fintune_esc50", "finetune_esc50"), ("pach", "mae_ast_patch"), ("", "")],
)
def test_of_a_misspelt_recipe_all_are_listed_the_near_ones_first(name, first, capsys):
    line = refused(capsys, *[name][: bool(name)])
    listed = re.search("expected one of (.*), or the path", line)[1].split(", ")
    assert listed[0] == first or not first
    assert sorted(listed) == sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def test_of_a_path_that_is_misspelt_those_beside_it_are_listed_too(tmp_path):
    (tmp_path / "wide.yaml").write_text(WIDE)
    with pytest.raises(ConfigError, match=r"\./wyde\.yaml: there is no such recipe; expected one of \./wide, "):
        find_recipe("./wyde.yaml")


@pytest.mark.parametrize("content", [b"- a\n", b"a: [\n", b"\xff\xfe", b"a: ${b:}\nhydra: 3\n"])
def test_a_file_that_is_no_recipe_is_one_line(content, tmp_path, capsys):
    (tmp_path / "own.yaml").write_bytes(content)
    assert "own" in refused(capsys, "own.yaml")


def test_what_else_stands_in_the_line_of_the_package_is_named(tmp_path, capsys):
    (tmp_path / "own.yaml").write_text("# @package _global_ as in examples\ndefaults: [_self_, recipes/mae_ast_tiny]")
    assert "own: Too many components in '@package _global_ as in examples'" in refused(capsys, "./own.yaml")


# --- hydra's syntax


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("optimization.lr=1e-3", "optimization.lr=[1e-3]"),
        ("optimization.lr=1e-3,0.5", "optimization.lr=[1e-3],[0.5]"),
        ("++optimization.update_freq=4", "++optimization.update_freq=[4]"),
        ("optimization.lr=[1e-3]", "optimization.lr=[1e-3]"),
        ("optimization.lr=choice([1],[2])", "optimization.lr=choice([1],[2])"),
        ("optimization.max_update=4", "optimization.max_update=4"),
        ("task.data=optimization.lr=4", "task.data=optimization.lr=4"),
    ],
)
def test_a_number_does_where_a_list_is_wanted(given, expected):
    assert as_list(given) == expected


def test_options_may_stand_between_fields(capsys):
    config = shown(capsys, "tiny", "optimization.lr=1e-3", "-p", "optimization", "optimization.update_freq=4")
    assert (config["lr"], config["update_freq"]) == ([0.001], [4])


def test_help_before_the_recipe_is_ours_and_behind_it_hydras(capsys):
    for arguments, text in (
        (["train", "--help"], "example:\n  mae-ast train mae_ast_tiny"),
        (["train", "tiny", "--help"], "powered by Hydra"),
    ):
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["tiny"], "task.data: nothing was given"),
        (["tiny", "task.data=gone"], "task.data: there is no folder"),
        (["tiny", "model.encoder_layrs=3"], "model.encoder_layrs"),
        (["tiny", "task.data=a,b"], "task.data=a,b"),
        (["tiny", "task.data="], "task.data: nothing was given"),
        (["tiny", "model.encoder_layers=many"], "encoder_layers"),
        (["tiny", "model=3"], "model=3"),
        (["tiny", "+hydra=null"], "+hydra=null"),
        (["tiny", "--wrong"], "--wrong: there is no such option"),
        (["task.data=/data"], "a recipe comes first"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, text, capsys):
    assert text in refused(capsys, *arguments)


def test_an_error_of_the_code_keeps_its_traceback(monkeypatch, corpus):
    from mae_ast_fairseq.tasks.pretraining import MaeAstPretrainingTask

    def broken(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(MaeAstPretrainingTask, "load_dataset", broken)
    with pytest.raises(ZeroDivisionError):
        main(["train", "tiny", f"task.data={corpus}", *QUICK])


# --- runs


def test_a_command_sets_the_wait_policy_before_torch_is_loaded_unless_it_is_given():
    code = "import os, sys\nfrom mae_ast_fairseq.cli import main\ntry:\n    main(['--version'])\nexcept SystemExit:\n"
    code += "    print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    for given, expected in ({}, "PASSIVE False"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE False"):
        environment = {"PYTHONPATH": str(EXAMPLES.parent), **given}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == expected


def finished(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output[-2000:]
    return output


@pytest.mark.slow
def test_a_run_and_a_sweep(corpus, tmp_path):
    run = "tiny", f"task.data={corpus}", *QUICK
    finished(start_train({}, *run, "hydra.run.dir=run", cwd=tmp_path))
    assert (tmp_path / "run" / "checkpoints" / "checkpoint_last.pt").is_file()
    finished(start_train({}, *run, "-m", "optimization.lr=1e-3,5e-4", "hydra.run.dir=sweep", cwd=tmp_path))
    for number, lr in ((0, 0.001), (1, 0.0005)):
        state = torch.load(tmp_path / "sweep" / str(number) / "checkpoints" / "checkpoint_last.pt", weights_only=True)
        assert state["cfg"]["optimization"]["lr"] == [lr]


@pytest.mark.slow
def test_a_run_that_a_signal_ends_exits_with_its_code(corpus, tmp_path):
    run = *QUICK, "common.log_format=simple", "common.log_interval=1", "optimization.max_update=100000"
    process = start_train({}, "tiny", f"task.data={corpus}", *run, "hydra.run.dir=run", cwd=tmp_path)
    for line in process.stdout:
        if "num_updates=2," in line:
            break
    process.terminate()
    output = process.communicate(timeout=120)[0]
    assert process.returncode == EXIT_SAVED, output[-2000:]
    assert (tmp_path / "run" / "checkpoints" / "checkpoint_last.pt").is_file()


@pytest.mark.slow
def test_a_sweep_by_submitit_s_local_executor(corpus, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install hydra-submitit-launcher")
    output = finished(
        start_train(
            {}, "tiny", f"task.data={corpus}", *QUICK, "-m", "hydra/launcher=submitit_local", "common.seed=1,2",
            "hydra.sweep.dir=sweep", cwd=tmp_path,
        )
    )  # fmt: skip
    assert "Submitit 'local'" in output
    assert all((tmp_path / f"sweep/{number}/checkpoints/checkpoint_last.pt").is_file() for number in (0, 1))


def spawned_run(monkeypatch, corpus, error):
    """Train where fairseq has started processes of which one ended by an error; return the exit code."""

    def hydra_main(cfg):
        raise error

    from fairseq_cli import hydra_train

    monkeypatch.setattr(hydra_train, "_hydra_main", hydra_main)
    with pytest.raises(SystemExit) as exited:
        main(["train", "tiny", f"task.data={corpus}", "hydra.run.dir=run"])
    return exited.value.code


def test_the_code_of_processes_that_fairseq_starts_is_the_command_s(monkeypatch, corpus):
    error = ProcessExitedException("process 1 terminated with exit code 75", 1, 4711, 75)
    assert spawned_run(monkeypatch, corpus, error) == EXIT_SAVED


def test_a_mistake_that_a_process_of_fairseq_s_finds_is_one_line_too(monkeypatch, corpus, capsys):
    try:
        raise TrainingError("task.data: gone")
    except TrainingError:
        text = f"\n\n-- Process 1 terminated with the following error:\n{traceback.format_exc()}"
    assert spawned_run(monkeypatch, corpus, ProcessRaisedException(text, 1, 4711)) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "mae-ast train: task.data: gone"


# --- fairseq's own command


def fairseq_train(*arguments: str, cwd) -> subprocess.CompletedProcess:
    code = "import sys; sys.argv[0] = 'fairseq-hydra-train'; from fairseq_cli.hydra_train import cli_main; cli_main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mae_ast_tini", "--config-name mae_ast_tini: there is no such recipe; expected one of mae_ast_tiny, "),
        ("", "--config-name no name: there is no such recipe; expected one of mae_ast_tiny, "),
        ("mae_ast_tiny", f"common.user_dir: there is no folder .*; set common.user_dir={package_folder()}"),
    ],
)
def test_fairseq_s_command_says_what_is_missing_too(name, text, tmp_path):
    named = ["--config-name", name] if name else []
    done = fairseq_train("--config-dir", str(EXAMPLES), *named, "task.data=/data", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(text, done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--config-name", "config", "--cfg", "job"],
        [
            "--config-dir",
            str(EXAMPLES),
            "--config-name",
            "config",
            "--config-path",
            "pkg://fairseq.config",
            "--cfg",
            "job",
        ],
        ["--config-dir", str(EXAMPLES), "--help"],
    ],
)
def test_a_config_of_fairseq_s_own_is_left_alone(tmp_path, arguments):
    done = fairseq_train(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "distributed_training" in done.stdout


@pytest.mark.parametrize("field", ["hydra.run.dir", "checkpoint.save_dir", "common.tensorboard_logdir"])
def test_a_folder_that_cannot_be_made_is_named(capsys, corpus, tmp_path, field):
    (tmp_path / "file").touch()
    settings = f"hydra.run.dir={tmp_path}/run", "checkpoint.no_save=false", f"{field}={tmp_path}/file/x"
    assert f"{tmp_path}/file/x" in refused(capsys, "mae_ast_tiny", *QUICK, f"task.data={corpus}", *settings)
