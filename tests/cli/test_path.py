import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mae_ast_fairseq.cli import main
from tests.training import EXAMPLES, SMALL

ROOT = EXAMPLES.parent


def test_prints_where_plugin_and_recipes_lie(capsys):
    assert main(["path"]) == 0
    assert main(["path", "--examples"]) == 0
    assert capsys.readouterr().out.split() == [str(ROOT / "mae_ast_fairseq"), str(EXAMPLES)]
    assert main(["path", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"user_dir": str(ROOT / "mae_ast_fairseq"), "examples": str(EXAMPLES)}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package as an installation holds it, away from the clone."""
    folder = tmp_path_factory.mktemp("site")
    build = folder / "build"
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", folder, "build", "--build-base", build,
         "--build-lib", folder / "lib"],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "lib"


def run_installed(installed, code_or_command, cwd):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *code_or_command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_recipes_are_installed_with_the_package(installed):
    names = {path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("*") if path.is_file()}
    in_package = installed / "mae_ast_fairseq" / "examples"
    assert {path.relative_to(in_package) for path in in_package.rglob("*") if path.is_file()} == names


@pytest.mark.slow
@pytest.mark.parametrize("is_imported_before", [False, True])
def test_training_runs_from_any_folder_on_an_installed_package(installed, corpus, tmp_path, is_imported_before):
    paths = json.loads(run_installed(installed, ["-m", "mae_ast_fairseq.cli", "path", "--json"], tmp_path).stdout)
    assert Path(paths["user_dir"]) == installed / "mae_ast_fairseq"
    first = "import mae_ast_fairseq; " if is_imported_before else ""
    arguments = [
        "--config-dir", paths["examples"], "--config-name", "mae_ast_tiny", f"common.user_dir={paths['user_dir']}",
        f"task.data={corpus}", "hydra.run.dir=run", "optimization.max_update=2", "dataset.num_workers=0", *SMALL,
    ]  # fmt: skip
    code = f"{first}from fairseq_cli.hydra_train import cli_main; cli_main()"
    done = run_installed(installed, ["-c", code, *arguments], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "checkpoints" / "checkpoint_last.pt").is_file()
