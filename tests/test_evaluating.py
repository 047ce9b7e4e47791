"""What docs/evaluating.md shows runs, as far as it does without the tools and their data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mae_ast_fairseq.cli import main
from mae_ast_fairseq.inference import adapters
from mae_ast_fairseq.nn.readout import check_readout
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.documented import PAGES, ROOT, commands_of, files_of, python_of

PAGE = ROOT / "docs" / "evaluating.md"
CHECKPOINT = Path("runs/a/checkpoints/checkpoint_best.pt")


@pytest.fixture(autouse=True)
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in a folder that has the checkpoint which the page names."""
    monkeypatch.chdir(tmp_path)
    CHECKPOINT.parent.mkdir(parents=True)
    save_tiny_checkpoint(CHECKPOINT)


def commands(*start: str) -> list[tuple[str, ...]]:
    """Return the words of each command of the blocks of all pages that begins with some."""
    found = (each.words for page in PAGES for each in commands_of(page) if not each.in_prose)
    return [words for words in dict.fromkeys(found) if words[: len(start)] == start]


def test_the_file_for_xares_has_one_encoder_of_the_checkpoint() -> None:
    names: dict = {}
    exec(files_of(PAGE)["run_a.py"], names)  # what stands in our own page
    (name,) = [name for name in names if name.endswith("Encoder")]
    assert names[name]()(torch.ones(2, 16_000)).shape == (2, 6, 8 * 48)
    assert [arguments[3] for arguments in commands("python", "-m", "xares.run")] == ["run_a.py", adapters.__name__]


def test_the_lines_for_mteb_make_a_model_of_the_checkpoint() -> None:
    (lines,) = [each.lines for each in python_of(PAGE) if "import mteb" in each.lines]
    names: dict = {}
    exec("\n".join(line for line in lines if "mteb" not in line or "adapters" in line), names)
    clips = [{"audio": [{"array": np.ones(8_000, np.float32), "sampling_rate": 8_000}]}]
    assert names["model"].encode(clips).shape == (1, 3 * 2 * 48)
    assert "mteb.evaluate(model, " in lines[-1]


def test_hears_commands_name_the_module_the_checkpoint_and_known_options() -> None:
    (validator,), (runner,) = commands("hear-validator"), commands("python", "-m", "heareval.embeddings.runner")
    assert (validator[1], runner[3]) == (adapters.__name__, adapters.__name__)
    assert validator[3] == runner[5] == str(CHECKPOINT)
    options = json.loads(runner[7])
    check_readout("readout", options["readout"], 8)
    assert set(options) <= set(adapters.load_model.__code__.co_varnames)


def test_the_file_for_s3prl_is_exported() -> None:
    ((_, *arguments),) = [words for words in commands("mae-ast", "export") if "s3prl" in words]
    assert main(arguments) == 0
    (downstream,) = commands("python", "run_downstream.py")
    assert Path(downstream[downstream.index("-k") + 1]).exists()


def test_the_readme_links_the_page() -> None:
    assert "(docs/evaluating.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
