"""Wheel and source archive, each in an environment that has nothing else: features, then with extras the demo."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    "MAE_AST_BARE" not in os.environ, reason="minutes of downloads and installing; MAE_AST_BARE=1 runs it"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with what `make dist` builds."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=ROOT)
    return out


def run(*command, cwd):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("ending", ["*.whl", "*.tar.gz"])
def test_what_is_released_does_inference_and_with_extras_the_demo(built, corpus, tmp_path, ending):
    (released,) = built.glob(ending)
    venv.create(tmp_path / "bare", with_pip=True)
    python, mae_ast = (tmp_path / "bare" / "bin" / name for name in ("python", "mae-ast"))
    install = python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"
    run(*install, released, cwd=tmp_path)
    assert "fairseq" not in run(python, "-m", "pip", "list", cwd=tmp_path).replace("mae_ast_fairseq", "")
    run(mae_ast, "extract", "tiny", corpus / "00.wav", "--out", tmp_path / "features", cwd=tmp_path)
    assert list((tmp_path / "features").glob("*.npy"))
    run(*install, f"{released}[train,plot,probe]", cwd=tmp_path)
    assert "report.html" in run(python, "-m", "mae_ast_fairseq.demo", "--updates", "3", cwd=tmp_path)
