"""What is installed without extras does inference; what needs one says so in a line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mae_ast_fairseq import extras
from mae_ast_fairseq.cli import COMMANDS, NEEDS
from mae_ast_fairseq.errors import ConfigError
from mae_ast_fairseq.extras import EXTRAS, require
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.test_layers import MODULES, PACKAGE, ROOMS_WITHOUT_FAIRSEQ, hide, room

BROUGHT_BY_EXTRAS = (
    *("fairseq", "fairseq_cli", "hydra", "tensorboard", "sacrebleu", "torchaudio"),
    *("matplotlib", "PIL", "sklearn", "scipy", "joblib", "av", "huggingface_hub"),
)
OF_PROBE = ("evaluation.metrics", "evaluation.probes", "evaluation.scores", "evaluation.splits")
IN_ONE_PROCESS = """
import json, sys
from mae_ast_fairseq.cli import main
def code(argv):
    try:
        return main(argv)
    except SystemExit as stopped:
        return stopped.code
print(json.dumps([code(argv) for argv in json.loads(sys.argv[1])]))
"""


def run_without(packages: tuple[str, ...], code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", hide(*packages) + code, *arguments], capture_output=True, text=True, timeout=300
    )


def test_all_but_training_and_probes_imports_without_any_extra() -> None:
    bare = {name for name in MODULES if room(name) in ROOMS_WITHOUT_FAIRSEQ} - set(OF_PROBE)
    commands = {f"cli.{name}" for name in COMMANDS if NEEDS.get(name) != "probe"}
    statements = "".join(f"import {PACKAGE}.{name}\n" for name in sorted(bare | commands))
    done = run_without(BROUGHT_BY_EXTRAS, f"{statements}print({PACKAGE}.load_pretrained('tiny').width)")
    assert (done.stdout, done.returncode) == ("192\n", 0), done.stderr


def test_commands_do_their_work_without_any_extra_or_name_it(corpus: Path, tmp_path: Path) -> None:
    manifest, checkpoint = str(corpus / "valid.tsv"), str(save_tiny_checkpoint(tmp_path / "a.pt"))
    work = [
        ["manifest", str(corpus), "--out", str(tmp_path / "data")],
        ["check", manifest],
        ["stats", str(tmp_path / "data" / "train.tsv")],
        ["extract", "tiny", str(corpus / "00.wav"), "--out", str(tmp_path / "features")],
        ["export", checkpoint, "--to", "safetensors", "--out", str(tmp_path / "a.safetensors")],
        ["average", checkpoint, checkpoint, "--out", str(tmp_path / "mean.pt")],
        ["path", "--examples"],
    ]
    lacking = {
        "plot": [
            ["check", manifest, "--plot", str(tmp_path / "a.png")],
            ["reconstruct", "tiny", str(corpus / "00.wav"), "--out", str(tmp_path / "pictures")],
            ["report", str(tmp_path)],
        ],
        "probe": [["probe", "tiny", "--data", str(corpus)], ["evaluate", checkpoint, "--data", str(corpus)]],
        "train": [["benchmark"], ["train", "mae_ast_tiny", f"task.data={corpus}"]],
    }
    argvs = [*work, *(argv for some in lacking.values() for argv in some)]
    done = run_without(BROUGHT_BY_EXTRAS, IN_ONE_PROCESS, json.dumps(argvs))
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0] * len(work) + [2] * (len(argvs) - len(work)), done.stderr
    lines = [line for line in done.stderr.splitlines() if "needs the extra" in line]
    assert len(lines) == len(argvs) - len(work)
    expected = [f"mae-ast {argv[0]}: " for some in lacking.values() for argv in some]
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True))
    installs = [f"`pip install 'mae_ast_fairseq[{extra}]'`" for extra, some in lacking.items() for _ in some]
    assert all(install in line for line, install in zip(lines, installs, strict=True))


def test_modules_that_probe_do_need_scikit_learn() -> None:
    # Or else the tests above would pass because nothing is hidden.
    done = run_without(BROUGHT_BY_EXTRAS, f"import {PACKAGE}.evaluation.probes")
    assert "No module named 's" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_line_names_what_is_missing_and_how_to_install_it(monkeypatch, extra: str) -> None:
    require(extra, "this")
    first = next(iter(EXTRAS[extra]))
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == first else name)
    with pytest.raises(ConfigError) as caught:
        require(extra, "this")
    assert str(caught.value).startswith(f"this needs the extra {extra!r} (missing: {EXTRAS[extra][first]});")
    assert f"`pip install 'mae_ast_fairseq[{extra}]'`" in str(caught.value)


def test_setup_offers_them_and_all_of_them_together() -> None:
    code = "import json, setuptools\nfrom distutils.core import run_setup\n"
    code += "print(json.dumps(run_setup('setup.py', stop_after='init').extras_require))"
    root = Path(extras.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    offered = json.loads(done.stdout)
    assert set(EXTRAS) <= set(offered)
    assert "matplotlib" in "".join(offered["all"])
    assert not [name for name in offered["all"] if "pytest" in name]
