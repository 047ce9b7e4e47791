"""What the tests of `mae-ast extract` share."""

import json
from pathlib import Path

import pytest

from mae_ast_fairseq.cli import main
from tests.checkpoints.test_read import save_tiny_checkpoint
from tests.tiny import FRAME


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_tiny_checkpoint(tmp_path / "tiny.pt", **FRAME)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def run(capsys, out: Path):
    """A function that runs the command with --json and returns what it printed."""

    def summary(*argv: object, code: int = 0) -> dict:
        assert main(["extract", *map(str, argv), "--out", str(out), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return summary


@pytest.fixture
def message(refusal, out: Path):
    """A function that runs the command and returns the one line with which it refuses."""
    return lambda *argv: refusal("extract", *argv, "--out", out)
