"""What docs/evaluating.md shows runs, as far as it does without the tools and their data, and README's s3prl too."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import mae_ast_fairseq
from mae_ast_fairseq.cli import main
from mae_ast_fairseq.inference import adapters
from mae_ast_fairseq.nn.readout import check_readout
from tests.checkpoints.test_read import save_tiny_checkpoint

ROOT = Path(mae_ast_fairseq.__file__).parents[1]
CHECKPOINT = Path("runs/a/checkpoints/checkpoint_best.pt")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in that has the checkpoint which the page names."""
    monkeypatch.chdir(tmp_path)
    CHECKPOINT.parent.mkdir(parents=True)
    save_tiny_checkpoint(CHECKPOINT)


@pytest.fixture
def page(folder: None) -> str:
    """The page's text, in that folder."""
    return (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")


@pytest.fixture
def readme(folder: None) -> str:
    """README's section that the page leaves s3prl's commands to, in that folder."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.split("## s3prl and others' tools\n")[1].split("\n## ")[0]


def block(page: str, first_line: str) -> str:
    """Return the indented block that begins with a line, up to the next line that is not indented."""
    lines = page[page.index(f"    {first_line}") :].splitlines()
    end = next(number for number, line in enumerate(lines) if line and not line.startswith("    "))
    return "\n".join(line[4:] for line in lines[:end])


def commands(page: str, name: str) -> list[list[str]]:
    """Return the arguments of each command of the page that begins with `name`."""
    joined = page.replace("\\\n", "")
    return [shlex.split(line) for line in joined.splitlines() if line.startswith(f"    {name}")]


def test_the_file_for_xares_has_one_encoder_of_the_checkpoint(page: str) -> None:
    names: dict = {}
    exec(block(page, "# run_a.py"), names)  # what stands in our own page
    (name,) = [name for name in names if name.endswith("Encoder")]
    assert names[name]()(torch.ones(2, 16_000)).shape == (2, 6, 8 * 48)
    assert [arguments[3] for arguments in commands(page, "python -m xares.run")] == ["run_a.py", adapters.__name__]


def test_the_lines_for_mteb_make_a_model_of_the_checkpoint(page: str) -> None:
    lines = block(page, "import mteb").splitlines()
    names: dict = {}
    exec("\n".join(line for line in lines if "mteb" not in line or "adapters" in line), names)
    clips = [{"audio": [{"array": np.ones(8_000, np.float32), "sampling_rate": 8_000}]}]
    assert names["model"].encode(clips).shape == (1, 3 * 2 * 48)
    assert "mteb.evaluate(model, " in lines[-1]


def test_hears_commands_name_the_module_the_checkpoint_and_known_options(page: str) -> None:
    (validator,), (runner,) = commands(page, "hear-validator"), commands(page, "python -m heareval.embeddings")
    assert (validator[1], runner[3]) == (adapters.__name__, adapters.__name__)
    assert validator[3] == runner[5] == str(CHECKPOINT)
    options = json.loads(runner[7])
    check_readout("readout", options["readout"], 8)
    assert set(options) <= set(adapters.load_model.__code__.co_varnames)


def test_the_file_for_s3prl_is_exported(readme: str) -> None:
    ((_, *arguments),) = commands(readme, "mae-ast export")
    assert main(arguments) == 0
    (downstream,) = commands(readme, "python run_downstream.py")
    assert Path(downstream[downstream.index("-k") + 1]).exists()


def test_the_readme_links_the_page(readme: str) -> None:
    assert "(docs/evaluating.md)" in readme
