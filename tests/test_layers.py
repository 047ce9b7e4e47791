"""Imports stay in a room or point to a lower floor, and all but fairseq's shells do without fairseq."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mae_ast_fairseq

ROOT = Path(mae_ast_fairseq.__file__).parent
PACKAGE = ROOT.name
FLOORS = {
    "errors": 0,
    "rng": 0,
    "extras": 1,
    "files": 1,
    "levels": 1,
    "precision": 1,
    "training_error": 1,
    "figures": 2,
    "config": 1,
    "recipes": 2,
    "nn": 2,
    "optim": 2,
    "data": 3,
    "models": 3,
    "datasets": 4,
    "corpus": 4,
    "checkpoints": 4,
    "evaluation": 4,
    "inference": 5,
    "tasks": 6,
    "criterions": 7,
    "benchmark": 8,
    "report": 8,
    "cli": 9,
    "demo": 10,
}
ROOMS_WITHOUT_FAIRSEQ = (
    *("errors", "rng", "extras", "files", "levels", "precision", "config", "recipes", "figures", "nn", "data"),
    "corpus",
    *("checkpoints", "evaluation", "inference", "report"),
)
WITHOUT_FAIRSEQ = (
    "cli.labels",
    "cli.manifest",
    "cli.reconstruct",
    "cli.export",
    "cli.extract",
    "cli.evaluate",
    "cli.probe",
    "cli.predict",
    "cli.report",
)


def hide(*packages: str) -> str:
    """Return code that hides packages: what a finder does not find is not installed, for find_spec as for import."""
    return f"""
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {packages!r} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path if hasattr(finder, "find_spec")]
"""


HIDE_FAIRSEQ = hide("fairseq")


def module_name(path: Path) -> str:
    """Return a module's name inside the package, as in `nn.build`; the package itself is ''."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def room(module: str) -> str:
    return module.partition(".")[0]


def imports(path: Path) -> Iterator[str]:
    """Yield the names inside the package that a file imports, wherever it does, as in `nn.build.build_grid`."""
    package = [PACKAGE, *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*start, *filter(None, [node.module])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] == PACKAGE:
                yield name.partition(".")[2]


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("module", [name for name in MODULES if name])
def test_imports_stay_in_the_room_or_point_to_a_lower_floor(module: str) -> None:
    # What is no module is an attribute of the package itself, as __version__ is: every room may read it.
    imported = {room(name) for name in imports(MODULES[module]) if room(name) in FLOORS or "." in name}
    others = imported - {room(module)}
    assert [name for name in others if FLOORS[name] >= FLOORS[room(module)]] == []


def test_relative_and_absolute_imports_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "nn").mkdir()
    file = tmp_path / "nn" / "some.py"
    file.write_text(
        f"import {PACKAGE}.tasks.launch\n"
        f"from {PACKAGE} import cli, __version__\n"
        "from ..models import mae_ast\n"
        "from . import build\n"
        "def late():\n    from .build import build_grid\n"
        "import torch.nn\nfrom torch import nn\n"
    )
    assert sorted(imports(file)) == [
        "__version__",
        "cli",
        "models.mae_ast",
        "nn.build",
        "nn.build.build_grid",
        "tasks.launch",
    ]


def test_most_rooms_import_in_a_process_without_fairseq() -> None:
    names = [name for name in MODULES if room(name) in ROOMS_WITHOUT_FAIRSEQ or name in WITHOUT_FAIRSEQ]
    assert {"config.pretraining", "nn.losses", "nn.autoencoder", "data.audio", "data.manifest"} <= set(names)
    statements = "".join(f"import {PACKAGE}.{name}\n" for name in names)
    result = run(HIDE_FAIRSEQ + statements + 'print("fairseq" in sys.modules)')
    assert result.returncode == 0, result.stderr
    assert result.stdout == "False\n"


def test_registered_classes_do_need_fairseq() -> None:
    # Or else the test above would pass because fairseq is not hidden.
    result = run(HIDE_FAIRSEQ + f"import {PACKAGE}.models.mae_ast")
    assert result.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'fairseq'"


REGISTERED = """
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import MODEL_REGISTRY
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.tasks import TASK_REGISTRY
print(
    {"mae_ast_pretraining", "mae_ast_classification"} <= TASK_REGISTRY.keys(),
    {"mae_ast", "ssast", "mae_ast_classifier"} <= MODEL_REGISTRY.keys(),
    {"mae_ast", "mae_ast_classification"} <= CRITERION_REGISTRY.keys(),
    {"fused_adam", "layerwise_adam"} <= OPTIMIZER_REGISTRY.keys(),
)
"""


@pytest.mark.parametrize(
    "imports",
    [
        f"import {PACKAGE}, fairseq",
        f"import fairseq, {PACKAGE}",
        f"import {PACKAGE}\nfrom importlib.util import find_spec\nfind_spec('fairseq')\nimport fairseq.tasks",
        f"from fairseq.utils import import_user_module\nfrom types import SimpleNamespace\n"
        f"import_user_module(SimpleNamespace(user_dir={str(ROOT)!r}))",
        *(f"import {PACKAGE}.{room}" for room in ("tasks.base", "optim.layerwise", "models.mae_ast", "criterions")),
    ],
)
def test_both_imported_in_any_order_register_whatever_the_program_is_called(imports: str) -> None:
    result = run(f"import sys; sys.argv[0] = 'mae-ast'\n{imports}\n{REGISTERED}")
    assert result.stdout == "True True True True\n", result.stderr


@pytest.mark.parametrize("then", ["", "import fairseq", f"import {PACKAGE}.tasks.pretraining"])
def test_the_import_prints_nothing_and_leaves_the_root_logger_alone(then: str) -> None:
    result = run(
        f"import logging\nroot = logging.getLogger()\nbefore = root.level, root.handlers[:]\nimport {PACKAGE}\n{then}\n"
        "print((root.level, root.handlers) == before, logging.root.manager.disable)"
    )
    assert (result.stdout, "tensorboardX" in result.stderr, "INFO" in result.stderr) == ("True 0\n", False, False)


@pytest.mark.parametrize(
    ("arguments", "heavy"), [(["--help"], ["fairseq", "torch"]), (["export", "--help"], ["fairseq"])]
)
def test_help_does_without_what_takes_seconds(arguments: list[str], heavy: list[str]) -> None:
    result = run(
        f"import sys\nfrom {PACKAGE}.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert result.stdout.endswith("\n[]\n"), result.stderr


@pytest.mark.parametrize(
    "module",
    [
        "datasets.clips",
        "datasets.classification",
        "tasks.base",
        "criterions.pretraining",
        "optim.layerwise",
        "models.ssast",
    ],
)
def test_a_module_that_needs_fairseq_may_be_the_first_that_is_imported(module: str) -> None:
    result = run(f"import {PACKAGE}.{module}")
    assert (result.returncode, result.stderr) == (0, "")


def test_the_map_names_every_room_on_its_floor() -> None:
    rows = (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    for name, floor in FLOORS.items():
        shown = f"{name}.py" if (ROOT / f"{name}.py").exists() else f"{name}/"
        assert [row for row in rows if row.startswith(f"| {floor} | ") and shown in row], shown


@pytest.mark.parametrize("error", ["ImportError", "RuntimeError"])
def test_the_error_of_a_broken_fairseq_is_passed_on(tmp_path: Path, error: str) -> None:
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq" / "__init__.py").write_text(f"raise {error}('built for another torch')\n")
    result = run(f"import {PACKAGE}\nimport fairseq", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT.parent}")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == f"{error}: built for another torch"
